/* One transformer block: its plan, its sequences, its order of rows. */
#include "layers/block.h"

#include "kernels/embed.h"
#include "kernels/window.h"
#include "layers/block_job.h"

#include <string.h>

enum { TILE = 16, TASKS = 16 }; /* rows that pass a norm at a time; tasks of attention, at least */

void rc_block_declare(rc_block *b, rc_params *p, const char *prefix, bool qkv_bias)
{
    int64_t inner = rc_block_inner(b), side = 2 * b->window - 1;
    b->norm1 = rc_declare_norm(p, b->c, prefix, "norm1");
    if (b->window > 0)
        b->relpos = rc_params_add(p, RC_BIAS, 2, (int64_t[]){side * side, b->heads},
                                  "%sattn.relative_position_bias_table", prefix);
    b->qkv = rc_declare_linear(p, 3 * inner, b->c, qkv_bias, prefix, "attn.qkv");
    b->proj = rc_declare_linear(p, b->c, inner, true, prefix, "attn.proj");
    b->norm2 = rc_declare_norm(p, b->c, prefix, "norm2");
    b->fc1 = rc_declare_linear(p, b->mlp, b->c, true, prefix, "mlp.fc1");
    b->fc2 = rc_declare_linear(p, b->c, b->mlp, true, prefix, "mlp.fc2");
}

rc_block_rows rc_block_equal(const rc_block *b, const rc_params *p, int64_t n, int64_t t,
                             bool train)
{
    int64_t rows = rc_chunk_rows(n * t, b->window > 0 ? t : TILE);
    rc_grid grid = train ? rc_grid_rows(n * t, rows) : rc_linear_grid(p, b->fc1, n * t, rows);
    int64_t clip = b->window > 0 ? b->period : t;
    return (rc_block_rows){grid, grid, grid, .n = n, .t = t, .clip = clip, .equal = true};
}

/* ---- Plan ------------------------------------------------------------------------------------ */

static rc_status plan_layers(rc_block_plan *k, rc_plan *plan)
{
    const rc_block *b = k->b;
    const rc_grid *all = &k->rows.all, *kept = &k->rows.kept;
    bool add = !k->train; /* into the stream */
    if (b->padded) {
        RC_TRY(rc_linear_plan_part(&k->qkv, plan, k->p, b->qkv, RC_FIRST, all));
        RC_TRY(rc_linear_plan_part(&k->kv, plan, k->p, b->qkv, RC_REST, &k->rows.keyed));
    } else {
        RC_TRY(rc_linear_plan(&k->qkv, plan, k->p, b->qkv, all, false));
    }
    RC_TRY(rc_linear_plan(&k->proj, plan, k->p, b->proj, kept, add));
    RC_TRY(rc_linear_plan(&k->fc1, plan, k->p, b->fc1, kept, false));
    if (b->gated) RC_TRY(rc_linear_plan(&k->gate, plan, k->p, b->gate, kept, false));
    return rc_linear_plan(&k->fc2, plan, k->p, b->fc2, kept, add);
}

static rc_status plan_back(rc_block_plan *k, rc_plan *plan)
{
    const rc_grid *all = &k->rows.all;
    const rc_block *b = k->b;
    const struct {
        rc_linear_back *back;
        rc_pair pair;
    } rest[] = {{&k->back.proj, b->proj},
                {&k->back.fc1, b->fc1},
                {&k->back.fc2, b->fc2},
                {&k->back.gate, b->gate}};
    if (k->b->padded) {
        RC_TRY(rc_linear_back_plan_part(&k->back.qkv, plan, k->p, k->b->qkv, RC_FIRST, all, false));
        RC_TRY(rc_linear_back_plan_part(&k->back.kv, plan, k->p, k->b->qkv, RC_REST, &k->rows.keyed,
                                        true));
    } else {
        RC_TRY(rc_linear_back_plan_part(&k->back.qkv, plan, k->p, k->b->qkv, RC_WHOLE, all, false));
    }
    for (int i = 0; i < (b->gated ? 4 : 3); i++)
        RC_TRY(
            rc_linear_back_plan_part(rest[i].back, plan, k->p, rest[i].pair, RC_WHOLE, all, false));
    return RC_OK;
}

static void take_tape(rc_block_tape *tape, rc_plan *plan, const rc_block *b, int64_t rows,
                      int64_t keyed)
{
    int64_t inner = rc_block_inner(b), sums = b->post ? rows * b->c : 0;
    const struct {
        int64_t *at, floats;
    } parts[] = {
        {&tape->mid, rows * b->c},
        {&tape->sum1, sums},
        {&tape->sum2, sums},
        {&tape->mean1, rows},
        {&tape->rstd1, rows},
        {&tape->mean2, rows},
        {&tape->rstd2, rows},
        {&tape->qkv, rows * (b->padded ? 1 : 3) * inner},
        {&tape->kv, b->padded ? keyed * 2 * inner : 0},
        {&tape->o, rows * inner},
        {&tape->hidden, rows * b->mlp},
        {&tape->gate, b->gated ? rows * b->mlp : 0},
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        *parts[i].at = rc_plan_take(plan, parts[i].floats);
}

/* Queries, keys and outputs of attention: on the tape, else of all rows where sequences cross
 * chunks. */
static void take_attention(rc_block_plan *k, rc_plan *plan)
{
    int64_t inner = rc_block_inner(k->b), total = k->rows.all.total;
    k->ldq = k->b->padded ? inner : 3 * inner;
    k->ldk = k->b->padded ? 2 * inner : 3 * inner;
    if (k->train) {
        k->q = k->tape.qkv;
        k->o = k->tape.o;
    } else if (k->b->window == 0) {
        k->q = rc_plan_take(plan, total * k->ldq);
        k->o = rc_plan_take(plan, total * inner);
    }
    if (!k->b->padded)
        k->k = k->q + inner;
    else
        k->k = k->train ? k->tape.kv : rc_plan_take(plan, k->rows.keyed.total * k->ldk);
    if (k->b->window > 0) k->bias = rc_plan_take(plan, k->b->heads * k->rows.t * k->rows.t);
}

/* Of a chunk: the input of a layer; queries, keys and values of windows, or hidden rows; the gate;
 * the input of the last layer. Of a worker: rows of attention's output, or on their way to a sink;
 * what attention needs. */
static void take_chunks(rc_block_plan *k, rc_plan *plan)
{
    const rc_block *b = k->b;
    int64_t inner = rc_block_inner(b), t = k->rows.t, window = b->window > 0;
    int64_t rows = rc_max(k->rows.all.rows, rc_max(k->rows.keyed.rows, k->rows.kept.rows));
    rc_attention a = {.t = t, .h = 1, .d = b->d, .keys = t, .side = t};
    k->form = rc_max(rows * rc_max(b->c, window * inner), rc_linear_form(k->p, b->qkv, rows));
    k->form = rc_max(k->form, rc_linear_form(k->p, b->fc1, rows));
    if (window) k->form = rc_max(k->form, rc_linear_form(k->p, b->proj, rows));
    k->hidden = rows * rc_max(window * 3 * inner, b->mlp);
    int threads = rc_plan_threads(plan), places = rc_grid_places(&k->rows.all, threads);
    int64_t floats = k->form + (b->gated ? 2 : 1) * k->hidden + rc_linear_form(k->p, b->fc2, rows);
    if (k->train) floats = rc_max(floats, rows * (2 * b->c + inner)); /* gradients of a window */
    k->chunk = rc_plan_shares(plan, rc_max(places, rc_grid_places(&k->rows.kept, threads)), floats);
    k->worker = rc_plan_shares(plan, threads,
                               rc_max(window * t * inner, TILE * b->c) + rc_attention_scratch(&a));
}

/* The gradients of the stream between branches and of attention's outputs are in a chunk's scratch
 * where all that reads them is there, too. */
static void take_back(rc_block_plan *k, rc_plan *plan)
{
    const rc_block *b = k->b;
    rc_block_back *s = &k->back;
    int64_t n = k->rows.all.total, c = n * b->c, inner = n * rc_block_inner(b), t = k->rows.t;
    bool across = b->window == 0;
    const struct {
        int64_t *at, floats;
    } parts[] = {
        {&s->a1, b->post ? 0 : c},
        {&s->a2, b->post ? 0 : c},
        {&s->h, n * b->mlp},
        {&s->dbranch1, c},
        {&s->dbranch2, c},
        {&s->dq, n * k->ldq},
        {&s->dk, b->padded ? k->rows.keyed.total * k->ldk : 0},
        {&s->dh, n * b->mlp},
        {&s->dgate, b->gated ? n * b->mlp : 0},
        {&s->da1, c},
        {&s->da2, c},
        {&s->dgated, b->gated ? c : 0},
        {&s->dsum1, b->post ? c : 0},
        {&s->dsum2, b->post ? c : 0},
        {&s->dmid, across || b->post ? c : 0},
        {&s->dout, across ? inner : 0},
        {&s->dbias, across ? 0 : rc_grid_chunks(&k->rows.all) * b->heads * t * t},
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        *parts[i].at = rc_plan_take(plan, parts[i].floats);
    if (!b->padded) s->dk = s->dq + rc_block_inner(b);
}

/* The same rows of both factors of weight gradients, rounded, where products are narrow. */
static void take_low(rc_block_plan *k, rc_plan *plan)
{
    const rc_block *b = k->b;
    rc_block_low *s = &k->low;
    int64_t n = k->rows.all.total, c = n * b->c, mlp = n * b->mlp;
    const struct {
        int64_t *at, values;
    } parts[] = {
        {&s->a1, c},          {&s->a2, c},
        {&s->h, mlp},         {&s->o, n * rc_block_inner(b)},
        {&s->dbranch1, c},    {&s->dbranch2, c},
        {&s->dq, n * k->ldq}, {&s->dk, b->padded ? k->rows.keyed.total * k->ldk : 0},
        {&s->dh, mlp},        {&s->dgate, b->gated ? mlp : 0},
    };
    s->there = rc_plan_type(plan) != RC_F32;
    for (size_t i = 0; s->there && i < sizeof parts / sizeof *parts; i++)
        *parts[i].at = rc_plan_take(plan, (parts[i].values + 1) / 2);
}

rc_status rc_block_plan_make(rc_block_plan **out, rc_plan *plan, const rc_block *b,
                             const rc_params *p, const rc_block_rows *rows, bool train)
{
    RC_TRY(rc_plan_alloc(plan, (void **)out, sizeof **out));
    rc_block_plan *k = *out;
    *k = (rc_block_plan){.b = b, .p = p, .rows = *rows, .train = train};
    int64_t groups = rc_min(b->heads, rc_max(1, TASKS / rc_max(1, rows->n)));
    k->heads = (b->heads + groups - 1) / groups;
    k->groups = (b->heads + k->heads - 1) / k->heads;
    k->again = train && rc_plan_checkpoints(plan);
    if (train) k->tape.x = rc_plan_take(plan, rows->all.total * b->c);
    int64_t inputs = rc_plan_mark(plan);
    if (train) take_tape(&k->tape, plan, b, rows->all.total, rows->keyed.total);
    if (k->again && b->post) k->y = rc_plan_take(plan, rows->all.total * b->c);
    int64_t mark = k->again ? inputs : rc_plan_mark(plan);
    take_attention(k, plan);
    take_chunks(k, plan);
    if (train) take_back(k, plan);
    if (train) take_low(k, plan);
    rc_plan_back(plan, mark);
    RC_TRY(plan_layers(k, plan));
    return train ? plan_back(k, plan) : RC_OK;
}

/* ---- A block at work ------------------------------------------------------------------------- */

rc_block_job rc_block_job_open(const rc_block_plan *k, const rc_run *run, const rc_sequences *s)
{
    rc_block_job job = {.k = k, .run = run, .s = s, .bias = s == NULL ? NULL : s->bias};
    if (k->b->window > 0) {
        float *bias = run->scratch + k->bias;
        rc_relpos_forward(bias, k->p->item[k->b->relpos].x, k->b->window, k->b->heads);
        job.bias = bias;
    }
    return job;
}

rc_lowered rc_block_lay(const rc_block_job *job, int64_t low, const float *x, int64_t from,
                        int64_t values)
{
    if (!job->k->low.there) return (rc_lowered){x, NULL};
    uint16_t *to = (uint16_t *)(void *)rc_block_at(job, low) + from;
    rc_to_bf16(to, x, values);
    return (rc_lowered){x, to};
}

void rc_block_clear(const rc_block_job *job, int64_t offset, int64_t width, int64_t from,
                    int64_t to)
{
    memset(rc_block_at(job, offset) + from * width, 0,
           (size_t)((to - from) * width) * sizeof(float));
}

void rc_block_gather(const rc_block_job *job, float *y, int64_t first, int64_t rows)
{
    const rc_block *b = job->k->b;
    if (b->from == NULL) {
        memcpy(y, job->x + first * b->c, (size_t)(rows * b->c) * sizeof *y);
        return;
    }
    for (int64_t done = 0, run; done < rows; done += run) {
        int64_t row = first + done, at = row % b->period;
        run = rc_min(rows - done, b->period - at);
        rc_gather_rows(y + done * b->c, job->x + (row - at) * b->c, b->from + at, run, b->c);
    }
}

void rc_block_scatter(const rc_block_job *job, const float *dx, int64_t first, int64_t rows)
{
    const rc_block *b = job->k->b;
    if (b->from == NULL) {
        memcpy(job->dx + first * b->c, dx, (size_t)(rows * b->c) * sizeof *dx);
        return;
    }
    for (int64_t done = 0, run; done < rows; done += run) {
        int64_t row = first + done, at = row % b->period;
        run = rc_min(rows - done, b->period - at);
        rc_scatter_rows(job->dx + (row - at) * b->c, dx + done * b->c, b->from + at, run, b->c);
    }
}

/* ---- Sequences ------------------------------------------------------------------------------- */

rc_span rc_block_span(const rc_block_job *job, int64_t i)
{
    int64_t t = job->k->rows.t;
    return job->k->rows.equal ? (rc_span){i * t, t, i * t, t, 0} : job->s->span[i];
}

rc_attention rc_block_attention(const rc_block_job *job, const rc_span *at, int64_t n)
{
    const rc_block_plan *k = job->k;
    return (rc_attention){.t = at->rows,
                          .h = n,
                          .d = k->b->d,
                          .keys = at->keys,
                          .side = k->rows.t,
                          .ldq = k->ldq,
                          .ldk = k->ldk,
                          .inner = rc_block_inner(k->b),
                          .scale = k->b->scale};
}

const float *rc_block_bias(const rc_block_job *job, const rc_span *at, int64_t head)
{
    int64_t t = job->k->rows.t;
    return job->bias == NULL ? NULL : job->bias + (head * t + at->from) * t;
}

const float *rc_block_mask(const rc_block_job *job, const rc_span *at)
{
    const rc_block *b = job->k->b;
    int64_t t = job->k->rows.t;
    if (b->mask == NULL)
        return job->s == NULL || job->s->mask == NULL ? NULL : job->s->mask + at->from * t;
    int64_t kind = b->mask_of[at->q % b->period / t];
    return kind == 0 ? NULL : b->mask + (kind - 1) * t * t;
}

int64_t rc_block_tasks(const rc_block_job *job)
{
    return job->k->rows.n * job->k->groups;
}

rc_block_task rc_block_task_at(const rc_block_job *job, int64_t index)
{
    const rc_block_plan *k = job->k;
    int64_t head = index % k->groups * k->heads;
    return (rc_block_task){rc_block_span(job, index / k->groups), head,
                           rc_min(k->heads, k->b->heads - head)};
}

/* ---- Drop ------------------------------------------------------------------------------------ */

/* Values of rows first..; of sequences of any length each row has a place of its own. */
static void drop_values(const rc_block_job *job, float *branch, rc_draw at, int64_t first,
                        int64_t rows)
{
    const rc_block *b = job->k->b;
    const int64_t *place = job->s == NULL ? NULL : job->s->place;
    int64_t row = job->run->clip * job->k->rows.clip + first; /* of the whole batch */
    if (place == NULL) rc_dropout(branch, branch, rows * b->c, b->dropout, at, row * b->c);
    for (int64_t i = 0; place != NULL && i < rows; i++)
        rc_dropout(branch + i * b->c, branch + i * b->c, b->c, b->dropout, at,
                   place[first + i] * b->c);
}

/* Stochastic depth per clip (Huang et al. 2016) after dropout; each has a site of its own. */
void rc_block_drop(const rc_block_job *job, float *branch, uint64_t which, int64_t first,
                   int64_t rows)
{
    const rc_block *b = job->k->b;
    int64_t clip = job->k->rows.clip, row = job->run->clip * clip + first; /* of the whole batch */
    rc_draw at = job->run->draw;
    at.site = b->site + which;
    if (b->dropout > 0) drop_values(job, branch, at, first, rows);
    if (b->drop_path <= 0) return;
    at.site++;
    for (int64_t i = 0; i < rows; i++) {
        bool keep = rc_uniform(at, (uint64_t)((row + i) / clip)) >= b->drop_path;
        float scale = keep ? 1 / (1 - b->drop_path) : 0;
        for (int64_t j = 0; j < b->c; j++) branch[i * b->c + j] *= scale;
    }
}
