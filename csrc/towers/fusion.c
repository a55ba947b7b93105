/* Feature fusion inside the patch embedding, for clips longer than the window (LAION-AI/CLAP:
 * clap_module/feature_fusion.py, class AFF, type "aff_2d"; Dai et al. 2021, arXiv 2009.14082), at
 * inference: its batch norms use their running statistics. */
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
    int64_t c = f->c, few = f->squeezed;
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
    f->squeezed = c->embed / c->fusion_ratio;
    f->across = c->spec_size / wide;
    f->area = c->patch * wide;
    f->floats = c->spec_size * c->spec_size;
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

static int64_t take(rc_fusion_plan *k, int64_t floats)
{
    int64_t at = k->floats;
    k->floats += rc_whole_lines(floats);
    return at;
}

rc_status rc_fusion_plan_make(rc_fusion_plan *k, rc_plan *plan, const rc_fusion *f,
                              const rc_params *p)
{
    int64_t n = f->side * f->side, filled = RC_LOCALS * f->across;
    rc_grid row = rc_grid_rows(filled, filled), grid = rc_grid_rows(n, n);
    rc_grid pooled = rc_grid_rows(1, 1);
    const rc_fusion_branch *l = &f->local, *g = &f->global;
    *k = (rc_fusion_plan){.f = f, .p = p};
    k->local = take(k, n * f->c);
    k->pixels = take(k, filled * f->area);
    k->both = take(k, n * f->c);
    k->squeezed = take(k, n * f->squeezed);
    k->pooled = take(k, f->c);
    k->shift = take(k, f->c);
    RC_TRY(rc_linear_plan(&k->conv, plan, p, f->conv, &row, false));
    RC_TRY(rc_linear_plan(&k->branch_local[0], plan, p, l->squeeze, &grid, false));
    RC_TRY(rc_linear_plan(&k->branch_local[1], plan, p, l->widen, &grid, false));
    RC_TRY(rc_linear_plan(&k->branch_global[0], plan, p, g->squeeze, &pooled, false));
    return rc_linear_plan(&k->branch_global[1], plan, p, g->widen, &pooled, false);
}

void rc_fusion_gather(const rc_fusion *f, float *pixels, const float *mels, int64_t row)
{
    int64_t n = f->across * f->area;
    for (int i = 0; i < RC_LOCALS; i++)
        rc_gather_rows(pixels + i * n, mels + i * f->floats, f->from + row * n, n, 1);
}

/* Front, middle and back side by side on the grid; the columns that are left on the right are 0. */
static void local_patches(const rc_fusion_plan *k, const float *mels, int worker, float *scratch)
{
    const rc_fusion *f = k->f;
    int64_t filled = RC_LOCALS * f->across;
    float *pixels = scratch + k->pixels;
    for (int64_t row = 0; row < f->side; row++) {
        float *to = scratch + k->local + row * f->side * f->c;
        rc_fusion_gather(f, pixels, mels, row);
        rc_linear_run(&k->conv, rc_alone(worker), to, rc_floats(pixels), filled);
        memset(to + filled * f->c, 0, (size_t)((f->side - filled) * f->c) * sizeof *to);
    }
}

static const float *value(const rc_fusion_plan *k, int64_t index)
{
    return k->p->item[index].x;
}

/* y may be x; shift stands in for the norm's own bias. */
static void norm_rows(const rc_fusion_plan *k, float *y, const float *x, const rc_batch_norm *norm,
                      const float *shift, int64_t n, int64_t c)
{
    rc_batchnorm_forward(y, x, value(k, norm->mean), value(k, norm->var), value(k, norm->scale.w),
                         shift, n, c, k->f->eps);
}

/* y (n, c) = norm(widen(relu(norm(squeeze(x))))); y may be x. */
static void run_branch(const rc_fusion_plan *k, const rc_fusion_branch *branch,
                       const rc_linear product[2], float *y, const float *x, float *squeezed,
                       const float *shift, int64_t n, int worker)
{
    int64_t c = k->f->c, narrow = k->f->squeezed;
    rc_linear_run(&product[0], rc_alone(worker), squeezed, rc_floats(x), n);
    norm_rows(k, squeezed, squeezed, &branch->squeeze_norm, value(k, branch->squeeze_norm.scale.b),
              n, narrow);
    rc_relu_forward(squeezed, squeezed, n * narrow);
    rc_linear_run(&product[1], rc_alone(worker), y, rc_floats(squeezed), n);
    norm_rows(k, y, y, &branch->widen_norm, shift, n, c);
}

RC_CLONES
void rc_fusion_mix(float *g, const float *l, const float *w, int64_t n)
{
    for (int64_t i = 0; i < n; i++) g[i] = 2 * (g[i] * w[i] + l[i] * (1 - w[i]));
}

void rc_fusion_clip(const rc_fusion_plan *k, float *g, const float *mels, int worker,
                    float *scratch)
{
    const rc_fusion *f = k->f;
    int64_t n = f->side * f->side, c = f->c;
    float *local = scratch + k->local, *both = scratch + k->both, *shift = scratch + k->shift;
    float *pooled = scratch + k->pooled, *squeezed = scratch + k->squeezed;
    local_patches(k, mels, worker, scratch);
    memcpy(both, g, (size_t)(n * c) * sizeof *g);
    rc_add(both, local, n * c);
    rc_meanpool_forward(pooled, both, n, c);
    run_branch(k, &f->global, k->branch_global, shift, pooled, squeezed,
               value(k, f->global.widen_norm.scale.b), 1, worker);
    rc_add(shift, value(k, f->local.widen_norm.scale.b), c); /* w = sigmoid(a + b) */
    run_branch(k, &f->local, k->branch_local, both, both, squeezed, shift, n, worker);
    rc_sigmoid_forward(both, both, n * c);
    rc_fusion_mix(g, local, both, n * c);
}
