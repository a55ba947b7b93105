/* One transformer block backward, from what forward kept. */
#include "layers/block_job.h"

#include "kernels/embed.h"
#include "layers/norms.h"

#include <string.h>

/* ---- The MLP --------------------------------------------------------------------------------- */

/* dh, the gradient of its hidden rows, and of what gates them, in place; h, the input of its second
 * layer, is computed again. */
static void back_hidden(const rc_block_job *job, int64_t first, int64_t rows)
{
    const rc_block_plan *k = job->k;
    int64_t at = first * k->b->mlp, n = rows * k->b->mlp;
    const float *hidden = rc_block_at(job, k->tape.hidden) + at;
    float *h = rc_block_at(job, k->back.h) + at, *dh = rc_block_at(job, k->back.dh) + at;
    if (!k->b->gated && k->b->act->both != NULL) {
        k->b->act->both(h, dh, dh, hidden, n);
        rc_block_lay(job, k->low.h, h, at, n);
        return;
    }
    k->b->act->forward(h, hidden, n);
    if (k->b->gated) {
        const float *gate = rc_block_at(job, k->tape.gate) + at;
        rc_gated_backward(dh, rc_block_at(job, k->back.dgate) + at, dh, h, gate, n);
        rc_gated_forward(h, h, gate, n);
    }
    k->b->act->backward(dh, dh, hidden, n);
    rc_block_lay(job, k->low.h, h, at, n);
}

/* da, the gradient of its input, of that of its hidden rows. */
static void back_input(const rc_block_job *job, float *da, int64_t first, int64_t rows, int worker)
{
    const rc_block_plan *k = job->k;
    const rc_block_back *s = &k->back;
    int64_t at = first * k->b->mlp, n = rows * k->b->mlp;
    rc_lowered dh = rc_block_lay(job, k->low.dh, rc_block_at(job, s->dh) + at, at, n);
    rc_linear_back_run_low(&s->fc1, worker, da, dh, rows);
    if (!k->b->gated) return;
    float *more = rc_block_at(job, s->dgated) + first * k->b->c;
    rc_lowered dgate = rc_block_lay(job, k->low.dgate, rc_block_at(job, s->dgate) + at, at, n);
    rc_linear_back_run_low(&s->gate, worker, more, dgate, rows);
    rc_add(da, more, rows * k->b->c);
}

/* dy -> dmid (rows, c), the gradient of the stream between the branches. */
static void back_mlp(const rc_block_job *job, float *dmid, int64_t first, int64_t rows, int worker)
{
    const rc_block_plan *k = job->k;
    const rc_block *b = k->b;
    const rc_block_back *s = &k->back;
    int64_t at = first * b->c, n = rows * b->c;
    const float *mid = rc_block_at(job, k->tape.mid) + at, *dsum = job->dy + at, *a2 = mid;
    const float *mean = rc_block_at(job, k->tape.mean2) + first;
    const float *rstd = rc_block_at(job, k->tape.rstd2) + first;
    float *dbranch = rc_block_at(job, s->dbranch2) + at, *da = rc_block_at(job, s->da2) + at;
    if (b->post) {
        float *before = rc_block_at(job, s->dsum2) + at;
        rc_norm_backward(k->p, b->norm2, before, dsum, rc_block_at(job, k->tape.sum2) + at, mean,
                         rstd, rows);
        dsum = before;
    } else {
        float *normed = rc_block_at(job, s->a2) + at;
        rc_norm_forward(k->p, b->norm2, b->eps, normed, NULL, NULL, mid, rows);
        a2 = normed;
    }
    rc_block_lay(job, k->low.a2, a2, at, n);
    memcpy(dbranch, dsum, (size_t)n * sizeof *dsum);
    rc_block_drop(job, dbranch, 2, first, rows);
    rc_linear_back_run_low(&s->fc2, worker, rc_block_at(job, s->dh) + first * b->mlp,
                           rc_block_lay(job, k->low.dbranch2, dbranch, at, n), rows);
    back_hidden(job, first, rows);
    back_input(job, da, first, rows, worker);
    if (b->post)
        memcpy(dmid, da, (size_t)n * sizeof *da);
    else
        rc_norm_backward(k->p, b->norm2, dmid, da, mid, mean, rstd, rows);
    rc_add(dmid, dsum, n);
}

/* ---- Attention ------------------------------------------------------------------------------- */

/* dmid -> dout (rows, inner), the gradient of attention's outputs. */
static void back_proj(const rc_block_job *job, float *dout, const float *dmid, int64_t first,
                      int64_t rows, int worker)
{
    const rc_block_plan *k = job->k;
    const rc_block *b = k->b;
    int64_t at = first * b->c, n = rows * b->c, inner = rc_block_inner(b);
    const float *dsum = dmid, *a1 = rc_block_at(job, k->tape.x) + at;
    float *dbranch = rc_block_at(job, k->back.dbranch1) + at;
    if (b->post) {
        float *before = rc_block_at(job, k->back.dsum1) + at;
        rc_norm_backward(k->p, b->norm1, before, dmid, rc_block_at(job, k->tape.sum1) + at,
                         rc_block_at(job, k->tape.mean1) + first,
                         rc_block_at(job, k->tape.rstd1) + first, rows);
        dsum = before;
    } else {
        float *normed = rc_block_at(job, k->back.a1) + at;
        rc_norm_forward(k->p, b->norm1, b->eps, normed, NULL, NULL, a1, rows);
        a1 = normed;
    }
    rc_block_lay(job, k->low.a1, a1, at, n);
    rc_block_lay(job, k->low.o, rc_block_at(job, k->o) + first * inner, first * inner,
                 rows * inner);
    memcpy(dbranch, dsum, (size_t)n * sizeof *dsum);
    rc_block_drop(job, dbranch, 0, first, rows);
    rc_linear_back_run_low(&k->back.proj, worker, dout,
                           rc_block_lay(job, k->low.dbranch1, dbranch, at, n), rows);
}

/* Some heads of a sequence; dout lies where its queries do. With `add` others have seen its keys.
 */
static void back_attention(const rc_block_job *job, const rc_block_task *task, float *dbias,
                           const float *dout, bool add, float *scratch)
{
    const rc_block_plan *k = job->k;
    int64_t column = task->head * k->b->d;
    int64_t q = task->at.q * k->ldq + column, keys = task->at.k * k->ldk + column;
    rc_attention a = rc_block_attention(job, &task->at, task->heads);
    rc_attention_backward(rc_block_at(job, k->back.dq) + q, rc_block_at(job, k->back.dk) + keys,
                          dbias, dout + column, rc_block_at(job, k->q) + q,
                          rc_block_at(job, k->k) + keys, rc_block_bias(job, &task->at, task->head),
                          rc_block_mask(job, &task->at), &a, add, scratch);
}

/* The gradient of the inputs of a layer, of that of its outputs, rows of `wide` values each. */
static void back_inputs(const rc_block_job *job, const rc_linear_back *l, int64_t low, int64_t dy,
                        int64_t wide, int64_t first, int64_t rows, int worker)
{
    int64_t at = first * wide;
    rc_lowered laid = rc_block_lay(job, low, rc_block_at(job, dy) + at, at, rows * wide);
    float *da = rc_block_at(job, job->k->back.da1) + first * job->k->b->c;
    rc_linear_back_run_low(l, worker, da, laid, rows);
}

/* Of queries, and of keys and values where all rows have some. */
static void back_queries(void *arg, int64_t first, int64_t rows, rc_crew crew)
{
    const rc_block_job *job = arg;
    const rc_block_plan *k = job->k;
    back_inputs(job, &k->back.qkv, k->low.dq, k->back.dq, k->ldq, first, rows, crew.worker);
}

/* Adds that of keys and values, where only some rows have them. */
static void back_keys(void *arg, int64_t first, int64_t rows, rc_crew crew)
{
    const rc_block_job *job = arg;
    const rc_block_plan *k = job->k;
    back_inputs(job, &k->back.kv, k->low.dk, k->back.dk, k->ldk, first, rows, crew.worker);
}

/* dx (rows, c), in this block's order, is scattered into the order before. */
static void back_stream(const rc_block_job *job, const float *dmid, float *dx, int64_t first,
                        int64_t rows)
{
    const rc_block_plan *k = job->k;
    const rc_block *b = k->b;
    int64_t at = first * b->c;
    float *da = rc_block_at(job, k->back.da1) + at;
    if (b->post) {
        memcpy(dx, da, (size_t)(rows * b->c) * sizeof *dx);
        rc_add(dx, rc_block_at(job, k->back.dsum1) + at, rows * b->c);
    } else {
        rc_norm_backward(k->p, b->norm1, dx, da, rc_block_at(job, k->tape.x) + at,
                         rc_block_at(job, k->tape.mean1) + first,
                         rc_block_at(job, k->tape.rstd1) + first, rows);
        rc_add(dx, dmid, rows * b->c);
    }
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
    int64_t t = k->rows.t, inner = rc_block_inner(k->b), chunk = k->rows.all.rows * k->b->c;
    float *scratch = rc_share_of(job->run, k->chunk, crew.worker);
    float *dmid = scratch, *dx = dmid + chunk, *dout = dx + chunk;
    if (k->b->post) dmid = rc_block_at(job, k->back.dmid) + first * k->b->c;
    float *dbias = bias_gradient(job, first / k->rows.all.rows);
    memset(dbias, 0, (size_t)(k->b->heads * t * t) * sizeof *dbias);
    back_mlp(job, dmid, first, rows, crew.worker);
    back_proj(job, dout, dmid, first, rows, crew.worker);
    for (int64_t i = 0; i < rows / t; i++) {
        rc_block_task task = {rc_block_span(job, first / t + i), 0, k->b->heads};
        back_attention(job, &task, dbias, dout + i * t * inner, false,
                       rc_share_of(job->run, k->worker, crew.worker));
    }
    back_queries(arg, first, rows, crew);
    back_stream(job, dmid, dx, first, rows);
}

static void relpos_gradient(const rc_block_job *job)
{
    const rc_block_plan *k = job->k;
    float *dbias = bias_gradient(job, 0), *table = k->p->item[k->b->relpos].dx;
    if (table == NULL) return;
    for (int64_t i = 1; i < rc_grid_chunks(&k->rows.all); i++)
        rc_add(dbias, bias_gradient(job, i), k->b->heads * k->rows.t * k->rows.t);
    rc_relpos_backward(table, dbias, k->b->window, k->b->heads);
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

static void back_span(const rc_block_job *job, const rc_block_task *task, float *dbias, bool add,
                      int worker)
{
    const rc_block_plan *k = job->k;
    if (task->at.rows < 1) return;
    const float *dout = rc_block_at(job, k->back.dout) + task->at.q * rc_block_inner(k->b);
    back_attention(job, task, dbias, dout, add, rc_share_of(job->run, k->worker, worker));
}

/* Sequences whose keys are seen by nobody else: where some rows only ask, half of the spans. */
static int64_t sequences_of(const rc_block_plan *k)
{
    return k->b->padded ? k->rows.n / 2 : k->rows.n;
}

/* Some heads of sequence i, its rows that only ask last. */
static void back_task(const rc_block_job *job, int64_t i, int64_t head, int64_t heads, float *dbias,
                      int worker)
{
    const rc_block_plan *k = job->k;
    int64_t n = sequences_of(k), t = k->rows.t;
    for (int64_t at = i; at < k->rows.n; at += n) {
        rc_block_task task = {rc_block_span(job, at), head, heads};
        float *db = dbias == NULL ? NULL : dbias + (head * t + task.at.from) * t;
        back_span(job, &task, db, at != i, worker);
    }
}

static void back_some_heads(void *arg, int64_t index, int worker)
{
    const rc_block_job *job = arg;
    const rc_block_plan *k = job->k;
    int64_t head = index % k->groups * k->heads;
    back_task(job, index / k->groups, head, rc_min(k->heads, k->b->heads - head), NULL, worker);
}

/* A head of all sequences, in order, because these share the gradient of its biases. */
static void back_head(void *arg, int64_t head, int worker)
{
    const rc_block_job *job = arg;
    for (int64_t i = 0; i < sequences_of(job->k); i++)
        back_task(job, i, head, 1, job->s->dbias, worker);
}

static void back_after_attention(void *arg, int64_t first, int64_t rows, rc_crew crew)
{
    const rc_block_job *job = arg;
    const rc_block_plan *k = job->k;
    if (!k->b->padded) back_queries(arg, first, rows, crew);
    back_stream(job, rc_block_at(job, k->back.dmid) + first * k->b->c,
                rc_share_of(job->run, k->chunk, crew.worker), first, rows);
}

static void clear_gradients(const rc_block_job *job)
{
    const rc_block_plan *k = job->k;
    if (job->s == NULL) return;
    rc_block_clear(job, k->back.dq, k->ldq, job->s->real, k->rows.all.total);
    if (k->b->padded) rc_block_clear(job, k->back.dk, k->ldk, job->s->keyed, k->rows.keyed.total);
}

static void back_sequences(rc_block_job *job)
{
    const rc_block_plan *k = job->k;
    rc_pool *pool = job->run->pool;
    rc_grid_run(&k->rows.all, pool, back_until_attention, job);
    clear_gradients(job);
    if (job->s != NULL && job->s->dbias != NULL)
        rc_parallel(pool, k->b->heads, back_head, job);
    else
        rc_parallel(pool, sequences_of(k) * k->groups, back_some_heads, job);
    if (k->b->padded) {
        rc_grid_run(&k->rows.all, pool, back_queries, job);
        rc_grid_run(&k->rows.keyed, pool, back_keys, job);
    }
    rc_grid_run(&k->rows.all, pool, back_after_attention, job);
}

/* ---- Parameters ------------------------------------------------------------------------------ */

/* All rows of a factor. */
static rc_lowered laid(const rc_block_job *job, int64_t at, int64_t low)
{
    const void *rounded = job->k->low.there ? rc_block_at(job, low) : NULL;
    return (rc_lowered){rc_block_at(job, at), rounded};
}

static void linear_gradients(const rc_block_job *job)
{
    const rc_block_plan *k = job->k;
    const rc_block_back *s = &k->back;
    const rc_block_low *low = &k->low;
    rc_pool *pool = job->run->pool;
    rc_lowered a1 = laid(job, k->b->post ? k->tape.x : s->a1, low->a1);
    rc_lowered a2 = laid(job, k->b->post ? k->tape.mid : s->a2, low->a2);
    rc_linear_back_weight_low(&s->fc2, pool, laid(job, s->dbranch2, low->dbranch2),
                              laid(job, s->h, low->h));
    rc_linear_back_weight_low(&s->fc1, pool, laid(job, s->dh, low->dh), a2);
    if (k->b->gated) rc_linear_back_weight_low(&s->gate, pool, laid(job, s->dgate, low->dgate), a2);
    rc_linear_back_weight_low(&s->proj, pool, laid(job, s->dbranch1, low->dbranch1),
                              laid(job, k->o, low->o));
    rc_linear_back_weight_low(&s->qkv, pool, laid(job, s->dq, low->dq), a1);
    if (k->b->padded) rc_linear_back_weight_low(&s->kv, pool, laid(job, s->dk, low->dk), a1);
}

/* Of a norm after the sum: before dx may be written over dy. */
static void second_norm_gradient(const rc_block_job *job)
{
    const rc_block_plan *k = job->k;
    bool post = k->b->post;
    rc_norm_backward_weight(
        job->run->pool, k->p, k->b->norm2, post ? job->dy : rc_block_at(job, k->back.da2),
        rc_block_at(job, post ? k->tape.sum2 : k->tape.mid), rc_block_at(job, k->tape.mean2),
        rc_block_at(job, k->tape.rstd2), k->rows.all.total);
}

static void first_norm_gradient(const rc_block_job *job)
{
    const rc_block_plan *k = job->k;
    bool post = k->b->post;
    rc_norm_backward_weight(
        job->run->pool, k->p, k->b->norm1, rc_block_at(job, post ? k->back.dmid : k->back.da1),
        rc_block_at(job, post ? k->tape.sum1 : k->tape.x), rc_block_at(job, k->tape.mean1),
        rc_block_at(job, k->tape.rstd1), k->rows.all.total);
}

void rc_block_backward(const rc_block_plan *k, const rc_run *run, float *dx, const float *dy,
                       const rc_sequences *s)
{
    rc_block_job job = rc_block_job_open(k, run, s);
    if (k->again) {
        job.again = true;
        job.y = rc_block_at(&job, k->y);
        rc_block_train(&job);
    }
    job.dx = dx;
    job.dy = dy;
    if (k->b->post) second_norm_gradient(&job);
    if (k->b->window > 0)
        rc_grid_run(&k->rows.all, run->pool, back_windows, &job);
    else
        back_sequences(&job);
    linear_gradients(&job);
    if (!k->b->post) second_norm_gradient(&job);
    first_norm_gradient(&job);
    if (k->b->window > 0) relpos_gradient(&job);
}
