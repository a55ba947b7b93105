/* A layer of the text tower: what a branch reads and writes, attention, the MLP. */
#include "towers/text_call.h"

#include "kernels/act.h"
#include "kernels/norm.h"

#include <math.h>

enum { ROUND = RC_TEXT_ROUND };

/* ---- Options --------------------------------------------------------------------------------- */

void rc_text_norm(const rc_text_call *job, rc_pair pair, float *y, const float *x, int64_t rows)
{
    const rc_text_config *c = &job->t->config;
    if (c->norm == RC_NORM_RMS)
        rc_rmsnorm_forward(y, NULL, x, rc_text_value(job, pair.w), rows, c->width, (float)c->eps);
    else
        rc_layernorm_forward(y, NULL, NULL, x, rc_text_value(job, pair.w),
                             rc_text_value(job, pair.b), rows, c->width, (float)c->eps);
}

/* After a branch was added to the stream x. */
static void branch_end(const rc_text_call *job, rc_pair norm, float *x, int64_t rows)
{
    if (job->t->config.place == RC_PLACE_POST) rc_text_norm(job, norm, x, x, rows);
}

rc_attention rc_text_attention(const rc_text_call *job, int64_t rows, int64_t keys)
{
    int64_t d = rc_text_head_width(&job->t->config);
    float scale = job->t->config.scaled ? 1 / sqrtf((float)d) : 1;
    return (rc_attention){rows, job->t->config.heads, d, keys, job->longest, job->ldq, job->ldk,
                          scale};
}

/* ---- A few rows at a time -------------------------------------------------------------------- */

/* Rows on their way between layers: those of `x`, or their norm; or h and what gates it. */
typedef struct {
    const rc_text_call *job;
    rc_sink next; /* the layer whose first factor they become */
    rc_pair norm;
    const float *x, *gate;
    float *h;
    int64_t rows;
} text_rows;

static int64_t some_of(const text_rows *k, int64_t i)
{
    return rc_min(ROUND, k->rows - i * ROUND);
}

static void each_few(text_rows *k, rc_crew crew, rc_task *task)
{
    rc_each(crew, (k->rows + ROUND - 1) / ROUND, task, k);
}

static void norm_few(void *arg, int64_t i, int worker)
{
    const text_rows *k = arg;
    const float *x = k->x + i * ROUND * k->job->t->config.width;
    float *y = rc_sink_at(&k->next, i * ROUND, k->job->room + worker * k->job->room_size);
    rc_text_norm(k->job, k->norm, y, x, some_of(k, i));
    rc_sink_put(&k->next, y, i * ROUND, some_of(k, i));
}

static void lay_few(void *arg, int64_t i, int worker)
{
    (void)worker;
    const text_rows *k = arg;
    const float *x = k->x + i * ROUND * k->job->t->config.width;
    rc_sink_put(&k->next, x, i * ROUND, some_of(k, i));
}

static void gate_few(void *arg, int64_t i, int worker)
{
    (void)worker;
    const text_rows *k = arg;
    int64_t wide = k->job->t->config.mlp, at = i * ROUND * wide, n = some_of(k, i) * wide;
    rc_act_of(k->job->t->config.activation)->forward(k->h + at, k->h + at, n);
    rc_gated_forward(k->h + at, k->h + at, k->gate + at, n);
    rc_sink_put(&k->next, k->h + at, i * ROUND, some_of(k, i));
}

/* What a layer at the start of a branch reads: the rows x, or their norm in `room`. */
static rc_rows branch_input(const rc_text_call *job, const rc_linear *l, rc_pair norm, rc_crew crew,
                            float *room, const float *x, int64_t rows)
{
    bool post = job->t->config.place == RC_PLACE_POST;
    text_rows k = {.job = job, .norm = norm, .x = x, .rows = rows};
    k.next = rc_linear_sink(l, room, room, rows);
    if (post && !rc_sink_lays(&k.next)) return rc_floats(x);
    each_few(&k, crew, post ? lay_few : norm_few);
    return rc_sink_rows(&k.next);
}

/* activate(h) gate goes to the MLP's second layer; both are scratch. */
static void close_gate(const rc_text_call *job, rc_crew crew, const rc_sink *next, float *h,
                       const float *gate, int64_t rows)
{
    text_rows k = {.job = job, .next = *next, .gate = gate, .h = h, .rows = rows};
    each_few(&k, crew, gate_few);
}

/* ---- Attention ------------------------------------------------------------------------------- */

/* A layer of the norm of some rows. */
static void layer_of_norm(const rc_text_call *job, const rc_linear *l, float *y, int64_t at,
                          int64_t rows, rc_crew crew)
{
    float *room = job->chunk + crew.worker * job->chunk_size;
    const float *x = job->x + at * job->t->config.width;
    rc_rows in = branch_input(job, l, job->layer->norm1, crew, room, x, rows);
    rc_linear_run(l, crew, y, in, rows);
}

/* Queries, or all three. */
static void qkv_chunk(void *arg, int64_t at, int64_t rows, rc_crew crew)
{
    const rc_text_call *job = arg;
    layer_of_norm(job, &job->qkv, job->q + at * job->ldq, at, rows, crew);
}

/* Keys and values where these are apart. */
static void kv_chunk(void *arg, int64_t at, int64_t rows, rc_crew crew)
{
    const rc_text_call *job = arg;
    layer_of_norm(job, &job->kv, job->k + at * job->ldk, at, rows, crew);
}

/* Rows at..at+rows-1 are those of sequence i from its position `from` on. */
static void attend_rows(const rc_text_call *job, int64_t i, int64_t at, int64_t from, int64_t rows,
                        float *scratch)
{
    int64_t corner = from * job->longest;
    rc_attention a = rc_text_attention(job, rows, rc_text_tokens(job, i));
    rc_attention_forward(job->o + at * rc_text_inner(&job->t->config), job->q + at * job->ldq,
                         job->k + job->first[i] * job->ldk,
                         job->bias == NULL ? NULL : job->bias + corner,
                         job->mask == NULL ? NULL : job->mask + corner, &a, scratch);
}

static void attend_sequence(void *arg, int64_t i, int worker)
{
    const rc_text_call *job = arg;
    float *scratch = job->room + worker * job->room_size;
    int64_t tokens = rc_text_tokens(job, i), padding = rc_text_padding(job, i);
    attend_rows(job, i, job->first[i], 0, tokens, scratch);
    if (padding > 0) attend_rows(job, i, rc_text_padding_row(job, i), tokens, padding, scratch);
}

rc_status rc_text_attend(rc_text_call *job, rc_dnn *dnn)
{
    const rc_params *p = job->p;
    rc_pair qkv = job->layer->qkv;
    if (rc_text_padded(job)) {
        RC_TRY(rc_linear_get_part(&job->qkv, dnn, p, qkv, RC_FIRST, &job->grid));
        RC_TRY(rc_linear_get_part(&job->kv, dnn, p, qkv, RC_REST, &job->seen));
        rc_grid_run(&job->seen, job->pool, kv_chunk, job);
    } else {
        RC_TRY(rc_linear_get(&job->qkv, dnn, p, qkv, &job->grid, false));
    }
    rc_grid_run(&job->grid, job->pool, qkv_chunk, job);
    rc_parallel(job->pool, job->n, attend_sequence, job);
    return RC_OK;
}

/* ---- The rest of a layer --------------------------------------------------------------------- */

int64_t rc_text_chunk_size(const rc_text_call *job)
{
    const rc_text_config *c = &job->t->config;
    int64_t hidden = (c->gated ? 2 : 1) * job->most * c->mlp;
    return job->form + hidden + rc_linear_form(job->p, job->t->layer->fc2, job->most);
}

static void rest_chunk(void *arg, int64_t at, int64_t rows, rc_crew crew)
{
    const rc_text_call *job = arg;
    const rc_text_config *c = &job->t->config;
    float *x = job->x + at * c->width, *room = job->chunk + crew.worker * job->chunk_size;
    float *h = room + job->form, *gate = h + job->most * c->mlp;
    float *last = c->gated ? gate + job->most * c->mlp : gate;
    rc_sink active = rc_linear_sink(&job->fc2, h, last, rows);
    rc_linear_run(&job->proj, crew, x, rc_floats(job->o + at * rc_text_inner(c)),
                  rows); /* adds into x */
    branch_end(job, job->layer->norm1, x, rows);
    rc_rows in = branch_input(job, &job->fc1, job->layer->norm2, crew, room, x, rows);
    if (c->gated) {
        rc_linear_run(&job->gate, crew, gate, in, rows);
        rc_linear_run(&job->fc1, crew, h, in, rows);
        close_gate(job, crew, &active, h, gate, rows);
    } else {
        rc_linear_run_into(&job->fc1, crew, &active, h, in, rc_act_of(c->activation)->forward,
                           rows);
    }
    rc_linear_run(&job->fc2, crew, x, rc_sink_rows(&active), rows);
    branch_end(job, job->layer->norm2, x, rows);
}

rc_status rc_text_rest(rc_text_call *job, rc_dnn *dnn)
{
    const rc_text_layer *l = job->layer;
    RC_TRY(rc_linear_get(&job->proj, dnn, job->p, l->proj, &job->grid, true));
    RC_TRY(rc_linear_get(&job->fc1, dnn, job->p, l->fc1, &job->grid, false));
    if (job->t->config.gated)
        RC_TRY(rc_linear_get(&job->gate, dnn, job->p, l->gate, &job->grid, false));
    RC_TRY(rc_linear_get(&job->fc2, dnn, job->p, l->fc2, &job->grid, true));
    rc_grid_run(&job->grid, job->pool, rest_chunk, job);
    return RC_OK;
}
