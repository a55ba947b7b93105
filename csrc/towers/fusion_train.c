/* Feature fusion in training: y = 2 g w + 2 l (1 - w), w = sigmoid(local(g + l) + global(mean(g +
 * l))), where each branch is norm(widen(relu(norm(squeeze(x))))). Statistics cross clips, so each
 * norm ends a region over the clips. */
#include "towers/fusion_train.h"

#include "base/clones.h"
#include "kernels/kernels.h"

#include <string.h>

typedef struct {
    const rc_fusion_train *k;
    const rc_run *run;
    const bool *longer;
    float *y; /* (b, side^2, c): patches, or their gradients */
} fusion_job;

/* What lies at an offset, `floats` a slot, n slots on. */
static float *slot_at(const rc_run *run, int64_t offset, int64_t floats, int64_t n)
{
    return run->scratch + offset + n * floats;
}

int64_t rc_fusion_slot(const bool *longer, int64_t clip)
{
    int64_t n = 0;
    for (int64_t i = 0; i < clip; i++) n += longer[i];
    return n;
}

static int64_t rows_of(const rc_fusion *f)
{
    return f->side * f->side;
}

/* ---- Plan ------------------------------------------------------------------------------------ */

static rc_status plan_branch(rc_fusion_branch_plan *k, rc_plan *plan, const rc_fusion_train *all,
                             const rc_fusion_branch *branch, int64_t n)
{
    int64_t b = all->b, c = all->f->c, narrow = all->f->squeezed;
    rc_grid clip = rc_grid_rows(n, n), clips = rc_grid_rows(b * n, n);
    float eps = all->f->eps;
    k->n = n;
    k->squeezed = rc_plan_take(plan, b * n * narrow);
    k->widened = rc_plan_take(plan, b * n * c);
    rc_batch_norm_plan_make(&k->squeeze_norm, plan, all->p, branch->squeeze_norm, b * n, eps);
    rc_batch_norm_plan_make(&k->widen_norm, plan, all->p, branch->widen_norm, b * n, eps);
    RC_TRY(rc_linear_plan(&k->squeeze, plan, all->p, branch->squeeze, &clip, false));
    RC_TRY(rc_linear_plan(&k->widen, plan, all->p, branch->widen, &clip, false));
    RC_TRY(rc_linear_back_plan(&k->dsqueeze, plan, all->p, branch->squeeze, &clips));
    return rc_linear_back_plan(&k->dwiden, plan, all->p, branch->widen, &clips);
}

rc_status rc_fusion_train_tape(rc_fusion_train *k, rc_plan *plan, const rc_fusion *f,
                               const rc_params *p, int64_t b)
{
    int64_t n = rows_of(f);
    rc_grid clip = rc_grid_rows(n, n), clips = rc_grid_rows(b * n, n);
    *k = (rc_fusion_train){.f = f, .p = p, .b = b};
    k->pixels = rc_plan_take(plan, b * n * f->area);
    k->patches = rc_plan_take(plan, b * n * f->c);
    k->whole = rc_plan_take(plan, b * n * f->c);
    k->pooled = rc_plan_take(plan, b * f->c);
    RC_TRY(plan_branch(&k->local, plan, k, &f->local, n));
    RC_TRY(plan_branch(&k->global, plan, k, &f->global, 1));
    RC_TRY(rc_linear_plan(&k->conv, plan, p, f->conv, &clip, false));
    return rc_linear_back_plan(&k->dconv, plan, p, f->conv, &clips);
}

static void branch_scratch(rc_fusion_branch_plan *k, rc_plan *plan, const rc_fusion_train *all)
{
    k->dsqueezed = rc_plan_take(plan, all->b * k->n * all->f->squeezed);
    k->active = rc_plan_take(plan, all->b * k->n * all->f->squeezed);
    k->dwidened = rc_plan_take(plan, all->b * k->n * all->f->c);
}

void rc_fusion_train_scratch(rc_fusion_train *k, rc_plan *plan)
{
    const rc_fusion *f = k->f;
    int64_t n = rows_of(f);
    k->dpatches = rc_plan_take(plan, k->b * n * f->c);
    k->both = rc_plan_take(plan, k->b * n * f->c);
    branch_scratch(&k->local, plan, k);
    branch_scratch(&k->global, plan, k);
    k->worker = rc_plan_shares(plan, rc_plan_threads(plan), n * rc_max(f->c, f->area) + f->c);
}

/* ---- Forward --------------------------------------------------------------------------------- */

/* Places of the grid that no local patch fills are 0. */
static void clear_empty(const rc_fusion *f, float *x, int64_t c)
{
    int64_t filled = RC_LOCALS * f->across;
    for (int64_t row = 0; row < f->side; row++)
        memset(x + (row * f->side + filled) * c, 0, (size_t)((f->side - filled) * c) * sizeof *x);
}

/* y = the sum of the patches of a slot. */
static void add_patches(const rc_fusion_train *k, const rc_run *run, float *y, int64_t slot)
{
    int64_t floats = rows_of(k->f) * k->f->c;
    memcpy(y, slot_at(run, k->whole, floats, slot), (size_t)floats * sizeof *y);
    rc_add(y, slot_at(run, k->patches, floats, slot), floats);
}

void rc_fusion_train_clip(const rc_fusion_train *k, const rc_run *run, const float *g,
                          const float *mels, int64_t slot, int worker)
{
    const rc_fusion *f = k->f;
    int64_t n = rows_of(f), c = f->c;
    float *pixels = slot_at(run, k->pixels, n * f->area, slot);
    float *patches = slot_at(run, k->patches, n * c, slot);
    float *pooled = slot_at(run, k->pooled, c, slot);
    float *both = rc_share_of(run, k->worker, worker);
    clear_empty(f, pixels, f->area);
    for (int64_t row = 0; row < f->side; row++)
        rc_fusion_gather(f, pixels + row * f->side * f->area, mels, row);
    rc_linear_run(&k->conv, rc_alone(worker), patches, rc_floats(pixels), n);
    clear_empty(f, patches, c);
    memcpy(slot_at(run, k->whole, n * c, slot), g, (size_t)(n * c) * sizeof *g);
    add_patches(k, run, both, slot);
    rc_meanpool_forward(pooled, both, n, c);
    rc_linear_run(&k->local.squeeze, rc_alone(worker),
                  slot_at(run, k->local.squeezed, n * f->squeezed, slot), rc_floats(both), n);
    rc_linear_run(&k->global.squeeze, rc_alone(worker),
                  slot_at(run, k->global.squeezed, f->squeezed, slot), rc_floats(pooled), 1);
}

/* y = relu(norm(squeezed)). */
static void activate(const rc_fusion_branch_plan *k, const rc_run *run, float *y, int64_t slot)
{
    int64_t floats = k->n * k->squeeze_norm.c;
    rc_batch_norm_forward(&k->squeeze_norm, run, y, slot_at(run, k->squeezed, floats, slot), k->n);
    rc_relu_forward(y, y, floats);
}

static void widen(const rc_fusion_branch_plan *k, const rc_run *run, float *active, int64_t slot,
                  int worker)
{
    activate(k, run, active, slot);
    rc_linear_run(&k->widen, rc_alone(worker),
                  slot_at(run, k->widened, k->n * k->widen_norm.c, slot), rc_floats(active), k->n);
}

static void widen_clip(void *arg, int64_t clip, int worker)
{
    const fusion_job *job = arg;
    const rc_fusion_train *k = job->k;
    int64_t slot = rc_fusion_slot(job->longer, clip);
    if (!job->longer[clip]) return;
    widen(&k->local, job->run, rc_share_of(job->run, k->worker, worker), slot, worker);
    widen(&k->global, job->run, rc_share_of(job->run, k->worker, worker), slot, worker);
}

RC_CLONES
static void add_to_rows(float *y, const float *x, int64_t n, int64_t c)
{
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < c; j++) y[i * c + j] += x[j];
}

/* w (side^2, c) of a slot; behind it (c) is scratch. */
static void weigh(const fusion_job *job, float *w, int64_t slot)
{
    const rc_fusion_train *k = job->k;
    int64_t n = rows_of(k->f), c = k->f->c;
    float *global = w + n * c;
    rc_batch_norm_forward(&k->local.widen_norm, job->run, w,
                          slot_at(job->run, k->local.widened, n * c, slot), n);
    rc_batch_norm_forward(&k->global.widen_norm, job->run, global,
                          slot_at(job->run, k->global.widened, c, slot), 1);
    add_to_rows(w, global, n, c);
    rc_sigmoid_forward(w, w, n * c);
}

static void mix_clip(void *arg, int64_t clip, int worker)
{
    const fusion_job *job = arg;
    const rc_fusion_train *k = job->k;
    int64_t slot = rc_fusion_slot(job->longer, clip), floats = rows_of(k->f) * k->f->c;
    float *w = rc_share_of(job->run, k->worker, worker);
    if (!job->longer[clip]) return;
    weigh(job, w, slot);
    rc_fusion_mix(job->y + clip * floats, slot_at(job->run, k->patches, floats, slot), w, floats);
}

static void squeeze_stats(const rc_fusion_branch_plan *k, const rc_run *run, int64_t slots)
{
    rc_batch_norm_stats(&k->squeeze_norm, run, run->scratch + k->squeezed, slots * k->n);
}

static void widen_stats(const rc_fusion_branch_plan *k, const rc_run *run, int64_t slots)
{
    rc_batch_norm_stats(&k->widen_norm, run, run->scratch + k->widened, slots * k->n);
}

void rc_fusion_train_forward(const rc_fusion_train *k, const rc_run *run, float *y,
                             const bool *longer)
{
    fusion_job job = {.k = k, .run = run, .longer = longer, .y = y};
    int64_t slots = rc_fusion_slot(longer, k->b);
    squeeze_stats(&k->local, run, slots);
    squeeze_stats(&k->global, run, slots);
    if (slots > 0) rc_parallel(run->pool, k->b, widen_clip, &job);
    widen_stats(&k->local, run, slots);
    widen_stats(&k->global, run, slots);
    if (slots > 0) rc_parallel(run->pool, k->b, mix_clip, &job);
}

void rc_fusion_train_commit(const rc_fusion_train *k, const rc_run *run, double momentum)
{
    const rc_fusion_branch_plan *branches[] = {&k->local, &k->global};
    for (int i = 0; i < 2; i++) {
        rc_batch_norm_commit(&branches[i]->squeeze_norm, run, momentum);
        rc_batch_norm_commit(&branches[i]->widen_norm, run, momentum);
    }
}

/* ---- Backward -------------------------------------------------------------------------------- */

/* Of dy, in its place: dg = 2 w dy; dl = 2 (1 - w) dy; dz = 2 (g - l) w (1 - w) dy, where w =
 * sigmoid(z). */
RC_CLONES
static void unmix(float *dy, float *dl, float *dz, const float *g, const float *l, const float *w,
                  int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        dz[i] = 2 * (g[i] - l[i]) * (w[i] * (1 - w[i]) * dy[i]);
        dl[i] = 2 * (1 - w[i]) * dy[i];
        dy[i] *= 2 * w[i];
    }
}

static void unmix_clip(void *arg, int64_t clip, int worker)
{
    const fusion_job *job = arg;
    const rc_fusion_train *k = job->k;
    const rc_run *run = job->run;
    int64_t slot = rc_fusion_slot(job->longer, clip), n = rows_of(k->f), c = k->f->c;
    float *w = rc_share_of(run, k->worker, worker);
    float *dz = slot_at(run, k->local.dwidened, n * c, slot);
    float *pooled = slot_at(run, k->global.dwidened, c, slot);
    if (!job->longer[clip]) return;
    weigh(job, w, slot);
    unmix(job->y + clip * n * c, slot_at(run, k->dpatches, n * c, slot), dz,
          slot_at(run, k->whole, n * c, slot), slot_at(run, k->patches, n * c, slot), w, n * c);
    memset(pooled, 0, (size_t)c * sizeof *pooled);
    rc_add_rows(pooled, dz, n, c, c);
}

/* Down to what comes out of the first layer's activation. */
static void widen_back(const rc_fusion_branch_plan *k, const rc_run *run, int64_t slot, int worker)
{
    int64_t floats = k->n * k->squeeze_norm.c, wide = k->n * k->widen_norm.c;
    float *dwidened = slot_at(run, k->dwidened, wide, slot);
    float *active = slot_at(run, k->active, floats, slot);
    float *dsqueezed = slot_at(run, k->dsqueezed, floats, slot);
    rc_batch_norm_backward(&k->widen_norm, run, dwidened, dwidened,
                           slot_at(run, k->widened, wide, slot), k->n);
    activate(k, run, active, slot);
    rc_linear_back_run(&k->dwiden, worker, dsqueezed, dwidened, k->n);
    rc_relu_backward(dsqueezed, dsqueezed, active, floats);
}

static void widen_back_clip(void *arg, int64_t clip, int worker)
{
    const fusion_job *job = arg;
    int64_t slot = rc_fusion_slot(job->longer, clip);
    if (!job->longer[clip]) return;
    widen_back(&job->k->local, job->run, slot, worker);
    widen_back(&job->k->global, job->run, slot, worker);
}

/* The gradient of a branch's input. */
static void squeeze_back(const rc_fusion_branch_plan *k, const rc_run *run, float *dx, int64_t slot,
                         int worker)
{
    int64_t floats = k->n * k->squeeze_norm.c;
    float *dsqueezed = slot_at(run, k->dsqueezed, floats, slot);
    rc_batch_norm_backward(&k->squeeze_norm, run, dsqueezed, dsqueezed,
                           slot_at(run, k->squeezed, floats, slot), k->n);
    rc_linear_back_run(&k->dsqueeze, worker, dx, dsqueezed, k->n);
}

static void squeeze_back_clip(void *arg, int64_t clip, int worker)
{
    const fusion_job *job = arg;
    const rc_fusion_train *k = job->k;
    int64_t slot = rc_fusion_slot(job->longer, clip), n = rows_of(k->f), c = k->f->c;
    float *dboth = rc_share_of(job->run, k->worker, worker), *dpooled = dboth + n * c;
    float *dpatches = slot_at(job->run, k->dpatches, n * c, slot);
    if (!job->longer[clip]) return;
    squeeze_back(&k->local, job->run, dboth, slot, worker);
    squeeze_back(&k->global, job->run, dpooled, slot, worker);
    for (int64_t j = 0; j < c; j++) dpooled[j] /= (float)n;
    add_to_rows(dboth, dpooled, n, c);
    rc_add(job->y + clip * n * c, dboth, n * c);
    rc_add(dpatches, dboth, n * c);
    clear_empty(k->f, dpatches, c);
    add_patches(k, job->run, slot_at(job->run, k->both, n * c, slot), slot);
}

/* Slots that no clip has add nothing to the weights' gradients. */
static void clear_slots(const rc_fusion_train *k, const rc_run *run, int64_t from)
{
    const rc_fusion_branch_plan *l = &k->local, *g = &k->global;
    int64_t n = rows_of(k->f), c = k->f->c, narrow = k->f->squeezed;
    const int64_t places[][2] = {
        {k->pixels, n * k->f->area},
        {k->dpatches, n * c},
        {k->both, n * c},
        {k->pooled, c},
        {l->active, n * narrow},
        {g->active, narrow},
        {l->dsqueezed, n * narrow},
        {g->dsqueezed, narrow},
        {l->dwidened, n * c},
        {g->dwidened, c},
    };
    for (size_t i = 0; i < sizeof places / sizeof *places; i++)
        memset(slot_at(run, places[i][0], places[i][1], from), 0,
               (size_t)((k->b - from) * places[i][1]) * sizeof(float));
}

static void widen_sums(const rc_fusion_branch_plan *k, const rc_run *run, int64_t slots)
{
    rc_batch_norm_sums(&k->widen_norm, run, run->scratch + k->dwidened, run->scratch + k->widened,
                       slots * k->n);
}

static void squeeze_sums(const rc_fusion_branch_plan *k, const rc_run *run, int64_t slots)
{
    rc_linear_back_weight(&k->dwiden, run->pool, run->scratch + k->dwidened,
                          run->scratch + k->active);
    rc_batch_norm_sums(&k->squeeze_norm, run, run->scratch + k->dsqueezed,
                       run->scratch + k->squeezed, slots * k->n);
}

void rc_fusion_train_backward(const rc_fusion_train *k, const rc_run *run, float *dy,
                              const bool *longer)
{
    fusion_job job = {.k = k, .run = run, .longer = longer, .y = dy};
    int64_t slots = rc_fusion_slot(longer, k->b);
    float *at = run->scratch;
    if (slots == 0) return;
    clear_slots(k, run, slots);
    rc_parallel(run->pool, k->b, unmix_clip, &job);
    widen_sums(&k->local, run, slots);
    widen_sums(&k->global, run, slots);
    rc_parallel(run->pool, k->b, widen_back_clip, &job);
    squeeze_sums(&k->local, run, slots);
    squeeze_sums(&k->global, run, slots);
    rc_parallel(run->pool, k->b, squeeze_back_clip, &job);
    rc_linear_back_weight(&k->local.dsqueeze, run->pool, at + k->local.dsqueezed, at + k->both);
    rc_linear_back_weight(&k->global.dsqueeze, run->pool, at + k->global.dsqueezed, at + k->pooled);
    rc_linear_back_weight(&k->dconv, run->pool, at + k->dpatches, at + k->pixels);
}

void rc_fusion_train_locals(const rc_fusion_train *k, const rc_run *run, float *dmels, int64_t slot,
                            int worker)
{
    const rc_fusion *f = k->f;
    int64_t n = rows_of(f), run_of = f->across * f->area;
    float *pixels = rc_share_of(run, k->worker, worker);
    rc_linear_back_run(&k->dconv, worker, pixels, slot_at(run, k->dpatches, n * f->c, slot), n);
    memset(dmels, 0, (size_t)(RC_LOCALS * f->floats) * sizeof *dmels);
    for (int64_t row = 0; row < f->side; row++)
        for (int64_t i = 0; i < RC_LOCALS; i++)
            rc_scatter_rows(dmels + i * f->floats, pixels + row * f->side * f->area + i * run_of,
                            f->from + row * run_of, run_of, 1);
}
