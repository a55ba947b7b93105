/* The input path of the audio tower: batch norm, SpecAugment, stretch, fold, patches, and back.
 * What fusion makes of a clip's other pictures stands in fusion.c. */
#include "towers/htsat_call.h"

#include "kernels/norm.h"
#include "kernels/window.h"

#include <string.h>

enum { SITE_STRIPES = 1 }; /* blocks draw from site 16 on */

/* SpecAugment (Park et al. 2019) as torchlibrosa's SpecAugmentation: stripes filled with 0 after
 * bn0. */
static void drop_stripes(const rc_htsat_call *job, float *x, int64_t clip)
{
    const rc_htsat_config *c = &job->t->config;
    rc_draw at = job->draw;
    at.site = SITE_STRIPES;
    for (int64_t k = 0; k < c->time_stripes + c->freq_stripes; k++) {
        bool time = k < c->time_stripes;
        int64_t length = time ? job->frames : c->mels;
        int64_t most = rc_min(time ? c->time_width : c->freq_width, length);
        uint64_t index = (uint64_t)(clip * 256 + 2 * k);
        int64_t width = (int64_t)(rc_uniform(at, index) * (float)most);
        int64_t start = (int64_t)(rc_uniform(at, index + 1) * (float)(length - width));
        for (int64_t i = time ? start : 0; i < (time ? start + width : job->frames); i++)
            memset(x + i * c->mels + (time ? 0 : start), 0,
                   (size_t)(time ? c->mels : width) * sizeof *x);
    }
}

/* One picture: decibels (frames, mels) through bn0 and, in training, SpecAugment, then stretched to
 * the tower's frames. normed (frames, mels) is scratch. */
static void stretch(const rc_htsat_call *job, float *wide, float *normed, const float *mel,
                    int64_t clip)
{
    const rc_htsat *t = job->t;
    const rc_htsat_config *c = &t->config;
    rc_batchnorm_forward(normed, mel, job->bn_mean, job->bn_var, rc_call_value(job, t->bn.scale.w),
                         rc_call_value(job, t->bn.scale.b), job->frames, c->mels, (float)c->eps);
    if (job->tape != NULL) drop_stripes(job, normed, clip);
    rc_stretch_forward(wide, normed, job->frames, rc_htsat_frames(t), c->mels);
}

/* y (tokens, embed), the patches of a longer clip's whole picture, is fused with its other ones. */
static void fuse(const rc_htsat_call *job, float *y, const float *mel, int64_t clip, int worker)
{
    const rc_htsat *t = job->t;
    int64_t size = job->frames * t->config.mels;
    float *normed = rc_call_scratch(job, worker), *wide = normed + size;
    for (int i = 0; i < RC_LOCALS; i++)
        stretch(job, wide + i * t->fusion.picture, normed, mel + (1 + i) * size, clip);
    rc_fusion_clip(&job->fusion, y, wide, worker, wide + RC_LOCALS * t->fusion.picture);
}

/* Decibels of one clip to patch embeddings in grid order. */
static void input_clip(void *arg, int64_t clip, int worker)
{
    const rc_htsat_call *job = arg;
    const rc_htsat *t = job->t;
    const rc_htsat_config *c = &t->config;
    int64_t n = t->stage[0].tokens, area = c->patch * c->patch, e = c->embed, row = clip * n;
    const float *mel = job->mel + clip * (c->fusion ? RC_VIEWS : 1) * job->frames * c->mels;
    float *normed = rc_call_scratch(job, worker), *wide = normed + job->frames * c->mels;
    float *pixels = wide + rc_htsat_frames(t) * c->mels, *y = job->y + row * e, *out = y;
    float *mean = NULL, *rstd = NULL;
    if (job->tape != NULL) pixels = job->tape->pixels + row * area;
    if (job->tape != NULL && c->patch_norm) {
        out = job->tape->embed + row * e;
        mean = job->tape->mean + row;
        rstd = job->tape->rstd + row;
    }
    stretch(job, wide, normed, mel, clip);
    rc_gather_rows(pixels, wide, t->patch_from, n * area, 1);
    rc_linear_run(&job->linear, rc_alone(worker), out, rc_floats(pixels), n);
    if (c->fusion && job->longer[clip]) fuse(job, out, mel, clip, worker);
    if (!c->patch_norm) return; /* out is y */
    rc_layernorm_forward(y, mean, rstd, out, rc_call_value(job, t->patch_norm.w),
                         rc_call_value(job, t->patch_norm.b), n, e, (float)c->eps);
}

/* Floats of scratch per worker: a normed picture, a stretched one and its patches; or, later in the
 * same place, the stretched pictures of fusion and what it needs. */
static int64_t input_scratch(const rc_htsat_call *job)
{
    const rc_htsat *t = job->t;
    int64_t normed = job->frames * t->config.mels, picture = rc_htsat_frames(t) * t->config.mels;
    if (!t->config.fusion) return normed + 2 * picture;
    return normed + RC_LOCALS * picture + rc_fusion_scratch(&t->fusion);
}

/* Unbiased variance, as torch.nn.BatchNorm2d. */
void rc_htsat_commit(const void *tower, const rc_params *p, const void *tape)
{
    const rc_htsat *t = tower;
    const rc_htsat_tape *k = tape;
    int64_t n = k->b * k->frames;
    float *mean = p->item[t->bn.mean].x, *var = p->item[t->bn.var].x;
    float momentum = (float)t->config.bn_momentum, unbiased = n > 1 ? (float)n / (float)(n - 1) : 1;
    for (int64_t j = 0; j < t->config.mels; j++) {
        mean[j] += momentum * (k->bn_mean[j] - mean[j]);
        var[j] += momentum * (k->bn_var[j] * unbiased - var[j]);
    }
}

rc_status rc_htsat_input_forward(rc_htsat_call *job, float *y)
{
    const rc_htsat *t = job->t;
    int64_t used = job->arena->used;
    rc_grid clip = rc_grid_rows(t->stage[0].tokens, t->stage[0].tokens);
    rc_call_take(job, input_scratch(job));
    if (job->arena->base != NULL) {
        if (t->config.fusion) RC_TRY(rc_fusion_get(&job->fusion, &t->fusion, job->dnn, job->p));
        RC_TRY(rc_linear_get(&job->linear, job->dnn, job->p, t->patch, &clip, false));
        if (job->tape != NULL)
            rc_batchnorm_stats(job->tape->bn_mean, job->tape->bn_var, job->mel,
                               job->b * job->frames, t->config.mels);
        job->bn_mean = job->tape != NULL ? job->tape->bn_mean : rc_call_value(job, t->bn.mean);
        job->bn_var = job->tape != NULL ? job->tape->bn_var : rc_call_value(job, t->bn.var);
        job->y = y;
        rc_parallel(rc_dnn_pool(job->dnn), job->b, input_clip, job);
    }
    job->arena->used = used;
    return RC_OK;
}

/* The gradient of the patches (b tokens, embed): without a norm that of the embedding. */
static const float *patch_gradient(const rc_htsat_call *job)
{
    return job->t->config.patch_norm ? job->da : job->dy;
}

/* From the gradient of the embedding to the gradient of bn0's output, clip by clip. */
static void input_clip_backward(void *arg, int64_t clip, int worker)
{
    const rc_htsat_call *job = arg;
    const rc_htsat *t = job->t;
    const rc_htsat_tape *k = job->tape;
    const rc_htsat_config *c = &t->config;
    int64_t n = t->stage[0].tokens, area = c->patch * c->patch, e = c->embed, row = clip * n;
    float *pixels = rc_call_scratch(job, worker), *wide = pixels + n * area;
    float *dnormed = job->dx + clip * job->frames * c->mels;
    if (c->patch_norm)
        rc_layernorm_backward(job->da + row * e, job->dy + row * e, k->embed + row * e,
                              k->mean + row, k->rstd + row, rc_call_value(job, t->patch_norm.w), n,
                              e);
    rc_linear_backward_run(&job->linear, worker, pixels, patch_gradient(job) + row * e, n);
    rc_scatter_rows(wide, pixels, t->patch_from, n * area, 1);
    rc_stretch_backward(dnormed, wide, job->frames, rc_htsat_frames(t), c->mels);
    drop_stripes(job, dnormed, clip);
}

rc_status rc_htsat_input_backward(rc_htsat_call *job, const float *dy)
{
    const rc_htsat *t = job->t;
    const rc_htsat_tape *k = job->tape;
    const rc_htsat_config *c = &t->config;
    int64_t n = t->stage[0].tokens, rows = job->b * n, used = job->arena->used;
    rc_grid clip = rc_grid_rows(n, n);
    rc_call_take(job, n * c->patch * c->patch + rc_htsat_frames(t) * c->mels);
    if (c->patch_norm) job->da = rc_take(job->arena, rows * c->embed);
    job->dx = rc_take(job->arena, job->b * job->frames * c->mels);
    if (job->arena->base != NULL) {
        job->dy = dy;
        RC_TRY(rc_linear_backward_get(&job->linear, job->dnn, job->p, t->patch, &clip));
        rc_parallel(rc_dnn_pool(job->dnn), job->b, input_clip_backward, job);
        RC_TRY(rc_linear_backward_weight(job->dnn, job->p, t->patch, patch_gradient(job), k->pixels,
                                         rows));
        if (c->patch_norm)
            rc_norm_backward_weight(rc_dnn_pool(job->dnn), job->p, t->patch_norm, dy, k->embed,
                                    k->mean, k->rstd, rows);
        rc_batchnorm_backward(NULL, job->p->item[t->bn.scale.w].dx, job->p->item[t->bn.scale.b].dx,
                              job->dx, job->mel, k->bn_mean, k->bn_var,
                              rc_call_value(job, t->bn.scale.w), job->b * job->frames, c->mels,
                              (float)c->eps, true);
    }
    job->arena->used = used;
    return RC_OK;
}
