/* Scores of labels for which several prompts stand: the rules that make one score of many cosines.
 *
 * Each rule gives every prompt a weight, and the score of a label is the weighted sum of the
 * cosines of its prompts (of RC_LOGSUMEXP the weights say where the score leans, no more). */
#include "score/combine.h"

#include "score/score.h"
#include "score/tiles.h"
#include "score/weights.h"

#include <math.h>
#include <string.h>

enum { LABELS = 64 };

typedef struct {
    const rc_combination *c;
    rc_weights weights;
    rc_tiles tiles;
    double *fixed;   /* (prompts), weights of the rules that weigh all rows alike */
    double *shared;  /* (sets), log weights of RC_ENTROPY_BATCH */
    double *partial; /* (chunks, sets), its gradient summed over the rows of a chunk */
    double *scratch; /* `size` doubles for each worker */
    int64_t size;
} combine_job;

typedef struct {
    rc_weights_scratch weights;
    float *score; /* (LABELS) */
} scratch;

static scratch scratch_of(const combine_job *job, int worker)
{
    scratch s = {.weights = {.weight = job->scratch + worker * job->size}};
    s.weights.label = s.weights.weight + job->c->prompts;
    s.weights.set = s.weights.label + job->c->labels;
    s.weights.gradient = s.weights.set + job->weights.sets;
    s.weights.log_weight = s.weights.gradient + job->weights.sets;
    s.score = (float *)(s.weights.log_weight + job->weights.sets);
    return s;
}

/* ---- One row of a tile ----------------------------------------------------------------------- */

static float largest(const float *cosine, int64_t m)
{
    float top = cosine[0];
    for (int64_t p = 1; p < m; p++) top = cosine[p] > top ? cosine[p] : top;
    return top;
}

/* log(mean(exp(scale cosine))) / scale: between the mean and the largest of the cosines, `top`. */
static double soft_maximum(const float *cosine, int64_t m, float top, double scale)
{
    double sum = 0;
    for (int64_t p = 0; p < m; p++) sum += exp(scale * ((double)cosine[p] - top));
    return top + log(sum / (double)m) / scale;
}

/* The rules by which no row depends on another and no label on another need no more than a tile. */
static bool weighs_sets(rc_rule rule)
{
    return rule == RC_ENTROPY || rule == RC_ENTROPY_BATCH || rule == RC_RELEVANCE;
}

/* Weights of all prompts for a row of cosines with all of them. */
static const double *row_weights(const combine_job *job, scratch *s, const float *cosine)
{
    switch (job->c->rule) {
    case RC_ENTROPY:
        rc_weights_entropy(&job->weights, &s->weights, cosine);
        return s->weights.weight;
    case RC_RELEVANCE:
        rc_weights_relevance(&job->weights, &s->weights, cosine);
        return s->weights.weight;
    default:
        return job->fixed;
    }
}

/* score = those of labels from..to-1; cosine begins with their first prompt. A soft maximum that
 * cannot be above `floor` is replaced by the maximum, which is not above it either. */
static void score_labels(const combine_job *job, float *score, const double *weight,
                         const float *cosine, int64_t from, int64_t to, float floor)
{
    const int32_t *first = job->c->first;
    for (int64_t i = from; i < to; i++) {
        int64_t m = first[i + 1] - first[i];
        const float *c = cosine + first[i] - first[from];
        float top;
        switch (job->c->rule) {
        case RC_MAX:
            score[i - from] = largest(c, m);
            break;
        case RC_LOGSUMEXP:
            top = largest(c, m);
            score[i - from] = top > floor ? (float)soft_maximum(c, m, top, job->c->scale) : top;
            break;
        default:
            score[i - from] = (float)rc_weighted(weight + first[i], c, m);
        }
    }
}

/* What each prompt weighs in a label's score, for labels from..to-1. */
static void explain(const combine_job *job, scratch *s, float *out, const double *weight,
                    const float *cosine, int64_t from, int64_t to)
{
    const int32_t *first = job->c->first;
    for (int64_t i = from; i < to; i++) {
        int64_t m = first[i + 1] - first[i];
        const float *c = cosine + first[i] - first[from];
        double *w = s->weights.weight + first[i];
        if (job->c->rule == RC_MAX) {
            memset(w, 0, (size_t)m * sizeof *w);
            int64_t best = 0;
            while (c[best] < largest(c, m)) best++;
            w[best] = 1;
        } else if (job->c->rule == RC_LOGSUMEXP) {
            for (int64_t p = 0; p < m; p++) w[p] = job->c->scale * c[p];
            rc_weights_softmax(w, m);
        } else {
            w = (double *)weight + first[i];
        }
        for (int64_t p = 0; p < m; p++) out[first[i] + p] = (float)w[p];
    }
}

/* Score labels from..to-1 of one row a few at a time, so that the worst of the best is known early.
 */
static void score_row(const combine_job *job, scratch *s, int64_t row, const double *weight,
                      const float *cosine, int64_t from, int64_t to)
{
    const rc_combination *c = job->c;
    float *best = c->best + row * c->k;
    for (int64_t i = from, end; i < to; i = end) {
        end = rc_min(i + LABELS, to);
        float *score = c->score != NULL ? c->score + row * c->labels + i : s->score;
        bool any = c->score != NULL || i < c->k; /* every score is wanted */
        score_labels(job, score, weight, cosine + c->first[i] - c->first[from], i, end,
                     any ? -INFINITY : best[0]);
        rc_best_add(c->index + row * c->k, best, c->k, score, i, end - i);
    }
}

/* Labels from..to-1 of one row. */
static void combine_row(const combine_job *job, scratch *s, int64_t row, const float *cosine,
                        int64_t from, int64_t to)
{
    const rc_combination *c = job->c;
    if (c->rule == RC_NO_RULE) {
        if (c->score != NULL)
            memcpy(c->score + row * c->labels + from, cosine, (size_t)(to - from) * sizeof *cosine);
        rc_best_add(c->index + row * c->k, c->best + row * c->k, c->k, cosine, from, to - from);
        return;
    }
    const double *weight = row_weights(job, s, cosine);
    score_row(job, s, row, weight, cosine, from, to);
    if (c->cosine != NULL && job->tiles.kept == NULL)
        memcpy(c->cosine + row * c->prompts + c->first[from], cosine,
               (size_t)(c->first[to] - c->first[from]) * sizeof *cosine);
    if (c->weight != NULL) explain(job, s, c->weight + row * c->prompts, weight, cosine, from, to);
}

/* ---- All rows -------------------------------------------------------------------------------- */

/* Where the prompts of label i begin. */
static int64_t first_of(const rc_combination *c, int64_t i)
{
    return c->first == NULL ? i : c->first[i];
}

/* The last label, and one more, that a tile beginning with label `from` holds. */
static int64_t last_label(const combine_job *job, int64_t from)
{
    const rc_combination *c = job->c;
    int64_t room = first_of(c, from) + job->tiles.span, to = from + 1;
    while (to < c->labels && first_of(c, to + 1) <= room) to++;
    return to;
}

static void combine_chunk(void *arg, int64_t chunk, int worker)
{
    const combine_job *job = arg;
    const rc_combination *c = job->c;
    scratch s = scratch_of(job, worker);
    for (int64_t from = 0, to; from < c->labels && !rc_stopped(); from = to) {
        to = last_label(job, from);
        rc_tile tile = rc_tile_at(&job->tiles, chunk, first_of(c, from), worker);
        if (c->rule != RC_ENTROPY_BATCH) rc_tile_run(&job->tiles, &tile, worker);
        const float *cosine = tile.at + first_of(c, from) - tile.start;
        for (int64_t i = 0; i < tile.rows; i++)
            combine_row(job, &s, tile.first + i, cosine + i * job->tiles.span, from, to);
    }
    for (int64_t first = chunk * job->tiles.rows, i = first;
         i < rc_min(first + job->tiles.rows, c->n); i++)
        rc_best_sort(c->index + i * c->k, c->best + i * c->k, c->k);
}

static void cosine_chunk(void *arg, int64_t chunk, int worker)
{
    const combine_job *job = arg;
    rc_tile tile = rc_tile_at(&job->tiles, chunk, 0, worker);
    rc_tile_run(&job->tiles, &tile, worker);
}

static void gradient_chunk(void *arg, int64_t chunk, int worker)
{
    const combine_job *job = arg;
    scratch s = scratch_of(job, worker);
    double *sum = job->partial + chunk * job->weights.sets;
    memset(sum, 0, (size_t)job->weights.sets * sizeof *sum);
    rc_tile tile = rc_tile_at(&job->tiles, chunk, 0, worker);
    for (int64_t i = 0; i < tile.rows; i++)
        rc_weights_gradient(&job->weights, &s.weights, sum, job->shared,
                            tile.at + i * job->tiles.span);
}

/* Find one set of weights for all rows; partial sums by chunk, so that threads change nothing. */
static void share_weights(combine_job *job, rc_pool *pool)
{
    int64_t chunks = rc_tiles_chunks(&job->tiles);
    scratch s = scratch_of(job, 0);
    rc_parallel(pool, chunks, cosine_chunk, job);
    memset(job->shared, 0, (size_t)job->weights.sets * sizeof *job->shared);
    for (int step = 0; step < RC_WEIGHTS_STEPS && !rc_stopped(); step++) {
        rc_parallel(pool, chunks, gradient_chunk, job);
        memset(s.weights.gradient, 0, (size_t)job->weights.sets * sizeof *s.weights.gradient);
        for (int64_t k = 0; k < chunks; k++)
            for (int64_t j = 0; j < job->weights.sets; j++)
                s.weights.gradient[j] += job->partial[k * job->weights.sets + j];
        rc_weights_descend(job->shared, s.weights.gradient, (double)job->c->n, job->weights.sets);
    }
    rc_weights_of_sets(&job->weights, &s.weights, job->shared);
    memcpy(job->fixed, s.weights.weight, (size_t)job->c->prompts * sizeof *s.weights.weight);
}

static bool uses_lengths(const rc_combination *c)
{
    return c->rule == RC_MEAN_EMBEDDING || c->rule == RC_RELEVANCE;
}

/* Lay out gram, fixed, shared, partial and scratch in the context's scratch. */
static rc_status lay_out(combine_job *job, rc_context *context)
{
    const rc_combination *c = job->c;
    int64_t gram = 0, partial, working, threads = rc_dnn_threads(context->dnn);
    for (int64_t i = 0; uses_lengths(c) && i < c->labels; i++) {
        int64_t m = c->first[i + 1] - c->first[i];
        gram += m * m; /* in all at most the square of an int32 */
    }
    RC_TRY(rc_mul(&partial, rc_tiles_chunks(&job->tiles), job->weights.sets));
    job->size = c->prompts + c->labels + 3 * job->weights.sets + LABELS / 2;
    int64_t tile = (rc_tiles_scratch(&job->tiles) + 1) / 2;
    RC_TRY(rc_mul(&working, job->size + tile, threads));
    RC_TRY(rc_context_scratch(context, &job->tiles.scratch,
                              2 * (gram + c->prompts + job->weights.sets + partial + working)));
    job->weights.gram = (double *)job->tiles.scratch + threads * tile;
    job->fixed = job->weights.gram + gram;
    job->shared = job->fixed + c->prompts;
    job->partial = job->shared + job->weights.sets;
    job->scratch = job->partial + partial;
    return RC_OK;
}

static void fill_fixed(combine_job *job, rc_pool *pool)
{
    if (uses_lengths(job->c)) rc_weights_gram(&job->weights);
    if (job->c->rule == RC_MEAN_EMBEDDING || job->c->rule == RC_MEAN_LOGIT)
        rc_weights_mean(&job->weights, job->fixed);
    if (job->c->rule == RC_MEAN_EMBEDDING) rc_weights_normalise(&job->weights, job->fixed);
    if (job->c->rule == RC_ENTROPY_BATCH) share_weights(job, pool);
}

static rc_status combine_all(combine_job *job, rc_context *context)
{
    rc_pool *pool = rc_dnn_pool(context->dnn);
    RC_TRY(rc_tiles_get(&job->tiles, context->dnn, job->weights.sets, weighs_sets(job->c->rule)));
    RC_TRY(lay_out(job, context));
    fill_fixed(job, pool);
    rc_parallel(pool, rc_tiles_chunks(&job->tiles), combine_chunk, job);
    return rc_dnn_check(context->dnn);
}

rc_status rc_combine(rc_context *context, const rc_combination *c)
{
    RC_TRY(rc_check_finite(c->x, c->n, c->width, "x"));
    RC_TRY(rc_check_finite(c->prompt, c->prompts, c->width,
                           c->rule == RC_NO_RULE ? "classes" : "prompts"));
    combine_job job = {.c = c,
                       .weights = {.c = c, .sets = 1},
                       .tiles = {.x = c->x,
                                 .w = c->prompt,
                                 .n = c->n,
                                 .columns = c->prompts,
                                 .width = c->width,
                                 .kept = weighs_sets(c->rule) ? c->cosine : NULL}};
    for (int64_t i = 0; i < c->labels; i++)
        job.weights.sets = rc_max(job.weights.sets, first_of(c, i + 1) - first_of(c, i));
    rc_status status = combine_all(&job, context);
    rc_tiles_release(&job.tiles);
    return status;
}
