/* HTS-AT at work: patch merging, pooling, and the order of it all, both ways. */
#include "towers/htsat_plan.h"

#include "kernels/embed.h"
#include "kernels/window.h"
#include "layers/norms.h"

#include <string.h>

static int64_t last_tokens(const rc_htsat *t)
{
    return t->stage[t->config.stages - 1].tokens;
}

/* ---- Patch merging --------------------------------------------------------------------------- */

static rc_status plan_merge(rc_htsat_plan *k, rc_plan *plan, int64_t stage)
{
    const rc_htsat_stage *s = &k->t->stage[stage];
    rc_htsat_merge *m = &k->merge[stage];
    int64_t total = k->b * s->tokens / 4, merged = 4 * s->c, rows = rc_chunk_rows(total, 16);
    m->grid = k->train ? rc_grid_rows(total, rows) : rc_linear_grid(k->p, s->merge, total, rows);
    if (k->train) {
        m->x = rc_plan_take(plan, total * merged);
        m->mean = rc_plan_take(plan, total);
        m->rstd = rc_plan_take(plan, total);
    }
    int64_t mark = rc_plan_mark(plan);
    m->worker = rc_plan_shares(plan, rc_plan_threads(plan), m->grid.rows * merged);
    if (k->train) {
        m->a = rc_plan_take(plan, total * merged);
        m->da = rc_plan_take(plan, total * merged);
    }
    rc_plan_back(plan, mark);
    RC_TRY(rc_linear_plan(&m->linear, plan, k->p, s->merge, &m->grid, false));
    return k->train ? rc_linear_back_plan(&m->back, plan, k->p, s->merge, &m->grid) : RC_OK;
}

/* Four neighbours side by side; rows may cross from one clip into the next. */
static void gather_four(const rc_htsat_call *job, float *y, int64_t first, int64_t rows)
{
    const rc_htsat_stage *s = &job->k->t->stage[job->stage];
    for (int64_t i = 0; i < rows; i++) {
        int64_t row = 4 * (first + i), at = row % s->tokens;
        rc_gather_rows(y + i * 4 * s->c, job->x + (row - at) * s->c, s->from[3] + at, 4, s->c);
    }
}

static void merge_chunk(void *arg, int64_t first, int64_t rows, rc_crew crew)
{
    const rc_htsat_call *job = arg;
    const rc_htsat_stage *s = &job->k->t->stage[job->stage];
    const rc_htsat_merge *m = &job->k->merge[job->stage];
    int64_t merged = 4 * s->c;
    float *a = rc_share_of(job->run, m->worker, crew.worker), *x = a, *mean = NULL, *rstd = NULL;
    if (job->k->train) {
        x = rc_htsat_at(job, m->x) + first * merged;
        mean = rc_htsat_at(job, m->mean) + first;
        rstd = rc_htsat_at(job, m->rstd) + first;
    }
    gather_four(job, x, first, rows);
    rc_norm_forward(job->k->p, s->merge_norm, (float)job->k->t->config.eps, a, mean, rstd, x, rows);
    rc_linear_run(&m->linear, crew, job->y + first * 2 * s->c, rc_floats(a), rows);
}

static void merge_chunk_backward(void *arg, int64_t first, int64_t rows, rc_crew crew)
{
    const rc_htsat_call *job = arg;
    const rc_htsat_stage *s = &job->k->t->stage[job->stage];
    const rc_htsat_merge *m = &job->k->merge[job->stage];
    int64_t merged = 4 * s->c;
    const float *x = rc_htsat_at(job, m->x) + first * merged;
    float *dx = rc_share_of(job->run, m->worker, crew.worker);
    float *da = rc_htsat_at(job, m->da) + first * merged;
    rc_norm_forward(job->k->p, s->merge_norm, (float)job->k->t->config.eps,
                    rc_htsat_at(job, m->a) + first * merged, NULL, NULL, x, rows);
    rc_linear_back_run(&m->back, crew.worker, da, job->dy + first * 2 * s->c, rows);
    rc_norm_backward(job->k->p, s->merge_norm, dx, da, x, rc_htsat_at(job, m->mean) + first,
                     rc_htsat_at(job, m->rstd) + first, rows);
    for (int64_t i = 0; i < rows; i++) {
        int64_t row = 4 * (first + i), at = row % s->tokens;
        rc_scatter_rows(job->dx + (row - at) * s->c, dx + i * merged, s->from[3] + at, 4, s->c);
    }
}

static void merge_backward(rc_htsat_call *job)
{
    const rc_htsat_stage *s = &job->k->t->stage[job->stage];
    const rc_htsat_merge *m = &job->k->merge[job->stage];
    rc_grid_run(&m->grid, job->run->pool, merge_chunk_backward, job);
    rc_linear_back_weight(&m->back, job->run->pool, job->dy, rc_htsat_at(job, m->a));
    rc_norm_backward_weight(job->run->pool, job->k->p, s->merge_norm, rc_htsat_at(job, m->da),
                            rc_htsat_at(job, m->x), rc_htsat_at(job, m->mean),
                            rc_htsat_at(job, m->rstd), m->grid.total);
}

/* ---- Pooling --------------------------------------------------------------------------------- */

static void plan_pool(rc_htsat_plan *k, rc_plan *plan)
{
    int64_t n = last_tokens(k->t), c = rc_htsat_width(k->t);
    if (k->train) {
        k->pool.last = rc_plan_take(plan, k->b * n * c);
        k->pool.mean = rc_plan_take(plan, k->b * n);
        k->pool.rstd = rc_plan_take(plan, k->b * n);
        k->pool.da = rc_plan_take(plan, k->b * n * c);
    }
    k->pool.worker = rc_plan_shares(plan, rc_plan_threads(plan), n * c);
}

static void pool_clip(void *arg, int64_t clip, int worker)
{
    const rc_htsat_call *job = arg;
    const rc_htsat *t = job->k->t;
    const rc_htsat_pool *k = &job->k->pool;
    int64_t c = rc_htsat_width(t), n = last_tokens(t), row = clip * n;
    float *a = rc_share_of(job->run, k->worker, worker);
    rc_norm_forward(job->k->p, t->norm, (float)t->config.eps, a,
                    job->k->train ? rc_htsat_at(job, k->mean) + row : NULL,
                    job->k->train ? rc_htsat_at(job, k->rstd) + row : NULL, job->x + row * c, n);
    rc_meanpool_forward(job->y + clip * c, a, n, c);
}

static void pool_clip_backward(void *arg, int64_t clip, int worker)
{
    (void)worker;
    const rc_htsat_call *job = arg;
    const rc_htsat *t = job->k->t;
    const rc_htsat_pool *k = &job->k->pool;
    int64_t c = rc_htsat_width(t), n = last_tokens(t), row = clip * n;
    float *da = rc_htsat_at(job, k->da) + row * c;
    rc_meanpool_backward(da, job->dy + clip * c, n, c);
    rc_norm_backward(job->k->p, t->norm, job->dx + row * c, da, rc_htsat_at(job, k->last) + row * c,
                     rc_htsat_at(job, k->mean) + row, rc_htsat_at(job, k->rstd) + row, n);
}

static void pool_backward(rc_htsat_call *job)
{
    const rc_htsat_plan *k = job->k;
    rc_parallel(job->run->pool, k->b, pool_clip_backward, job);
    rc_norm_backward_weight(job->run->pool, k->p, k->t->norm, rc_htsat_at(job, k->pool.da),
                            rc_htsat_at(job, k->pool.last), rc_htsat_at(job, k->pool.mean),
                            rc_htsat_at(job, k->pool.rstd), k->b * last_tokens(k->t));
}

/* ---- The whole tower ------------------------------------------------------------------------- */

static rc_status plan_stages(rc_htsat_plan *k, rc_plan *plan)
{
    rc_block_plan **block = k->block;
    for (int64_t i = 0; i < k->t->config.stages; i++) {
        const rc_htsat_stage *s = &k->t->stage[i];
        int64_t rows = s->window * s->window, windows = k->b * s->tokens / rows;
        for (int64_t j = 0; j < s->depth; j++) {
            rc_block_rows cut = rc_block_equal(&s->block[j], k->p, windows, rows, k->train);
            RC_TRY(rc_block_plan_make(block++, plan, &s->block[j], k->p, &cut, k->train));
        }
        if (i + 1 < k->t->config.stages) RC_TRY(plan_merge(k, plan, i));
    }
    return RC_OK;
}

rc_status rc_htsat_plan_make(void **body, rc_plan *plan, const void *tower, const rc_params *p,
                             const rc_input_size *size, bool train)
{
    const rc_htsat *t = tower;
    RC_TRY(rc_plan_alloc(plan, body, sizeof(rc_htsat_plan)));
    rc_htsat_plan *k = *body;
    *k = (rc_htsat_plan){.t = t, .p = p, .b = size->b, .frames = size->rows, .train = train};
    RC_TRY(rc_plan_alloc(plan, (void **)&k->block, t->blocks * (int64_t)sizeof *k->block));
    int64_t floats = k->b * t->stage[0].tokens * t->config.embed;
    for (int i = 0; i < 2; i++) k->stream[i] = rc_plan_take(plan, floats);
    RC_TRY(rc_htsat_input_plan(k, plan));
    RC_TRY(plan_stages(k, plan));
    plan_pool(k, plan);
    return RC_OK;
}

/* The next step goes from the stream that the last one went to into the other. */
static void turn(float **now, float **next)
{
    float *swap = *now;
    *now = *next;
    *next = swap;
}

static void forward_stages(rc_htsat_call *job, float **now, float **next)
{
    const rc_htsat_plan *k = job->k;
    rc_block_plan *const *block = k->block;
    for (int64_t i = 0; i < k->t->config.stages; i++) {
        for (int64_t j = 0; j < k->t->stage[i].depth; j++, turn(now, next))
            rc_block_forward(*block++, job->run, *next, *now, NULL);
        if (i + 1 == k->t->config.stages) break;
        job->stage = i;
        job->x = *now;
        job->y = *next;
        rc_grid_run(&k->merge[i].grid, job->run->pool, merge_chunk, job);
        turn(now, next);
    }
}

void rc_htsat_forward(const void *body, const rc_run *run, const rc_features *out,
                      const rc_input *in)
{
    const rc_htsat_plan *k = body;
    rc_htsat_call job = {.k = k, .run = run, .in = in};
    float *now = rc_htsat_at(&job, k->stream[0]), *next = rc_htsat_at(&job, k->stream[1]);
    job.y = now;
    rc_htsat_input_forward(&job);
    forward_stages(&job, &now, &next);
    if (k->train) {
        int64_t floats = k->b * last_tokens(k->t) * rc_htsat_width(k->t);
        memcpy(rc_htsat_at(&job, k->pool.last), now, (size_t)floats * sizeof(float));
    }
    job.x = now;
    job.y = out->y;
    rc_parallel(run->pool, k->b, pool_clip, &job);
}

void rc_htsat_backward(const void *body, const rc_run *run, const float *dy, const rc_input *in)
{
    const rc_htsat_plan *k = body;
    rc_htsat_call job = {.k = k, .run = run, .in = in, .dy = dy};
    float *now = rc_htsat_at(&job, k->stream[0]), *next = rc_htsat_at(&job, k->stream[1]);
    rc_block_plan *const *block = k->block + k->t->blocks;
    job.dx = now;
    pool_backward(&job);
    for (int64_t i = k->t->config.stages - 1; i >= 0; i--) {
        if (i + 1 < k->t->config.stages) {
            job.stage = i;
            job.dy = now;
            job.dx = next;
            merge_backward(&job);
            turn(&now, &next);
        }
        for (int64_t j = 0; j < k->t->stage[i].depth; j++, turn(&now, &next))
            rc_block_backward(*--block, run, next, now, NULL);
    }
    job.dy = now;
    rc_htsat_input_backward(&job);
}
