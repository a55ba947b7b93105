/* The input path of HTS-AT: batch norm, SpecAugment, stretch, fold, patches, and back. What fusion
 * makes of a clip's other log-mels stands in fusion.c. */
#include "towers/htsat_plan.h"

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
static const float *mean_of(const rc_htsat_call *job)
{
    return job->k->train ? rc_input_norm_mean(&job->k->input.norm, job->run)
                         : rc_htsat_value(job, job->k->t->bn.mean);
}

static const float *var_of(const rc_htsat_call *job)
{
    return job->k->train ? rc_input_norm_var(&job->k->input.norm, job->run)
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

static int64_t views_of(const rc_htsat *t)
{
    return t->config.fusion ? RC_VIEWS : 1;
}

/* y (tokens, embed), the patches of a longer clip's whole log-mel, is fused with its other ones;
 * in training later, when all clips have come so far. */
static void fuse(const rc_htsat_call *job, float *y, const float *mel, int64_t clip, int worker)
{
    const rc_fusion *f = &job->k->t->fusion;
    int64_t size = job->k->frames * job->k->t->config.mels;
    float *normed = rc_share_of(job->run, job->k->input.worker, worker), *local = normed + size;
    for (int i = 0; i < RC_LOCALS; i++)
        stretch(job, local + i * f->floats, normed, mel + (1 + i) * size, clip);
    if (job->k->train)
        rc_fusion_train_clip(&job->k->input.fusion_train, job->run, y, local,
                             rc_fusion_slot(job->in->longer, clip), worker);
    else
        rc_fusion_clip(&job->k->input.fusion, y, local, worker, local + RC_LOCALS * f->floats);
}

/* Patches before their norm, if they have one: of all clips or, at inference, of one at a time. */
static float *raw_patches(const rc_htsat_call *job, int64_t clip)
{
    const rc_htsat_plan *k = job->k;
    int64_t at = clip * k->t->stage[0].tokens * k->t->config.embed;
    bool kept = k->train && k->t->config.patch_norm;
    return kept ? rc_htsat_at(job, k->input.embed) + at : job->y + at;
}

/* Patch embeddings through their norm, if they have one. */
static void norm_clip(void *arg, int64_t clip, int worker)
{
    (void)worker;
    const rc_htsat_call *job = arg;
    const rc_htsat *t = job->k->t;
    const rc_htsat_input *k = &job->k->input;
    int64_t n = t->stage[0].tokens, row = clip * n;
    float *mean = job->k->train ? rc_htsat_at(job, k->mean) + row : NULL;
    float *rstd = job->k->train ? rc_htsat_at(job, k->rstd) + row : NULL;
    if (!t->config.patch_norm) return;
    rc_norm_forward(job->k->p, t->patch_norm, (float)t->config.eps, job->y + row * t->config.embed,
                    mean, rstd, raw_patches(job, clip), n);
}

static bool fuses_later(const rc_htsat_plan *k)
{
    return k->train && k->t->config.fusion;
}

/* Decibels of one clip to patch embeddings in grid order. */
static void input_clip(void *arg, int64_t clip, int worker)
{
    const rc_htsat_call *job = arg;
    const rc_htsat *t = job->k->t;
    const rc_htsat_config *c = &t->config;
    const rc_htsat_input *k = &job->k->input;
    int64_t n = t->stage[0].tokens, area = c->patch * c->patch, size = job->k->frames * c->mels;
    const float *mel = job->in->x + clip * views_of(t) * size;
    float *normed = rc_share_of(job->run, k->worker, worker), *stretched = normed + size;
    float *pixels = stretched + rc_htsat_frames(t) * c->mels, *y = raw_patches(job, clip);
    if (job->k->train) pixels = rc_htsat_at(job, k->pixels) + clip * n * area;
    stretch(job, stretched, normed, mel, clip);
    rc_gather_rows(pixels, stretched, t->patch_from, n * area, 1);
    rc_linear_run(&k->patch, rc_alone(worker), y, rc_floats(pixels), n);
    if (c->fusion && job->in->longer[clip]) fuse(job, y, mel, clip, worker);
    if (!fuses_later(job->k)) norm_clip(arg, clip, worker);
}

void rc_htsat_input_forward(rc_htsat_call *job)
{
    const rc_htsat_plan *k = job->k;
    if (k->train) rc_input_norm_stats(&k->input.norm, job->run, job->in);
    rc_parallel(job->run->pool, k->b, input_clip, job);
    if (!fuses_later(k)) return;
    rc_fusion_train_forward(&k->input.fusion_train, job->run, raw_patches(job, 0), job->in->longer);
    rc_parallel(job->run->pool, k->b, norm_clip, job);
}

void rc_htsat_moments(const void *tower, rc_pool *pool, rc_moments *m, const rc_input *in)
{
    const rc_htsat *t = tower;
    rc_input_moments(pool, m, in, views_of(t), t->config.mels);
}

void rc_htsat_commit(const void *body, const rc_run *run)
{
    const rc_htsat_plan *k = body;
    double momentum = k->t->config.bn_momentum;
    rc_input_norm_commit(&k->input.norm, run, momentum);
    if (k->t->config.fusion) rc_fusion_train_commit(&k->input.fusion_train, run, momentum);
}

/* ---- Backward -------------------------------------------------------------------------------- */

static bool owns_gradient(const rc_htsat *t)
{
    return t->config.patch_norm || t->config.fusion;
}

/* The gradient of the patches (b tokens, embed): without a norm and fusion that of the embedding.
 */
static const float *patch_gradient(const rc_htsat_call *job)
{
    return owns_gradient(job->k->t) ? rc_htsat_at(job, job->k->input.da) : job->dy;
}

static void norm_clip_backward(void *arg, int64_t clip, int worker)
{
    (void)worker;
    const rc_htsat_call *job = arg;
    const rc_htsat *t = job->k->t;
    const rc_htsat_input *k = &job->k->input;
    int64_t n = t->stage[0].tokens, row = clip * n, e = t->config.embed;
    if (t->config.patch_norm)
        rc_norm_backward(job->k->p, t->patch_norm, rc_htsat_at(job, k->da) + row * e,
                         job->dy + row * e, rc_htsat_at(job, k->embed) + row * e,
                         rc_htsat_at(job, k->mean) + row, rc_htsat_at(job, k->rstd) + row, n);
    else if (t->config.fusion)
        memcpy(rc_htsat_at(job, k->da) + row * e, job->dy + row * e,
               (size_t)(n * e) * sizeof(float));
}

/* From the gradient of a stretched log-mel to that of bn0's output. */
static void stretch_backward(const rc_htsat_call *job, float *dnormed, const float *stretched,
                             int64_t clip)
{
    const rc_htsat *t = job->k->t;
    rc_stretch_backward(dnormed, stretched, job->k->frames, rc_htsat_frames(t), t->config.mels);
    drop_stripes(job, dnormed, clip);
}

/* From the gradient of the patches to that of bn0's output, clip by clip. */
static void input_clip_backward(void *arg, int64_t clip, int worker)
{
    const rc_htsat_call *job = arg;
    const rc_htsat *t = job->k->t;
    const rc_htsat_input *k = &job->k->input;
    const rc_htsat_config *c = &t->config;
    int64_t n = t->stage[0].tokens, area = c->patch * c->patch, size = job->k->frames * c->mels;
    float *pixels = rc_share_of(job->run, k->worker_back, worker), *stretched = pixels + n * area;
    float *dnormed = rc_htsat_at(job, k->dx) + clip * views_of(t) * size;
    if (!c->fusion) norm_clip_backward(arg, clip, worker);
    rc_linear_back_run(&k->back, worker, pixels, patch_gradient(job) + clip * n * c->embed, n);
    rc_scatter_rows(stretched, pixels, t->patch_from, n * area, 1);
    stretch_backward(job, dnormed, stretched, clip);
    if (!c->fusion || !job->in->longer[clip]) return;
    rc_fusion_train_locals(&k->fusion_train, job->run, stretched,
                           rc_fusion_slot(job->in->longer, clip), worker);
    for (int i = 0; i < RC_LOCALS; i++)
        stretch_backward(job, dnormed + (1 + i) * size, stretched + i * t->fusion.floats, clip);
}

static void fusion_backward(rc_htsat_call *job)
{
    rc_parallel(job->run->pool, job->k->b, norm_clip_backward, job);
    rc_fusion_train_backward(&job->k->input.fusion_train, job->run,
                             rc_htsat_at(job, job->k->input.da), job->in->longer);
}

void rc_htsat_input_backward(rc_htsat_call *job)
{
    const rc_htsat_plan *k = job->k;
    const rc_htsat *t = k->t;
    const rc_params *p = k->p;
    rc_pool *pool = job->run->pool;
    if (t->config.fusion) fusion_backward(job);
    rc_parallel(pool, k->b, input_clip_backward, job);
    rc_linear_back_weight(&k->input.back, pool, patch_gradient(job),
                          rc_htsat_at(job, k->input.pixels));
    if (t->config.patch_norm)
        rc_norm_backward_weight(pool, p, t->patch_norm, job->dy, rc_htsat_at(job, k->input.embed),
                                rc_htsat_at(job, k->input.mean), rc_htsat_at(job, k->input.rstd),
                                k->b * t->stage[0].tokens);
    rc_input_norm_backward(&k->input.norm, job->run, rc_htsat_at(job, k->input.dx), job->in);
}

/* ---- Plan ------------------------------------------------------------------------------------ */

static void take_tape(rc_htsat_plan *k, rc_plan *plan)
{
    const rc_htsat_config *c = &k->t->config;
    rc_htsat_input *in = &k->input;
    int64_t rows = k->b * k->t->stage[0].tokens;
    rc_input_norm_plan(&in->norm, plan, k->p, k->t->bn, views_of(k->t), (float)c->eps);
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
    if (k->train) return normed + RC_LOCALS * stretched;
    return normed + RC_LOCALS * stretched + k->input.fusion.floats;
}

static void take_back(rc_htsat_plan *k, rc_plan *plan)
{
    const rc_htsat_config *c = &k->t->config;
    rc_htsat_input *in = &k->input;
    int64_t n = k->t->stage[0].tokens, most = c->fusion ? RC_LOCALS : 1;
    int64_t stretched = rc_htsat_frames(k->t) * c->mels;
    in->worker_back =
        rc_plan_shares(plan, rc_plan_threads(plan), n * c->patch * c->patch + most * stretched);
    if (owns_gradient(k->t)) in->da = rc_plan_take(plan, k->b * n * c->embed);
    in->dx = rc_plan_take(plan, k->b * views_of(k->t) * k->frames * c->mels);
    if (c->fusion) rc_fusion_train_scratch(&in->fusion_train, plan);
}

rc_status rc_htsat_input_plan(rc_htsat_plan *k, rc_plan *plan)
{
    const rc_htsat *t = k->t;
    rc_htsat_input *in = &k->input;
    int64_t n = t->stage[0].tokens;
    rc_grid clip = rc_grid_rows(n, n), clips = rc_grid_rows(k->b * n, n);
    if (k->train) take_tape(k, plan);
    if (fuses_later(k))
        RC_TRY(rc_fusion_train_tape(&in->fusion_train, plan, &t->fusion, k->p, k->b));
    else if (t->config.fusion)
        RC_TRY(rc_fusion_plan_make(&in->fusion, plan, &t->fusion, k->p));
    int64_t mark = rc_plan_mark(plan);
    in->worker = rc_plan_shares(plan, rc_plan_threads(plan), worker_floats(k));
    if (k->train) take_back(k, plan);
    rc_plan_back(plan, mark);
    RC_TRY(rc_linear_plan(&in->patch, plan, k->p, t->patch, &clip, false));
    return k->train ? rc_linear_back_plan(&in->back, plan, k->p, t->patch, &clips) : RC_OK;
}
