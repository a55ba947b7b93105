/* One transformer block forward: for inference and, keeping what backward needs, for training. */
#include "layers/block_job.h"

#include "layers/norms.h"

#include <string.h>

enum { TILE = 16 }; /* rows that pass a norm at a time, while they are in the first cache */

static void attend(const rc_block_job *job, const rc_span *at, int64_t head, int64_t heads,
                   float *o, const float *q, const float *k, float *scratch)
{
    rc_attention a = rc_block_attention(job, at, heads);
    rc_attention_forward(o, q, k, rc_block_bias(job, at, head), rc_block_mask(job, at), &a,
                         scratch);
}

/* ---- A few rows at a time -------------------------------------------------------------------- */

/* Rows of a chunk on their way into a layer. */
typedef struct {
    const rc_block_job *job;
    rc_sink next; /* whose first factor they become */
    rc_pair norm;
    bool gather;   /* from the order before; then the stream begins here */
    float *x;      /* the stream */
    float *hidden; /* queries, keys and values of windows; or of the MLP, with a gate */
    const float *gate;
    int64_t first, rows;
} passage;

static int64_t count_at(const passage *s, int64_t i)
{
    return rc_min(TILE, s->rows - i * TILE);
}

static void each_tile(passage *s, rc_crew crew, rc_task *task)
{
    rc_each(crew, (s->rows + TILE - 1) / TILE, task, s);
}

/* Rows of the stream, or their norm, go to the next layer. */
static void feed_tile(void *arg, int64_t i, int worker)
{
    const passage *s = arg;
    const rc_block *b = s->job->k->b;
    int64_t at = i * TILE, n = count_at(s, i);
    float *x = s->x + at * b->c;
    if (s->gather) rc_block_gather(s->job, x, s->first + at, n);
    if (b->post) {
        rc_sink_put(&s->next, x, at, n);
        return;
    }
    float *y = rc_sink_at(&s->next, at, rc_share_of(s->job->run, s->job->k->worker, worker));
    rc_norm_forward(s->job->k->p, s->norm, s->job->k->b->eps, y, NULL, NULL, x, n);
    rc_sink_put(&s->next, y, at, n);
}

/* What a layer at the start of a branch reads: rows of the stream, or their norm in `form`. */
static rc_rows branch_input(passage *s, rc_crew crew, const rc_linear *l, rc_pair norm, float *form)
{
    bool post = s->job->k->b->post;
    s->norm = norm;
    s->next = rc_linear_sink(l, form, form, s->rows);
    bool as_it_is = post && !rc_sink_lays(&s->next);
    if (!as_it_is || s->gather) each_tile(s, crew, feed_tile);
    s->gather = false;
    return as_it_is ? rc_floats(s->x) : rc_sink_rows(&s->next);
}

static void gate_tile(void *arg, int64_t i, int worker)
{
    (void)worker;
    const passage *s = arg;
    const rc_block *b = s->job->k->b;
    int64_t at = i * TILE * b->mlp, n = count_at(s, i) * b->mlp;
    b->act->forward(s->hidden + at, s->hidden + at, n);
    rc_gated_forward(s->hidden + at, s->hidden + at, s->gate + at, n);
    rc_sink_put(&s->next, s->hidden + at, i * TILE, count_at(s, i));
}

/* ---- Inference ------------------------------------------------------------------------------- */

/* The MLP: act(fc1(in)), or that times gate(in), goes through its second layer into the stream. */
static void run_mlp(passage *s, rc_crew crew, rc_rows in, float *hidden)
{
    const rc_block_plan *k = s->job->k;
    float *gate = hidden + k->hidden, *form = k->b->gated ? gate + k->hidden : gate;
    s->next = rc_linear_sink(&k->fc2, hidden, form, s->rows);
    if (k->b->gated) {
        rc_linear_run(&k->gate, crew, gate, in, s->rows);
        rc_linear_run(&k->fc1, crew, hidden, in, s->rows);
        s->hidden = hidden;
        s->gate = gate;
        each_tile(s, crew, gate_tile);
    } else {
        rc_linear_run_into(&k->fc1, crew, &s->next, hidden, in, k->b->act->forward, s->rows);
    }
    rc_linear_run(&k->fc2, crew, s->x, rc_sink_rows(&s->next), s->rows);
}

/* From the output of attention on; products add into the stream. */
static void finish(passage *s, rc_crew crew, rc_rows o, float *form)
{
    const rc_block_plan *k = s->job->k;
    const rc_block *b = k->b;
    rc_linear_run(&k->proj, crew, s->x, o, s->rows);
    if (b->post)
        rc_norm_forward(s->job->k->p, b->norm1, s->job->k->b->eps, s->x, NULL, NULL, s->x, s->rows);
    rc_rows in = branch_input(s, crew, &k->fc1, b->norm2, form);
    run_mlp(s, crew, in, form + k->form);
    if (b->post)
        rc_norm_forward(s->job->k->p, b->norm2, s->job->k->b->eps, s->x, NULL, NULL, s->x, s->rows);
}

static void attend_window(void *arg, int64_t i, int worker)
{
    const passage *s = arg;
    const rc_block_job *job = s->job;
    int64_t inner = rc_block_inner(job->k->b), t = job->k->rows.t, at = i * t;
    float *scratch = rc_share_of(job->run, job->k->worker, worker);
    const float *q = s->hidden + at * 3 * inner;
    float *o = rc_sink_at(&s->next, at, scratch);
    rc_span span = rc_block_span(job, s->first / t + i);
    attend(job, &span, 0, job->k->b->heads, o, q, q + inner, scratch + t * inner);
    rc_sink_put(&s->next, o, at, t);
}

/* Windows: the whole block at once. */
static void infer_windows(void *arg, int64_t first, int64_t rows, rc_crew crew)
{
    const rc_block_job *job = arg;
    const rc_block_plan *k = job->k;
    float *form = rc_share_of(job->run, k->chunk, crew.worker), *qkv = form + k->form;
    passage s = {.job = job, .gather = true, .x = job->y + first * k->b->c, .first = first};
    s.rows = rows;
    rc_rows in = branch_input(&s, crew, &k->qkv, k->b->norm1, form);
    rc_linear_run(&k->qkv, crew, qkv, in, rows);
    s.hidden = qkv;
    s.next = rc_linear_sink(&k->proj, form, form, rows);
    rc_each(crew, rows / k->rows.t, attend_window, &s);
    finish(&s, crew, rc_sink_rows(&s.next), form);
}

/* Across chunks: a linear layer of the norm of rows of the stream. */
static void project(const rc_block_job *job, const rc_linear *l, float *y, int64_t first,
                    int64_t rows, rc_crew crew)
{
    float *form = rc_share_of(job->run, job->k->chunk, crew.worker);
    passage s = {.job = job, .x = job->y + first * job->k->b->c, .first = first, .rows = rows};
    rc_rows in = branch_input(&s, crew, l, job->k->b->norm1, form);
    rc_linear_run(l, crew, y, in, rows);
}

static void infer_queries(void *arg, int64_t first, int64_t rows, rc_crew crew)
{
    const rc_block_job *job = arg;
    float *y = rc_block_at(job, job->k->q) + first * job->k->ldq;
    project(job, &job->k->qkv, y, first, rows, crew);
}

static void infer_keys(void *arg, int64_t first, int64_t rows, rc_crew crew)
{
    const rc_block_job *job = arg;
    float *y = rc_block_at(job, job->k->k) + first * job->k->ldk;
    project(job, &job->k->kv, y, first, rows, crew);
}

static void attend_task(void *arg, int64_t index, int worker)
{
    const rc_block_job *job = arg;
    const rc_block_plan *k = job->k;
    rc_block_task task = rc_block_task_at(job, index);
    if (task.at.rows < 1) return;
    int64_t column = task.head * k->b->d;
    attend(job, &task.at, task.head, task.heads,
           rc_block_at(job, k->o) + task.at.q * rc_block_inner(k->b) + column,
           rc_block_at(job, k->q) + task.at.q * k->ldq + column,
           rc_block_at(job, k->k) + task.at.k * k->ldk + column,
           rc_share_of(job->run, k->worker, worker));
}

static void infer_output(void *arg, int64_t first, int64_t rows, rc_crew crew)
{
    const rc_block_job *job = arg;
    const rc_block_plan *k = job->k;
    passage s = {.job = job, .x = job->y + first * k->b->c, .first = first, .rows = rows};
    finish(&s, crew, rc_floats(rc_block_at(job, k->o) + first * rc_block_inner(k->b)),
           rc_share_of(job->run, k->chunk, crew.worker));
}

/* Where only some rows go on, they move to the front. */
static void keep_rows(const rc_block_job *job)
{
    int64_t c = job->k->b->c, inner = rc_block_inner(job->k->b);
    float *x = job->y, *o = rc_block_at(job, job->k->o);
    for (int64_t i = 0; i < job->s->kept; i++) {
        int64_t at = job->s->keep[i];
        memmove(x + i * c, x + at * c, (size_t)c * sizeof *x);
        memmove(o + i * inner, o + at * inner, (size_t)inner * sizeof *o);
    }
}

static void clear_output(const rc_block_job *job)
{
    const rc_block_plan *k = job->k;
    if (job->s != NULL)
        rc_block_clear(job, k->o, rc_block_inner(k->b), job->s->real, k->rows.all.total);
}

static void infer_sequences(rc_block_job *job)
{
    const rc_block_plan *k = job->k;
    rc_pool *pool = job->run->pool;
    size_t bytes = (size_t)(k->rows.all.total * k->b->c) * sizeof(float);
    if (job->y != job->x) memcpy(job->y, job->x, bytes);
    if (k->b->padded) rc_grid_run(&k->rows.keyed, pool, infer_keys, job);
    rc_grid_run(&k->rows.all, pool, infer_queries, job);
    clear_output(job);
    rc_parallel(pool, rc_block_tasks(job), attend_task, job);
    if (job->s != NULL && job->s->keep != NULL) keep_rows(job);
    rc_grid_run(&k->rows.kept, pool, infer_output, job);
}

/* ---- Training -------------------------------------------------------------------------------- */

static void train_queries(void *arg, int64_t first, int64_t rows, rc_crew crew)
{
    const rc_block_job *job = arg;
    const rc_block_plan *k = job->k;
    float *x = rc_block_at(job, k->tape.x) + first * k->b->c, *a = x;
    if (!job->again) rc_block_gather(job, x, first, rows);
    if (!k->b->post) {
        a = rc_share_of(job->run, k->chunk, crew.worker);
        rc_norm_forward(job->k->p, k->b->norm1, job->k->b->eps, a,
                        rc_block_at(job, k->tape.mean1) + first,
                        rc_block_at(job, k->tape.rstd1) + first, x, rows);
    }
    rc_linear_run(&k->qkv, crew, rc_block_at(job, k->q) + first * k->ldq, rc_floats(a), rows);
}

/* Where only some rows have keys, these are computed apart. */
static void train_keys(void *arg, int64_t first, int64_t rows, rc_crew crew)
{
    const rc_block_job *job = arg;
    const rc_block_plan *k = job->k;
    float *x = rc_block_at(job, k->tape.x) + first * k->b->c, *a = x;
    if (!k->b->post) {
        a = rc_share_of(job->run, k->chunk, crew.worker);
        rc_norm_forward(k->p, k->b->norm1, k->b->eps, a, NULL, NULL, x, rows);
    }
    rc_linear_run(&k->kv, crew, rc_block_at(job, k->k) + first * k->ldk, rc_floats(a), rows);
}

/* The stream between the branches. */
static void train_attention(const rc_block_job *job, int64_t first, int64_t rows, float *mid,
                            rc_crew crew)
{
    const rc_block_plan *k = job->k;
    int64_t c = k->b->c;
    const float *o = rc_block_at(job, k->o) + first * rc_block_inner(k->b);
    float *sum = k->b->post ? rc_block_at(job, k->tape.sum1) + first * c : mid;
    rc_linear_run(&k->proj, crew, sum, rc_floats(o), rows);
    rc_block_drop(job, sum, 0, first, rows);
    rc_add(sum, rc_block_at(job, k->tape.x) + first * c, rows * c);
    if (k->b->post)
        rc_norm_forward(job->k->p, k->b->norm1, job->k->b->eps, mid,
                        rc_block_at(job, k->tape.mean1) + first,
                        rc_block_at(job, k->tape.rstd1) + first, sum, rows);
}

/* active (rows, mlp) = act(fc1(in)), or that times gate(in). */
static void train_hidden(const rc_block_job *job, float *active, const float *in, int64_t first,
                         int64_t rows, rc_crew crew)
{
    const rc_block_plan *k = job->k;
    int64_t n = rows * k->b->mlp;
    float *hidden = rc_block_at(job, k->tape.hidden) + first * k->b->mlp;
    rc_linear_run(&k->fc1, crew, hidden, rc_floats(in), rows);
    k->b->act->forward(active, hidden, n);
    if (!k->b->gated) return;
    float *gate = rc_block_at(job, k->tape.gate) + first * k->b->mlp;
    rc_linear_run(&k->gate, crew, gate, rc_floats(in), rows);
    rc_gated_forward(active, active, gate, n);
}

static void train_output(void *arg, int64_t first, int64_t rows, rc_crew crew)
{
    const rc_block_job *job = arg;
    const rc_block_plan *k = job->k;
    const rc_block *b = k->b;
    float *a = rc_share_of(job->run, k->chunk, crew.worker), *active = a + k->form;
    float *mid = rc_block_at(job, k->tape.mid) + first * b->c;
    float *mean = rc_block_at(job, k->tape.mean2) + first;
    float *rstd = rc_block_at(job, k->tape.rstd2) + first;
    train_attention(job, first, rows, mid, crew);
    if (!b->post) rc_norm_forward(job->k->p, b->norm2, job->k->b->eps, a, mean, rstd, mid, rows);
    train_hidden(job, active, b->post ? mid : a, first, rows, crew);
    if (job->again && !b->post) return;
    float *y = job->y + first * b->c;
    float *sum = b->post ? rc_block_at(job, k->tape.sum2) + first * b->c : y;
    rc_linear_run(&k->fc2, crew, sum, rc_floats(active), rows);
    rc_block_drop(job, sum, 2, first, rows);
    rc_add(sum, mid, rows * b->c);
    if (b->post) rc_norm_forward(job->k->p, b->norm2, job->k->b->eps, y, mean, rstd, sum, rows);
}

static void train_windows(void *arg, int64_t first, int64_t rows, rc_crew crew)
{
    const rc_block_job *job = arg;
    train_queries(arg, first, rows, crew);
    for (int64_t i = first / job->k->rows.t; i < (first + rows) / job->k->rows.t; i++)
        for (int64_t g = 0; g < job->k->groups; g++)
            attend_task(arg, i * job->k->groups + g, crew.worker);
    train_output(arg, first, rows, crew);
}

static void train_sequences(rc_block_job *job)
{
    const rc_block_plan *k = job->k;
    rc_grid_run(&k->rows.all, job->run->pool, train_queries, job);
    if (k->b->padded) rc_grid_run(&k->rows.keyed, job->run->pool, train_keys, job);
    clear_output(job);
    rc_parallel(job->run->pool, rc_block_tasks(job), attend_task, job);
    rc_grid_run(&k->rows.all, job->run->pool, train_output, job);
}

void rc_block_train(rc_block_job *job)
{
    if (job->k->b->window > 0)
        rc_grid_run(&job->k->rows.all, job->run->pool, train_windows, job);
    else
        train_sequences(job);
}

void rc_block_forward(const rc_block_plan *k, const rc_run *run, float *y, const float *x,
                      const rc_sequences *s)
{
    rc_block_job job = rc_block_job_open(k, run, s);
    job.y = y;
    job.x = x;
    if (k->train)
        rc_block_train(&job);
    else if (k->b->window > 0)
        rc_grid_run(&k->rows.all, run->pool, infer_windows, &job);
    else
        infer_sequences(&job);
}
