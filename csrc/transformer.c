/* The text tower: a BERT encoder (Devlin et al. 2019) over packed sequences.
 *
 * Sequences lie one after the other without padding. Everything but attention works on chunks of
 * rows; attention on one sequence. Rows are rounded up to a multiple of ROUND so that few shapes of
 * products occur; what the added rows compute is never read. */
#include "swin.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROUND = 16 };

typedef struct {
    rc_pair qkv, proj, norm1, fc1, fc2, norm2;
} text_layer;

struct rc_text {
    rc_text_config config;
    int64_t token, position, type;
    rc_pair norm;
    text_layer *layer;
};

rc_status rc_text_check(const rc_text_config *c)
{
    if (c->vocab < 1 || c->positions < 1 || c->types < 1 || c->layers < 1 || c->layers > 256 ||
        c->mlp < 1)
        return rc_fail(RC_EINVAL, "text: vocab, positions, types, layers and mlp must be positive");
    if (c->width < 1 || c->width > 16384 || c->heads < 1 || c->width % c->heads != 0)
        return rc_fail(RC_EINVAL, "text.heads: %lld does not divide the width %lld",
                       (long long)c->heads, (long long)c->width);
    if (c->pool != RC_POOL_MEAN && c->pool != RC_POOL_FIRST)
        return rc_fail(RC_EINVAL, "text.pool: unknown kind %lld", (long long)c->pool);
    return RC_OK;
}

#define BRANCH "text_branch."

static void declare_layer(text_layer *l, rc_params *p, const rc_text_config *c, int64_t i)
{
    char at[RC_NAME_MAX];
    snprintf(at, sizeof at, BRANCH "layers.%d.", (int)i);
    l->qkv = rc_declare_linear(p, 3 * c->width, c->width, true, at, "attn.qkv");
    l->proj = rc_declare_linear(p, c->width, c->width, true, at, "attn.proj");
    l->norm1 = rc_declare_norm(p, c->width, at, "norm1");
    l->fc1 = rc_declare_linear(p, c->mlp, c->width, true, at, "mlp.fc1");
    l->fc2 = rc_declare_linear(p, c->width, c->mlp, true, at, "mlp.fc2");
    l->norm2 = rc_declare_norm(p, c->width, at, "norm2");
}

rc_status rc_text_new(rc_text **out, const rc_text_config *c, rc_params *p)
{
    *out = NULL;
    RC_TRY(rc_text_check(c));
    rc_text *t = calloc(1, sizeof *t);
    if (t != NULL) t->layer = calloc((size_t)c->layers, sizeof *t->layer);
    if (t == NULL || t->layer == NULL) {
        rc_text_free(t);
        return rc_fail(RC_ENOMEM, "out of memory: text tower");
    }
    t->config = *c;
    t->token =
        rc_params_add(p, RC_WEIGHT, 2, (int64_t[]){c->vocab, c->width}, BRANCH "token.weight");
    t->position = rc_params_add(p, RC_WEIGHT, 2, (int64_t[]){c->positions, c->width},
                                BRANCH "position.weight");
    t->type = rc_params_add(p, RC_WEIGHT, 2, (int64_t[]){c->types, c->width}, BRANCH "type.weight");
    t->norm = rc_declare_norm(p, c->width, BRANCH, "norm");
    for (int64_t i = 0; i < c->layers; i++) declare_layer(&t->layer[i], p, c, i);
    *out = t;
    return RC_OK;
}

void rc_text_free(rc_text *t)
{
    if (t == NULL) return;
    free(t->layer);
    free(t);
}

/* ---- Forward --------------------------------------------------------------------------------- */

typedef struct {
    const rc_text *t;
    const rc_params *p;
    const text_layer *layer;
    const int32_t *id, *first;
    int64_t n, real, total, rows,
        longest; /* sequences, rows with and without rounding, of a chunk */
    rc_linear qkv, proj, fc1, fc2;
    float *x, *wide, *o, *scratch, *y;
    int64_t scratch_size;
} text_job;

static const float *value(const text_job *job, int64_t index)
{
    return job->p->item[index].x;
}

static void norm_rows(const text_job *job, rc_pair pair, float *x, int64_t rows)
{
    rc_layernorm_forward(x, NULL, NULL, x, value(job, pair.w), value(job, pair.b), rows,
                         job->t->config.width, (float)job->t->config.eps);
}

static void embed_sequence(void *arg, int64_t i, int worker)
{
    (void)worker;
    const text_job *job = arg;
    const rc_text *t = job->t;
    int64_t c = t->config.width, first = job->first[i], length = job->first[i + 1] - first;
    float *x = job->x + first * c;
    rc_lookup_forward(x, value(job, t->token), job->id + first, length, c);
    rc_add(x, value(job, t->position), length * c);
    for (int64_t j = 0; j < length; j++) rc_add(x + j * c, value(job, t->type), c);
    norm_rows(job, t->norm, x, length);
}

static void qkv_chunk(void *arg, int64_t index, int worker)
{
    const text_job *job = arg;
    int64_t c = job->t->config.width, at = index * job->rows;
    rc_linear_run(&job->qkv, worker, job->wide + at * 3 * c, job->x + at * c,
                  rc_min(job->rows, job->total - at));
}

static rc_attention attention_of(const rc_text *t, int64_t length)
{
    int64_t d = t->config.width / t->config.heads;
    return (rc_attention){length, t->config.heads, d, length, 1 / sqrtf((float)d)};
}

static void attend_sequence(void *arg, int64_t i, int worker)
{
    const text_job *job = arg;
    int64_t c = job->t->config.width, first = job->first[i];
    rc_attention a = attention_of(job->t, job->first[i + 1] - first);
    rc_attention_forward(job->o + first * c, job->wide + first * 3 * c, NULL, NULL, &a,
                         job->scratch + worker * job->scratch_size);
}

static void rest_chunk(void *arg, int64_t index, int worker)
{
    const text_job *job = arg;
    int64_t c = job->t->config.width, mlp = job->t->config.mlp, at = index * job->rows;
    int64_t rows = rc_min(job->rows, job->total - at);
    float *x = job->x + at * c, *h = job->scratch + worker * job->scratch_size;
    rc_linear_run(&job->proj, worker, x, job->o + at * c, rows); /* adds into the stream */
    norm_rows(job, job->layer->norm1, x, rows);
    rc_linear_run(&job->fc1, worker, h, x, rows);
    rc_gelu_forward(h, h, rows * mlp);
    rc_linear_run(&job->fc2, worker, x, h, rows);
    norm_rows(job, job->layer->norm2, x, rows);
}

static void pool_sequence(void *arg, int64_t i, int worker)
{
    (void)worker;
    const text_job *job = arg;
    int64_t c = job->t->config.width, first = job->first[i];
    const float *x = job->x + first * c;
    if (job->t->config.pool == RC_POOL_MEAN)
        rc_meanpool_forward(job->y + i * c, x, job->first[i + 1] - first, c);
    else
        memcpy(job->y + i * c, x, (size_t)c * sizeof(float));
}

static void take_buffers(text_job *job, rc_arena *arena, int threads)
{
    const rc_text_config *c = &job->t->config;
    rc_attention a = attention_of(job->t, job->longest);
    job->x = rc_take(arena, job->total * c->width);
    job->wide = rc_take(arena, job->total * 3 * c->width);
    job->o = rc_take(arena, job->total * c->width);
    job->scratch_size = (rc_max(rc_attention_scratch(&a), job->rows * c->mlp) + 15) / 16 * 16;
    job->scratch = rc_take(arena, threads * job->scratch_size);
}

static rc_status run_layer(text_job *job, rc_dnn *dnn)
{
    const text_layer *l = job->layer;
    rc_pool *pool = rc_dnn_pool(dnn);
    int64_t chunks = (job->total + job->rows - 1) / job->rows;
    RC_TRY(rc_linear_get(&job->qkv, dnn, job->p, l->qkv, job->total, job->rows, false));
    RC_TRY(rc_linear_get(&job->proj, dnn, job->p, l->proj, job->total, job->rows, true));
    RC_TRY(rc_linear_get(&job->fc1, dnn, job->p, l->fc1, job->total, job->rows, false));
    RC_TRY(rc_linear_get(&job->fc2, dnn, job->p, l->fc2, job->total, job->rows, true));
    rc_parallel(pool, chunks, qkv_chunk, job);
    rc_parallel(pool, job->n, attend_sequence, job);
    rc_parallel(pool, chunks, rest_chunk, job);
    return RC_OK;
}

static rc_status check_sequences(const rc_text *t, const int32_t *id, const int32_t *first,
                                 int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        int64_t length = (int64_t)first[i + 1] - first[i];
        if (length < 1 || length > t->config.positions)
            return rc_fail(RC_EINVAL, "text %lld: %lld tokens, expected 1 to %lld", (long long)i,
                           (long long)length, (long long)t->config.positions);
        for (int64_t j = first[i]; j < first[i + 1]; j++)
            if (id[j] < 0 || id[j] >= t->config.vocab)
                return rc_fail(RC_EINVAL,
                               "text %lld: token id %d is outside the vocabulary of %lld",
                               (long long)i, (int)id[j], (long long)t->config.vocab);
    }
    return RC_OK;
}

rc_status rc_text_forward(const rc_text *t, const rc_params *p, rc_context *c, float *y,
                          const int32_t *id, const int32_t *first, int64_t n)
{
    RC_TRY(check_sequences(t, id, first, n));
    rc_pool *pool = rc_dnn_pool(c->dnn);
    text_job job = {.t = t, .p = p, .id = id, .first = first, .n = n, .real = first[n], .y = y};
    for (int64_t i = 0; i < n; i++) job.longest = rc_max(job.longest, first[i + 1] - first[i]);
    job.total = (job.real + ROUND - 1) / ROUND * ROUND;
    job.rows = rc_chunk_rows(job.total, 4 * ROUND);
    rc_arena counting = {0};
    take_buffers(&job, &counting, rc_pool_threads(pool));
    RC_TRY(rc_arena_reserve(&c->shared, counting.peak));
    take_buffers(&job, &c->shared, rc_pool_threads(pool));
    size_t extra = (size_t)((job.total - job.real) * t->config.width) * sizeof(float);
    memset(job.x + job.real * t->config.width, 0, extra);
    memset(job.o + job.real * t->config.width, 0, extra);
    rc_parallel(pool, n, embed_sequence, &job);
    for (int64_t i = 0; i < t->config.layers; i++) {
        job.layer = &t->layer[i];
        RC_TRY(run_layer(&job, c->dnn));
    }
    rc_parallel(pool, n, pool_sequence, &job);
    return RC_OK;
}
