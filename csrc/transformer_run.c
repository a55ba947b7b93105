/* The text tower at work, over packed sequences.
 *
 * Sequences lie one after the other; only RC_POOL_MEAN_PADDED asks for rows of padding, which lie
 * behind the tokens of all sequences: they only ask, so keys and values are computed for the rows
 * in front. Everything but attention works on chunks of rows; attention on one sequence. Rows are
 * rounded up to a multiple of ROUND so that few shapes of products occur; what the added rows
 * compute is never read. */
#include "transformer.h"

#include <math.h>
#include <string.h>

enum { ROUND = 16, LEAST = 96 }; /* rows of a chunk: a multiple, and the fewest of many chunks */

static const float UNSEEN = -1e30f; /* score of a later key under the causal mask */

typedef struct {
    const rc_text *t;
    const rc_params *p;
    const rc_text_layer *layer;
    const int32_t *id, *first;
    int64_t n, real, total, rows; /* sequences, rows with and without rounding, of a chunk */
    int64_t seen, seen_rows;      /* where padding only asks: rows with keys, of a chunk of these */
    int64_t most;                 /* rows of the longest chunk of all */
    int64_t longest;              /* rows of one sequence */
    rc_linear qkv, kv, proj, fc1, gate, fc2, pooler;
    float *q, *k; /* rows of queries; of keys with values behind them */
    int64_t ldq, ldk;
    float *x, *o, *bias, *mask, *scratch, *pooled, *y;
    int64_t scratch_size, form; /* floats of a worker; of the input of a layer of a chunk */
} text_job;

static const float *value(const text_job *job, int64_t index)
{
    return job->p->item[index].x;
}

/* ---- Where a sequence lies ------------------------------------------------------------------- */

static bool padded(const text_job *job)
{
    return job->t->config.pool == RC_POOL_MEAN_PADDED;
}

/* Whether one row of a sequence stands for it. */
static bool one_row(const text_job *job)
{
    return !padded(job) && job->t->config.pool != RC_POOL_MEAN;
}

static int64_t tokens_of(const text_job *job, int64_t i)
{
    return job->first[i + 1] - job->first[i];
}

static int64_t padding_of(const text_job *job, int64_t i)
{
    return padded(job) ? job->t->config.pad_to - tokens_of(job, i) : 0;
}

/* The first row of padding of sequence i. */
static int64_t padding_row(const text_job *job, int64_t i)
{
    return job->first[job->n] + i * job->t->config.pad_to - job->first[i];
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

static int64_t chunks_of(int64_t total, int64_t rows)
{
    return (total + rows - 1) / rows;
}

static void set_rows(text_job *job, int64_t real)
{
    job->real = real;
    job->total = round_up(real);
    job->rows = chunk_rows(job->total);
}

/* ---- Options --------------------------------------------------------------------------------- */

/* y may be x. */
static void norm_rows(const text_job *job, rc_pair pair, float *y, const float *x, int64_t rows)
{
    const rc_text_config *c = &job->t->config;
    if (c->norm == RC_NORM_RMS)
        rc_rmsnorm_forward(y, NULL, x, value(job, pair.w), rows, c->width, (float)c->eps);
    else
        rc_layernorm_forward(y, NULL, NULL, x, value(job, pair.w), value(job, pair.b), rows,
                             c->width, (float)c->eps);
}

/* What a layer at the start of a branch reads: the rows x, or their norm, in the form that it
 * wants. A few rows at a time pass through what lies behind the form in `room`. */
static const void *branch_input(const text_job *job, const rc_linear *l, rc_pair norm, float *room,
                                const float *x, int64_t rows)
{
    bool floats = rc_linear_takes_floats(l), post = job->t->config.place == RC_PLACE_POST;
    int64_t c = job->t->config.width, step = floats ? rows : ROUND;
    if (floats && post) return x;
    for (int64_t i = 0; i < rows; i += step) {
        int64_t some = rc_min(step, rows - i);
        float *y = floats ? room : room + job->form;
        if (!post) norm_rows(job, norm, y, x + i * c, some);
        if (!floats) rc_linear_lay(l, room, post ? x + i * c : y, i, some, rows);
    }
    return room;
}

/* After a branch was added to the stream x. */
static void branch_end(const text_job *job, rc_pair norm, float *x, int64_t rows)
{
    if (job->t->config.place == RC_PLACE_POST) norm_rows(job, norm, x, x, rows);
}

static const struct {
    rc_activation *forward;
} activations[] = {
    [RC_ACT_GELU] = {rc_gelu_forward},
    [RC_ACT_GELU_TANH] = {rc_gelu_tanh_forward},
    [RC_ACT_RELU] = {rc_relu_forward},
    [RC_ACT_QUICK_GELU] = {rc_quick_gelu_forward},
};

static rc_attention attention_of(const text_job *job, int64_t rows, int64_t keys)
{
    int64_t d = rc_text_head_width(&job->t->config);
    float scale = job->t->config.scaled ? 1 / sqrtf((float)d) : 1;
    return (rc_attention){rows, job->t->config.heads, d, keys, job->longest, job->ldq, job->ldk,
                          scale};
}

/* ---- Embedding and layers -------------------------------------------------------------------- */

/* What tokens of one sequence have besides their own rows, from position `from` on. */
static void embed_rows(const text_job *job, float *x, int64_t from, int64_t rows)
{
    const rc_text *t = job->t;
    int64_t c = t->config.width, at = t->config.offset + from;
    if (t->position >= 0) rc_add(x, value(job, t->position) + at * c, rows * c);
    for (int64_t j = 0; t->type >= 0 && j < rows; j++) rc_add(x + j * c, value(job, t->type), c);
    if (t->config.embed_norm) norm_rows(job, t->norm, x, x, rows);
}

static void embed_sequence(void *arg, int64_t i, int worker)
{
    (void)worker;
    const text_job *job = arg;
    const float *table = value(job, job->t->token);
    int64_t c = job->t->config.width, tokens = tokens_of(job, i), padding = padding_of(job, i);
    int32_t pad = (int32_t)job->t->config.pad_id;
    float *x = job->x + job->first[i] * c;
    rc_lookup_forward(x, table, job->id + job->first[i], tokens, c);
    embed_rows(job, x, 0, tokens);
    if (padding == 0) return;
    x = job->x + padding_row(job, i) * c;
    for (int64_t j = 0; j < padding; j++) rc_lookup_forward(x + j * c, table, &pad, 1, c);
    embed_rows(job, x, tokens, padding);
}

/* A product of the norm of some rows. */
static void product_rows(const text_job *job, const rc_linear *l, int worker, float *y, int64_t at,
                         int64_t rows)
{
    float *room = job->scratch + worker * job->scratch_size;
    const float *x = job->x + at * job->t->config.width;
    rc_linear_run_laid(l, worker, y, branch_input(job, l, job->layer->norm1, room, x, rows), rows);
}

/* Chunks of queries, or of all three, then chunks of keys and values where these are apart. */
static void qkv_chunk(void *arg, int64_t index, int worker)
{
    const text_job *job = arg;
    int64_t chunks = chunks_of(job->total, job->rows), at = index * job->rows;
    if (index < chunks) {
        product_rows(job, &job->qkv, worker, job->q + at * job->ldq, at,
                     rc_min(job->rows, job->total - at));
    } else {
        at = (index - chunks) * job->seen_rows;
        product_rows(job, &job->kv, worker, job->k + at * job->ldk, at,
                     rc_min(job->seen_rows, job->seen - at));
    }
}

/* Rows at..at+rows-1 are those of sequence i from its position `from` on. */
static void attend_rows(const text_job *job, int64_t i, int64_t at, int64_t from, int64_t rows,
                        float *scratch)
{
    int64_t corner = from * job->longest;
    rc_attention a = attention_of(job, rows, tokens_of(job, i));
    rc_attention_forward(job->o + at * rc_text_inner(&job->t->config), job->q + at * job->ldq,
                         job->k + job->first[i] * job->ldk,
                         job->bias == NULL ? NULL : job->bias + corner,
                         job->mask == NULL ? NULL : job->mask + corner, &a, scratch);
}

static void attend_sequence(void *arg, int64_t i, int worker)
{
    const text_job *job = arg;
    float *scratch = job->scratch + worker * job->scratch_size;
    int64_t tokens = tokens_of(job, i), padding = padding_of(job, i);
    attend_rows(job, i, job->first[i], 0, tokens, scratch);
    if (padding > 0) attend_rows(job, i, padding_row(job, i), tokens, padding, scratch);
}

/* `to`, the form of the MLP's second layer, = activate(h) gate, a few rows at a time; both are
 * scratch, and `to` is h where that layer takes floats. */
static void close_gate(const text_job *job, void *to, float *h, const float *gate, int64_t rows)
{
    int64_t wide = job->t->config.mlp;
    for (int64_t i = 0; i < rows; i += ROUND) {
        int64_t some = rc_min(ROUND, rows - i), at = i * wide;
        activations[job->t->config.activation].forward(h + at, h + at, some * wide);
        rc_gated_forward(h + at, h + at, gate + at, some * wide);
        rc_linear_lay(&job->fc2, to, h + at, i, some, rows);
    }
}

static void rest_chunk(void *arg, int64_t index, int worker)
{
    const text_job *job = arg;
    const rc_text_config *c = &job->t->config;
    int64_t at = index * job->rows, rows = rc_min(job->rows, job->total - at);
    float *x = job->x + at * c->width, *room = job->scratch + worker * job->scratch_size;
    float *h = room + job->form + ROUND * c->width, *gate = h + job->most * c->mlp;
    float *last = c->gated ? gate + job->most * c->mlp : gate;
    if (rc_linear_takes_floats(&job->fc2)) last = h;
    rc_linear_run(&job->proj, worker, x, job->o + at * rc_text_inner(c), rows); /* adds into x */
    branch_end(job, job->layer->norm1, x, rows);
    const void *in = branch_input(job, &job->fc1, job->layer->norm2, room, x, rows);
    if (c->gated) {
        rc_linear_run_laid(&job->gate, worker, gate, in, rows);
        rc_linear_run_laid(&job->fc1, worker, h, in, rows);
        close_gate(job, last, h, gate, rows);
    } else {
        rc_linear_run_between(&job->fc1, &job->fc2, worker, last, h, in,
                              activations[c->activation].forward, rows);
    }
    rc_linear_run_laid(&job->fc2, worker, x, last, rows);
    branch_end(job, job->layer->norm2, x, rows);
}

/* The row that stands for sequence i, where one does. */
static int64_t pooled_row(const text_job *job, int64_t i)
{
    int64_t tokens = tokens_of(job, i), nonzero = 0;
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
static void keep_pooled_rows(text_job *job)
{
    int64_t c = job->t->config.width, inner = rc_text_inner(&job->t->config);
    for (int64_t i = 0; i < job->n; i++) {
        int64_t at = job->first[i] + pooled_row(job, i);
        memmove(job->x + i * c, job->x + at * c, (size_t)c * sizeof(float));
        memmove(job->o + i * inner, job->o + at * inner, (size_t)inner * sizeof(float));
    }
    set_rows(job, job->n);
}

static rc_status run_attention(text_job *job, rc_dnn *dnn)
{
    const rc_params *p = job->p;
    rc_pair qkv = job->layer->qkv;
    int64_t total = job->total, rows = job->rows, chunks = chunks_of(total, rows);
    if (padded(job)) {
        RC_TRY(rc_linear_get_part(&job->qkv, dnn, p, qkv, RC_FIRST, total, rows));
        RC_TRY(rc_linear_get_part(&job->kv, dnn, p, qkv, RC_REST, job->seen, job->seen_rows));
        chunks += chunks_of(job->seen, job->seen_rows);
    } else {
        RC_TRY(rc_linear_get(&job->qkv, dnn, p, qkv, total, rows, false));
    }
    rc_parallel(rc_dnn_pool(dnn), chunks, qkv_chunk, job);
    rc_parallel(rc_dnn_pool(dnn), job->n, attend_sequence, job);
    return RC_OK;
}

static rc_status run_rest(text_job *job, rc_dnn *dnn)
{
    const rc_text_layer *l = job->layer;
    int64_t total = job->total, rows = job->rows;
    RC_TRY(rc_linear_get(&job->proj, dnn, job->p, l->proj, total, rows, true));
    RC_TRY(rc_linear_get(&job->fc1, dnn, job->p, l->fc1, total, rows, false));
    if (job->t->config.gated)
        RC_TRY(rc_linear_get(&job->gate, dnn, job->p, l->gate, total, rows, false));
    RC_TRY(rc_linear_get(&job->fc2, dnn, job->p, l->fc2, total, rows, true));
    rc_parallel(rc_dnn_pool(dnn), chunks_of(total, rows), rest_chunk, job);
    return RC_OK;
}

/* ---- Pooling --------------------------------------------------------------------------------- */

/* y += each of some rows of x, whose final norm replaces them. */
static void add_normed(const text_job *job, float *y, float *x, int64_t rows)
{
    int64_t c = job->t->config.width;
    if (job->t->config.final_norm) norm_rows(job, job->t->final, x, x, rows);
    for (int64_t i = 0; i < rows; i++) rc_add(y, x + i * c, c);
}

static void pool_sequence(void *arg, int64_t i, int worker)
{
    (void)worker;
    const text_job *job = arg;
    int64_t c = job->t->config.width, padding = padding_of(job, i);
    int64_t rows = one_row(job) ? 1 : tokens_of(job, i);
    float *x = job->x + (one_row(job) ? i : job->first[i]) * c, *y = job->pooled + i * c;
    memset(y, 0, (size_t)c * sizeof *y);
    add_normed(job, y, x, rows);
    if (padding > 0) add_normed(job, y, job->x + padding_row(job, i) * c, padding);
    for (int64_t j = 0; j < c; j++) y[j] /= (float)(rows + padding);
}

/* tanh of a dense layer, as BERT's and RoBERTa's poolers. */
static void pooler_chunk(void *arg, int64_t index, int worker)
{
    const text_job *job = arg;
    int64_t c = job->t->config.width, at = index * ROUND, rows = rc_min(ROUND, job->n - at);
    rc_linear_run(&job->pooler, worker, job->y + at * c, job->pooled + at * c, rows);
    rc_tanh_forward(job->y + at * c, job->y + at * c, rows * c);
}

static rc_status pool_all(text_job *job, rc_dnn *dnn)
{
    bool dense = job->t->config.pool == RC_POOL_POOLER;
    if (!dense) job->pooled = job->y;
    rc_parallel(rc_dnn_pool(dnn), job->n, pool_sequence, job);
    if (!dense) return RC_OK;
    RC_TRY(rc_linear_get(&job->pooler, dnn, job->p, job->t->pooler, job->n, ROUND, false));
    rc_parallel(rc_dnn_pool(dnn), (job->n + ROUND - 1) / ROUND, pooler_chunk, job);
    return RC_OK;
}

/* ---- Forward --------------------------------------------------------------------------------- */

static void take_buffers(text_job *job, rc_arena *arena, int threads)
{
    const rc_text_config *c = &job->t->config;
    rc_attention a = attention_of(job, job->longest, job->longest);
    int64_t side = job->longest, inner = rc_text_inner(c);
    job->x = rc_take(arena, job->total * c->width);
    job->ldq = padded(job) ? inner : 3 * inner;
    job->ldk = padded(job) ? 2 * inner : 3 * inner;
    job->q = rc_take(arena, job->total * job->ldq);
    if (padded(job)) job->k = rc_take(arena, job->seen * job->ldk);
    job->o = rc_take(arena, job->total * inner);
    job->pooled = rc_take(arena, job->n * c->width);
    if (job->t->buckets >= 0) job->bias = rc_take(arena, c->heads * side * side);
    if (c->causal) job->mask = rc_take(arena, side * side);
    job->form = rc_max(job->most * c->width, rc_linear_form(job->p, job->t->layer->fc1, job->most));
    int64_t chunk = job->form + ROUND * c->width + (c->gated ? 2 : 1) * job->most * c->mlp +
                    rc_linear_form(job->p, job->t->layer->fc2, job->most);
    job->scratch_size = (rc_max(rc_attention_scratch(&a), chunk) + 15) / 16 * 16;
    job->scratch = rc_take(arena, threads * job->scratch_size);
}

/* What the longest sequence adds to its scores; of shorter ones it is the upper left corner. */
static void fill_biases(const text_job *job)
{
    const rc_text_config *c = &job->t->config;
    int64_t side = job->longest;
    if (job->bias != NULL)
        rc_t5_bias_forward(job->bias, value(job, job->t->buckets), side, c->heads, c->buckets,
                           c->distance);
    for (int64_t i = 0; job->mask != NULL && i < side; i++)
        for (int64_t j = 0; j < side; j++) job->mask[i * side + j] = j > i ? UNSEEN : 0;
}

/* Rounding rows are zero, so that what they compute stays finite. */
static void clear_rounding(const text_job *job)
{
    int64_t c = job->t->config.width, inner = rc_text_inner(&job->t->config);
    size_t extra = (size_t)(job->total - job->real) * sizeof(float);
    memset(job->x + job->real * c, 0, extra * (size_t)c);
    memset(job->o + job->real * inner, 0, extra * (size_t)inner);
}

static rc_status check_sequences(const rc_text *t, const int32_t *id, const int32_t *first,
                                 int64_t n)
{
    int64_t most = rc_text_longest(&t->config);
    for (int64_t i = 0; i < n; i++) {
        int64_t length = (int64_t)first[i + 1] - first[i];
        if (length < 1 || length > most)
            return rc_fail(RC_EINVAL, "text %lld: %lld tokens, expected 1 to %lld", (long long)i,
                           (long long)length, (long long)most);
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
    text_job job = {.t = t, .p = p, .id = id, .first = first, .n = n, .y = y};
    set_rows(&job, padded(&job) ? padding_row(&job, n) : first[n]);
    job.seen = round_up(first[n]); /* some of the rounding is padding, or not a row of any text */
    job.seen_rows = chunk_rows(job.seen);
    job.most = rc_max(job.rows, rc_max(job.seen_rows, chunk_rows(round_up(n))));
    for (int64_t i = 0; i < n; i++)
        job.longest = rc_max(job.longest, tokens_of(&job, i) + padding_of(&job, i));
    rc_arena counting = {0};
    take_buffers(&job, &counting, rc_pool_threads(pool));
    RC_TRY(rc_arena_reserve(&c->shared, counting.peak));
    take_buffers(&job, &c->shared, rc_pool_threads(pool));
    if (!padded(&job)) job.k = job.q + rc_text_inner(&t->config);
    fill_biases(&job);
    clear_rounding(&job);
    rc_parallel(pool, n, embed_sequence, &job);
    for (int64_t i = 0; i < t->config.layers; i++) {
        job.layer = &t->layer[i];
        RC_TRY(run_attention(&job, c->dnn));
        if (i == t->config.layers - 1 && one_row(&job)) keep_pooled_rows(&job);
        RC_TRY(run_rest(&job, c->dnn));
    }
    return pool_all(&job, c->dnn);
}
