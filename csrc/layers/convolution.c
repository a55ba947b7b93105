/* Convolutions in training. */
#include "layers/convolution.h"

#include "kernels/act.h"
#include "kernels/conv.h"

enum { PANEL = 1 << 24 }; /* floats of a panel, about */

/* Pixels of a chunk at least: fewer would wait for the kernels, 150 MB in Cnn14's last layer, to
 * come from memory. */
enum { LEAST = 32 };

int64_t rc_convolution_rows(int64_t total, int64_t unit)
{
    return rc_max(rc_chunk_rows(total * unit, unit), LEAST) / unit;
}

/* ---- Plan ------------------------------------------------------------------------------------ */

static rc_status plan_dx(rc_convolution *k, rc_plan *plan)
{
    rc_product_shape s = {.n = k->c, .k = RC_TAPS * k->n, .lda = RC_TAPS * k->n};
    s.ldb = s.ldc = k->c;
    s.m = k->grid.rows * k->mels;
    RC_TRY(rc_plan_product(plan, &k->dx[0], s, NULL));
    s.m = k->grid.total % k->grid.rows * k->mels;
    return rc_plan_product(plan, &k->dx[1], s, NULL);
}

static rc_status plan_dw(rc_convolution *k, rc_plan *plan, const rc_params *p, rc_pair conv)
{
    int64_t row = k->mels * RC_TAPS * k->c;
    k->panel = rc_max(1, rc_min(k->grid.total, PANEL / row));
    k->panel_floats = k->panel * row;
    for (int last = 0; last < 2; last++) {
        int64_t pixels = (last ? k->grid.total % k->panel : k->panel) * k->mels;
        rc_grid grid = rc_grid_rows(pixels, pixels);
        if (pixels > 0) RC_TRY(rc_linear_back_plan(&k->dw[last], plan, p, conv, &grid));
    }
    return RC_OK;
}

rc_status rc_convolution_plan(rc_convolution *k, rc_plan *plan, const rc_params *p, rc_pair conv,
                              rc_batch_norm norm, int64_t b, int64_t frames, int64_t mels,
                              float eps)
{
    const rc_param *w = &p->item[conv.w];
    int64_t total = b * frames, rows = rc_min(total, rc_convolution_rows(total, mels));
    *k = (rc_convolution){.w = w, .frames = frames, .mels = mels, .c = w->size[3], .n = w->size[0]};
    rc_grid pixels = rc_grid_rows(total * mels, rows * mels);
    k->grid = rc_grid_rows(total, rows);
    k->worker_floats = rows * mels * RC_TAPS * rc_max(k->c, k->n);
    k->turned_floats = w->count;
    k->out = rc_plan_take(plan, total * mels * k->n);
    rc_batch_norm_plan_make(&k->norm, plan, p, norm, total * mels, eps);
    RC_TRY(rc_linear_plan(&k->linear, plan, p, conv, &pixels, false));
    RC_TRY(plan_dx(k, plan));
    return plan_dw(k, plan, p, conv);
}

typedef struct {
    const rc_convolution *k;
    const rc_run *run;
    const rc_convolution_scratch *s;
    const float *x;
    float *y, *dx, *dy;
    int64_t first; /* row of a panel */
} conv_job;

/* The neighbourhoods of rows first.. of pixels of c channels. */
static void gather(const rc_convolution *k, float *y, const float *x, int64_t first, int64_t rows,
                   int64_t c)
{
    int64_t clip = k->frames * k->mels * c;
    for (int64_t i = first; i < first + rows; i++, y += k->mels * RC_TAPS * c)
        rc_neighbourhoods(y, x + i / k->frames * clip, i % k->frames, k->frames, k->mels, c);
}

/* ---- Forward --------------------------------------------------------------------------------- */

static void forward_chunk(void *arg, int64_t first, int64_t rows, rc_crew crew)
{
    const conv_job *job = arg;
    const rc_convolution *k = job->k;
    float *around = rc_share_of(job->run, job->s->worker, crew.worker);
    gather(k, around, job->x, first, rows, k->c);
    rc_linear_run(&k->linear, crew, job->y + first * k->mels * k->n, rc_floats(around),
                  rows * k->mels);
}

void rc_convolution_forward(const rc_convolution *k, const rc_run *run,
                            const rc_convolution_scratch *s, const float *x)
{
    conv_job job = {.k = k, .run = run, .s = s, .x = x, .y = run->scratch + k->out};
    rc_grid_run(&k->grid, run->pool, forward_chunk, &job);
    rc_batch_norm_stats(&k->norm, run, job.y, k->grid.total * k->mels);
}

void rc_convolution_activate(const rc_convolution *k, const rc_run *run, float *y, int64_t first,
                             int64_t rows)
{
    int64_t row = k->mels * k->n;
    rc_batch_norm_forward(&k->norm, run, y, run->scratch + k->out + first * row, rows * k->mels);
    rc_relu_forward(y, y, rows * row);
}

static void activate_chunk(void *arg, int64_t first, int64_t rows, rc_crew crew)
{
    (void)crew;
    const conv_job *job = arg;
    rc_convolution_activate(job->k, job->run, job->y + first * job->k->mels * job->k->n, first,
                            rows);
}

void rc_convolution_activate_all(const rc_convolution *k, const rc_run *run, float *y)
{
    conv_job job = {.k = k, .run = run, .y = y};
    rc_grid_run(&k->grid, run->pool, activate_chunk, &job);
}

/* ---- Backward -------------------------------------------------------------------------------- */

static void norm_chunk(void *arg, int64_t first, int64_t rows, rc_crew crew)
{
    (void)crew;
    const conv_job *job = arg;
    const rc_convolution *k = job->k;
    int64_t from = first * k->mels * k->n;
    rc_batch_norm_backward(&k->norm, job->run, job->dy + from, job->dy + from, job->y + from,
                           rows * k->mels);
}

static void panel_row(void *arg, int64_t row, int worker)
{
    (void)worker;
    const conv_job *job = arg;
    const rc_convolution *k = job->k;
    float *panel = job->run->scratch + job->s->panel;
    gather(k, panel + row * k->mels * RC_TAPS * k->c, job->x, job->first + row, 1, k->c);
}

static void kernels_backward(conv_job *job)
{
    const rc_convolution *k = job->k;
    for (job->first = 0; job->first < k->grid.total; job->first += k->panel) {
        int64_t rows = rc_min(k->panel, k->grid.total - job->first);
        rc_parallel(job->run->pool, rows, panel_row, job);
        rc_linear_back_weight(&k->dw[rows != k->panel], job->run->pool,
                              job->dy + job->first * k->mels * k->n,
                              job->run->scratch + job->s->panel);
    }
}

enum { TURNED = 64 }; /* outputs whose kernels a task turns */

static void turn_kernels(void *arg, int64_t index, int worker)
{
    (void)worker;
    const conv_job *job = arg;
    const rc_convolution *k = job->k;
    rc_turn_kernels(job->run->scratch + job->s->turned, k->w->x, k->n, k->c, index * TURNED,
                    rc_min((index + 1) * TURNED, k->n));
}

static void input_chunk(void *arg, int64_t first, int64_t rows, rc_crew crew)
{
    const conv_job *job = arg;
    const rc_convolution *k = job->k;
    float *around = rc_share_of(job->run, job->s->worker, crew.worker);
    gather(k, around, job->dy, first, rows, k->n);
    rc_product_run(k->dx[rows != k->grid.rows], crew.worker, job->dx + first * k->mels * k->c,
                   rc_floats(around), (rc_factor){.b = job->run->scratch + job->s->turned});
}

void rc_convolution_backward(const rc_convolution *k, const rc_run *run,
                             const rc_convolution_scratch *s, float *dx, float *dy, const float *x)
{
    conv_job job = {.k = k, .run = run, .s = s, .x = x, .dx = dx, .dy = dy};
    job.y = run->scratch + k->out;
    rc_batch_norm_sums(&k->norm, run, dy, job.y, k->grid.total * k->mels);
    rc_grid_run(&k->grid, run->pool, norm_chunk, &job);
    if (k->w->dx != NULL) kernels_backward(&job);
    rc_parallel(run->pool, (k->n + TURNED - 1) / TURNED, turn_kernels, &job);
    rc_grid_run(&k->grid, run->pool, input_chunk, &job);
}
