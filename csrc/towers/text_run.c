/* The text tower at work: rows, embedding, pooling, and the order of it all.
 *
 * Sequences lie one after the other; only RC_POOL_MEAN_PADDED asks for rows of padding, which lie
 * behind the tokens of all sequences: they only ask, so keys and values are computed for the rows
 * in front. What rows that were added for roundness compute is never read. */
#include "towers/text_inside.h"

#include "kernels/embed.h"
#include "layers/norms.h"

#include <string.h>

enum { ROUND = 16, LEAST = 96 }; /* rows are a multiple; of many chunks, the fewest rows of one */

static const float UNSEEN = -1e30f; /* score of a later key under the causal mask */

/* Numbers without another word are offsets in scratch. */
typedef struct {
    const rc_text *t;
    const rc_params *p;
    int64_t n, tokens, longest; /* texts; rows of tokens; of the longest text, with padding */
    int64_t real;               /* rows, without rounding */
    rc_block_rows rows, last;   /* of all layers but the last one, of that */
    rc_block_plan **layer;
    int64_t x, spans, kept, bias, mask, pooled;
    rc_grid texts;
    rc_linear pooler;
} text_plan;

typedef struct {
    const text_plan *k;
    const rc_run *run;
    const rc_features *out;
    const int32_t *id, *first;
    float *x, *pooled;
} text_call;

static const float *value(const text_call *job, int64_t index)
{
    return job->k->p->item[index].x;
}

static bool padded(const text_plan *k)
{
    return k->t->config.pool == RC_POOL_MEAN_PADDED;
}

/* Whether one row of a sequence stands for it. */
static bool one_row(const text_plan *k)
{
    return !padded(k) && k->t->config.pool != RC_POOL_MEAN;
}

static int64_t tokens_of(const text_call *job, int64_t i)
{
    return job->first[i + 1] - job->first[i];
}

static int64_t padding_of(const text_call *job, int64_t i)
{
    return padded(job->k) ? job->k->t->config.pad_to - tokens_of(job, i) : 0;
}

/* The first row of padding of sequence i. */
static int64_t padding_row(const text_call *job, int64_t i)
{
    return job->first[job->k->n] + i * job->k->t->config.pad_to - job->first[i];
}

/* ---- Input ----------------------------------------------------------------------------------- */

rc_status rc_text_measure(rc_input_size *size, const rc_tower_shape *shape, const void *tower,
                          const rc_input *in)
{
    const rc_text_config *c = &((const rc_text *)tower)->config;
    *size = (rc_input_size){.b = in->b, .rows = in->first[in->b]};
    for (int64_t i = 0; i < in->b; i++) {
        int64_t length = (int64_t)in->first[i + 1] - in->first[i];
        if (length < 1 || length > shape->most)
            return rc_fail(RC_EINVAL, "text %lld: %lld tokens, expected 1 to %lld", (long long)i,
                           (long long)length, (long long)shape->most);
        size->longest = rc_max(size->longest, length);
        for (int64_t j = in->first[i]; j < in->first[i + 1]; j++)
            if (in->id[j] < 0 || in->id[j] >= c->vocab)
                return rc_fail(RC_EINVAL,
                               "text %lld: token id %d is outside the vocabulary of %lld",
                               (long long)i, (int)in->id[j], (long long)c->vocab);
    }
    if (c->pool == RC_POOL_MEAN_PADDED) size->longest = c->pad_to;
    return RC_OK;
}

/* ---- Plan ------------------------------------------------------------------------------------ */

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

static rc_grid grid_of(const text_plan *k, int64_t rows)
{
    return rc_linear_grid(k->p, k->t->layer->fc1, rows, chunk_rows(rows));
}

static void plan_rows(text_plan *k)
{
    k->real = padded(k) ? k->n * k->t->config.pad_to : k->tokens;
    rc_grid all = grid_of(k, round_up(k->real)), keyed = all;
    if (padded(k)) { /* some of the rounding is padding, or not a row of any text */
        int64_t rows = round_up(k->tokens);
        keyed = all.columns ? rc_grid_columns(rows) : rc_grid_rows(rows, chunk_rows(rows));
    }
    k->rows = (rc_block_rows){.all = all, .keyed = keyed, .kept = all, .t = k->longest};
    k->rows.n = padded(k) ? 2 * k->n : k->n;
    k->last = k->rows;
    if (one_row(k)) k->last.kept = grid_of(k, round_up(k->n));
}

static void take_scratch(text_plan *k, rc_plan *plan)
{
    const rc_text_config *c = &k->t->config;
    int64_t side = k->longest * k->longest;
    k->x = rc_plan_take(plan, k->rows.all.total * c->width);
    k->spans = rc_plan_take(plan, k->rows.n * (int64_t)(sizeof(rc_span) / sizeof(float)));
    k->kept = rc_plan_take(plan, k->n * (int64_t)(sizeof(int64_t) / sizeof(float)));
    k->pooled = rc_plan_take(plan, k->n * c->width);
    if (k->t->buckets >= 0) k->bias = rc_plan_take(plan, c->heads * side);
    if (c->causal) k->mask = rc_plan_take(plan, side);
}

rc_status rc_text_plan_make(void **body, rc_plan *plan, const void *tower, const rc_params *p,
                            const rc_input_size *size, bool train)
{
    const rc_text *t = tower;
    const rc_text_config *c = &t->config;
    RC_TRY(rc_plan_alloc(plan, body, sizeof(text_plan)));
    text_plan *k = *body;
    *k = (text_plan){.t = t, .p = p, .n = size->b, .tokens = size->rows, .longest = size->longest};
    RC_TRY(rc_plan_alloc(plan, (void **)&k->layer, c->layers * (int64_t)sizeof *k->layer));
    plan_rows(k);
    take_scratch(k, plan);
    for (int64_t i = 0; i < c->layers; i++)
        RC_TRY(rc_block_plan_make(&k->layer[i], plan, &t->layer[i], p,
                                  i + 1 < c->layers ? &k->rows : &k->last, train));
    if (c->pool != RC_POOL_POOLER) return RC_OK;
    k->texts = rc_grid_rows(k->n, ROUND);
    return rc_linear_plan(&k->pooler, plan, p, t->pooler, &k->texts, false);
}

/* ---- Embedding ------------------------------------------------------------------------------- */

static void norm_in_place(const text_call *job, rc_pair norm, float *x, int64_t rows)
{
    const text_plan *k = job->k;
    rc_norm_forward(k->p, norm, (float)k->t->config.eps, x, NULL, NULL, x, rows);
}

/* The rows of the table of positions that tokens take, from the `counted`-th on; returns how many
 * have been counted then. RoBERTa's padding token, wherever it stands, takes the row before the
 * first one and is not counted (create_position_ids_from_input_ids of transformers). */
static int64_t add_positions(const text_call *job, float *x, const int32_t *id, int64_t rows,
                             int64_t counted)
{
    int64_t c = job->k->t->config.width, offset = job->k->t->config.position_offset;
    const float *table = value(job, job->k->t->position);
    for (int64_t j = 0; j < rows; j++) {
        bool pad = offset > 0 && id[j] == offset - 1;
        int64_t at = pad ? offset - 1 : offset + counted++;
        rc_add(x + j * c, table + at * c, c);
    }
    return counted;
}

/* What tokens have besides their own rows; `counted` as above. */
static int64_t embed_rows(const text_call *job, float *x, const int32_t *id, int64_t rows,
                          int64_t counted)
{
    const rc_text *t = job->k->t;
    int64_t c = t->config.width;
    rc_lookup_forward(x, value(job, t->token), id, rows, c);
    if (t->position >= 0) counted = add_positions(job, x, id, rows, counted);
    for (int64_t j = 0; t->type >= 0 && j < rows; j++) rc_add(x + j * c, value(job, t->type), c);
    if (t->config.embed_norm) norm_in_place(job, t->norm, x, rows);
    return counted;
}

static void embed_sequence(void *arg, int64_t i, int worker)
{
    (void)worker;
    const text_call *job = arg;
    const rc_text_config *c = &job->k->t->config;
    int64_t padding = padding_of(job, i), counted;
    int32_t pad = (int32_t)c->pad_id;
    counted = embed_rows(job, job->x + job->first[i] * c->width, job->id + job->first[i],
                         tokens_of(job, i), 0);
    for (int64_t j = 0; j < padding; j++)
        counted = embed_rows(job, job->x + (padding_row(job, i) + j) * c->width, &pad, 1, counted);
}

/* Rows for roundness are zero, so that what they compute stays finite. */
static void embed_all(const text_call *job)
{
    const text_plan *k = job->k;
    int64_t c = k->t->config.width, extra = k->rows.all.total - k->real;
    memset(job->x + k->real * c, 0, (size_t)(extra * c) * sizeof(float));
    rc_parallel(job->run->pool, k->n, embed_sequence, (void *)job);
}

/* ---- Sequences ------------------------------------------------------------------------------- */

/* The row that stands for sequence i, where one does. */
static int64_t pooled_row(const text_call *job, int64_t i)
{
    int64_t tokens = tokens_of(job, i), nonzero = 0;
    const int32_t *id = job->id + job->first[i];
    switch (job->k->t->config.pool) {
    case RC_POOL_LAST:
        return tokens - 1;
    case RC_POOL_NONZERO: /* MS-CLAP 2023 takes every token 0 for padding, "!" in the text too */
        for (int64_t j = 0; j < tokens; j++) nonzero += id[j] != 0;
        return rc_max(nonzero - 1, 0);
    default: /* RC_POOL_FIRST, RC_POOL_POOLER */
        return 0;
    }
}

/* Tokens of all sequences, then their padding. */
static void fill_spans(const text_call *job, rc_span *span, int64_t *keep)
{
    const text_plan *k = job->k;
    for (int64_t i = 0; i < k->n; i++) {
        int64_t at = job->first[i], tokens = tokens_of(job, i);
        span[i] = (rc_span){at, tokens, at, tokens, 0};
        if (padded(k))
            span[k->n + i] = (rc_span){padding_row(job, i), padding_of(job, i), at, tokens, tokens};
        keep[i] = at + pooled_row(job, i);
    }
}

/* What the longest sequence adds to its scores; of shorter ones it is the upper left corner. */
static rc_sequences open_sequences(const text_call *job)
{
    const text_plan *k = job->k;
    const rc_text_config *c = &k->t->config;
    float *scratch = job->run->scratch, *bias = scratch + k->bias, *mask = scratch + k->mask;
    int64_t side = k->longest, *keep = (int64_t *)(scratch + k->kept);
    rc_span *span = (rc_span *)(scratch + k->spans);
    fill_spans(job, span, keep);
    if (k->t->buckets >= 0)
        rc_t5_bias_forward(bias, value(job, k->t->buckets), side, c->heads, c->buckets,
                           c->max_distance);
    for (int64_t i = 0; c->causal && i < side; i++)
        for (int64_t j = 0; j < side; j++) mask[i * side + j] = j > i ? UNSEEN : 0;
    return (rc_sequences){.span = span,
                          .bias = k->t->buckets >= 0 ? bias : NULL,
                          .mask = c->causal ? mask : NULL,
                          .keep = one_row(k) ? keep : NULL,
                          .kept = k->n,
                          .real = k->real};
}

/* ---- Pooling --------------------------------------------------------------------------------- */

/* y += each of some rows of x, whose final norm replaces them. */
static void add_normed(const text_call *job, float *y, float *x, int64_t rows)
{
    int64_t c = job->k->t->config.width;
    if (job->k->t->config.final_norm) norm_in_place(job, job->k->t->final, x, rows);
    rc_add_rows(y, x, rows, c, c);
}

static void pool_sequence(void *arg, int64_t i, int worker)
{
    (void)worker;
    const text_call *job = arg;
    int64_t c = job->k->t->config.width, padding = padding_of(job, i);
    bool one = one_row(job->k);
    int64_t rows = one ? 1 : tokens_of(job, i);
    float *x = job->x + (one ? i : job->first[i]) * c, *y = job->pooled + i * c;
    memset(y, 0, (size_t)c * sizeof *y);
    add_normed(job, y, x, rows);
    if (padding > 0) add_normed(job, y, job->x + padding_row(job, i) * c, padding);
    for (int64_t j = 0; j < c; j++) y[j] /= (float)(rows + padding);
}

/* tanh of a dense layer, as BERT's and RoBERTa's poolers. */
static void pooler_chunk(void *arg, int64_t at, int64_t rows, rc_crew crew)
{
    const text_call *job = arg;
    int64_t c = job->k->t->config.width;
    float *y = job->out->y + at * c;
    rc_linear_run(&job->k->pooler, crew, y, rc_floats(job->pooled + at * c), rows);
    rc_tanh_forward(y, y, rows * c);
}

/* ---- Forward --------------------------------------------------------------------------------- */

void rc_text_forward(const void *body, const rc_run *run, const rc_features *out,
                     const rc_input *in)
{
    const text_plan *k = body;
    bool dense = k->t->config.pool == RC_POOL_POOLER;
    text_call job = {.k = k, .run = run, .out = out, .id = in->id, .first = in->first};
    job.x = run->scratch + k->x;
    job.pooled = dense ? run->scratch + k->pooled : out->y;
    embed_all(&job);
    rc_sequences all = open_sequences(&job), before = all;
    before.keep = NULL;
    for (int64_t i = 0; i < k->t->config.layers; i++)
        rc_block_forward(k->layer[i], run, job.x, job.x,
                         i + 1 < k->t->config.layers ? &before : &all);
    rc_parallel(run->pool, k->n, pool_sequence, &job);
    if (dense) rc_grid_run(&k->texts, run->pool, pooler_chunk, &job);
}
