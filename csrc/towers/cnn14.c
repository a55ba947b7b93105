/* The audio tower Cnn14 (Kong et al. 2020, arXiv 1912.10211), forward only.
 * Mathematics: qiuqiangkong/audioset_tagging_cnn pytorch/models.py, class Cnn14, which MS-CLAP
 * (msclap/models/audio.py) and LAION-CLAP (clap_module/pann_model.py) took over.
 *
 * Activations are (clips, frames, mels, channels), so that the neighbourhood of a pixel is three
 * runs of 3 c numbers and a convolution is a product of neighbourhoods with weights (n, 3, 3, c).
 * Chunks of rows of pixels go through neighbourhoods, product, norm, ReLU and pooling while they
 * are warm in the cache. */
#include "towers/cnn14.h"

#include "base/vector.h"
#include "kernels/act.h"
#include "kernels/norm.h"
#include "layers/linear.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TAPS = 9, EMBED_CLIPS = 8 };

/* Pixels of a chunk: fewer would wait for the kernels, 150 MB in the last layer, to come from
 * memory. */
enum { LEAST = 32 };

/* One convolution, c -> n channels, and its norm. */
typedef struct {
    int64_t c, n;
    rc_pair conv;
    rc_batch_norm norm;
} conv_layer;

typedef struct {
    rc_cnn14_config config;
    rc_batch_norm bn;
    conv_layer layer[2 * RC_STAGES_MAX];
    rc_pair fc;
} rc_cnn14;

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
    return rc_check_eps("audio.eps", c->eps);
}

static void declare_layer(conv_layer *l, rc_params *p, int64_t block, int64_t number)
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

static int64_t width_of(const rc_cnn14 *t)
{
    return t->config.widths[t->config.blocks - 1];
}

static rc_status open_tower(void **out, rc_audio_shape *shape, const void *config, rc_params *p)
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
        (rc_audio_shape){.mels = c->mels,
                         .views = 1,
                         .least = (int64_t)1 << (c->blocks - 1), /* every pooling halves them */
                         .most = MOST_FRAMES,
                         .width = width_of(t)};
    *out = t;
    return RC_OK;
}

/* ---- One call -------------------------------------------------------------------------------- */

/* It runs twice: with a counting arena nothing is computed. */
typedef struct {
    const rc_cnn14 *t;
    const rc_params *p;
    rc_dnn *dnn;
    rc_arena *arena;
    int64_t b, high, wide; /* clips; frames and mels of x */
    /* the step under way */
    rc_linear linear;
    const conv_layer *layer;
    float *scale, *shift; /* what its norm does to a channel */
    int64_t pool;         /* pixels a side that become one */
    int64_t total, rows;  /* rows of y of all clips together, and of a chunk */
    const float *x;
    float *y;
    float *scratch; /* per worker */
    int64_t scratch_size;
} cnn14_call;

static const float *value(const cnn14_call *job, int64_t index)
{
    return job->p->item[index].x;
}

static void take_scratch(cnn14_call *job, int64_t floats)
{
    job->scratch_size = (floats + 15) / 16 * 16;
    job->scratch = rc_take(job->arena, rc_dnn_threads(job->dnn) * job->scratch_size);
}

static void run_chunks(cnn14_call *job, rc_task *task)
{
    rc_parallel(rc_dnn_pool(job->dnn), (job->total + job->rows - 1) / job->rows, task, job);
}

static void normalise_clip(void *arg, int64_t clip, int worker)
{
    (void)worker;
    const cnn14_call *job = arg;
    const rc_batch_norm *bn = &job->t->bn;
    int64_t at = clip * job->high * job->wide;
    rc_batchnorm_forward(job->y + at, job->x + at, value(job, bn->mean), value(job, bn->var),
                         value(job, bn->scale.w), value(job, bn->scale.b), job->high, job->wide,
                         (float)job->t->config.eps);
}

/* ---- Convolution ----------------------------------------------------------------------------- */

/* Columns x - 1 to x + 1 of one row of pixels for every x, TAPS c numbers apart; 0 outside. */
static void gather_row(float *y, const float *row, int64_t wide, int64_t c)
{
    for (int64_t x = 0; x < wide; x++, y += TAPS * c) {
        int64_t first = rc_max(x - 1, 0), last = rc_min(x + 1, wide - 1), left = first - (x - 1);
        if (left > 0) memset(y, 0, (size_t)c * sizeof *y);
        memcpy(y + left * c, row + first * c, (size_t)((last - first + 1) * c) * sizeof *y);
        if (last == x) memset(y + 2 * c, 0, (size_t)c * sizeof *y);
    }
}

/* The neighbourhoods of one row of pixels of a clip: (wide, 3, 3, c). */
static void neighbourhoods(float *y, const float *clip, int64_t row, int64_t high, int64_t wide,
                           int64_t c)
{
    for (int64_t k = 0; k < 3; k++) {
        int64_t from = row + k - 1;
        if (from >= 0 && from < high)
            gather_row(y + k * 3 * c, clip + from * wide * c, wide, c);
        else
            for (int64_t x = 0; x < wide; x++)
                memset(y + (x * TAPS + k * 3) * c, 0, (size_t)(3 * c) * sizeof *y);
    }
}

/* A batch norm on its running statistics is a line: x scale + shift. */
static void fold_norm(const cnn14_call *job)
{
    const rc_batch_norm *norm = &job->layer->norm;
    const float *mean = value(job, norm->mean), *var = value(job, norm->var);
    const float *w = value(job, norm->scale.w), *b = value(job, norm->scale.b);
    for (int64_t j = 0; j < job->layer->n; j++) {
        double scale = w[j] / sqrt((double)var[j] + job->t->config.eps);
        job->scale[j] = (float)scale;
        job->shift[j] = (float)(b[j] - mean[j] * scale);
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

/* Two rows of pixels to one of half the width; the last of an odd number is left out. */
RC_CLONES
static void pool_rows(float *y, const float *x, int64_t wide, int64_t c)
{
    const float *below = x + wide * c;
    for (int64_t i = 0; i < wide / 2; i++)
        for (int64_t j = 0; j < c; j++) {
            int64_t left = 2 * i * c + j, right = left + c;
            y[i * c + j] = ((x[left] + x[right]) + (below[left] + below[right])) / 4;
        }
}

static void conv_chunk(void *arg, int64_t index, int worker)
{
    const cnn14_call *job = arg;
    const conv_layer *l = job->layer;
    int64_t wide = job->wide, pool = job->pool, per_clip = job->high / pool;
    int64_t first = index * job->rows, rows = rc_min(job->rows, job->total - first);
    int64_t out = wide / pool * l->n; /* floats of a row of y */
    float *near = job->scratch + worker * job->scratch_size;
    float *full = near + job->rows * pool * wide * TAPS * l->c, *y = job->y + first * out;
    if (pool == 1) full = y;
    for (int64_t i = 0; i < rows * pool; i++) {
        int64_t row = first + i / pool, clip = row / per_clip;
        neighbourhoods(near + i * wide * TAPS * l->c, job->x + clip * job->high * wide * l->c,
                       row % per_clip * pool + i % pool, job->high, wide, l->c);
    }
    rc_linear_run(&job->linear, rc_alone(worker), full, rc_floats(near), rows * pool * wide);
    norm_relu(full, job->scale, job->shift, rows * pool * wide, l->n);
    for (int64_t i = 0; pool > 1 && i < rows; i++)
        pool_rows(y + i * out, full + i * pool * wide * l->n, wide, l->n);
}

/* y = pool(relu(norm(conv(x)))). */
static rc_status convolve(cnn14_call *job, const conv_layer *layer, float *y, const float *x,
                          int64_t pool)
{
    int64_t used = job->arena->used, unit = pool * job->wide; /* pixels of x behind a row of y */
    job->layer = layer;
    job->pool = pool;
    job->total = job->b * (job->high / pool);
    job->rows = rc_max(rc_chunk_rows(job->total * unit, unit), LEAST) / unit;
    job->scale = rc_take(job->arena, layer->n);
    job->shift = rc_take(job->arena, layer->n);
    take_scratch(job, job->rows * unit * (TAPS * layer->c + (pool > 1 ? layer->n : 0)));
    if (job->arena->base != NULL) {
        rc_grid pixels = rc_grid_rows(job->total * unit, job->rows * unit);
        RC_TRY(rc_linear_get(&job->linear, job->dnn, job->p, layer->conv, &pixels, false));
        fold_norm(job);
        job->x = x;
        job->y = y;
        run_chunks(job, conv_chunk);
    }
    job->arena->used = used;
    return RC_OK;
}

/* ---- Embedding ------------------------------------------------------------------------------- */

/* y (c): of the means over mels, the largest plus the mean over time. */
RC_CLONES
static void pool_picture(float *y, float *sum, const float *x, int64_t high, int64_t wide,
                         int64_t c)
{
    for (int64_t j = 0; j < c; j++) {
        y[j] = -INFINITY;
        sum[j] = 0;
    }
    for (int64_t i = 0; i < high; i++, x += wide * c)
        for (int64_t j = 0; j < c; j++) {
            float row = 0;
            for (int64_t k = 0; k < wide; k++) row += x[k * c + j];
            row /= (float)wide;
            y[j] = y[j] > row ? y[j] : row;
            sum[j] += row;
        }
    for (int64_t j = 0; j < c; j++) y[j] += sum[j] / (float)high;
}

static void embed_chunk(void *arg, int64_t index, int worker)
{
    const cnn14_call *job = arg;
    int64_t c = width_of(job->t), size = job->high * job->wide * c;
    int64_t first = index * job->rows, rows = rc_min(job->rows, job->total - first);
    float *pooled = job->scratch + worker * job->scratch_size, *sum = pooled + job->rows * c;
    for (int64_t i = 0; i < rows; i++)
        pool_picture(pooled + i * c, sum, job->x + (first + i) * size, job->high, job->wide, c);
    rc_linear_run(&job->linear, rc_alone(worker), job->y + first * c, rc_floats(pooled), rows);
    rc_relu_forward(job->y + first * c, job->y + first * c, rows * c);
}

static rc_status embed(cnn14_call *job, float *y, const float *x)
{
    int64_t used = job->arena->used;
    job->total = job->b;
    job->rows = rc_min(EMBED_CLIPS, job->b);
    take_scratch(job, (job->rows + 1) * width_of(job->t));
    if (job->arena->base != NULL) {
        rc_grid clips = rc_grid_rows(job->total, job->rows);
        RC_TRY(rc_linear_get(&job->linear, job->dnn, job->p, job->t->fc, &clips, false));
        job->x = x;
        job->y = y;
        run_chunks(job, embed_chunk);
    }
    job->arena->used = used;
    return RC_OK;
}

/* ---- The whole tower ------------------------------------------------------------------------- */

/* Room for what enters a block, and for what lies between its convolutions. */
static void take_streams(cnn14_call *job, float **in, float **mid)
{
    const rc_cnn14_config *c = &job->t->config;
    int64_t high = job->high, wide = job->wide, most_in = high * wide, most_mid = 0;
    for (int64_t i = 0; i < c->blocks; i++) {
        most_mid = rc_max(most_mid, high * wide * c->widths[i]);
        if (i + 1 < c->blocks) high /= 2, wide /= 2;
        most_in = rc_max(most_in, high * wide * c->widths[i]);
    }
    *in = rc_take(job->arena, job->b * most_in);
    *mid = rc_take(job->arena, job->b * most_mid);
}

static rc_status pass_forward(cnn14_call *job, float *y, const float *mel)
{
    const rc_cnn14 *t = job->t;
    float *in, *mid;
    take_streams(job, &in, &mid);
    if (job->arena->base != NULL) {
        job->x = mel;
        job->y = in;
        rc_parallel(rc_dnn_pool(job->dnn), job->b, normalise_clip, job);
    }
    for (int64_t i = 0; i < t->config.blocks; i++) {
        int64_t pool = i + 1 < t->config.blocks ? 2 : 1;
        RC_TRY(convolve(job, &t->layer[2 * i], mid, in, 1));
        RC_TRY(convolve(job, &t->layer[2 * i + 1], in, mid, pool));
        job->high /= pool;
        job->wide /= pool;
    }
    return embed(job, y, in);
}

static rc_status forward(const void *tower, const rc_params *p, rc_context *c, float *y,
                         const rc_log_mels *in, void *tape, rc_draw draw)
{
    (void)tape;
    (void)draw;
    const rc_cnn14 *t = tower;
    rc_arena counting = {0};
    cnn14_call job = {.t = t, .p = p, .dnn = c->dnn, .arena = &counting};
    for (int i = 0; i < 2; i++) {
        job.b = in->b;
        job.high = in->frames;
        job.wide = t->config.mels;
        RC_TRY(pass_forward(&job, y, in->x));
        if (i > 0) break;
        RC_TRY(rc_arena_reserve(&c->shared, counting.peak));
        job.arena = &c->shared;
    }
    return RC_OK;
}

static const rc_setting SETTINGS[] = {
    RC_SETTING(rc_cnn14_config, INT, mels),
    RC_SETTING_OF(rc_cnn14_config, widths, blocks),
    RC_SETTING(rc_cnn14_config, DOUBLE, eps),
    {NULL, RC_SETTING_INT, 0, 0},
};

const rc_audio_kind rc_cnn14_kind = {
    .name = "Cnn14",
    .config_size = sizeof(rc_cnn14_config),
    .settings = SETTINGS,
    .declare = open_tower,
    .free = free,
    .forward = forward,
};
