/* Projection heads: tower features to unit vectors of the joint space, forward and backward. */
#include "head.h"

enum { HEAD_ROWS = 64 };

void rc_head_declare(rc_head *h, rc_params *p, rc_head_kind kind, int64_t in, int64_t out,
                     const char *name)
{
    *h = (rc_head){.kind = kind, .in = in, .out = kind == RC_HEAD_NONE ? in : out};
    if (kind != RC_HEAD_NONE) h->first = rc_declare_linear(p, out, in, true, name, ".0");
    if (kind == RC_HEAD_MLP) h->second = rc_declare_linear(p, out, out, true, name, ".2");
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
}

typedef struct {
    const rc_head *h;
    const rc_head_tape *k;
    rc_linear first, second;
    const float *x, *dy;
    float *dx;
    int64_t n;
} head_job;

static void forward_chunk(void *arg, int64_t index, int worker)
{
    const head_job *job = arg;
    const rc_head *h = job->h;
    const rc_head_tape *k = job->k;
    int64_t from = index * HEAD_ROWS, rows = rc_min(HEAD_ROWS, job->n - from), at = from * h->out;
    const float *raw = job->x + from * h->in;
    if (h->kind == RC_HEAD_LINEAR) {
        rc_linear_run(&job->first, worker, k->raw + at, raw, rows);
        raw = k->raw + at;
    } else if (h->kind == RC_HEAD_MLP) {
        rc_linear_run(&job->first, worker, k->hidden + at, raw, rows);
        rc_relu_forward(k->active + at, k->hidden + at, rows * h->out);
        rc_linear_run(&job->second, worker, k->raw + at, k->active + at, rows);
        raw = k->raw + at;
    }
    rc_l2norm_forward(k->y + at, k->length + from, raw, rows, h->out);
}

rc_status rc_head_forward(const rc_head *h, const rc_params *p, rc_dnn *dnn, const rc_head_tape *k,
                          const float *x, int64_t n)
{
    head_job job = {.h = h, .k = k, .x = x, .n = n};
    if (h->kind != RC_HEAD_NONE)
        RC_TRY(rc_linear_get(&job.first, dnn, p, h->first, n, HEAD_ROWS, false));
    if (h->kind == RC_HEAD_MLP)
        RC_TRY(rc_linear_get(&job.second, dnn, p, h->second, n, HEAD_ROWS, false));
    rc_parallel(rc_dnn_pool(dnn), (n + HEAD_ROWS - 1) / HEAD_ROWS, forward_chunk, &job);
    return RC_OK;
}

static void backward_chunk(void *arg, int64_t index, int worker)
{
    const head_job *job = arg;
    const rc_head *h = job->h;
    const rc_head_tape *k = job->k;
    int64_t from = index * HEAD_ROWS, rows = rc_min(HEAD_ROWS, job->n - from), at = from * h->out;
    float *dx = job->dx == NULL ? NULL : job->dx + from * h->in;
    float *dfirst = h->kind == RC_HEAD_NONE ? dx : k->draw + at;
    if (dfirst != NULL)
        rc_l2norm_backward(dfirst, job->dy + at, k->y + at, k->length + from, rows, h->out);
    if (h->kind == RC_HEAD_MLP) {
        dfirst = k->dhidden + at;
        rc_linear_backward_run(&job->second, worker, dfirst, k->draw + at, rows);
        rc_relu_backward(dfirst, dfirst, k->hidden + at, rows * h->out);
    }
    if (dx != NULL && h->kind != RC_HEAD_NONE)
        rc_linear_backward_run(&job->first, worker, dx, dfirst, rows);
}

rc_status rc_head_backward(const rc_head *h, const rc_params *p, rc_dnn *dnn, float *dx,
                           const float *dy, const rc_head_tape *k, const float *x, int64_t n)
{
    head_job job = {.h = h, .k = k, .x = x, .dx = dx, .dy = dy, .n = n};
    if (h->kind != RC_HEAD_NONE)
        RC_TRY(rc_linear_backward_get(&job.first, dnn, p, h->first, n, HEAD_ROWS));
    if (h->kind == RC_HEAD_MLP)
        RC_TRY(rc_linear_backward_get(&job.second, dnn, p, h->second, n, HEAD_ROWS));
    rc_parallel(rc_dnn_pool(dnn), (n + HEAD_ROWS - 1) / HEAD_ROWS, backward_chunk, &job);
    if (h->kind == RC_HEAD_NONE) return RC_OK;
    const float *dfirst = h->kind == RC_HEAD_MLP ? k->dhidden : k->draw;
    if (h->kind == RC_HEAD_MLP)
        RC_TRY(rc_linear_backward_weight(dnn, p, h->second, k->draw, k->active, n));
    return rc_linear_backward_weight(dnn, p, h->first, dfirst, x, n);
}
