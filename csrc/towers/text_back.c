/* The text tower backward, from what forward kept. */
#include "towers/text_plan.h"

#include "kernels/act.h"
#include "kernels/embed.h"
#include "layers/norms.h"

#include <string.h>

enum { COLUMNS = 64, ROWS = 16 }; /* of tables, which one thread adds to; rows are a multiple */

/* ---- Pooling --------------------------------------------------------------------------------- */

/* The gradient of what is pooled, of that of the features; of what tanh sees, on the way. */
static void pooler_chunk(void *arg, int64_t at, int64_t rows, rc_crew crew)
{
    const rc_text_call *job = arg;
    int64_t c = job->k->t->config.width;
    float *dense = rc_text_at(job, job->k->tape.ddense) + at * c;
    rc_tanh_backward(dense, job->dy + at * c, rc_text_at(job, job->k->tape.y) + at * c, rows * c);
    rc_linear_back_run(&job->k->pooler_back, crew.worker,
                       rc_text_at(job, job->k->tape.dpooled) + at * c, dense, rows);
}

/* Some rows of the stream that are pooled alike: each has the same share. */
static void pool_rows(const rc_text_call *job, const float *dy, float share, int64_t row,
                      int64_t rows)
{
    const rc_text_plan *k = job->k;
    int64_t c = k->t->config.width;
    float *dx = rc_text_at(job, k->tape.dx) + row * c;
    float *da = k->t->config.final_norm ? rc_text_at(job, k->tape.da) + row * c : dx;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < c; j++) da[i * c + j] = share * dy[j];
    if (k->t->config.final_norm)
        rc_norm_backward(k->p, k->t->final, dx, da, job->x + row * c,
                         rc_text_at(job, k->tape.mean) + row, rc_text_at(job, k->tape.rstd) + row,
                         rows);
}

static void pool_sequence(void *arg, int64_t i, int worker)
{
    (void)worker;
    const rc_text_call *job = arg;
    const rc_text_plan *k = job->k;
    int64_t padding = rc_text_padding(job, i);
    bool one = rc_text_one_row(k);
    int64_t rows = one ? 1 : rc_text_tokens(job, i);
    int64_t row = job->first[i] + (one ? rc_text_pooled_row(job, i) : 0);
    const float *dy = job->dpooled + i * k->t->config.width;
    pool_rows(job, dy, 1 / (float)(rows + padding), row, rows);
    if (padding > 0)
        pool_rows(job, dy, 1 / (float)(rows + padding), rc_text_padding_row(job, i), padding);
}

/* Rows that are not pooled, and those for roundness, have no gradient. */
static void pool_backward(rc_text_call *job)
{
    const rc_text_plan *k = job->k;
    const rc_text_tape *tape = &k->tape;
    rc_pool *pool = job->run->pool;
    size_t bytes = (size_t)(k->rows.all.total * k->t->config.width) * sizeof(float);
    job->dpooled = job->dy;
    if (k->t->config.pool == RC_POOL_POOLER) {
        job->dpooled = rc_text_at(job, tape->dpooled);
        rc_grid_run(&k->texts, pool, pooler_chunk, job);
        rc_linear_back_weight(&k->pooler_back, pool, rc_text_at(job, tape->ddense),
                              rc_text_at(job, k->pooled));
    }
    memset(rc_text_at(job, tape->dx), 0, bytes);
    if (k->t->config.final_norm) memset(rc_text_at(job, tape->da), 0, bytes);
    rc_parallel(pool, k->n, pool_sequence, job);
    if (k->t->config.final_norm)
        rc_norm_backward_weight(pool, k->p, k->t->final, rc_text_at(job, tape->da), job->x,
                                rc_text_at(job, tape->mean), rc_text_at(job, tape->rstd),
                                k->rows.all.total);
}

/* ---- Embedding ------------------------------------------------------------------------------- */

static float *gradient(const rc_text_call *job, int64_t index)
{
    return index < 0 ? NULL : job->k->p->item[index].dx;
}

static int32_t id_of(const rc_text_call *job, int64_t row)
{
    bool token = row < job->first[job->k->n];
    return token ? job->id[row] : (int32_t)job->k->t->config.pad_id;
}

/* Some columns of the tables, row by row of the stream. */
static void table_columns(void *arg, int64_t index, int worker)
{
    (void)worker;
    const rc_text_call *job = arg;
    const rc_text_plan *k = job->k;
    int64_t c = k->t->config.width, from = index * COLUMNS, n = rc_min(COLUMNS, c - from);
    int64_t real = rc_text_real(job);
    const int64_t *position = (int64_t *)rc_text_at(job, k->tape.position);
    float *token = gradient(job, k->t->token), *type = gradient(job, k->t->type);
    float *places = gradient(job, k->t->position);
    const float *dx = rc_text_at(job, k->tape.dx) + from;
    for (int64_t row = 0; row < real; row++, dx += c) {
        if (token != NULL) rc_add(token + id_of(job, row) * c + from, dx, n);
        if (places != NULL) rc_add(places + position[row] * c + from, dx, n);
        if (type != NULL) rc_add(type + from, dx, n);
    }
}

/* Through dropout and the norm of some rows, in place. */
static void embed_chunk(void *arg, int64_t row, int64_t rows, rc_crew crew)
{
    (void)crew;
    const rc_text_call *job = arg;
    const rc_text_plan *k = job->k;
    int64_t c = k->t->config.width;
    float *dx = rc_text_at(job, k->tape.dx) + row * c;
    rc_text_drop(job, dx, row, rows);
    if (!k->t->config.embed_norm) return;
    float *da = rc_text_at(job, k->tape.dembed) + row * c;
    memcpy(da, dx, (size_t)(rows * c) * sizeof *dx);
    rc_norm_backward(k->p, k->t->norm, dx, da, rc_text_at(job, k->tape.embed) + row * c,
                     rc_text_at(job, k->tape.embed_mean) + row,
                     rc_text_at(job, k->tape.embed_rstd) + row, rows);
}

static void embed_backward(rc_text_call *job)
{
    const rc_text_plan *k = job->k;
    const rc_text_tape *tape = &k->tape;
    int64_t c = k->t->config.width, real = rc_text_real(job);
    rc_grid rows = rc_grid_rows(real, rc_chunk_rows(real, ROWS));
    rc_grid_run(&rows, job->run->pool, embed_chunk, job);
    if (k->t->config.embed_norm)
        rc_norm_backward_weight(job->run->pool, k->p, k->t->norm, rc_text_at(job, tape->dembed),
                                rc_text_at(job, tape->embed), rc_text_at(job, tape->embed_mean),
                                rc_text_at(job, tape->embed_rstd), real);
    rc_parallel(job->run->pool, (c + COLUMNS - 1) / COLUMNS, table_columns, job);
}

/* ---- The whole tower ------------------------------------------------------------------------- */

/* Layers below the first one that learns, and the embedding, have no gradients. */
static int64_t lowest(const rc_text_plan *k)
{
    const rc_text *t = k->t;
    if (rc_params_learn(k->p, t->from, t->layer[0].qkv.w)) return -1;
    for (int64_t i = 0; i + 1 < t->config.layers; i++)
        if (rc_params_learn(k->p, t->layer[i].qkv.w, t->layer[i + 1].qkv.w)) return i;
    return t->config.layers - 1;
}

void rc_text_backward(const void *body, const rc_run *run, const float *dy, const rc_input *in)
{
    const rc_text_plan *k = body;
    const rc_text_config *c = &k->t->config;
    rc_text_call job = {.k = k, .run = run, .dy = dy, .id = in->id, .first = in->first};
    job.x = rc_text_at(&job, k->x);
    float *dx = rc_text_at(&job, k->tape.dx);
    rc_sequences s = rc_text_sequences(&job);
    int64_t side = k->longest, low = lowest(k);
    pool_backward(&job);
    if (s.dbias != NULL) memset(s.dbias, 0, (size_t)(c->heads * side * side) * sizeof *s.dbias);
    for (int64_t i = c->layers - 1; i >= rc_max(low, 0); i--)
        rc_block_backward(k->layer[i], run, dx, dx, &s);
    if (low >= 0) return;
    if (s.dbias != NULL)
        rc_t5_bias_backward(gradient(&job, k->t->buckets), s.dbias, side, c->heads, c->buckets,
                            c->max_distance);
    embed_backward(&job);
}
