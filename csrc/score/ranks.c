/* Ranks of paired items, without the matrix of scores. */
#include "score/ranks.h"

#include "base/clones.h"
#include "score/score.h"
#include "score/tiles.h"

typedef struct {
    const rc_ranking *r;
    rc_tiles tiles;
    float *own; /* (rows of a tile, m) for each worker: scores of the pairs */
} rank_job;

/* How many of n scores are above `own`, or with `equal` not below it. */
RC_CLONES
static int32_t count_better(const float *score, int64_t n, float own, bool equal)
{
    int32_t count = 0;
    if (equal)
        for (int64_t j = 0; j < n; j++) count += score[j] >= own;
    else
        for (int64_t j = 0; j < n; j++) count += score[j] > own;
    return count;
}

/* Whether an item of some pair lies in columns from..to-1. */
static bool touches(const rank_job *job, const rc_tile *tile, int64_t from, int64_t to)
{
    const int32_t *pair = job->r->pair + tile->first * job->r->m;
    for (int64_t i = 0; i < tile->rows * job->r->m; i++)
        if (pair[i] >= from && pair[i] < to) return true;
    return false;
}

/* Keep the scores of those that do. */
static void keep_own(const rank_job *job, const rc_tile *tile, int64_t from, int64_t to, float *own)
{
    int64_t m = job->r->m;
    const int32_t *pair = job->r->pair + tile->first * m;
    for (int64_t i = 0; i < tile->rows * m; i++)
        if (pair[i] >= from && pair[i] < to)
            own[i] = tile->at[i / m * job->tiles.span + pair[i] - tile->start];
}

/* Add to the ranks what columns from..to-1 have that is better. */
static void add_better(const rank_job *job, const rc_tile *tile, int64_t from, int64_t to,
                       const float *own)
{
    int64_t m = job->r->m;
    const int32_t *pair = job->r->pair + tile->first * m;
    int32_t *rank = job->r->rank + tile->first * m;
    for (int64_t i = 0; i < tile->rows * m; i++) {
        if (pair[i] < 0) continue;
        const float *score = tile->at + i / m * job->tiles.span + from - tile->start;
        int64_t before = rc_max(0, rc_min(pair[i], to) - from);
        rank[i] += count_better(score, before, own[i], true) +
                   count_better(score + before, to - from - before, own[i], false);
    }
}

/* Scores of the pairs come from the same tiles as all others, so that equal embeddings have equal
 * scores; this costs the tiles that hold pairs a second time. */
static void rank_chunk(void *arg, int64_t chunk, int worker)
{
    const rank_job *job = arg;
    const rc_tiles *t = &job->tiles;
    float *own = job->own + worker * t->rows * job->r->m;
    rc_tile tile = rc_tile_at(t, chunk, 0, worker);
    for (int64_t i = 0; i < tile.rows * job->r->m; i++)
        job->r->rank[tile.first * job->r->m + i] = job->r->pair[tile.first * job->r->m + i] >= 0;
    for (int pass = 0; pass < 2; pass++)
        for (int64_t from = 0, to; from < job->r->items && !rc_stopped(); from = to) {
            to = rc_min(from + t->span, job->r->items);
            tile = rc_tile_at(t, chunk, from, worker);
            if (pass == 0 && !touches(job, &tile, from, to)) continue;
            rc_tile_run(t, &tile, worker);
            if (pass == 0)
                keep_own(job, &tile, from, to, own);
            else
                add_better(job, &tile, from, to, own);
        }
}

static rc_status rank_all(rank_job *job, rc_context *c)
{
    RC_TRY(rc_tiles_get(&job->tiles, c->dnn, 1, false));
    int64_t threads = rc_dnn_threads(c->dnn), scratch = threads * rc_tiles_scratch(&job->tiles);
    int64_t own = threads * job->tiles.rows * job->r->m;
    RC_TRY(rc_context_scratch(c, &job->tiles.scratch, scratch + own));
    job->own = job->tiles.scratch + scratch;
    rc_parallel(rc_dnn_pool(c->dnn), rc_tiles_chunks(&job->tiles), rank_chunk, job);
    return rc_dnn_check(c->dnn);
}

rc_status rc_ranks(rc_context *c, const rc_ranking *r)
{
    RC_TRY(rc_check_finite(r->query, r->n, r->width, "queries"));
    RC_TRY(rc_check_finite(r->item, r->items, r->width, "items"));
    rank_job job = {
        .r = r,
        .tiles = {.x = r->query, .w = r->item, .n = r->n, .columns = r->items, .width = r->width}};
    rc_status status = rank_all(&job, c);
    rc_tiles_release(&job.tiles);
    return status;
}
