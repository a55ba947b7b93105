/* A plain vision transformer over patches of log-mels, both ways. */
#include "towers/vit.h"

#include "kernels/embed.h"
#include "layers/block.h"
#include "layers/norms.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SITE_BLOCKS = 16 };

typedef struct {
    rc_vit_config config;
    rc_pair patch, norm;
    int64_t cls, positions;
    rc_block *block;
} vit;

/* ---- Configuration and parameters ------------------------------------------------------------ */

static rc_status check_config(const rc_vit_config *c)
{
    RC_TRY(rc_check_range("audio.mels", c->mels, 1, 1024));
    RC_TRY(rc_check_range("audio.channels", c->channels, 1, 16));
    RC_TRY(rc_check_range("audio.patch_time", c->patch_time, 1, 1024));
    RC_TRY(rc_check_range("audio.patch_mel", c->patch_mel, 1, c->mels));
    RC_TRY(rc_check_range("audio.frames", c->frames, c->patch_time, 1 << 16));
    RC_TRY(rc_check_range("audio.width", c->width, 1, 8192));
    RC_TRY(rc_check_range("audio.depth", c->depth, 1, 64));
    RC_TRY(rc_check_range("audio.heads", c->heads, 1, c->width));
    RC_TRY(rc_check_range("audio.mlp", c->mlp, 1, 1 << 16));
    RC_TRY(rc_check_range("audio.activation", c->activation, 0, RC_ACTS - 1));
    RC_TRY(rc_check_range("audio.pool", c->pool, RC_VIT_CLS, RC_VIT_MEAN));
    if (c->width % c->heads != 0)
        return rc_fail(RC_EINVAL, "audio.heads: %lld does not divide the width %lld",
                       (long long)c->heads, (long long)c->width);
    if (!(c->drop_path >= 0 && c->drop_path < 1) || !(c->dropout >= 0 && c->dropout < 1))
        return rc_fail(RC_EINVAL, "audio: drop_path %g and dropout %g must lie in [0, 1)",
                       c->drop_path, c->dropout);
    return rc_check_eps("audio.eps", c->eps);
}

/* Patches of a log-mel of so many frames; what is left over is not looked at. */
static int64_t patches_of(const rc_vit_config *c, int64_t frames)
{
    return frames / c->patch_time * (c->mels / c->patch_mel);
}

static int64_t area_of(const rc_vit_config *c)
{
    return c->channels * c->patch_time * c->patch_mel;
}

#define BRANCH "audio_branch."

static void declare_block(vit *t, rc_params *p, int64_t i)
{
    const rc_vit_config *c = &t->config;
    rc_block *b = &t->block[i];
    char at[RC_NAME_MAX];
    double share = c->depth > 1 ? (double)i / (double)(c->depth - 1) : 0;
    snprintf(at, sizeof at, BRANCH "blocks.%d.", (int)i);
    *b = (rc_block){.c = c->width,
                    .heads = c->heads,
                    .d = c->width / c->heads,
                    .mlp = c->mlp,
                    .eps = (float)c->eps,
                    .scale = 1 / sqrtf((float)(c->width / c->heads)),
                    .act = rc_act_of(c->activation),
                    .drop_path = (float)(c->drop_path * share),
                    .dropout = (float)c->dropout,
                    .site = (uint64_t)(SITE_BLOCKS + 4 * i)};
    rc_block_declare(b, p, at, true);
}

static void free_tower(void *tower)
{
    vit *t = tower;
    if (t == NULL) return;
    free(t->block);
    free(t);
}

static rc_status new_tower(void **out, rc_tower_shape *shape, const void *config, rc_params *p)
{
    const rc_vit_config *c = config;
    *out = NULL;
    RC_TRY(check_config(c));
    vit *t = calloc(1, sizeof *t);
    if (t != NULL) t->block = calloc((size_t)c->depth, sizeof *t->block);
    if (t == NULL || t->block == NULL) {
        free_tower(t);
        return rc_fail(RC_ENOMEM, "out of memory: audio tower");
    }
    t->config = *c;
    int64_t kernel[4] = {c->width, c->channels, c->patch_time, c->patch_mel};
    int64_t table[2] = {1 + patches_of(c, c->frames), c->width};
    t->cls = rc_params_add(p, RC_BIAS, 1, &c->width, BRANCH "cls_token");
    t->positions = rc_params_add(p, RC_BIAS, 2, table, BRANCH "pos_embed");
    t->patch.w = rc_params_add(p, RC_WEIGHT, 4, kernel, BRANCH "patch_embed.proj.weight");
    rc_param_packs(p, t->patch.w, RC_PACK_F32);
    t->patch.b = rc_params_add(p, RC_BIAS, 1, &c->width, BRANCH "patch_embed.proj.bias");
    for (int64_t i = 0; i < c->depth; i++) declare_block(t, p, i);
    t->norm = rc_declare_norm(p, c->width, BRANCH, "norm");
    *shape = (rc_tower_shape){.mels = c->mels,
                              .views = 1,
                              .channels = c->channels,
                              .least = c->patch_time,
                              .most = c->frames,
                              .width = c->width};
    *out = t;
    return p->status;
}

/* ---- Plan: numbers without another word are offsets in scratch ------------------------------- */

typedef struct {
    const vit *t;
    const rc_params *p;
    int64_t b, frames, patches; /* patches of a clip, which has a row more */
    bool train;
    rc_block_plan **block;
    rc_linear patch;
    rc_linear_back back;
    rc_shares worker;         /* patches of a clip; or its normed rows */
    int64_t x, pixels;        /* the stream; kept for backward: all patches, */
    int64_t last, mean, rstd; /* the input of the final norm and its statistics */
    int64_t da, dpatches;
} vit_plan;

static int64_t rows_of(const vit_plan *k)
{
    return k->b * (1 + k->patches);
}

/* What backward reads comes before the blocks' scratch, which may be taken again. */
static void take_scratch(vit_plan *k, rc_plan *plan)
{
    const rc_vit_config *c = &k->t->config;
    int64_t rows = rows_of(k), area = area_of(c);
    k->worker = rc_plan_shares(plan, rc_plan_threads(plan),
                               rc_max(k->patches * area, (1 + k->patches) * c->width));
    k->x = rc_plan_take(plan, rows * c->width);
    if (!k->train) return;
    k->pixels = rc_plan_take(plan, k->b * k->patches * area);
    k->last = rc_plan_take(plan, rows * c->width);
    k->mean = rc_plan_take(plan, rows);
    k->rstd = rc_plan_take(plan, rows);
    k->da = rc_plan_take(plan, rows * c->width);
    k->dpatches = rc_plan_take(plan, k->b * k->patches * c->width);
}

static rc_status make_plan(void **body, rc_plan *plan, const void *tower, const rc_params *p,
                           const rc_input_size *size, bool train)
{
    const vit *t = tower;
    RC_TRY(rc_plan_alloc(plan, body, sizeof(vit_plan)));
    vit_plan *k = *body;
    *k = (vit_plan){.t = t, .p = p, .b = size->b, .frames = size->rows, .train = train};
    k->patches = patches_of(&t->config, k->frames);
    RC_TRY(rc_plan_alloc(plan, (void **)&k->block, t->config.depth * (int64_t)sizeof *k->block));
    take_scratch(k, plan);
    rc_block_rows rows = rc_block_equal(t->block, p, k->b, 1 + k->patches, train);
    for (int64_t i = 0; i < t->config.depth; i++)
        RC_TRY(rc_block_plan_make(&k->block[i], plan, &t->block[i], p, &rows, train));
    rc_grid clip = rc_grid_rows(k->patches, k->patches);
    rc_grid clips = rc_grid_rows(k->b * k->patches, k->patches);
    RC_TRY(rc_linear_plan(&k->patch, plan, p, t->patch, &clip, false));
    return train ? rc_linear_back_plan(&k->back, plan, p, t->patch, &clips) : RC_OK;
}

/* ---- A call ---------------------------------------------------------------------------------- */

typedef struct {
    const vit_plan *k;
    const rc_run *run;
    const rc_input *in;
    const rc_features *out;
    const float *dy;
} vit_call;

static const float *value(const vit_call *job, int64_t index)
{
    return job->k->p->item[index].x;
}

static float *at(const vit_call *job, int64_t offset)
{
    return job->run->scratch + offset;
}

/* Rows of mels of each channel and frame of a patch, one after the other. */
static void cut_patches(const vit_call *job, float *pixels, const float *mel)
{
    const rc_vit_config *c = &job->k->t->config;
    int64_t across = c->mels / c->patch_mel;
    for (int64_t i = 0; i < job->k->patches; i++)
        for (int64_t j = 0; j < c->channels * c->patch_time; j++, pixels += c->patch_mel) {
            int64_t channel = j / c->patch_time, frame = i / across * c->patch_time;
            int64_t row = channel * job->k->frames + frame + j % c->patch_time;
            memcpy(pixels, mel + row * c->mels + i % across * c->patch_mel,
                   (size_t)c->patch_mel * sizeof *mel);
        }
}

static void input_clip(void *arg, int64_t clip, int worker)
{
    const vit_call *job = arg;
    const vit_plan *k = job->k;
    const rc_vit_config *c = &k->t->config;
    int64_t n = k->patches, w = c->width;
    float *x = at(job, k->x) + clip * (1 + n) * w;
    float *pixels = k->train ? at(job, k->pixels) + clip * n * area_of(c)
                             : rc_share_of(job->run, k->worker, worker);
    cut_patches(job, pixels, job->in->x + clip * c->channels * k->frames * c->mels);
    memcpy(x, value(job, k->t->cls), (size_t)w * sizeof *x);
    rc_linear_run(&k->patch, rc_alone(worker), x + w, rc_floats(pixels), n);
    rc_add(x, value(job, k->t->positions), (1 + n) * w);
}

/* The final norm, and what stands for a clip: the CLS token, or the mean of its patches. */
static void pool_clip(void *arg, int64_t clip, int worker)
{
    const vit_call *job = arg;
    const vit_plan *k = job->k;
    const rc_vit_config *c = &k->t->config;
    int64_t n = k->patches, w = c->width, row = clip * (1 + n);
    float *a = rc_share_of(job->run, k->worker, worker), *y = job->out->y + clip * w;
    rc_norm_forward(k->p, k->t->norm, (float)c->eps, a, k->train ? at(job, k->mean) + row : NULL,
                    k->train ? at(job, k->rstd) + row : NULL, at(job, k->x) + row * w, 1 + n);
    if (c->pool == RC_VIT_CLS)
        memcpy(y, a, (size_t)w * sizeof *y);
    else
        rc_meanpool_forward(y, a + w, n, w);
    if (job->out->tokens != NULL)
        memcpy(job->out->tokens + clip * n * w, a + w, (size_t)(n * w) * sizeof *a);
}

static void forward(const void *body, const rc_run *run, const rc_features *out, const rc_input *in)
{
    const vit_plan *k = body;
    vit_call job = {.k = k, .run = run, .in = in, .out = out};
    float *x = at(&job, k->x);
    rc_parallel(run->pool, k->b, input_clip, &job);
    for (int64_t i = 0; i < k->t->config.depth; i++) rc_block_forward(k->block[i], run, x, x, NULL);
    if (k->train)
        memcpy(at(&job, k->last), x, (size_t)(rows_of(k) * k->t->config.width) * sizeof *x);
    rc_parallel(run->pool, k->b, pool_clip, &job);
}

/* ---- Backward -------------------------------------------------------------------------------- */

static void pool_clip_backward(void *arg, int64_t clip, int worker)
{
    (void)worker;
    const vit_call *job = arg;
    const vit_plan *k = job->k;
    int64_t n = k->patches, w = k->t->config.width, row = clip * (1 + n);
    const float *dy = job->dy + clip * w;
    float *da = at(job, k->da) + row * w;
    memset(da, 0, (size_t)((1 + n) * w) * sizeof *da);
    if (k->t->config.pool == RC_VIT_CLS)
        memcpy(da, dy, (size_t)w * sizeof *da);
    else
        rc_meanpool_backward(da + w, dy, n, w);
    rc_norm_backward(k->p, k->t->norm, at(job, k->x) + row * w, da, at(job, k->last) + row * w,
                     at(job, k->mean) + row, at(job, k->rstd) + row, 1 + n);
}

/* A row of the table of positions receives from all clips, in order; so does the CLS token. */
static void position_gradient(void *arg, int64_t row, int worker)
{
    (void)worker;
    const vit_call *job = arg;
    const vit_plan *k = job->k;
    int64_t w = k->t->config.width;
    rc_param *item = k->p->item;
    for (int64_t clip = 0; clip < k->b; clip++) {
        const float *dx = at(job, k->x) + (clip * (1 + k->patches) + row) * w;
        if (item[k->t->positions].dx != NULL) rc_add(item[k->t->positions].dx + row * w, dx, w);
        if (row == 0 && item[k->t->cls].dx != NULL) rc_add(item[k->t->cls].dx, dx, w);
    }
}

static void backward(const void *body, const rc_run *run, const float *dy, const rc_input *in)
{
    const vit_plan *k = body;
    vit_call job = {.k = k, .run = run, .in = in, .dy = dy};
    int64_t n = k->patches, w = k->t->config.width;
    float *dx = at(&job, k->x), *dpatches = at(&job, k->dpatches);
    rc_parallel(run->pool, k->b, pool_clip_backward, &job);
    rc_norm_backward_weight(run->pool, k->p, k->t->norm, at(&job, k->da), at(&job, k->last),
                            at(&job, k->mean), at(&job, k->rstd), rows_of(k));
    for (int64_t i = k->t->config.depth - 1; i >= 0; i--)
        rc_block_backward(k->block[i], run, dx, dx, NULL);
    rc_parallel(run->pool, 1 + n, position_gradient, &job);
    for (int64_t clip = 0; clip < k->b; clip++)
        memcpy(dpatches + clip * n * w, dx + (clip * (1 + n) + 1) * w,
               (size_t)(n * w) * sizeof *dx);
    rc_linear_back_weight(&k->back, run->pool, dpatches, at(&job, k->pixels));
}

static int64_t tokens(const void *tower, int64_t frames)
{
    return patches_of(&((const vit *)tower)->config, frames);
}

/* ---- Its row --------------------------------------------------------------------------------- */

#define SETTING(kind, field) RC_SETTING(rc_vit_config, kind, field)

static const rc_setting SETTINGS[] = {
    SETTING(INT, mels),       SETTING(INT, channels),  SETTING(INT, frames),
    SETTING(INT, patch_time), SETTING(INT, patch_mel), SETTING(INT, width),
    SETTING(INT, depth),      SETTING(INT, heads),     SETTING(INT, mlp),
    SETTING(INT, activation), SETTING(INT, pool),      SETTING(DOUBLE, drop_path),
    SETTING(DOUBLE, dropout), SETTING(DOUBLE, eps),    {NULL, RC_SETTING_INT, 0, 0},
};

const rc_tower_kind rc_vit_kind = {
    .name = "ViT",
    .config_size = sizeof(rc_vit_config),
    .settings = SETTINGS,
    .declare = new_tower,
    .free = free_tower,
    .measure = rc_measure_log_mels,
    .plan = make_plan,
    .forward = forward,
    .backward = backward,
    .tokens = tokens,
};
