/* Feature fusion inside the patch embedding, for clips longer than the window (LAION-AI/CLAP:
 * clap_module/feature_fusion.py, class AFF, type "aff_2d"; Dai et al. 2021, arXiv 2009.14082).
 * Inference only: its batch norms use their running statistics. */
#include "towers/fusion.h"

#include "base/clones.h"
#include "kernels/kernels.h"

#include <stdio.h>
#include <string.h>

/* ---- Parameters and tables ------------------------------------------------------------------- */

rc_status rc_fusion_check(const rc_htsat_config *c)
{
    RC_TRY(rc_check_range("audio.fusion_ratio", c->fusion_ratio, 1, 4096));
    if (c->spec_size / c->patch < RC_LOCALS || c->embed < c->fusion_ratio)
        return rc_fail(RC_EINVAL,
                       "audio.fusion: needs at least %d patches a side and an embed of at least "
                       "%lld, got %lld and %lld",
                       RC_LOCALS, (long long)c->fusion_ratio, (long long)(c->spec_size / c->patch),
                       (long long)c->embed);
    return RC_OK;
}

static rc_pair declare_conv(rc_params *p, const int64_t *kernel, const char *prefix, int number)
{
    rc_pair pair;
    pair.w = rc_params_add(p, RC_WEIGHT, 4, kernel, "%s%d.weight", prefix, number);
    rc_param_packs(p, pair.w, RC_PACK_F32);
    pair.b = rc_params_add(p, RC_BIAS, 1, kernel, "%s%d.bias", prefix, number);
    return pair;
}

/* Members of LAION's Sequential are named by number. */
static rc_batch_norm declare_norm(rc_params *p, int64_t c, const char *prefix, int number)
{
    char name[16];
    snprintf(name, sizeof name, "%d", number);
    return rc_declare_batch_norm(p, c, prefix, name);
}

#define EMBED "audio_branch.patch_embed."

/* Convolutions of one pixel, numbered as in LAION's Sequential from `first` on; ReLU is one of its
 * members. */
static void declare_branch(rc_fusion_branch *branch, rc_params *p, const rc_fusion *f,
                           const char *name, int first)
{
    char at[RC_NAME_MAX];
    snprintf(at, sizeof at, EMBED "fusion_model.%s.", name);
    int64_t c = f->c, few = f->few;
    branch->squeeze = declare_conv(p, (int64_t[]){few, c, 1, 1}, at, first);
    branch->squeeze_norm = declare_norm(p, few, at, first + 1);
    branch->widen = declare_conv(p, (int64_t[]){c, few, 1, 1}, at, first + 3);
    branch->widen_norm = declare_norm(p, c, at, first + 4);
}

rc_status rc_fusion_open(rc_fusion *f, const rc_htsat_config *c, rc_params *p)
{
    int64_t wide = RC_LOCALS * c->patch;
    f->side = c->spec_size / c->patch;
    f->c = c->embed;
    f->few = c->embed / c->fusion_ratio;
    f->across = c->spec_size / wide;
    f->area = c->patch * wide;
    f->picture = c->spec_size * c->spec_size;
    f->eps = (float)c->eps;
    declare_branch(&f->local, p, f, "local_att", 0);
    declare_branch(&f->global, p, f, "global_att", 1); /* after its pooling */
    int64_t kernel[4] = {c->embed, 1, c->patch, wide};
    f->conv.w = rc_params_add(p, RC_WEIGHT, 4, kernel, EMBED "mel_conv2d.weight");
    rc_param_packs(p, f->conv.w, RC_PACK_F32);
    f->conv.b = rc_params_add(p, RC_BIAS, 1, kernel, EMBED "mel_conv2d.bias");
    RC_TRY(rc_alloc((void **)&f->from, f->side * f->across * f->area * (int64_t)sizeof *f->from));
    rc_patch_index(f->from, c->spec_size, c->mels, c->patch, wide);
    return RC_OK;
}

void rc_fusion_close(rc_fusion *f)
{
    rc_free(f->from);
}

/* ---- One clip -------------------------------------------------------------------------------- */

rc_status rc_fusion_get(rc_fusion_run *out, const rc_fusion *f, rc_dnn *dnn, const rc_params *p)
{
    int64_t n = f->side * f->side, filled = RC_LOCALS * f->across;
    rc_grid row = rc_grid_rows(filled, filled), grid = rc_grid_rows(n, n);
    rc_grid pooled = rc_grid_rows(1, 1);
    const rc_fusion_branch *l = &f->local, *g = &f->global;
    *out = (rc_fusion_run){.f = f, .p = p};
    RC_TRY(rc_linear_get(&out->conv, dnn, p, f->conv, &row, false));
    RC_TRY(rc_linear_get(&out->local[0], dnn, p, l->squeeze, &grid, false));
    RC_TRY(rc_linear_get(&out->local[1], dnn, p, l->widen, &grid, false));
    RC_TRY(rc_linear_get(&out->global[0], dnn, p, g->squeeze, &pooled, false));
    return rc_linear_get(&out->global[1], dnn, p, g->widen, &pooled, false);
}

/* What the steps of one clip keep. */
typedef struct {
    float *local;          /* (side^2, c) */
    float *pixels;         /* patches of one row of all local pictures */
    float *both, *few;     /* (side^2, c), (side^2, few) */
    float *pooled, *shift; /* (c) */
} clip_scratch;

static void take_clip(clip_scratch *s, rc_arena *arena, const rc_fusion *f)
{
    int64_t n = f->side * f->side;
    s->local = rc_take(arena, n * f->c);
    s->pixels = rc_take(arena, RC_LOCALS * f->across * f->area);
    s->both = rc_take(arena, n * f->c);
    s->few = rc_take(arena, n * f->few);
    s->pooled = rc_take(arena, f->c);
    s->shift = rc_take(arena, f->c);
}

int64_t rc_fusion_scratch(const rc_fusion *f)
{
    clip_scratch s;
    rc_arena counting = {0};
    take_clip(&s, &counting, f);
    return counting.peak / (int64_t)sizeof(float);
}

/* Front, middle and back side by side on the grid; the columns that are left on the right are 0. */
static void local_patches(const rc_fusion_run *job, const clip_scratch *s, const float *wide,
                          int worker)
{
    const rc_fusion *f = job->f;
    int64_t n = f->across * f->area, filled = RC_LOCALS * f->across;
    for (int64_t row = 0; row < f->side; row++) {
        float *to = s->local + row * f->side * f->c;
        for (int i = 0; i < RC_LOCALS; i++)
            rc_gather_rows(s->pixels + i * n, wide + i * f->picture, f->from + row * n, n, 1);
        rc_linear_run(&job->conv, rc_alone(worker), to, rc_floats(s->pixels), filled);
        memset(to + filled * f->c, 0, (size_t)((f->side - filled) * f->c) * sizeof *to);
    }
}

static const float *value(const rc_fusion_run *job, int64_t index)
{
    return job->p->item[index].x;
}

/* y may be x; shift stands in for the norm's own bias. */
static void norm_rows(const rc_fusion_run *job, float *y, const float *x, const rc_batch_norm *norm,
                      const float *shift, int64_t n, int64_t c)
{
    rc_batchnorm_forward(y, x, value(job, norm->mean), value(job, norm->var),
                         value(job, norm->scale.w), shift, n, c, job->f->eps);
}

/* y (n, c) = norm(widen(relu(norm(squeeze(x))))); y may be x, few has n rows of room. */
static void run_branch(const rc_fusion_run *job, const rc_fusion_branch *branch,
                       const rc_linear product[2], float *y, const float *x, float *few,
                       const float *shift, int64_t n, int worker)
{
    int64_t c = job->f->c, narrow = job->f->few;
    rc_linear_run(&product[0], rc_alone(worker), few, rc_floats(x), n);
    norm_rows(job, few, few, &branch->squeeze_norm, value(job, branch->squeeze_norm.scale.b), n,
              narrow);
    rc_relu_forward(few, few, n * narrow);
    rc_linear_run(&product[1], rc_alone(worker), y, rc_floats(few), n);
    norm_rows(job, y, y, &branch->widen_norm, shift, n, c);
}

/* g = 2 g w + 2 l (1 - w). */
RC_CLONES
static void mix(float *g, const float *l, const float *w, int64_t n)
{
    for (int64_t i = 0; i < n; i++) g[i] = 2 * (g[i] * w[i] + l[i] * (1 - w[i]));
}

void rc_fusion_clip(const rc_fusion_run *job, float *g, const float *wide, int worker,
                    float *scratch)
{
    const rc_fusion *f = job->f;
    int64_t n = f->side * f->side, c = f->c;
    clip_scratch s;
    rc_arena arena = {.base = (char *)scratch, .size = INT64_MAX}; /* sized by rc_fusion_scratch */
    take_clip(&s, &arena, f);
    local_patches(job, &s, wide, worker);
    memcpy(s.both, g, (size_t)(n * c) * sizeof *g);
    rc_add(s.both, s.local, n * c);
    rc_meanpool_forward(s.pooled, s.both, n, c);
    run_branch(job, &f->global, job->global, s.shift, s.pooled, s.few,
               value(job, f->global.widen_norm.scale.b), 1, worker);
    rc_add(s.shift, value(job, f->local.widen_norm.scale.b), c); /* w = sigmoid(a + b) */
    run_branch(job, &f->local, job->local, s.both, s.both, s.few, s.shift, n, worker);
    rc_sigmoid_forward(s.both, s.both, n * c);
    mix(g, s.local, s.both, n * c);
}
