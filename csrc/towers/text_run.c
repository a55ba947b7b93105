/* The text tower at work: rows, embedding, pooling, and the order of it all. What rows that were
 * added for roundness compute is never read. */
#include "towers/text_call.h"

#include "kernels/act.h"
#include "kernels/embed.h"

#include <string.h>

enum { ROUND = RC_TEXT_ROUND, LEAST = 96 }; /* of many chunks: the fewest rows of one */

static const float UNSEEN = -1e30f; /* score of a later key under the causal mask */

/* ---- Rows ------------------------------------------------------------------------------------ */

/* Whether one row of a sequence stands for it. */
static bool one_row(const rc_text_call *job)
{
    return !rc_text_padded(job) && job->t->config.pool != RC_POOL_MEAN;
}

static int64_t round_up(int64_t rows)
{
    return (rows + ROUND - 1) / ROUND * ROUND;
}

/* Eight or four equal chunks, which threads can share evenly, where each has LEAST rows, since
 * weights are read anew for each; else two or one. */
static int64_t chunk_rows(int64_t total)
{
    int64_t shares = total <= LEAST ? 1 : total < 4 * LEAST ? 2 : 4;
    return total < 8 * LEAST ? round_up((total + shares - 1) / shares)
                             : rc_chunk_rows(total, ROUND);
}

static rc_grid grid_of(const rc_text_call *job, int64_t rows)
{
    return rc_linear_grid(job->p, job->t->layer->fc1, rows, chunk_rows(rows));
}

static void set_rows(rc_text_call *job, int64_t real)
{
    job->real = real;
    job->grid = grid_of(job, round_up(real));
}

/* ---- Embedding ------------------------------------------------------------------------------- */

/* The rows of the table of positions that tokens take, from the `counted`-th on; returns how many
 * have been counted then. RoBERTa's padding token, wherever it stands, takes the row before the
 * first one and is not counted (create_position_ids_from_input_ids of transformers). */
static int64_t add_positions(const rc_text_call *job, float *x, const int32_t *id, int64_t rows,
                             int64_t counted)
{
    int64_t c = job->t->config.width, offset = job->t->config.offset;
    const float *table = rc_text_value(job, job->t->position);
    for (int64_t j = 0; j < rows; j++) {
        bool pad = offset > 0 && id[j] == offset - 1;
        int64_t at = pad ? offset - 1 : offset + counted++;
        rc_add(x + j * c, table + at * c, c);
    }
    return counted;
}

/* What tokens have besides their own rows; `counted` as above. */
static int64_t embed_rows(const rc_text_call *job, float *x, const int32_t *id, int64_t rows,
                          int64_t counted)
{
    const rc_text *t = job->t;
    int64_t c = t->config.width;
    rc_lookup_forward(x, rc_text_value(job, t->token), id, rows, c);
    if (t->position >= 0) counted = add_positions(job, x, id, rows, counted);
    for (int64_t j = 0; t->type >= 0 && j < rows; j++)
        rc_add(x + j * c, rc_text_value(job, t->type), c);
    if (t->config.embed_norm) rc_text_norm(job, t->norm, x, x, rows);
    return counted;
}

static void embed_sequence(void *arg, int64_t i, int worker)
{
    (void)worker;
    const rc_text_call *job = arg;
    int64_t c = job->t->config.width, padding = rc_text_padding(job, i), counted;
    int32_t pad = (int32_t)job->t->config.pad_id;
    counted = embed_rows(job, job->x + job->first[i] * c, job->id + job->first[i],
                         rc_text_tokens(job, i), 0);
    for (int64_t j = 0; j < padding; j++) {
        float *x = job->x + (rc_text_padding_row(job, i) + j) * c;
        counted = embed_rows(job, x, &pad, 1, counted);
    }
}

/* ---- Pooling --------------------------------------------------------------------------------- */

/* The row that stands for sequence i, where one does. */
static int64_t pooled_row(const rc_text_call *job, int64_t i)
{
    int64_t tokens = rc_text_tokens(job, i), nonzero = 0;
    const int32_t *id = job->id + job->first[i];
    switch (job->t->config.pool) {
    case RC_POOL_LAST:
        return tokens - 1;
    case RC_POOL_NONZERO: /* MS-CLAP 2023 takes every token 0 for padding, "!" in the text too */
        for (int64_t j = 0; j < tokens; j++) nonzero += id[j] != 0;
        return rc_max(nonzero - 1, 0);
    default: /* RC_POOL_FIRST, RC_POOL_POOLER */
        return 0;
    }
}

/* After the last attention: where one row stands for a sequence, put these rows first in x and o,
 * and go on with them alone. */
static void keep_pooled_rows(rc_text_call *job)
{
    int64_t c = job->t->config.width, inner = rc_text_inner(&job->t->config);
    for (int64_t i = 0; i < job->n; i++) {
        int64_t at = job->first[i] + pooled_row(job, i);
        memmove(job->x + i * c, job->x + at * c, (size_t)c * sizeof(float));
        memmove(job->o + i * inner, job->o + at * inner, (size_t)inner * sizeof(float));
    }
    set_rows(job, job->n);
}

/* y += each of some rows of x, whose final norm replaces them. */
static void add_normed(const rc_text_call *job, float *y, float *x, int64_t rows)
{
    int64_t c = job->t->config.width;
    if (job->t->config.final_norm) rc_text_norm(job, job->t->final, x, x, rows);
    rc_add_rows(y, x, rows, c, c);
}

static void pool_sequence(void *arg, int64_t i, int worker)
{
    (void)worker;
    const rc_text_call *job = arg;
    int64_t c = job->t->config.width, padding = rc_text_padding(job, i);
    int64_t rows = one_row(job) ? 1 : rc_text_tokens(job, i);
    float *x = job->x + (one_row(job) ? i : job->first[i]) * c, *y = job->pooled + i * c;
    memset(y, 0, (size_t)c * sizeof *y);
    add_normed(job, y, x, rows);
    if (padding > 0) add_normed(job, y, job->x + rc_text_padding_row(job, i) * c, padding);
    for (int64_t j = 0; j < c; j++) y[j] /= (float)(rows + padding);
}

/* tanh of a dense layer, as BERT's and RoBERTa's poolers. */
static void pooler_chunk(void *arg, int64_t at, int64_t rows, rc_crew crew)
{
    const rc_text_call *job = arg;
    int64_t c = job->t->config.width;
    rc_linear_run(&job->pooler, crew, job->y + at * c, rc_floats(job->pooled + at * c), rows);
    rc_tanh_forward(job->y + at * c, job->y + at * c, rows * c);
}

static rc_status pool_all(rc_text_call *job, rc_dnn *dnn)
{
    bool dense = job->t->config.pool == RC_POOL_POOLER;
    if (!dense) job->pooled = job->y;
    rc_parallel(job->pool, job->n, pool_sequence, job);
    if (!dense) return RC_OK;
    rc_grid grid = rc_grid_rows(job->n, ROUND);
    RC_TRY(rc_linear_get(&job->pooler, dnn, job->p, job->t->pooler, &grid, false));
    rc_grid_run(&grid, job->pool, pooler_chunk, job);
    return RC_OK;
}

/* ---- Forward --------------------------------------------------------------------------------- */

static void take_buffers(rc_text_call *job, rc_arena *arena, int threads)
{
    const rc_text_config *c = &job->t->config;
    rc_attention a = rc_text_attention(job, job->longest, job->longest);
    int64_t side = job->longest, inner = rc_text_inner(c);
    job->x = rc_take(arena, job->grid.total * c->width);
    job->ldq = rc_text_padded(job) ? inner : 3 * inner;
    job->ldk = rc_text_padded(job) ? 2 * inner : 3 * inner;
    job->q = rc_take(arena, job->grid.total * job->ldq);
    if (rc_text_padded(job)) job->k = rc_take(arena, job->seen.total * job->ldk);
    job->o = rc_take(arena, job->grid.total * inner);
    job->pooled = rc_take(arena, job->n * c->width);
    if (job->t->buckets >= 0) job->bias = rc_take(arena, c->heads * side * side);
    if (c->causal) job->mask = rc_take(arena, side * side);
    job->form = rc_max(job->most * c->width, rc_linear_form(job->p, job->t->layer->fc1, job->most));
    job->chunk_size = (rc_text_chunk_size(job) + 15) / 16 * 16;
    job->room_size = (rc_max(rc_attention_scratch(&a), ROUND * c->width) + 15) / 16 * 16;
    job->chunk = rc_take(arena, rc_grid_places(&job->grid, threads) * job->chunk_size);
    job->room = rc_take(arena, threads * job->room_size);
}

/* What the longest sequence adds to its scores; of shorter ones it is the upper left corner. */
static void fill_biases(const rc_text_call *job)
{
    const rc_text_config *c = &job->t->config;
    int64_t side = job->longest;
    if (job->bias != NULL)
        rc_t5_bias_forward(job->bias, rc_text_value(job, job->t->buckets), side, c->heads,
                           c->buckets, c->distance);
    for (int64_t i = 0; job->mask != NULL && i < side; i++)
        for (int64_t j = 0; j < side; j++) job->mask[i * side + j] = j > i ? UNSEEN : 0;
}

/* Rounding rows are zero, so that what they compute stays finite. */
static void clear_rounding(const rc_text_call *job)
{
    int64_t c = job->t->config.width, inner = rc_text_inner(&job->t->config);
    size_t extra = (size_t)(job->grid.total - job->real) * sizeof(float);
    memset(job->x + job->real * c, 0, extra * (size_t)c);
    memset(job->o + job->real * inner, 0, extra * (size_t)inner);
}

rc_status rc_text_forward(const rc_text *t, const rc_params *p, rc_context *c, float *y,
                          const int32_t *id, const int32_t *first, int64_t n)
{
    RC_TRY(rc_text_check_sequences(t, id, first, n));
    rc_pool *pool = rc_dnn_pool(c->dnn);
    rc_text_call job = {.t = t, .p = p, .id = id, .first = first, .n = n, .y = y, .pool = pool};
    set_rows(&job, rc_text_padded(&job) ? rc_text_padding_row(&job, n) : first[n]);
    int64_t seen =
        round_up(first[n]); /* some of the rounding is padding, or not a row of any text */
    job.seen = job.grid.columns ? rc_grid_columns(seen) : rc_grid_rows(seen, chunk_rows(seen));
    rc_grid last = grid_of(&job, round_up(n)); /* where one row of each sequence is left */
    job.most = rc_max(job.grid.rows, rc_max(job.seen.rows, last.rows));
    for (int64_t i = 0; i < n; i++)
        job.longest = rc_max(job.longest, rc_text_tokens(&job, i) + rc_text_padding(&job, i));
    rc_arena counting = {0};
    take_buffers(&job, &counting, rc_pool_threads(pool));
    RC_TRY(rc_arena_reserve(&c->shared, counting.peak));
    take_buffers(&job, &c->shared, rc_pool_threads(pool));
    if (!rc_text_padded(&job)) job.k = job.q + rc_text_inner(&t->config);
    fill_biases(&job);
    clear_rounding(&job);
    rc_parallel(pool, n, embed_sequence, &job);
    for (int64_t i = 0; i < t->config.layers; i++) {
        job.layer = &t->layer[i];
        RC_TRY(rc_text_attend(&job, c->dnn));
        if (i == t->config.layers - 1 && one_row(&job)) keep_pooled_rows(&job);
        RC_TRY(rc_text_rest(&job, c->dnn));
    }
    return pool_all(&job, c->dnn);
}
