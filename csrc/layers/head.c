/* Projection heads: tower features to unit vectors of the joint space, forward and backward. */
#include "layers/head.h"

#include "kernels/act.h"
#include "kernels/norm.h"
#include "layers/linear.h"

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

void rc_head_tape_take(rc_head_tape *k, rc_arena *arena, const rc_head *h, int64_t n)
{
    k->hidden = rc_take(arena, n * h->out);
    k->active = rc_take(arena, n * h->out);
    k->raw = rc_take(arena, n * h->out);
    k->y = rc_take(arena, n * h->out);
    k->length = rc_take(arena, n);
    k->dhidden = rc_take(arena, n * h->out);
    k->draw = rc_take(arena, n * h->out);
    if (h->kind != RC_HEAD_MS) return;
    k->sum = rc_take(arena, n * h->out);
    k->mean = rc_take(arena, n);
    k->rstd = rc_take(arena, n);
    k->dsum = rc_take(arena, n * h->out);
}

typedef struct {
    const rc_head *h;
    const rc_params *p;
    const rc_head_tape *k;
    rc_linear first, second;
    const float *x, *dy;
    float *dx;
} head_job;

/* raw = layer norm of e1 + W2 gelu(e1). */
static void residual_forward(const head_job *job, const float *x, int64_t from, int64_t rows,
                             rc_crew crew)
{
    const rc_head *h = job->h;
    const rc_head_tape *k = job->k;
    int64_t at = from * h->out, n = rows * h->out;
    rc_linear_run(&job->first, crew, k->hidden + at, rc_floats(x), rows);
    rc_gelu_forward(k->active + at, k->hidden + at, n);
    memcpy(k->sum + at, k->hidden + at, (size_t)n * sizeof(float));
    rc_linear_run(&job->second, crew, k->sum + at, rc_floats(k->active + at), rows); /* adds */
    rc_layernorm_forward(k->raw + at, k->mean + from, k->rstd + from, k->sum + at,
                         job->p->item[h->norm.w].x, job->p->item[h->norm.b].x, rows, h->out,
                         MS_EPS);
}

static void forward_chunk(void *arg, int64_t from, int64_t rows, rc_crew crew)
{
    const head_job *job = arg;
    const rc_head *h = job->h;
    const rc_head_tape *k = job->k;
    int64_t at = from * h->out;
    const float *raw = job->x + from * h->in;
    if (h->kind == RC_HEAD_LINEAR) {
        rc_linear_run(&job->first, crew, k->raw + at, rc_floats(raw), rows);
        raw = k->raw + at;
    } else if (h->kind == RC_HEAD_MLP) {
        rc_linear_run(&job->first, crew, k->hidden + at, rc_floats(raw), rows);
        rc_relu_forward(k->active + at, k->hidden + at, rows * h->out);
        rc_linear_run(&job->second, crew, k->raw + at, rc_floats(k->active + at), rows);
        raw = k->raw + at;
    } else if (h->kind == RC_HEAD_MS) {
        residual_forward(job, raw, from, rows, crew);
        raw = k->raw + at;
    }
    rc_l2norm_forward(k->y + at, k->length + from, raw, rows, h->out);
}

rc_status rc_head_forward(const rc_head *h, const rc_params *p, rc_dnn *dnn, const rc_head_tape *k,
                          const float *x, int64_t n)
{
    head_job job = {.h = h, .p = p, .k = k, .x = x};
    rc_grid grid = rc_grid_rows(n, HEAD_ROWS);
    if (h->kind != RC_HEAD_NONE) RC_TRY(rc_linear_get(&job.first, dnn, p, h->first, &grid, false));
    if (deep(h))
        RC_TRY(rc_linear_get(&job.second, dnn, p, h->second, &grid, h->kind == RC_HEAD_MS));
    rc_grid_run(&grid, rc_dnn_pool(dnn), forward_chunk, &job);
    return RC_OK;
}

/* dhidden = gelu'(e1) W2ᵀ dsum + dsum, the gradient of e1. */
static void residual_backward(const head_job *job, int64_t from, int64_t rows, int worker)
{
    const rc_head *h = job->h;
    const rc_head_tape *k = job->k;
    int64_t at = from * h->out, n = rows * h->out;
    rc_layernorm_backward(k->dsum + at, k->draw + at, k->sum + at, k->mean + from, k->rstd + from,
                          job->p->item[h->norm.w].x, rows, h->out);
    rc_linear_backward_run(&job->second, worker, k->dhidden + at, k->dsum + at, rows);
    rc_gelu_backward(k->dhidden + at, k->dhidden + at, k->hidden + at, n);
    rc_add(k->dhidden + at, k->dsum + at, n);
}

static void backward_chunk(void *arg, int64_t from, int64_t rows, rc_crew crew)
{
    const head_job *job = arg;
    const rc_head *h = job->h;
    const rc_head_tape *k = job->k;
    int64_t at = from * h->out;
    float *dx = job->dx == NULL ? NULL : job->dx + from * h->in;
    float *dfirst = h->kind == RC_HEAD_NONE ? dx : k->draw + at;
    if (dfirst != NULL)
        rc_l2norm_backward(dfirst, job->dy + at, k->y + at, k->length + from, rows, h->out);
    if (h->kind == RC_HEAD_MLP) {
        dfirst = k->dhidden + at;
        rc_linear_backward_run(&job->second, crew.worker, dfirst, k->draw + at, rows);
        rc_relu_backward(dfirst, dfirst, k->hidden + at, rows * h->out);
    } else if (h->kind == RC_HEAD_MS) {
        dfirst = k->dhidden + at;
        residual_backward(job, from, rows, crew.worker);
    }
    if (dx != NULL && h->kind != RC_HEAD_NONE)
        rc_linear_backward_run(&job->first, crew.worker, dx, dfirst, rows);
}

rc_status rc_head_backward(const rc_head *h, const rc_params *p, rc_dnn *dnn, float *dx,
                           const float *dy, const rc_head_tape *k, const float *x, int64_t n)
{
    head_job job = {.h = h, .p = p, .k = k, .x = x, .dx = dx, .dy = dy};
    rc_grid grid = rc_grid_rows(n, HEAD_ROWS);
    if (h->kind != RC_HEAD_NONE)
        RC_TRY(rc_linear_backward_get(&job.first, dnn, p, h->first, &grid));
    if (deep(h)) RC_TRY(rc_linear_backward_get(&job.second, dnn, p, h->second, &grid));
    rc_grid_run(&grid, rc_dnn_pool(dnn), backward_chunk, &job);
    if (h->kind == RC_HEAD_NONE) return RC_OK;
    const float *dsecond = h->kind == RC_HEAD_MS ? k->dsum : k->draw;
    if (deep(h)) RC_TRY(rc_linear_backward_weight(dnn, p, h->second, dsecond, k->active, n));
    if (h->kind == RC_HEAD_MS)
        rc_norm_backward_weight(rc_dnn_pool(dnn), p, h->norm, k->draw, k->sum, k->mean, k->rstd, n);
    return rc_linear_backward_weight(dnn, p, h->first, deep(h) ? k->dhidden : k->draw, x, n);
}
