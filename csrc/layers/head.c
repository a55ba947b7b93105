/* Projection heads: tower features to unit vectors of the joint space, forward and backward. */
#include "layers/head.h"

#include "kernels/act.h"
#include "kernels/norm.h"
#include "layers/norms.h"

#include <string.h>

enum { HEAD_ROWS = 64 };

static const float MS_EPS = 1e-5f;

static bool deep(const rc_head *h)
{
    return h->kind == RC_HEAD_MLP || h->kind == RC_HEAD_MS;
}

/* Heads stay in float32: they cost nothing, and their rounding would reach the embedding as it is.
 */
static rc_pair declare(rc_params *p, int64_t out, int64_t in, bool bias, const char *name,
                       const char *layer)
{
    rc_pair pair = rc_declare_linear(p, out, in, bias, name, layer);
    rc_param_packs(p, pair.w, RC_PACK_F32);
    return pair;
}

void rc_head_declare(rc_head *h, rc_params *p, rc_head_kind kind, int64_t in, int64_t out,
                     const char *name)
{
    *h = (rc_head){.kind = kind, .in = in, .out = kind == RC_HEAD_NONE ? in : out};
    if (kind == RC_HEAD_LINEAR || kind == RC_HEAD_MLP)
        h->first = declare(p, out, in, true, name, ".0");
    if (kind == RC_HEAD_MLP) h->second = declare(p, out, out, true, name, ".2");
    if (kind != RC_HEAD_MS) return;
    h->first = declare(p, out, in, false, name, ".linear1");
    h->second = declare(p, out, out, false, name, ".linear2");
    h->norm = rc_declare_norm(p, out, name, ".layer_norm");
}

static rc_status plan_layers(rc_head_plan *k, rc_plan *plan)
{
    const rc_head *h = k->h;
    if (h->kind == RC_HEAD_NONE) return RC_OK;
    RC_TRY(rc_linear_plan(&k->first, plan, k->p, h->first, &k->grid, false));
    if (k->train) RC_TRY(rc_linear_back_plan(&k->dfirst, plan, k->p, h->first, &k->grid));
    if (!deep(h)) return RC_OK;
    bool add = h->kind == RC_HEAD_MS;
    RC_TRY(rc_linear_plan(&k->second, plan, k->p, h->second, &k->grid, add));
    return k->train ? rc_linear_back_plan(&k->dsecond, plan, k->p, h->second, &k->grid) : RC_OK;
}

rc_status rc_head_plan_make(rc_head_plan *k, rc_plan *plan, const rc_head *h, const rc_params *p,
                            int64_t n, bool train)
{
    *k = (rc_head_plan){.h = h, .p = p, .grid = rc_grid_rows(n, HEAD_ROWS), .train = train};
    int64_t *const rows[] = {&k->hidden, &k->active, &k->raw, &k->y, &k->sum};
    int64_t *const gradients[] = {&k->dhidden, &k->draw, &k->dsum};
    for (int i = 0; i < 5; i++) *rows[i] = rc_plan_take(plan, n * h->out);
    for (int i = 0; train && i < 3; i++) *gradients[i] = rc_plan_take(plan, n * h->out);
    k->length = rc_plan_take(plan, n);
    k->mean = rc_plan_take(plan, n);
    k->rstd = rc_plan_take(plan, n);
    return plan_layers(k, plan);
}

typedef struct {
    const rc_head_plan *k;
    const rc_run *run;
    const float *x, *dy;
    float *dx;
} head_job;

/* Row `from` of what lies at an offset, a head's width a row. */
static float *row_at(const head_job *job, int64_t offset, int64_t from)
{
    return job->run->scratch + offset + from * job->k->h->out;
}

static float *number_at(const head_job *job, int64_t offset, int64_t from)
{
    return job->run->scratch + offset + from;
}

/* raw = layer norm of e1 + W2 gelu(e1). */
static void residual_forward(const head_job *job, const float *x, int64_t from, int64_t rows,
                             rc_crew crew)
{
    const rc_head_plan *k = job->k;
    int64_t n = rows * k->h->out;
    float *hidden = row_at(job, k->hidden, from), *active = row_at(job, k->active, from);
    float *sum = row_at(job, k->sum, from);
    rc_linear_run(&k->first, crew, hidden, rc_floats(x), rows);
    rc_gelu_forward(active, hidden, n);
    memcpy(sum, hidden, (size_t)n * sizeof(float));
    rc_linear_run(&k->second, crew, sum, rc_floats(active), rows); /* adds */
    rc_norm_forward(k->p, k->h->norm, MS_EPS, row_at(job, k->raw, from),
                    number_at(job, k->mean, from), number_at(job, k->rstd, from), sum, rows);
}

static void forward_chunk(void *arg, int64_t from, int64_t rows, rc_crew crew)
{
    const head_job *job = arg;
    const rc_head_plan *k = job->k;
    const rc_head *h = k->h;
    const float *x = job->x + from * h->in;
    float *raw = row_at(job, k->raw, from), *hidden = row_at(job, k->hidden, from);
    float *active = row_at(job, k->active, from);
    if (h->kind == RC_HEAD_LINEAR) {
        rc_linear_run(&k->first, crew, raw, rc_floats(x), rows);
    } else if (h->kind == RC_HEAD_MLP) {
        rc_linear_run(&k->first, crew, hidden, rc_floats(x), rows);
        rc_relu_forward(active, hidden, rows * h->out);
        rc_linear_run(&k->second, crew, raw, rc_floats(active), rows);
    } else if (h->kind == RC_HEAD_MS) {
        residual_forward(job, x, from, rows, crew);
    }
    rc_l2norm_forward(row_at(job, k->y, from), number_at(job, k->length, from),
                      h->kind == RC_HEAD_NONE ? x : raw, rows, h->out);
}

const float *rc_head_forward(const rc_head_plan *k, const rc_run *run, const float *x)
{
    head_job job = {.k = k, .run = run, .x = x};
    rc_grid_run(&k->grid, run->pool, forward_chunk, &job);
    return run->scratch + k->y;
}

/* dhidden = gelu'(e1) W2ᵀ dsum + dsum, the gradient of e1. */
static void residual_backward(const head_job *job, int64_t from, int64_t rows, int worker)
{
    const rc_head_plan *k = job->k;
    int64_t n = rows * k->h->out;
    float *dsum = row_at(job, k->dsum, from), *dhidden = row_at(job, k->dhidden, from);
    rc_norm_backward(k->p, k->h->norm, dsum, row_at(job, k->draw, from), row_at(job, k->sum, from),
                     number_at(job, k->mean, from), number_at(job, k->rstd, from), rows);
    rc_linear_back_run(&k->dsecond, worker, dhidden, dsum, rows);
    rc_gelu_backward(dhidden, dhidden, row_at(job, k->hidden, from), n);
    rc_add(dhidden, dsum, n);
}

static void backward_chunk(void *arg, int64_t from, int64_t rows, rc_crew crew)
{
    const head_job *job = arg;
    const rc_head_plan *k = job->k;
    const rc_head *h = k->h;
    float *dx = job->dx == NULL ? NULL : job->dx + from * h->in;
    float *draw = row_at(job, k->draw, from), *dhidden = row_at(job, k->dhidden, from);
    float *dfirst = h->kind == RC_HEAD_NONE ? dx : draw;
    if (dfirst != NULL)
        rc_l2norm_backward(dfirst, job->dy + from * h->out, row_at(job, k->y, from),
                           number_at(job, k->length, from), rows, h->out);
    if (h->kind == RC_HEAD_MLP) {
        rc_linear_back_run(&k->dsecond, crew.worker, dhidden, draw, rows);
        rc_relu_backward(dhidden, dhidden, row_at(job, k->hidden, from), rows * h->out);
    } else if (h->kind == RC_HEAD_MS) {
        residual_backward(job, from, rows, crew.worker);
    }
    if (deep(h)) dfirst = dhidden;
    if (dx != NULL && h->kind != RC_HEAD_NONE)
        rc_linear_back_run(&k->dfirst, crew.worker, dx, dfirst, rows);
}

void rc_head_backward(const rc_head_plan *k, const rc_run *run, float *dx, const float *dy,
                      const float *x)
{
    head_job job = {.k = k, .run = run, .x = x, .dy = dy, .dx = dx};
    const rc_head *h = k->h;
    rc_grid_run(&k->grid, run->pool, backward_chunk, &job);
    if (h->kind == RC_HEAD_NONE) return;
    const float *draw = row_at(&job, k->draw, 0), *dsum = row_at(&job, k->dsum, 0);
    if (deep(h))
        rc_linear_back_weight(&k->dsecond, run->pool, h->kind == RC_HEAD_MS ? dsum : draw,
                              row_at(&job, k->active, 0));
    if (h->kind == RC_HEAD_MS)
        rc_norm_backward_weight(run->pool, k->p, h->norm, draw, row_at(&job, k->sum, 0),
                                number_at(&job, k->mean, 0), number_at(&job, k->rstd, 0),
                                k->grid.total);
    rc_linear_back_weight(&k->dfirst, run->pool, deep(h) ? row_at(&job, k->dhidden, 0) : draw, x);
}
