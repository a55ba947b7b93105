/* The audio tower Cnn14 (Kong et al. 2020, arXiv 1912.10211): its parameters, its row, inference.
 * Mathematics: qiuqiangkong/audioset_tagging_cnn pytorch/models.py, class Cnn14, which MS-CLAP
 * (msclap/models/audio.py) and LAION-CLAP (clap_module/pann_model.py) took over.
 *
 * Activations are (clips, frames, mels, channels), so that the neighbourhood of a pixel is three
 * runs of 3 c numbers and a convolution is a product of neighbourhoods with weights (n, 3, 3, c).
 * Chunks of rows of pixels go through neighbourhoods, product, norm, ReLU and pooling while they
 * are warm in the cache. */
#include "towers/cnn14_inside.h"

#include "base/vector.h"
#include "kernels/act.h"
#include "kernels/conv.h"
#include "kernels/norm.h"
#include "layers/convolution.h"
#include "towers/input_norm.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Most frames accepted: a bound of memory only. */
enum { MOST_FRAMES = 8192 };

/* ---- Parameters, named as in LAION's state dict ---------------------------------------------- */

#define BRANCH "audio_branch."

static rc_status check_config(const rc_cnn14_config *c)
{
    if (c->blocks < 1 || c->blocks > RC_STAGES_MAX)
        return rc_fail(RC_EINVAL, "audio.widths: expected 1 to %d, got %lld", RC_STAGES_MAX,
                       (long long)c->blocks);
    for (int64_t i = 0; i < c->blocks; i++)
        if (c->widths[i] < 1 || c->widths[i] > 8192)
            return rc_fail(RC_EINVAL, "audio.widths[%d]: expected 1 to 8192, got %lld", (int)i,
                           (long long)c->widths[i]);
    int64_t least = (int64_t)1 << (c->blocks - 1);
    if (c->mels < least || c->mels > 1024)
        return rc_fail(RC_EINVAL, "audio.mels: %lld blocks need %lld to 1024, got %lld",
                       (long long)c->blocks, (long long)least, (long long)c->mels);
    if (!(c->dropout >= 0 && c->dropout < 1 && c->fc_dropout >= 0 && c->fc_dropout < 1))
        return rc_fail(RC_EINVAL, "audio.dropout %g and fc_dropout %g must lie in [0, 1)",
                       c->dropout, c->fc_dropout);
    if (!(c->bn_momentum >= 0 && c->bn_momentum <= 1))
        return rc_fail(RC_EINVAL, "audio.bn_momentum: expected 0 to 1, got %g", c->bn_momentum);
    return rc_check_eps("audio.eps", c->eps);
}

static void declare_layer(rc_cnn14_layer *l, rc_params *p, int64_t block, int64_t number)
{
    char at[RC_NAME_MAX], name[8];
    snprintf(at, sizeof at, BRANCH "conv_block%d.", (int)block + 1);
    snprintf(name, sizeof name, "bn%d", (int)number + 1);
    int64_t kernel[4] = {l->n, 3, 3, l->c};
    l->conv.w = rc_params_add(p, RC_WEIGHT, 4, kernel, "%sconv%d.weight", at, (int)number + 1);
    l->conv.b = -1;
    rc_param_packs(p, l->conv.w, l->c > 1 ? RC_PACK_ANY : RC_PACK_F32);
    l->norm = rc_declare_batch_norm(p, l->n, at, name);
}

static rc_status open_tower(void **out, rc_tower_shape *shape, const void *config, rc_params *p)
{
    const rc_cnn14_config *c = config;
    *out = NULL;
    RC_TRY(check_config(c));
    rc_cnn14 *t = calloc(1, sizeof *t);
    if (t == NULL) return rc_fail(RC_ENOMEM, "out of memory: audio tower");
    t->config = *c;
    t->bn = rc_declare_batch_norm(p, c->mels, BRANCH, "bn0");
    int64_t channels = 1;
    for (int64_t i = 0; i < 2 * c->blocks; i++) {
        t->layer[i].c = channels;
        t->layer[i].n = channels = c->widths[i / 2];
        declare_layer(&t->layer[i], p, i / 2, i % 2);
    }
    t->fc = rc_declare_linear(p, channels, channels, true, BRANCH, "fc1");
    *shape =
        (rc_tower_shape){.mels = c->mels,
                         .views = 1,
                         .channels = 1,
                         .least = (int64_t)1 << (c->blocks - 1), /* every pooling halves them */
                         .most = MOST_FRAMES,
                         .width = rc_cnn14_width(t)};
    *out = t;
    return RC_OK;
}

/* ---- Plan and call --------------------------------------------------------------------------- */

/* One convolution: rows of y, whose chunks are as many pixels of x; scale and shift of its norm are
 * in scratch. */
typedef struct {
    int64_t frames, mels; /* of x */
    int64_t pool;         /* pixels a side that become one */
    rc_grid grid;
    rc_linear linear;
    int64_t scale, shift;
    rc_shares worker;
} conv_plan;

typedef struct {
    const rc_cnn14 *t;
    const rc_params *p;
    int64_t b, frames;
    rc_cnn14_train *train; /* what works instead in training, or NULL */
    int64_t in, mid;       /* what enters a block, what lies between its convolutions */
    conv_plan layer[2 * RC_STAGES_MAX];
    int64_t last_frames, last_mels; /* of the last block's output */
    rc_grid clips;
    rc_linear fc;
    rc_shares worker;
} cnn14_plan;

typedef struct {
    const cnn14_plan *k;
    const rc_run *run;
    int64_t layer; /* under way */
    const float *x;
    float *y;
} cnn14_call;

static const float *value(const cnn14_call *job, int64_t index)
{
    return job->k->p->item[index].x;
}

static void normalise_clip(void *arg, int64_t clip, int worker)
{
    (void)worker;
    const cnn14_call *job = arg;
    const rc_cnn14 *t = job->k->t;
    int64_t frames = job->k->frames, mels = t->config.mels, at = clip * frames * mels;
    rc_batchnorm_forward(job->y + at, job->x + at, value(job, t->bn.mean), value(job, t->bn.var),
                         value(job, t->bn.scale.w), value(job, t->bn.scale.b), frames, mels,
                         (float)t->config.eps);
}

/* ---- Convolution ----------------------------------------------------------------------------- */

/* A batch norm on its running statistics is a line: x scale + shift. */
static void fold_norm(const cnn14_call *job)
{
    const rc_cnn14_layer *l = &job->k->t->layer[job->layer];
    const conv_plan *k = &job->k->layer[job->layer];
    float *by = job->run->scratch + k->scale, *plus = job->run->scratch + k->shift;
    const float *mean = value(job, l->norm.mean), *var = value(job, l->norm.var);
    const float *w = value(job, l->norm.scale.w), *b = value(job, l->norm.scale.b);
    for (int64_t j = 0; j < l->n; j++) {
        double scale = w[j] / sqrt((double)var[j] + job->k->t->config.eps);
        by[j] = (float)scale;
        plus[j] = (float)(b[j] - mean[j] * scale);
    }
}

RC_CLONES
static void norm_relu(float *x, const float *scale, const float *shift, int64_t n, int64_t c)
{
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < c; j++) {
            float v = x[i * c + j] * scale[j] + shift[j];
            x[i * c + j] = rc_positive(v, v);
        }
}

/* Neighbourhoods, product, norm, ReLU and pooling of some rows of y. */
static void conv_chunk(void *arg, int64_t first, int64_t rows, rc_crew crew)
{
    const cnn14_call *job = arg;
    const rc_cnn14_layer *l = &job->k->t->layer[job->layer];
    const conv_plan *k = &job->k->layer[job->layer];
    int64_t mels = k->mels, pool = k->pool, per_clip = k->frames / pool;
    int64_t out = mels / pool * l->n; /* floats of a row of y */
    float *around = rc_share_of(job->run, k->worker, crew.worker);
    float *full = around + k->grid.rows * pool * mels * RC_TAPS * l->c, *y = job->y + first * out;
    if (pool == 1) full = y;
    for (int64_t i = 0; i < rows * pool; i++) {
        int64_t row = first + i / pool, clip = row / per_clip;
        rc_neighbourhoods(around + i * mels * RC_TAPS * l->c,
                          job->x + clip * k->frames * mels * l->c, row % per_clip * pool + i % pool,
                          k->frames, mels, l->c);
    }
    rc_linear_run(&k->linear, crew, full, rc_floats(around), rows * pool * mels);
    norm_relu(full, job->run->scratch + k->scale, job->run->scratch + k->shift, rows * pool * mels,
              l->n);
    for (int64_t i = 0; pool > 1 && i < rows; i++)
        rc_halve_rows(y + i * out, full + i * pool * mels * l->n, mels, l->n);
}

/* y = pool(relu(norm(conv(x)))). */
static void convolve(cnn14_call *job, int64_t layer, float *y, const float *x)
{
    job->layer = layer;
    job->x = x;
    job->y = y;
    fold_norm(job);
    rc_grid_run(&job->k->layer[layer].grid, job->run->pool, conv_chunk, job);
}

static rc_status plan_conv(cnn14_plan *k, rc_plan *plan, int64_t layer)
{
    const rc_cnn14_layer *l = &k->t->layer[layer];
    conv_plan *c = &k->layer[layer];
    int64_t unit = c->pool * c->mels; /* pixels of x behind a row of y */
    int64_t total = k->b * (c->frames / c->pool);
    int64_t rows = rc_convolution_rows(total, unit);
    rc_grid pixels = rc_grid_rows(total * unit, rows * unit);
    int64_t mark = rc_plan_mark(plan);
    c->grid = rc_grid_rows(total, rows);
    c->scale = rc_plan_take(plan, l->n);
    c->shift = rc_plan_take(plan, l->n);
    c->worker = rc_plan_shares(plan, rc_plan_threads(plan),
                               rows * unit * (RC_TAPS * l->c + (c->pool > 1 ? l->n : 0)));
    rc_plan_back(plan, mark);
    return rc_linear_plan(&c->linear, plan, k->p, l->conv, &pixels, false);
}

/* ---- Embedding ------------------------------------------------------------------------------- */

static void embed_chunk(void *arg, int64_t first, int64_t rows, rc_crew crew)
{
    const cnn14_call *job = arg;
    const cnn14_plan *k = job->k;
    int64_t c = rc_cnn14_width(k->t), size = k->last_frames * k->last_mels * c;
    float *pooled = rc_share_of(job->run, k->worker, crew.worker),
          *sum = pooled + k->clips.rows * c;
    for (int64_t i = 0; i < rows; i++)
        rc_peak_mean_forward(pooled + i * c, sum, job->x + (first + i) * size, k->last_frames,
                             k->last_mels, c);
    rc_linear_run(&k->fc, crew, job->y + first * c, rc_floats(pooled), rows);
    rc_relu_forward(job->y + first * c, job->y + first * c, rows * c);
}

static rc_status plan_embedding(cnn14_plan *k, rc_plan *plan)
{
    k->clips = rc_grid_rows(k->b, rc_min(RC_CNN14_CLIPS, k->b));
    k->worker =
        rc_plan_shares(plan, rc_plan_threads(plan), (k->clips.rows + 1) * rc_cnn14_width(k->t));
    return rc_linear_plan(&k->fc, plan, k->p, k->t->fc, &k->clips, false);
}

/* ---- The whole tower ------------------------------------------------------------------------- */

/* Sizes of all layers; what enters a block, and what lies between its convolutions. */
static void plan_streams(cnn14_plan *k, rc_plan *plan)
{
    const rc_cnn14_config *c = &k->t->config;
    int64_t frames = k->frames, mels = c->mels, most_in = frames * mels, most_mid = 0;
    for (int64_t i = 0; i < c->blocks; i++) {
        int64_t pool = i + 1 < c->blocks ? 2 : 1;
        k->layer[2 * i] = (conv_plan){.frames = frames, .mels = mels, .pool = 1};
        k->layer[2 * i + 1] = (conv_plan){.frames = frames, .mels = mels, .pool = pool};
        most_mid = rc_max(most_mid, frames * mels * c->widths[i]);
        frames /= pool, mels /= pool;
        most_in = rc_max(most_in, frames * mels * c->widths[i]);
    }
    k->last_frames = frames;
    k->last_mels = mels;
    k->in = rc_plan_take(plan, k->b * most_in);
    k->mid = rc_plan_take(plan, k->b * most_mid);
}

static rc_status make_plan(void **body, rc_plan *plan, const void *tower, const rc_params *p,
                           const rc_input_size *size, bool train)
{
    const rc_cnn14 *t = tower;
    RC_TRY(rc_plan_alloc(plan, body, sizeof(cnn14_plan)));
    cnn14_plan *k = *body;
    *k = (cnn14_plan){.t = t, .p = p, .b = size->b, .frames = size->rows};
    if (train) return rc_cnn14_train_plan(&k->train, plan, t, p, size);
    plan_streams(k, plan);
    for (int64_t i = 0; i < 2 * t->config.blocks; i++) RC_TRY(plan_conv(k, plan, i));
    return plan_embedding(k, plan);
}

static void forward(const void *body, const rc_run *run, const rc_features *out, const rc_input *in)
{
    const cnn14_plan *k = body;
    float *x = run->scratch + k->in, *mid = run->scratch + k->mid;
    cnn14_call job = {.k = k, .run = run, .x = in->x, .y = x};
    if (k->train != NULL) {
        rc_cnn14_train_forward(k->train, run, out->y, in);
        return;
    }
    rc_parallel(run->pool, k->b, normalise_clip, &job);
    for (int64_t i = 0; i < k->t->config.blocks; i++) {
        convolve(&job, 2 * i, mid, x);
        convolve(&job, 2 * i + 1, x, mid);
    }
    job.x = x;
    job.y = out->y;
    rc_grid_run(&k->clips, run->pool, embed_chunk, &job);
}

static void backward(const void *body, const rc_run *run, const float *dy, const rc_input *in)
{
    const cnn14_plan *k = body;
    rc_cnn14_train_backward(k->train, run, dy, in);
}

static void commit(const void *body, const rc_run *run)
{
    const cnn14_plan *k = body;
    rc_cnn14_train_commit(k->train, run);
}

static void moments(const void *tower, rc_pool *pool, rc_moments *m, const rc_input *in)
{
    const rc_cnn14 *t = tower;
    rc_input_moments(pool, m, in, 1, t->config.mels);
}

static const rc_setting SETTINGS[] = {
    RC_SETTING(rc_cnn14_config, INT, mels),
    RC_SETTING_OF(rc_cnn14_config, widths, blocks),
    RC_SETTING(rc_cnn14_config, DOUBLE, dropout),
    RC_SETTING(rc_cnn14_config, DOUBLE, fc_dropout),
    RC_SETTING(rc_cnn14_config, DOUBLE, bn_momentum),
    RC_SETTING(rc_cnn14_config, DOUBLE, eps),
    {NULL, RC_SETTING_INT, 0, 0},
};

const rc_tower_kind rc_cnn14_kind = {
    .name = "Cnn14",
    .config_size = sizeof(rc_cnn14_config),
    .settings = SETTINGS,
    .declare = open_tower,
    .free = free,
    .measure = rc_measure_log_mels,
    .plan = make_plan,
    .forward = forward,
    .backward = backward,
    .commit = commit,
    .moments = moments,
};
