/* The input path of HTS-AT: batch norm, SpecAugment, stretch, fold, patches, and back. What fusion
 * makes of a clip's other log-mels stands in fusion.c. */
#include "towers/htsat_plan.h"

#include "kernels/norm.h"
#include "kernels/window.h"
#include "layers/norms.h"

#include <string.h>

enum { SITE_STRIPES = 1 }; /* blocks draw from site 16 on */

/* SpecAugment (Park et al. 2019) as torchlibrosa's SpecAugmentation: stripes filled with 0 after
 * bn0. */
static void drop_stripes(const rc_htsat_call *job, float *x, int64_t clip)
{
    const rc_htsat_config *c = &job->k->t->config;
    int64_t frames = job->k->frames;
    rc_draw at = job->run->draw;
    at.site = SITE_STRIPES;
    for (int64_t k = 0; k < c->time_stripes + c->freq_stripes; k++) {
        bool time = k < c->time_stripes;
        int64_t length = time ? frames : c->mels;
        int64_t most = rc_min(time ? c->time_width : c->freq_width, length);
        uint64_t index = (uint64_t)((job->run->clip + clip) * 256 + 2 * k);
        int64_t width = (int64_t)(rc_uniform(at, index) * (float)most);
        int64_t start = (int64_t)(rc_uniform(at, index + 1) * (float)(length - width));
        for (int64_t i = time ? start : 0; i < (time ? start + width : frames); i++)
            memset(x + i * c->mels + (time ? 0 : start), 0,
                   (size_t)(time ? c->mels : width) * sizeof *x);
    }
}

/* The statistics that bn0 works with: of the batch, or running ones. */
static bool of_batch(const rc_htsat_plan *k)
{
    return k->train && rc_batch_norm_learns(k->p, &k->t->bn);
}

static const float *mean_of(const rc_htsat_call *job)
{
    return of_batch(job->k) ? rc_htsat_at(job, job->k->input.bn_mean)
                            : rc_htsat_value(job, job->k->t->bn.mean);
}

static const float *var_of(const rc_htsat_call *job)
{
    return of_batch(job->k) ? rc_htsat_at(job, job->k->input.bn_var)
                            : rc_htsat_value(job, job->k->t->bn.var);
}

/* One log-mel: decibels (frames, mels) through bn0 and, in training, SpecAugment, then stretched to
 * the tower's frames. normed (frames, mels) is scratch. */
static void stretch(const rc_htsat_call *job, float *stretched, float *normed, const float *mel,
                    int64_t clip)
{
    const rc_htsat *t = job->k->t;
    const rc_htsat_config *c = &t->config;
    rc_batchnorm_forward(normed, mel, mean_of(job), var_of(job), rc_htsat_value(job, t->bn.scale.w),
                         rc_htsat_value(job, t->bn.scale.b), job->k->frames, c->mels,
                         (float)c->eps);
    if (job->k->train) drop_stripes(job, normed, clip);
    rc_stretch_forward(stretched, normed, job->k->frames, rc_htsat_frames(t), c->mels);
}

/* y (tokens, embed), the patches of a longer clip's whole log-mel, is fused with its other ones. */
static void fuse(const rc_htsat_call *job, float *y, const float *mel, int64_t clip, int worker)
{
    const rc_fusion *f = &job->k->t->fusion;
    int64_t size = job->k->frames * job->k->t->config.mels;
    float *normed = rc_share_of(job->run, job->k->input.worker, worker), *local = normed + size;
    for (int i = 0; i < RC_LOCALS; i++)
        stretch(job, local + i * f->floats, normed, mel + (1 + i) * size, clip);
    rc_fusion_clip(&job->k->input.fusion, y, local, worker, local + RC_LOCALS * f->floats);
}

/* Decibels of one clip to patch embeddings in grid order. */
static void input_clip(void *arg, int64_t clip, int worker)
{
    const rc_htsat_call *job = arg;
    const rc_htsat *t = job->k->t;
    const rc_htsat_config *c = &t->config;
    const rc_htsat_input *k = &job->k->input;
    int64_t n = t->stage[0].tokens, area = c->patch * c->patch, e = c->embed, row = clip * n;
    int64_t size = job->k->frames * c->mels;
    const float *mel = job->in->x + clip * (c->fusion ? RC_VIEWS : 1) * size;
    float *normed = rc_share_of(job->run, k->worker, worker), *stretched = normed + size;
    float *pixels = stretched + rc_htsat_frames(t) * c->mels, *y = job->y + row * e, *out = y;
    float *mean = NULL, *rstd = NULL;
    if (job->k->train) pixels = rc_htsat_at(job, k->pixels) + row * area;
    if (job->k->train && c->patch_norm) {
        out = rc_htsat_at(job, k->embed) + row * e;
        mean = rc_htsat_at(job, k->mean) + row;
        rstd = rc_htsat_at(job, k->rstd) + row;
    }
    stretch(job, stretched, normed, mel, clip);
    rc_gather_rows(pixels, stretched, t->patch_from, n * area, 1);
    rc_linear_run(&k->patch, rc_alone(worker), out, rc_floats(pixels), n);
    if (c->fusion && job->in->longer[clip]) fuse(job, out, mel, clip, worker);
    if (!c->patch_norm) return; /* out is y */
    rc_norm_forward(job->k->p, t->patch_norm, (float)c->eps, y, mean, rstd, out, n);
}

void rc_htsat_input_forward(rc_htsat_call *job)
{
    const rc_htsat_plan *k = job->k;
    if (of_batch(k))
        rc_batchnorm_stats(rc_htsat_at(job, k->input.bn_mean), rc_htsat_at(job, k->input.bn_var),
                           job->in->x, k->b * k->frames, k->t->config.mels);
    rc_parallel(job->run->pool, k->b, input_clip, job);
}

/* Unbiased variance, as torch.nn.BatchNorm2d. */
void rc_htsat_commit(const void *body, const rc_run *run)
{
    const rc_htsat_plan *k = body;
    const rc_htsat *t = k->t;
    if (!of_batch(k)) return;
    int64_t n = k->b * k->frames;
    const float *batch_mean = run->scratch + k->input.bn_mean;
    const float *batch_var = run->scratch + k->input.bn_var;
    float *mean = k->p->item[t->bn.mean].x, *var = k->p->item[t->bn.var].x;
    float momentum = (float)t->config.bn_momentum, unbiased = n > 1 ? (float)n / (float)(n - 1) : 1;
    for (int64_t j = 0; j < t->config.mels; j++) {
        mean[j] += momentum * (batch_mean[j] - mean[j]);
        var[j] += momentum * (batch_var[j] * unbiased - var[j]);
    }
}

/* ---- Backward -------------------------------------------------------------------------------- */

/* The gradient of the patches (b tokens, embed): without a norm that of the embedding. */
static const float *patch_gradient(const rc_htsat_call *job)
{
    return job->k->t->config.patch_norm ? rc_htsat_at(job, job->k->input.da) : job->dy;
}

/* From the gradient of the embedding to the gradient of bn0's output, clip by clip. */
static void input_clip_backward(void *arg, int64_t clip, int worker)
{
    const rc_htsat_call *job = arg;
    const rc_htsat *t = job->k->t;
    const rc_htsat_input *k = &job->k->input;
    const rc_htsat_config *c = &t->config;
    int64_t n = t->stage[0].tokens, area = c->patch * c->patch, e = c->embed, row = clip * n;
    float *pixels = rc_share_of(job->run, k->worker_back, worker), *stretched = pixels + n * area;
    float *dnormed = rc_htsat_at(job, k->dx) + clip * job->k->frames * c->mels;
    if (c->patch_norm)
        rc_norm_backward(job->k->p, t->patch_norm, rc_htsat_at(job, k->da) + row * e,
                         job->dy + row * e, rc_htsat_at(job, k->embed) + row * e,
                         rc_htsat_at(job, k->mean) + row, rc_htsat_at(job, k->rstd) + row, n);
    rc_linear_back_run(&k->back, worker, pixels, patch_gradient(job) + row * e, n);
    rc_scatter_rows(stretched, pixels, t->patch_from, n * area, 1);
    rc_stretch_backward(dnormed, stretched, job->k->frames, rc_htsat_frames(t), c->mels);
    drop_stripes(job, dnormed, clip);
}

void rc_htsat_input_backward(rc_htsat_call *job)
{
    const rc_htsat_plan *k = job->k;
    const rc_htsat *t = k->t;
    const rc_params *p = k->p;
    rc_pool *pool = job->run->pool;
    rc_parallel(pool, k->b, input_clip_backward, job);
    rc_linear_back_weight(&k->input.back, pool, patch_gradient(job),
                          rc_htsat_at(job, k->input.pixels));
    if (t->config.patch_norm)
        rc_norm_backward_weight(pool, p, t->patch_norm, job->dy, rc_htsat_at(job, k->input.embed),
                                rc_htsat_at(job, k->input.mean), rc_htsat_at(job, k->input.rstd),
                                k->b * t->stage[0].tokens);
    rc_batchnorm_backward(NULL, p->item[t->bn.scale.w].dx, p->item[t->bn.scale.b].dx,
                          rc_htsat_at(job, k->input.dx), job->in->x, mean_of(job), var_of(job),
                          rc_htsat_value(job, t->bn.scale.w), k->b * k->frames, t->config.mels,
                          (float)t->config.eps, true);
}

/* ---- Plan ------------------------------------------------------------------------------------ */

static void take_tape(rc_htsat_plan *k, rc_plan *plan)
{
    const rc_htsat_config *c = &k->t->config;
    rc_htsat_input *in = &k->input;
    int64_t rows = k->b * k->t->stage[0].tokens;
    in->bn_mean = rc_plan_take(plan, c->mels);
    in->bn_var = rc_plan_take(plan, c->mels);
    in->pixels = rc_plan_take(plan, rows * c->patch * c->patch);
    if (!c->patch_norm) return;
    in->embed = rc_plan_take(plan, rows * c->embed);
    in->mean = rc_plan_take(plan, rows);
    in->rstd = rc_plan_take(plan, rows);
}

/* Of a worker: a normed log-mel, a stretched one and its patches; or, later in the same place, the
 * stretched log-mels of fusion and what it needs. */
static int64_t worker_floats(const rc_htsat_plan *k)
{
    const rc_htsat *t = k->t;
    int64_t normed = k->frames * t->config.mels, stretched = rc_htsat_frames(t) * t->config.mels;
    if (!t->config.fusion) return normed + 2 * stretched;
    return normed + RC_LOCALS * stretched + k->input.fusion.floats;
}

static void take_back(rc_htsat_plan *k, rc_plan *plan)
{
    const rc_htsat_config *c = &k->t->config;
    rc_htsat_input *in = &k->input;
    int64_t n = k->t->stage[0].tokens;
    in->worker_back = rc_plan_shares(plan, rc_plan_threads(plan),
                                     n * c->patch * c->patch + rc_htsat_frames(k->t) * c->mels);
    if (c->patch_norm) in->da = rc_plan_take(plan, k->b * n * c->embed);
    in->dx = rc_plan_take(plan, k->b * k->frames * c->mels);
}

rc_status rc_htsat_input_plan(rc_htsat_plan *k, rc_plan *plan)
{
    const rc_htsat *t = k->t;
    rc_htsat_input *in = &k->input;
    int64_t n = t->stage[0].tokens;
    rc_grid clip = rc_grid_rows(n, n), clips = rc_grid_rows(k->b * n, n);
    if (t->config.fusion) RC_TRY(rc_fusion_plan_make(&in->fusion, plan, &t->fusion, k->p));
    if (k->train) take_tape(k, plan);
    int64_t mark = rc_plan_mark(plan);
    in->worker = rc_plan_shares(plan, rc_plan_threads(plan), worker_floats(k));
    if (k->train) take_back(k, plan);
    rc_plan_back(plan, mark);
    RC_TRY(rc_linear_plan(&in->patch, plan, k->p, t->patch, &clip, false));
    return k->train ? rc_linear_back_plan(&in->back, plan, k->p, t->patch, &clips) : RC_OK;
}
