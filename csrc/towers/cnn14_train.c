/* Cnn14 in training, both ways. Kept for backward: what enters each block and what leaves each
 * convolution; what lies between the convolutions of a block is made again. */
#include "towers/cnn14_inside.h"

#include "kernels/act.h"
#include "kernels/conv.h"
#include "kernels/norm.h"
#include "layers/convolution.h"
#include "towers/input_norm.h"

#include <string.h>

enum { SITE_POOLED = 1, SITE_FEATURES, SITE_BLOCK = 16 }; /* where draws stand */

/* Numbers without another word are offsets in scratch. */
struct rc_cnn14_train {
    const rc_cnn14 *t;
    const rc_params *p;
    int64_t b;
    rc_input_norm norm;
    rc_convolution layer[2 * RC_STAGES_MAX];
    rc_convolution_scratch scratch;
    int64_t in[RC_STAGES_MAX + 1]; /* of each block; of the pooling behind them */
    int64_t mid;                   /* between the convolutions of a block */
    int64_t gradient[2];           /* take turns */
    int64_t last_frames, last_mels;
    rc_grid clips;
    rc_linear fc;
    rc_linear_back dfc;
    int64_t pooled, hidden, dhidden, dpooled;
};

typedef struct {
    const rc_cnn14_train *k;
    const rc_run *run;
    const rc_input *in;
    int64_t block;
    const float *dy;
    float *y, *dx;
} train_job;

static float *at(const train_job *job, int64_t offset)
{
    return job->run->scratch + offset;
}

static float *worker_share(const train_job *job, int worker)
{
    return rc_share_of(job->run, job->k->scratch.worker, worker);
}

/* Pixels a side that become one behind a block. */
static int64_t pool_of(const rc_cnn14_train *k, int64_t block)
{
    return block + 1 < k->t->config.blocks ? 2 : 1;
}

/* ---- Plan ------------------------------------------------------------------------------------ */

static rc_status plan_blocks(rc_cnn14_train *k, rc_plan *plan, int64_t frames)
{
    const rc_cnn14 *t = k->t;
    int64_t mels = t->config.mels;
    k->in[0] = rc_plan_take(plan, k->b * frames * mels);
    for (int64_t i = 0; i < t->config.blocks; i++) {
        for (int64_t j = 2 * i; j < 2 * i + 2; j++)
            RC_TRY(rc_convolution_plan(&k->layer[j], plan, k->p, t->layer[j].conv, t->layer[j].norm,
                                       k->b, frames, mels, (float)t->config.eps));
        frames /= pool_of(k, i), mels /= pool_of(k, i);
        k->in[i + 1] = rc_plan_take(plan, k->b * frames * mels * t->config.widths[i]);
    }
    k->last_frames = frames;
    k->last_mels = mels;
    return RC_OK;
}

static rc_status plan_features(rc_cnn14_train *k, rc_plan *plan)
{
    int64_t floats = k->b * rc_cnn14_width(k->t);
    k->clips = rc_grid_rows(k->b, rc_min(RC_CNN14_CLIPS, k->b));
    k->pooled = rc_plan_take(plan, floats);
    k->hidden = rc_plan_take(plan, floats);
    k->dhidden = rc_plan_take(plan, floats);
    k->dpooled = rc_plan_take(plan, floats);
    RC_TRY(rc_linear_plan(&k->fc, plan, k->p, k->t->fc, &k->clips, false));
    return rc_linear_back_plan(&k->dfc, plan, k->p, k->t->fc, &k->clips);
}

/* What calls may take again. */
static void take_scratch(rc_cnn14_train *k, rc_plan *plan)
{
    int64_t worker = 2 * rc_cnn14_width(k->t), most = 0, panel = 0, turned = 0;
    for (int64_t i = 0; i < 2 * k->t->config.blocks; i++) {
        const rc_convolution *c = &k->layer[i];
        worker = rc_max(worker, rc_max(c->worker_floats, 2 * c->mels * c->n));
        most = rc_max(most, c->grid.total * c->mels * rc_max(c->c, c->n));
        panel = rc_max(panel, c->panel_floats);
        turned = rc_max(turned, c->turned_floats);
    }
    k->mid = rc_plan_take(plan, most);
    for (int i = 0; i < 2; i++) k->gradient[i] = rc_plan_take(plan, most);
    k->scratch.panel = rc_plan_take(plan, panel);
    k->scratch.turned = rc_plan_take(plan, turned);
    k->scratch.worker = rc_plan_shares(plan, rc_plan_threads(plan), worker);
}

rc_status rc_cnn14_train_plan(rc_cnn14_train **out, rc_plan *plan, const rc_cnn14 *t,
                              const rc_params *p, const rc_input_size *size)
{
    RC_TRY(rc_plan_alloc(plan, (void **)out, sizeof(rc_cnn14_train)));
    rc_cnn14_train *k = *out;
    *k = (rc_cnn14_train){.t = t, .p = p, .b = size->b};
    rc_input_norm_plan(&k->norm, plan, p, t->bn, 1, (float)t->config.eps);
    RC_TRY(plan_blocks(k, plan, size->rows));
    RC_TRY(plan_features(k, plan));
    int64_t mark = rc_plan_mark(plan);
    take_scratch(k, plan);
    rc_plan_back(plan, mark);
    return RC_OK;
}

/* ---- Draws ----------------------------------------------------------------------------------- */

/* Dropout, or its backward, of n values from `first` of the call on, `clip` values a clip. */
static void drop(const train_job *job, float *x, int64_t first, int64_t n, int64_t clip,
                 uint64_t site, double p)
{
    rc_draw draw = job->run->draw;
    draw.site = site;
    if (p > 0) rc_dropout(x, x, n, (float)p, draw, job->run->clip * clip + first);
}

static void drop_clip(const train_job *job, float *x, int64_t clip, int64_t floats)
{
    drop(job, x, clip * floats, floats, floats, SITE_BLOCK + (uint64_t)job->block,
         job->k->t->config.dropout);
}

/* ---- Forward --------------------------------------------------------------------------------- */

static void normalise_clip(void *arg, int64_t clip, int worker)
{
    (void)worker;
    const train_job *job = arg;
    const rc_cnn14 *t = job->k->t;
    int64_t frames = job->in->frames, mels = t->config.mels, from = clip * frames * mels;
    rc_batchnorm_forward(at(job, job->k->in[0]) + from, job->in->x + from,
                         rc_input_norm_mean(&job->k->norm, job->run),
                         rc_input_norm_var(&job->k->norm, job->run),
                         job->k->p->item[t->bn.scale.w].x, job->k->p->item[t->bn.scale.b].x, frames,
                         mels, (float)t->config.eps);
}

/* Behind the second convolution of a block: pooled, and dropped. */
static void pool_clip(void *arg, int64_t clip, int worker)
{
    const train_job *job = arg;
    const rc_convolution *c = &job->k->layer[2 * job->block + 1];
    int64_t pool = pool_of(job->k, job->block), rows = c->frames / pool;
    int64_t out = c->mels / pool * c->n;
    float *full = worker_share(job, worker);
    float *y = at(job, job->k->in[job->block + 1]) + clip * rows * out;
    for (int64_t i = 0; i < rows; i++) {
        float *to = pool == 1 ? y + i * out : full;
        rc_convolution_activate(c, job->run, to, clip * c->frames + i * pool, pool);
        if (pool > 1) rc_halve_rows(y + i * out, full, c->mels, c->n);
    }
    drop_clip(job, y, clip, rows * out);
}

static void features_chunk(void *arg, int64_t first, int64_t rows, rc_crew crew)
{
    const train_job *job = arg;
    const rc_cnn14_train *k = job->k;
    int64_t c = rc_cnn14_width(k->t), from = first * c, size = k->last_frames * k->last_mels * c;
    float *pooled = at(job, k->pooled) + from, *hidden = at(job, k->hidden) + from;
    for (int64_t i = 0; i < rows; i++)
        rc_peak_mean_forward(pooled + i * c, worker_share(job, crew.worker),
                             at(job, k->in[k->t->config.blocks]) + (first + i) * size,
                             k->last_frames, k->last_mels, c);
    drop(job, pooled, from, rows * c, c, SITE_POOLED, k->t->config.fc_dropout);
    rc_linear_run(&k->fc, crew, hidden, rc_floats(pooled), rows);
    rc_relu_forward(hidden, hidden, rows * c);
    memcpy(job->y + from, hidden, (size_t)(rows * c) * sizeof *hidden);
    drop(job, job->y + from, from, rows * c, c, SITE_FEATURES, k->t->config.fc_dropout);
}

void rc_cnn14_train_forward(const rc_cnn14_train *k, const rc_run *run, float *y,
                            const rc_input *in)
{
    train_job job = {.k = k, .run = run, .in = in, .y = y};
    rc_input_norm_stats(&k->norm, run, in);
    rc_parallel(run->pool, k->b, normalise_clip, &job);
    for (job.block = 0; job.block < k->t->config.blocks; job.block++) {
        const rc_convolution *first = &k->layer[2 * job.block], *second = first + 1;
        rc_convolution_forward(first, run, &k->scratch, at(&job, k->in[job.block]));
        rc_convolution_activate_all(first, run, at(&job, k->mid));
        rc_convolution_forward(second, run, &k->scratch, at(&job, k->mid));
        rc_parallel(run->pool, k->b, pool_clip, &job);
    }
    rc_grid_run(&k->clips, run->pool, features_chunk, &job);
}

void rc_cnn14_train_commit(const rc_cnn14_train *k, const rc_run *run)
{
    double momentum = k->t->config.bn_momentum;
    rc_input_norm_commit(&k->norm, run, momentum);
    for (int64_t i = 0; i < 2 * k->t->config.blocks; i++)
        rc_batch_norm_commit(&k->layer[i].norm, run, momentum);
}

/* ---- Backward -------------------------------------------------------------------------------- */

static void features_chunk_backward(void *arg, int64_t first, int64_t rows, rc_crew crew)
{
    const train_job *job = arg;
    const rc_cnn14_train *k = job->k;
    int64_t c = rc_cnn14_width(k->t), from = first * c, size = k->last_frames * k->last_mels * c;
    float *dhidden = at(job, k->dhidden) + from, *dpooled = at(job, k->dpooled) + from;
    memcpy(dhidden, job->dy + from, (size_t)(rows * c) * sizeof *dhidden);
    drop(job, dhidden, from, rows * c, c, SITE_FEATURES, k->t->config.fc_dropout);
    rc_relu_backward(dhidden, dhidden, at(job, k->hidden) + from, rows * c);
    rc_linear_back_run(&k->dfc, crew.worker, dpooled, dhidden, rows);
    drop(job, dpooled, from, rows * c, c, SITE_POOLED, k->t->config.fc_dropout);
    for (int64_t i = 0; i < rows; i++)
        rc_peak_mean_backward(job->dx + (first + i) * size, worker_share(job, crew.worker),
                              dpooled + i * c,
                              at(job, k->in[k->t->config.blocks]) + (first + i) * size,
                              k->last_frames, k->last_mels, c);
}

/* From job->dx, the gradient behind a block, to job->y, that of its second norm's output. */
static void pool_clip_backward(void *arg, int64_t clip, int worker)
{
    const train_job *job = arg;
    const rc_convolution *c = &job->k->layer[2 * job->block + 1];
    int64_t pool = pool_of(job->k, job->block), rows = c->frames / pool, row = c->mels * c->n;
    int64_t out = c->mels / pool * c->n;
    float *full = worker_share(job, worker);
    float *dy = job->dx + clip * rows * out, *dx = job->y + clip * c->frames * row;
    drop_clip(job, dy, clip, rows * out);
    memset(dx + rows * pool * row, 0, (size_t)((c->frames - rows * pool) * row) * sizeof *dx);
    for (int64_t i = 0; i < rows * pool; i++) {
        rc_convolution_activate(c, job->run, full, clip * c->frames + i, 1);
        if (pool > 1)
            rc_halve_rows_backward(dx + i * row, dy + i / pool * out, c->mels, c->n);
        else
            memcpy(dx + i * row, dy + i * out, (size_t)row * sizeof *dx);
        rc_relu_backward(dx + i * row, dx + i * row, full, row);
    }
}

/* From job->dx, the gradient of what lies between the convolutions of a block, to that of the norm
 * before it, in place. */
static void mid_chunk_backward(void *arg, int64_t first, int64_t rows, rc_crew crew)
{
    (void)crew;
    const train_job *job = arg;
    const rc_convolution *c = &job->k->layer[2 * job->block];
    int64_t row = c->mels * c->n, from = first * row;
    rc_relu_backward(job->dx + from, job->dx + from, at(job, job->k->mid) + from, rows * row);
}

/* From job->dx, the gradient behind a block, to that of what enters it, in job->y. */
static void block_backward(train_job *job)
{
    const rc_cnn14_train *k = job->k;
    const rc_convolution *first = &k->layer[2 * job->block], *second = first + 1;
    rc_parallel(job->run->pool, k->b, pool_clip_backward, job);
    rc_convolution_activate_all(first, job->run, at(job, k->mid));
    rc_convolution_backward(second, job->run, &k->scratch, job->dx, job->y, at(job, k->mid));
    rc_grid_run(&first->grid, job->run->pool, mid_chunk_backward, job);
    rc_convolution_backward(first, job->run, &k->scratch, job->y, job->dx,
                            at(job, k->in[job->block]));
}

void rc_cnn14_train_backward(const rc_cnn14_train *k, const rc_run *run, const float *dy,
                             const rc_input *in)
{
    train_job job = {.k = k, .run = run, .in = in, .dy = dy};
    job.dx = at(&job, k->gradient[0]);
    job.y = at(&job, k->gradient[1]);
    rc_grid_run(&k->clips, run->pool, features_chunk_backward, &job);
    rc_linear_back_weight(&k->dfc, run->pool, at(&job, k->dhidden), at(&job, k->pooled));
    for (job.block = k->t->config.blocks - 1; job.block >= 0; job.block--) {
        block_backward(&job);
        float *swap = job.y;
        job.y = job.dx;
        job.dx = swap;
    }
    rc_input_norm_backward(&k->norm, run, job.dx, in);
}
