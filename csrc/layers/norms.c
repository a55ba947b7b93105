/* Layer norms and RMS norms as layers. */
#include "layers/norms.h"

#include "kernels/norm.h"

enum { SLICE_UNIT = 16 };

void rc_norm_forward(const rc_params *p, rc_pair norm, float eps, float *y, float *mean,
                     float *rstd, const float *x, int64_t rows)
{
    const rc_param *w = &p->item[norm.w];
    if (norm.b < 0)
        rc_rmsnorm_forward(y, rstd, x, w->x, rows, w->count, eps);
    else
        rc_layernorm_forward(y, mean, rstd, x, w->x, p->item[norm.b].x, rows, w->count, eps);
}

void rc_norm_backward(const rc_params *p, rc_pair norm, float *dx, const float *dy, const float *x,
                      const float *mean, const float *rstd, int64_t rows)
{
    const rc_param *w = &p->item[norm.w];
    if (norm.b < 0)
        rc_rmsnorm_backward(dx, dy, x, rstd, w->x, rows, w->count);
    else
        rc_layernorm_backward(dx, dy, x, mean, rstd, w->x, rows, w->count);
}

typedef struct {
    const rc_param *w, *b;
    const float *dy, *x, *mean, *rstd;
    int64_t total, c;
} norm_job;

static void norm_columns(void *arg, int64_t index, int worker)
{
    (void)worker;
    const norm_job *job = arg;
    int64_t from = index * SLICE_UNIT;
    int64_t to = rc_min(from + SLICE_UNIT, job->c);
    if (job->b == NULL)
        rc_rmsnorm_backward_weight(job->w->dx, job->dy, job->x, job->rstd, job->total, job->c, from,
                                   to);
    else
        rc_layernorm_backward_weight(job->w->dx, job->b->dx, job->dy, job->x, job->mean, job->rstd,
                                     job->total, job->c, from, to);
}

void rc_norm_backward_weight(rc_pool *pool, const rc_params *p, rc_pair pair, const float *dy,
                             const float *x, const float *mean, const float *rstd, int64_t total)
{
    norm_job job = {.w = &p->item[pair.w],
                    .b = pair.b < 0 ? NULL : &p->item[pair.b],
                    .dy = dy,
                    .x = x,
                    .mean = mean,
                    .rstd = rstd,
                    .total = total,
                    .c = p->item[pair.w].count};
    if (job.w->dx == NULL && (job.b == NULL || job.b->dx == NULL)) return;
    rc_parallel(pool, (job.c + SLICE_UNIT - 1) / SLICE_UNIT, norm_columns, &job);
}
