/* One block of windowed attention, forward and backward, chunk by chunk. */
#include "layers/block.h"

#include "kernels/kernels.h"
#include "layers/linear.h"

#include <math.h>
#include <string.h>

void rc_swin_tape_take(rc_swin_tape *tape, rc_arena *arena, const rc_swin *s, int64_t rows)
{
    tape->x = rc_take(arena, rows * s->c);
    tape->mean1 = rc_take(arena, rows);
    tape->rstd1 = rc_take(arena, rows);
    tape->qkv = rc_take(arena, rows * 3 * s->c);
    tape->o = rc_take(arena, rows * s->c);
    tape->mid = rc_take(arena, rows * s->c);
    tape->mean2 = rc_take(arena, rows);
    tape->rstd2 = rc_take(arena, rows);
    tape->hidden = rc_take(arena, rows * s->mlp);
}

/* What every chunk of a call shares. */
typedef struct {
    const rc_swin *s;
    const rc_params *p;
    const rc_swin_tape *tape;
    rc_attention attention;
    rc_linear qkv, proj, fc1, fc2;
    float *bias;                   /* (heads, t, t) of this block */
    float *chunk, *room;           /* per worker, the first only once where there is one chunk */
    int64_t chunk_size, room_size; /* in floats */
    int64_t form;                  /* floats of a first factor with c terms */
    rc_grid grid;                  /* of all rows */
    rc_draw draw;
    float *y;
    const float *x;
    /* backward only, over all rows */
    float *dx;
    const float *dy;
    float *a1, *a2, *h, *dbranch1, *dbranch2, *dqkv, *dh, *da1, *da2;
    float *dbias; /* (chunks, heads, t, t): one owner each, so the order of summation is fixed */
} swin_job;

static const float *value(const swin_job *job, int64_t index)
{
    return job->p->item[index].x;
}

/* Few rows at inference are one chunk, in whose layers threads share outputs. */
static void job_open(swin_job *job, const rc_swin *s, const rc_params *p, int64_t b, bool infer,
                     rc_draw draw)
{
    int64_t t = s->window * s->window;
    int64_t total = b * s->tokens, rows = rc_chunk_rows(total, t);
    *job = (swin_job){.s = s, .p = p, .draw = draw};
    job->grid = infer ? rc_linear_grid(p, s->fc1, total, rows) : rc_grid_rows(total, rows);
    float scale = 1 / sqrtf((float)(s->c / s->heads));
    job->attention = (rc_attention){t, s->heads, s->c / s->heads, t, t, 3 * s->c, 3 * s->c, scale};
}

static float *chunk_of(const swin_job *job, int worker)
{
    return job->chunk + worker * job->chunk_size;
}

static float *room_of(const swin_job *job, int worker)
{
    return job->room + worker * job->room_size;
}

/* The rows of a chunk, looked up where the previous order has them. */
static void gather_chunk(const swin_job *job, float *y, int64_t first, int64_t rows)
{
    int64_t n = job->s->tokens, c = job->s->c;
    for (int64_t done = 0, run; done < rows; done += run) {
        int64_t row = first + done, place = row % n;
        run = rc_min(rows - done, n - place);
        rc_gather_rows(y + done * c, job->x + (row - place) * c, job->s->from + place, run, c);
    }
}

static void scatter_chunk(const swin_job *job, const float *dx, int64_t first, int64_t rows)
{
    int64_t n = job->s->tokens, c = job->s->c;
    for (int64_t done = 0, run; done < rows; done += run) {
        int64_t row = first + done, place = row % n;
        run = rc_min(rows - done, n - place);
        rc_scatter_rows(job->dx + (row - place) * c, dx + done * c, job->s->from + place, run, c);
    }
}

static const float *window_mask(const swin_job *job, int64_t row)
{
    int64_t t = job->attention.t;
    if (job->s->mask == NULL) return NULL;
    int64_t kind = rc_window_kind(row % job->s->tokens / t, job->s->across);
    return kind == 0 ? NULL : job->s->mask + (kind - 1) * t * t;
}

/* Site of a branch's draws: 0 dropout and 1 drop path of attention, 2 and 3 of the MLP. */
static rc_draw draw_at(const swin_job *job, uint64_t which)
{
    rc_draw at = job->draw;
    at.site = job->s->site + which;
    return at;
}

/* Dropout, then stochastic depth per clip (Huang et al. 2016), on a branch or on its gradient. */
static void drop_branch(const swin_job *job, float *branch, uint64_t which, int64_t first,
                        int64_t rows)
{
    int64_t c = job->s->c;
    if (job->s->dropout > 0)
        rc_dropout(branch, branch, rows * c, job->s->dropout, draw_at(job, which), first * c);
    if (job->s->drop_path <= 0) return;
    for (int64_t i = 0; i < rows; i++) {
        int64_t clip = (first + i) / job->s->tokens;
        rc_draw at = draw_at(job, which + 1);
        bool keep = rc_uniform(at, (uint64_t)clip) >= job->s->drop_path;
        float scale = keep ? 1 / (1 - job->s->drop_path) : 0;
        for (int64_t j = 0; j < c; j++) branch[i * c + j] *= scale;
    }
}

static void norm_rows(const swin_job *job, float *y, const float *x, rc_pair norm, int64_t rows)
{
    rc_layernorm_forward(y, NULL, NULL, x, value(job, norm.w), value(job, norm.b), rows, job->s->c,
                         job->s->eps);
}

static void attend(const swin_job *job, float *o, const float *qkv, int64_t first, int64_t rows,
                   float *scratch)
{
    int64_t t = job->attention.t, c = job->s->c;
    for (int64_t i = 0; i < rows; i += t)
        rc_attention_forward(o + i * c, qkv + i * 3 * c, qkv + i * 3 * c + c, job->bias,
                             window_mask(job, first + i), &job->attention, scratch);
}

/* ---- Inference ------------------------------------------------------------------------------- */

/* A chunk on its way: the stream in place, the first factor of the next layer, queries, keys and
 * values. */
typedef struct {
    const swin_job *job;
    int64_t first;
    float *x, *qkv;
    rc_sink next;
} swin_chunk;

/* The norm of window i goes to the next layer. */
static void norm_window(const swin_chunk *k, rc_pair norm, int64_t i, int worker)
{
    int64_t t = k->job->attention.t;
    float *y = rc_sink_at(&k->next, i * t, room_of(k->job, worker));
    norm_rows(k->job, y, k->x + i * t * k->job->s->c, norm, t);
    rc_sink_put(&k->next, y, i * t, t);
}

static void first_norm(void *arg, int64_t i, int worker)
{
    const swin_chunk *k = arg;
    int64_t t = k->job->attention.t;
    gather_chunk(k->job, k->x + i * t * k->job->s->c, k->first + i * t, t);
    norm_window(k, k->job->s->norm1, i, worker);
}

static void second_norm(void *arg, int64_t i, int worker)
{
    const swin_chunk *k = arg;
    norm_window(k, k->job->s->norm2, i, worker);
}

static void attend_window(void *arg, int64_t i, int worker)
{
    const swin_chunk *k = arg;
    const swin_job *job = k->job;
    int64_t t = job->attention.t, at = i * t, c = job->s->c;
    float *room = room_of(job, worker), *o = rc_sink_at(&k->next, at, room);
    attend(job, o, k->qkv + at * 3 * c, k->first + at, t, room + t * c);
    rc_sink_put(&k->next, o, at, t);
}

/* The residual stream is updated in place, the products add into it, and what feeds a product goes
 * through its sink. */
static void infer_chunk(void *arg, int64_t first, int64_t rows, rc_crew crew)
{
    const swin_job *job = arg;
    float *a = chunk_of(job, crew.worker), *wide = a + job->form;
    float *hidden = wide + job->grid.rows * rc_max(3 * job->s->c, job->s->mlp);
    int64_t windows = rows / job->attention.t;
    swin_chunk k = {.job = job, .first = first, .x = job->y + first * job->s->c, .qkv = wide};
    k.next = rc_linear_sink(&job->qkv, a, a, rows);
    rc_each(crew, windows, first_norm, &k);
    rc_linear_run(&job->qkv, crew, wide, rc_sink_rows(&k.next), rows);
    k.next = rc_linear_sink(&job->proj, a, a, rows);
    rc_each(crew, windows, attend_window, &k);
    rc_linear_run(&job->proj, crew, k.x, rc_sink_rows(&k.next), rows);
    k.next = rc_linear_sink(&job->fc1, a, a, rows);
    rc_each(crew, windows, second_norm, &k);
    rc_sink active = rc_linear_sink(&job->fc2, wide, hidden, rows);
    rc_linear_run_into(&job->fc1, crew, &active, wide, rc_sink_rows(&k.next), job->s->act->forward,
                       rows);
    rc_linear_run(&job->fc2, crew, k.x, rc_sink_rows(&active), rows);
}

/* ---- Training -------------------------------------------------------------------------------- */

/* The same steps, what backward needs is kept. */
static void train_chunk(void *arg, int64_t first, int64_t rows, rc_crew crew)
{
    const swin_job *job = arg;
    const rc_swin *s = job->s;
    const rc_swin_tape *k = job->tape;
    int64_t c = s->c;
    float *a = chunk_of(job, crew.worker), *wide = a + job->form;
    float *scratch = room_of(job, crew.worker);
    float *x = k->x + first * c, *mid = k->mid + first * c, *y = job->y + first * c;
    float *qkv = k->qkv + first * 3 * c, *o = k->o + first * c,
          *hidden = k->hidden + first * s->mlp;
    gather_chunk(job, x, first, rows);
    rc_layernorm_forward(a, k->mean1 + first, k->rstd1 + first, x, value(job, s->norm1.w),
                         value(job, s->norm1.b), rows, c, s->eps);
    rc_linear_run(&job->qkv, crew, qkv, rc_floats(a), rows);
    attend(job, o, qkv, first, rows, scratch);
    rc_linear_run(&job->proj, crew, mid, rc_floats(o), rows);
    drop_branch(job, mid, 0, first, rows);
    rc_add(mid, x, rows * c);
    rc_layernorm_forward(a, k->mean2 + first, k->rstd2 + first, mid, value(job, s->norm2.w),
                         value(job, s->norm2.b), rows, c, s->eps);
    rc_linear_run(&job->fc1, crew, hidden, rc_floats(a), rows);
    s->act->forward(wide, hidden, rows * s->mlp);
    rc_linear_run(&job->fc2, crew, y, rc_floats(wide), rows);
    drop_branch(job, y, 2, first, rows);
    rc_add(y, mid, rows * c);
}

/* Sizes are whole cache lines, for workers to begin on one. */
static void take_scratch(swin_job *job, rc_arena *arena, int threads)
{
    const rc_swin *s = job->s;
    int64_t t = job->attention.t;
    job->bias = rc_take(arena, s->heads * t * t);
    int64_t rows = job->grid.rows;
    job->form = rc_max(rows * s->c, rc_linear_form(job->p, s->qkv, rows));
    job->chunk_size =
        job->form + rows * rc_max(3 * s->c, s->mlp) + rc_linear_form(job->p, s->fc2, rows);
    job->room_size = t * s->c + rc_attention_scratch(&job->attention);
    job->chunk_size = (job->chunk_size + 15) / 16 * 16;
    job->room_size = (job->room_size + 15) / 16 * 16;
    job->chunk = rc_take(arena, rc_grid_places(&job->grid, threads) * job->chunk_size);
    job->room = rc_take(arena, threads * job->room_size);
}

rc_status rc_swin_forward(const rc_swin *s, const rc_params *p, rc_dnn *dnn, float *y,
                          const float *x, int64_t b, rc_swin_tape *tape, rc_draw draw,
                          rc_arena *arena)
{
    swin_job job;
    job_open(&job, s, p, b, tape == NULL, draw);
    job.tape = tape;
    job.y = y;
    job.x = x;
    take_scratch(&job, arena, rc_dnn_threads(dnn));
    if (arena->base == NULL) return RC_OK;
    bool add = tape == NULL;
    RC_TRY(rc_linear_get(&job.qkv, dnn, p, s->qkv, &job.grid, false));
    RC_TRY(rc_linear_get(&job.proj, dnn, p, s->proj, &job.grid, add));
    RC_TRY(rc_linear_get(&job.fc1, dnn, p, s->fc1, &job.grid, false));
    RC_TRY(rc_linear_get(&job.fc2, dnn, p, s->fc2, &job.grid, add));
    rc_relpos_forward(job.bias, value(&job, s->relpos), s->window, s->heads);
    rc_grid_run(&job.grid, rc_dnn_pool(dnn), tape == NULL ? infer_chunk : train_chunk, &job);
    return RC_OK;
}

/* ---- Backward -------------------------------------------------------------------------------- */

/* MLP branch: dy -> dmid (rows, c), the gradient of the stream between the branches. */
static void backward_mlp(const swin_job *job, float *dmid, int64_t first, int64_t rows, int worker)
{
    const rc_swin *s = job->s;
    const rc_swin_tape *k = job->tape;
    int64_t c = s->c, at = first * c, wide = first * s->mlp;
    rc_layernorm_forward(job->a2 + at, NULL, NULL, k->mid + at, value(job, s->norm2.w),
                         value(job, s->norm2.b), rows, c, s->eps);
    s->act->forward(job->h + wide, k->hidden + wide, rows * s->mlp);
    memcpy(job->dbranch2 + at, job->dy + at, (size_t)(rows * c) * sizeof(float));
    drop_branch(job, job->dbranch2 + at, 2, first, rows);
    rc_linear_backward_run(&job->fc2, worker, job->dh + wide, job->dbranch2 + at, rows);
    s->act->backward(job->dh + wide, job->dh + wide, k->hidden + wide, rows * s->mlp);
    rc_linear_backward_run(&job->fc1, worker, job->da2 + at, job->dh + wide, rows);
    rc_layernorm_backward(dmid, job->da2 + at, k->mid + at, k->mean2 + first, k->rstd2 + first,
                          value(job, s->norm2.w), rows, c);
    rc_add(dmid, job->dy + at, rows * c);
}

/* Attention branch: dmid -> dx (rows, c), both in this block's order. */
static void backward_attention(const swin_job *job, float *dx, float *dmid, int64_t first,
                               int64_t rows, int worker, float *dbias, float *dout, float *scratch)
{
    const rc_swin *s = job->s;
    const rc_swin_tape *k = job->tape;
    int64_t c = s->c, at = first * c, t = job->attention.t;
    rc_layernorm_forward(job->a1 + at, NULL, NULL, k->x + at, value(job, s->norm1.w),
                         value(job, s->norm1.b), rows, c, s->eps);
    memcpy(job->dbranch1 + at, dmid, (size_t)(rows * c) * sizeof(float));
    drop_branch(job, job->dbranch1 + at, 0, first, rows);
    rc_linear_backward_run(&job->proj, worker, dout, job->dbranch1 + at, rows);
    for (int64_t i = 0; i < rows; i += t)
        rc_attention_backward(job->dqkv + 3 * (at + i * c), dbias, dout + i * c,
                              k->qkv + 3 * (at + i * c), job->bias, window_mask(job, first + i),
                              &job->attention, scratch);
    rc_linear_backward_run(&job->qkv, worker, job->da1 + at, job->dqkv + 3 * at, rows);
    rc_layernorm_backward(dx, job->da1 + at, k->x + at, k->mean1 + first, k->rstd1 + first,
                          value(job, s->norm1.w), rows, c);
    rc_add(dx, dmid, rows * c);
}

static void backward_chunk(void *arg, int64_t first, int64_t rows, rc_crew crew)
{
    const swin_job *job = arg;
    int worker = crew.worker;
    int64_t c = job->s->c, t = job->attention.t, table = job->s->heads * t * t;
    float *dmid = chunk_of(job, worker), *dx = dmid + job->grid.rows * c;
    float *dout = dx + job->grid.rows * c;
    float *scratch = room_of(job, worker);
    float *dbias = job->dbias + first / job->grid.rows * table;
    memset(dbias, 0, (size_t)table * sizeof *dbias);
    backward_mlp(job, dmid, first, rows, worker);
    backward_attention(job, dx, dmid, first, rows, worker, dbias, dout, scratch);
    scatter_chunk(job, dx, first, rows);
}

static void take_gradients(swin_job *job, rc_arena *arena)
{
    int64_t c = job->s->c, t = job->attention.t, n = job->grid.total;
    job->a1 = rc_take(arena, n * c);
    job->a2 = rc_take(arena, n * c);
    job->h = rc_take(arena, n * job->s->mlp);
    job->dbranch1 = rc_take(arena, n * c);
    job->dbranch2 = rc_take(arena, n * c);
    job->dqkv = rc_take(arena, n * 3 * c);
    job->dh = rc_take(arena, n * job->s->mlp);
    job->da1 = rc_take(arena, n * c);
    job->da2 = rc_take(arena, n * c);
    job->dbias = rc_take(arena, rc_grid_chunks(&job->grid) * job->s->heads * t * t);
}

static void relpos_gradient(const swin_job *job)
{
    int64_t t = job->attention.t, table = job->s->heads * t * t;
    for (int64_t i = 1; i < rc_grid_chunks(&job->grid); i++)
        rc_add(job->dbias, job->dbias + i * table, table);
    rc_relpos_backward(job->p->item[job->s->relpos].dx, job->dbias, job->s->window, job->s->heads);
}

static rc_status weight_gradients(const swin_job *job, rc_dnn *dnn)
{
    const rc_swin *s = job->s;
    const rc_swin_tape *k = job->tape;
    rc_pool *pool = rc_dnn_pool(dnn);
    RC_TRY(rc_linear_backward_weight(dnn, job->p, s->fc2, job->dbranch2, job->h, job->grid.total));
    RC_TRY(rc_linear_backward_weight(dnn, job->p, s->fc1, job->dh, job->a2, job->grid.total));
    RC_TRY(rc_linear_backward_weight(dnn, job->p, s->proj, job->dbranch1, k->o, job->grid.total));
    RC_TRY(rc_linear_backward_weight(dnn, job->p, s->qkv, job->dqkv, job->a1, job->grid.total));
    rc_norm_backward_weight(pool, job->p, s->norm2, job->da2, k->mid, k->mean2, k->rstd2,
                            job->grid.total);
    rc_norm_backward_weight(pool, job->p, s->norm1, job->da1, k->x, k->mean1, k->rstd1,
                            job->grid.total);
    relpos_gradient(job);
    return RC_OK;
}

rc_status rc_swin_backward(const rc_swin *s, const rc_params *p, rc_dnn *dnn, float *dx,
                           const float *dy, int64_t b, const rc_swin_tape *tape, rc_draw draw,
                           rc_arena *arena)
{
    swin_job job;
    job_open(&job, s, p, b, false, draw);
    job.tape = tape;
    job.dx = dx;
    job.dy = dy;
    take_scratch(&job, arena, rc_dnn_threads(dnn));
    take_gradients(&job, arena);
    if (arena->base == NULL) return RC_OK;
    RC_TRY(rc_linear_backward_get(&job.qkv, dnn, p, s->qkv, &job.grid));
    RC_TRY(rc_linear_backward_get(&job.proj, dnn, p, s->proj, &job.grid));
    RC_TRY(rc_linear_backward_get(&job.fc1, dnn, p, s->fc1, &job.grid));
    RC_TRY(rc_linear_backward_get(&job.fc2, dnn, p, s->fc2, &job.grid));
    rc_relpos_forward(job.bias, value(&job, s->relpos), s->window, s->heads);
    rc_grid_run(&job.grid, rc_dnn_pool(dnn), backward_chunk, &job);
    return weight_gradients(&job, dnn);
}
