/* One transformer block backward, from what forward kept: layer norms before branches, no gate. */
#include "layers/block_job.h"

#include "kernels/embed.h"
#include "kernels/norm.h"

#include <string.h>

/* The MLP: dy -> dmid (rows, c), the gradient of the stream between the branches. */
static void back_mlp(const rc_block_job *job, float *dmid, int64_t first, int64_t rows, int worker)
{
    const rc_block_plan *k = job->k;
    const rc_block *b = k->b;
    const rc_block_back *s = &k->back;
    int64_t at = first * b->c;
    const float *mid = rc_block_at(job, k->tape.mid) + at, *dy = job->dy + at;
    const float *hidden = rc_block_at(job, k->tape.hidden) + first * b->mlp;
    float *a = rc_block_at(job, s->a2) + at, *h = rc_block_at(job, s->h) + first * b->mlp;
    float *dbranch = rc_block_at(job, s->dbranch2) + at, *da = rc_block_at(job, s->da2) + at;
    float *dh = rc_block_at(job, s->dh) + first * b->mlp;
    rc_layernorm_forward(a, NULL, NULL, mid, rc_block_value(job, b->norm2.w),
                         rc_block_value(job, b->norm2.b), rows, b->c, b->eps);
    b->act->forward(h, hidden, rows * b->mlp);
    memcpy(dbranch, dy, (size_t)(rows * b->c) * sizeof *dy);
    rc_block_drop(job, dbranch, 2, first, rows);
    rc_linear_back_run(&s->fc2, worker, dh, dbranch, rows);
    b->act->backward(dh, dh, hidden, rows * b->mlp);
    rc_linear_back_run(&s->fc1, worker, da, dh, rows);
    rc_layernorm_backward(dmid, da, mid, rc_block_at(job, k->tape.mean2) + first,
                          rc_block_at(job, k->tape.rstd2) + first, rc_block_value(job, b->norm2.w),
                          rows, b->c);
    rc_add(dmid, dy, rows * b->c);
}

/* dmid -> dout (rows, inner), the gradient of attention's outputs. */
static void back_proj(const rc_block_job *job, float *dout, const float *dmid, int64_t first,
                      int64_t rows, int worker)
{
    const rc_block_plan *k = job->k;
    const rc_block *b = k->b;
    int64_t at = first * b->c;
    float *dbranch = rc_block_at(job, k->back.dbranch1) + at;
    rc_layernorm_forward(rc_block_at(job, k->back.a1) + at, NULL, NULL,
                         rc_block_at(job, k->tape.x) + at, rc_block_value(job, b->norm1.w),
                         rc_block_value(job, b->norm1.b), rows, b->c, b->eps);
    memcpy(dbranch, dmid, (size_t)(rows * b->c) * sizeof *dmid);
    rc_block_drop(job, dbranch, 0, first, rows);
    rc_linear_back_run(&k->back.proj, worker, dout, dbranch, rows);
}

/* Some heads of a sequence; dout lies where its queries do. */
static void back_attention(const rc_block_job *job, const rc_block_task *task, float *dbias,
                           const float *dout, float *scratch)
{
    const rc_block_plan *k = job->k;
    int64_t at = task->at.q * k->ldq + task->head * k->b->d;
    rc_attention a = rc_block_attention(job, &task->at, task->heads);
    rc_attention_backward(rc_block_at(job, k->back.dqkv) + at, dbias, dout + task->head * k->b->d,
                          rc_block_at(job, k->q) + at, rc_block_bias(job, &task->at, task->head),
                          rc_block_mask(job, &task->at), &a, scratch);
}

/* dx (rows, c), in this block's order, is scattered into the order before. */
static void back_queries(const rc_block_job *job, const float *dmid, float *dx, int64_t first,
                         int64_t rows, int worker)
{
    const rc_block_plan *k = job->k;
    const rc_block *b = k->b;
    int64_t at = first * b->c;
    float *da = rc_block_at(job, k->back.da1) + at;
    rc_linear_back_run(&k->back.qkv, worker, da, rc_block_at(job, k->back.dqkv) + first * k->ldq,
                       rows);
    rc_layernorm_backward(
        dx, da, rc_block_at(job, k->tape.x) + at, rc_block_at(job, k->tape.mean1) + first,
        rc_block_at(job, k->tape.rstd1) + first, rc_block_value(job, b->norm1.w), rows, b->c);
    rc_add(dx, dmid, rows * b->c);
    rc_block_scatter(job, dx, first, rows);
}

/* ---- Windows --------------------------------------------------------------------------------- */

/* The gradients of biases of a chunk, so that the order of summation is fixed. */
static float *bias_gradient(const rc_block_job *job, int64_t chunk)
{
    int64_t t = job->k->rows.t;
    return rc_block_at(job, job->k->back.dbias) + chunk * job->k->b->heads * t * t;
}

static void back_windows(void *arg, int64_t first, int64_t rows, rc_crew crew)
{
    const rc_block_job *job = arg;
    const rc_block_plan *k = job->k;
    int64_t t = k->rows.t, inner = rc_block_inner(k->b);
    float *dmid = rc_share_of(job->run, k->chunk, crew.worker);
    float *dx = dmid + k->rows.all.rows * k->b->c, *dout = dx + k->rows.all.rows * k->b->c;
    float *dbias = bias_gradient(job, first / k->rows.all.rows);
    memset(dbias, 0, (size_t)(k->b->heads * t * t) * sizeof *dbias);
    back_mlp(job, dmid, first, rows, crew.worker);
    back_proj(job, dout, dmid, first, rows, crew.worker);
    for (int64_t i = 0; i < rows / t; i++) {
        rc_block_task task = {rc_block_span(job, first / t + i), 0, k->b->heads};
        back_attention(job, &task, dbias, dout + i * t * inner,
                       rc_share_of(job->run, k->worker, crew.worker));
    }
    back_queries(job, dmid, dx, first, rows, crew.worker);
}

static void relpos_gradient(const rc_block_job *job)
{
    const rc_block_plan *k = job->k;
    float *dbias = bias_gradient(job, 0);
    for (int64_t i = 1; i < rc_grid_chunks(&k->rows.all); i++)
        rc_add(dbias, bias_gradient(job, i), k->b->heads * k->rows.t * k->rows.t);
    rc_relpos_backward(k->p->item[k->b->relpos].dx, dbias, k->b->window, k->b->heads);
}

/* ---- Sequences across chunks ----------------------------------------------------------------- */

static void back_until_attention(void *arg, int64_t first, int64_t rows, rc_crew crew)
{
    const rc_block_job *job = arg;
    const rc_block_plan *k = job->k;
    float *dmid = rc_block_at(job, k->back.dmid) + first * k->b->c;
    back_mlp(job, dmid, first, rows, crew.worker);
    back_proj(job, rc_block_at(job, k->back.dout) + first * rc_block_inner(k->b), dmid, first, rows,
              crew.worker);
}

static void back_task(void *arg, int64_t index, int worker)
{
    const rc_block_job *job = arg;
    rc_block_task task = rc_block_task_at(job, index);
    const float *dout = rc_block_at(job, job->k->back.dout);
    back_attention(job, &task, NULL, dout + task.at.q * rc_block_inner(job->k->b),
                   rc_share_of(job->run, job->k->worker, worker));
}

static void back_after_attention(void *arg, int64_t first, int64_t rows, rc_crew crew)
{
    const rc_block_job *job = arg;
    const rc_block_plan *k = job->k;
    back_queries(job, rc_block_at(job, k->back.dmid) + first * k->b->c,
                 rc_share_of(job->run, k->chunk, crew.worker), first, rows, crew.worker);
}

static void back_sequences(rc_block_job *job)
{
    const rc_block_plan *k = job->k;
    rc_grid_run(&k->rows.all, job->run->pool, back_until_attention, job);
    rc_parallel(job->run->pool, rc_block_tasks(job), back_task, job);
    rc_grid_run(&k->rows.all, job->run->pool, back_after_attention, job);
}

/* ---- Parameters ------------------------------------------------------------------------------ */

static void weight_gradients(const rc_block_job *job)
{
    const rc_block_plan *k = job->k;
    const rc_block *b = k->b;
    const rc_block_back *s = &k->back;
    rc_pool *pool = job->run->pool;
    int64_t n = k->rows.all.total;
    rc_linear_back_weight(&s->fc2, pool, rc_block_at(job, s->dbranch2), rc_block_at(job, s->h));
    rc_linear_back_weight(&s->fc1, pool, rc_block_at(job, s->dh), rc_block_at(job, s->a2));
    rc_linear_back_weight(&s->proj, pool, rc_block_at(job, s->dbranch1), rc_block_at(job, k->o));
    rc_linear_back_weight(&s->qkv, pool, rc_block_at(job, s->dqkv), rc_block_at(job, s->a1));
    rc_norm_backward_weight(pool, k->p, b->norm2, rc_block_at(job, s->da2),
                            rc_block_at(job, k->tape.mid), rc_block_at(job, k->tape.mean2),
                            rc_block_at(job, k->tape.rstd2), n);
    rc_norm_backward_weight(pool, k->p, b->norm1, rc_block_at(job, s->da1),
                            rc_block_at(job, k->tape.x), rc_block_at(job, k->tape.mean1),
                            rc_block_at(job, k->tape.rstd1), n);
    if (b->window > 0) relpos_gradient(job);
}

void rc_block_backward(const rc_block_plan *k, const rc_run *run, float *dx, const float *dy,
                       const rc_sequences *s)
{
    rc_block_job job = rc_block_job_open(k, run, s);
    job.dx = dx;
    job.dy = dy;
    if (k->b->window > 0)
        rc_grid_run(&k->rows.all, run->pool, back_windows, &job);
    else
        back_sequences(&job);
    weight_gradients(&job);
}
