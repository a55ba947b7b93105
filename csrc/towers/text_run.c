/* The text tower at work: rows, embedding, pooling, and the order of it all.
 *
 * Sequences lie one after the other; only RC_POOL_MEAN_PADDED asks for rows of padding, which lie
 * behind the tokens of all sequences: they only ask, so keys and values are computed for the rows
 * in front. What rows that were added for roundness compute is never read. */
#include "towers/text_plan.h"

#include "kernels/embed.h"
#include "layers/norms.h"

#include <string.h>

enum { ROUND = 16, LEAST = 96 }; /* rows are a multiple; of many chunks, the fewest rows of one */

static const float UNSEEN = -1e30f; /* score of a later key under the causal mask */

static const float *value(const rc_text_call *job, int64_t index)
{
    return job->k->p->item[index].x;
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

/* Backward knows rows only. */
static rc_grid grid_of(const rc_text_plan *k, int64_t rows)
{
    int64_t chunk = chunk_rows(rows);
    return k->train ? rc_grid_rows(rows, chunk)
                    : rc_linear_grid(k->p, k->t->layer->fc1, rows, chunk);
}

static void plan_rows(rc_text_plan *k)
{
    bool padded = rc_text_padded(k);
    rc_grid all = grid_of(k, round_up(padded ? k->n * k->t->config.pad_to : k->tokens));
    rc_grid keyed = all;
    if (padded) { /* some of the rounding is padding, or not a row of any text */
        int64_t rows = rc_min(round_up(k->tokens), all.total);
        keyed = all.columns ? rc_grid_columns(rows) : rc_grid_rows(rows, chunk_rows(rows));
    }
    k->rows = (rc_block_rows){.all = all, .keyed = keyed, .kept = all, .t = k->longest};
    k->rows.n = padded ? 2 * k->n : k->n;
    k->last = k->rows;
    if (rc_text_keeps(k)) k->last.kept = grid_of(k, round_up(k->n));
}

static int64_t indices(int64_t count) /* as floats */
{
    return count * (int64_t)(sizeof(int64_t) / sizeof(float));
}

static void take_scratch(rc_text_plan *k, rc_plan *plan)
{
    const rc_text_config *c = &k->t->config;
    int64_t side = k->longest * k->longest;
    k->x = rc_plan_take(plan, k->rows.all.total * c->width);
    k->spans = rc_plan_take(plan, k->rows.n * (int64_t)(sizeof(rc_span) / sizeof(float)));
    k->kept = rc_plan_take(plan, indices(k->n));
    k->pooled = rc_plan_take(plan, k->n * c->width);
    if (k->t->buckets >= 0) k->bias = rc_plan_take(plan, c->heads * side);
    if (c->causal) k->mask = rc_plan_take(plan, side);
    if (!k->train) return;
    k->place = rc_plan_take(plan, indices(k->rows.all.total));
    k->normed = rc_plan_shares(plan, rc_plan_threads(plan), k->longest * c->width);
}

static void take_tape(rc_text_plan *k, rc_plan *plan)
{
    const rc_text_config *c = &k->t->config;
    rc_text_tape *tape = &k->tape;
    int64_t rows = k->rows.all.total, floats = rows * c->width;
    const struct {
        int64_t *at, floats;
    } parts[] = {
        {&tape->embed, c->embed_norm ? floats : 0},
        {&tape->dembed, c->embed_norm ? floats : 0},
        {&tape->position, k->t->position >= 0 ? indices(rows) : 0},
        {&tape->y, k->n * c->width},
        {&tape->ddense, k->n * c->width},
        {&tape->embed_mean, rows},
        {&tape->embed_rstd, rows},
        {&tape->mean, rows},
        {&tape->rstd, rows},
        {&tape->dx, floats},
        {&tape->da, c->final_norm ? floats : 0},
        {&tape->dpooled, k->n * c->width},
        {&tape->dbias, k->t->buckets >= 0 ? c->heads * k->longest * k->longest : 0},
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        *parts[i].at = rc_plan_take(plan, parts[i].floats);
}

static rc_status plan_pooler(rc_text_plan *k, rc_plan *plan)
{
    if (k->t->config.pool != RC_POOL_POOLER) return RC_OK;
    k->texts = rc_grid_rows(k->n, ROUND);
    RC_TRY(rc_linear_plan(&k->pooler, plan, k->p, k->t->pooler, &k->texts, false));
    if (!k->train) return RC_OK;
    return rc_linear_back_plan(&k->pooler_back, plan, k->p, k->t->pooler, &k->texts);
}

rc_status rc_text_plan_make(void **body, rc_plan *plan, const void *tower, const rc_params *p,
                            const rc_input_size *size, bool train)
{
    const rc_text *t = tower;
    const rc_text_config *c = &t->config;
    RC_TRY(rc_plan_alloc(plan, body, sizeof(rc_text_plan)));
    rc_text_plan *k = *body;
    *k = (rc_text_plan){.t = t, .p = p, .train = train, .n = size->b, .tokens = size->rows};
    k->longest = size->longest;
    RC_TRY(rc_plan_alloc(plan, (void **)&k->layer, c->layers * (int64_t)sizeof *k->layer));
    plan_rows(k);
    take_scratch(k, plan);
    if (train) take_tape(k, plan);
    for (int64_t i = 0; i < c->layers; i++)
        RC_TRY(rc_block_plan_make(&k->layer[i], plan, &t->layer[i], p,
                                  i + 1 < c->layers ? &k->rows : &k->last, train));
    return plan_pooler(k, plan);
}

/* ---- Embedding ------------------------------------------------------------------------------- */

int64_t rc_text_position(const rc_text_call *job, int32_t id, int64_t *counted)
{
    int64_t offset = job->k->t->config.position_offset;
    bool pad = offset > 0 && id == offset - 1;
    return pad ? offset - 1 : offset + (*counted)++;
}

/* A row of padding, or rows of tokens, of which so many have been counted. */
static void embed_rows(const rc_text_call *job, int64_t row, const int32_t *id, int64_t rows,
                       int64_t *counted)
{
    const rc_text_plan *k = job->k;
    const rc_text *t = k->t;
    int64_t c = t->config.width;
    float *x = job->x + row * c, *mean = NULL, *rstd = NULL, *sum = x;
    if (k->train && t->config.embed_norm) {
        sum = rc_text_at(job, k->tape.embed) + row * c;
        mean = rc_text_at(job, k->tape.embed_mean) + row;
        rstd = rc_text_at(job, k->tape.embed_rstd) + row;
    }
    rc_lookup_forward(sum, value(job, t->token), id, rows, c);
    for (int64_t j = 0; t->position >= 0 && j < rows; j++)
        rc_add(sum + j * c, value(job, t->position) + rc_text_position(job, id[j], counted) * c, c);
    for (int64_t j = 0; t->type >= 0 && j < rows; j++) rc_add(sum + j * c, value(job, t->type), c);
    if (t->config.embed_norm)
        rc_norm_forward(k->p, t->norm, (float)t->config.eps, x, mean, rstd, sum, rows);
    if (k->train) rc_text_drop(job, x, row, rows);
}

void rc_text_drop(const rc_text_call *job, float *x, int64_t row, int64_t rows)
{
    const rc_text_config *c = &job->k->t->config;
    const int64_t *place = (int64_t *)rc_text_at(job, job->k->place) + row;
    rc_draw at = job->run->draw;
    at.site = RC_TEXT_SITE;
    for (int64_t i = 0; c->dropout > 0 && i < rows; i++)
        rc_dropout(x + i * c->width, x + i * c->width, c->width, (float)c->dropout, at,
                   place[i] * c->width);
}

static void embed_sequence(void *arg, int64_t i, int worker)
{
    (void)worker;
    const rc_text_call *job = arg;
    int64_t padding = rc_text_padding(job, i), counted = 0;
    int32_t pad = (int32_t)job->k->t->config.pad_id;
    embed_rows(job, job->first[i], job->id + job->first[i], rc_text_tokens(job, i), &counted);
    for (int64_t j = 0; j < padding; j++)
        embed_rows(job, rc_text_padding_row(job, i) + j, &pad, 1, &counted);
}

/* Rows for roundness are zero, so that what they compute stays finite. */
static void embed_all(const rc_text_call *job)
{
    int64_t c = job->k->t->config.width, real = rc_text_real(job);
    memset(job->x + real * c, 0, (size_t)((job->k->rows.all.total - real) * c) * sizeof(float));
    rc_parallel(job->run->pool, job->k->n, embed_sequence, (void *)job);
}

/* ---- Sequences ------------------------------------------------------------------------------- */

int64_t rc_text_pooled_row(const rc_text_call *job, int64_t i)
{
    int64_t tokens = rc_text_tokens(job, i), nonzero = 0;
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
static void fill_spans(const rc_text_call *job)
{
    const rc_text_plan *k = job->k;
    int64_t *keep = (int64_t *)rc_text_at(job, k->kept);
    rc_span *span = (rc_span *)rc_text_at(job, k->spans);
    for (int64_t i = 0; i < k->n; i++) {
        int64_t at = job->first[i], tokens = rc_text_tokens(job, i);
        span[i] = (rc_span){at, tokens, at, tokens, 0};
        if (rc_text_padded(k))
            span[k->n + i] =
                (rc_span){rc_text_padding_row(job, i), rc_text_padding(job, i), at, tokens, tokens};
        keep[i] = at + rc_text_pooled_row(job, i);
    }
}

/* The place of each row in the whole batch: that of its text and, in it, its own; and its row in
 * the table of positions. */
static void fill_places(const rc_text_call *job)
{
    const rc_text_plan *k = job->k;
    int64_t *place = (int64_t *)rc_text_at(job, k->place), real = rc_text_real(job);
    int64_t *position = (int64_t *)rc_text_at(job, k->tape.position);
    for (int64_t i = 0; i < k->n; i++) {
        int64_t tokens = rc_text_tokens(job, i), padding = rc_text_padding(job, i), counted = 0;
        for (int64_t j = 0; j < tokens + padding; j++) {
            bool pad = j >= tokens;
            int64_t row = pad ? rc_text_padding_row(job, i) + j - tokens : job->first[i] + j;
            int32_t id = pad ? (int32_t)k->t->config.pad_id : job->id[row];
            place[row] = ((job->run->clip + i) << 20) + j;
            if (k->t->position >= 0) position[row] = rc_text_position(job, id, &counted);
        }
    }
    for (int64_t i = real; i < k->rows.all.total; i++) place[i] = 0;
}

/* Rows that are not pooled have statistics that change nothing. */
static void clear_statistics(const rc_text_call *job)
{
    size_t bytes = (size_t)job->k->rows.all.total * sizeof(float);
    memset(rc_text_at(job, job->k->tape.mean), 0, bytes);
    memset(rc_text_at(job, job->k->tape.rstd), 0, bytes);
}

/* What the longest sequence adds to its scores; of shorter ones it is the upper left corner. */
static void fill_tables(const rc_text_call *job)
{
    const rc_text_plan *k = job->k;
    const rc_text_config *c = &k->t->config;
    float *mask = rc_text_at(job, k->mask);
    int64_t side = k->longest;
    if (k->t->buckets >= 0)
        rc_t5_bias_forward(rc_text_at(job, k->bias), value(job, k->t->buckets), side, c->heads,
                           c->buckets, c->max_distance);
    for (int64_t i = 0; c->causal && i < side; i++)
        for (int64_t j = 0; j < side; j++) mask[i * side + j] = j > i ? UNSEEN : 0;
}

rc_sequences rc_text_sequences(const rc_text_call *job)
{
    const rc_text_plan *k = job->k;
    bool learns = k->train && k->t->buckets >= 0 && k->p->item[k->t->buckets].dx != NULL;
    return (rc_sequences){.span = (rc_span *)rc_text_at(job, k->spans),
                          .bias = k->t->buckets >= 0 ? rc_text_at(job, k->bias) : NULL,
                          .dbias = learns ? rc_text_at(job, k->tape.dbias) : NULL,
                          .mask = k->t->config.causal ? rc_text_at(job, k->mask) : NULL,
                          .keep = rc_text_keeps(k) ? (int64_t *)rc_text_at(job, k->kept) : NULL,
                          .kept = k->n,
                          .real = rc_text_real(job),
                          .keyed = job->first[k->n],
                          .place = k->train ? (int64_t *)rc_text_at(job, k->place) : NULL};
}

/* ---- Pooling --------------------------------------------------------------------------------- */

/* y += each of some rows of the stream, or its final norm, which replaces it but in training. */
static void add_normed(const rc_text_call *job, float *y, int64_t row, int64_t rows, int worker)
{
    const rc_text_plan *k = job->k;
    int64_t c = k->t->config.width;
    float *x = job->x + row * c, *to = x, *mean = NULL, *rstd = NULL;
    if (!k->t->config.final_norm) {
        rc_add_rows(y, x, rows, c, c);
        return;
    }
    if (k->train) {
        to = rc_share_of(job->run, k->normed, worker);
        mean = rc_text_at(job, k->tape.mean) + row;
        rstd = rc_text_at(job, k->tape.rstd) + row;
    }
    rc_norm_forward(k->p, k->t->final, (float)k->t->config.eps, to, mean, rstd, x, rows);
    rc_add_rows(y, to, rows, c, c);
}

static void pool_sequence(void *arg, int64_t i, int worker)
{
    const rc_text_call *job = arg;
    const rc_text_plan *k = job->k;
    int64_t c = k->t->config.width, padding = rc_text_padding(job, i);
    bool one = rc_text_one_row(k);
    int64_t rows = one ? 1 : rc_text_tokens(job, i);
    int64_t row = rc_text_keeps(k) ? i : job->first[i] + (one ? rc_text_pooled_row(job, i) : 0);
    float *y = job->pooled + i * c;
    memset(y, 0, (size_t)c * sizeof *y);
    add_normed(job, y, row, rows, worker);
    if (padding > 0) add_normed(job, y, rc_text_padding_row(job, i), padding, worker);
    for (int64_t j = 0; j < c; j++) y[j] /= (float)(rows + padding);
}

/* tanh of a dense layer, as BERT's and RoBERTa's poolers. */
static void pooler_chunk(void *arg, int64_t at, int64_t rows, rc_crew crew)
{
    const rc_text_call *job = arg;
    int64_t c = job->k->t->config.width;
    float *y = job->out->y + at * c;
    rc_linear_run(&job->k->pooler, crew, y, rc_floats(job->pooled + at * c), rows);
    rc_tanh_forward(y, y, rows * c);
}

/* ---- Forward --------------------------------------------------------------------------------- */

void rc_text_forward(const void *body, const rc_run *run, const rc_features *out,
                     const rc_input *in)
{
    const rc_text_plan *k = body;
    bool dense = k->t->config.pool == RC_POOL_POOLER;
    rc_text_call job = {.k = k, .run = run, .out = out, .id = in->id, .first = in->first};
    job.x = rc_text_at(&job, k->x);
    job.pooled = dense ? rc_text_at(&job, k->pooled) : out->y;
    fill_spans(&job);
    fill_tables(&job);
    if (k->train) {
        fill_places(&job);
        clear_statistics(&job);
    }
    embed_all(&job);
    rc_sequences all = rc_text_sequences(&job), before = all;
    before.keep = NULL;
    for (int64_t i = 0; i < k->t->config.layers; i++)
        rc_block_forward(k->layer[i], run, job.x, job.x,
                         i + 1 < k->t->config.layers ? &before : &all);
    rc_parallel(run->pool, k->n, pool_sequence, &job);
    if (dense) rc_grid_run(&k->texts, run->pool, pooler_chunk, &job);
    if (dense && k->train)
        memcpy(rc_text_at(&job, k->tape.y), out->y,
               (size_t)(k->n * k->t->config.width) * sizeof(float));
}
