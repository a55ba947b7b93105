/* Batch norms in training. */
#include "layers/batch_norm.h"

#include "kernels/norm.h"

#include <math.h>
#include <string.h>

enum { PIECE_ROWS = 256, PIECES = 64 };

void rc_batch_norm_plan_make(rc_batch_norm_plan *k, rc_plan *plan, const rc_params *p,
                             rc_batch_norm norm, int64_t n, float eps)
{
    int64_t c = p->item[norm.mean].count, piece = rc_max(PIECE_ROWS, (n + PIECES - 1) / PIECES);
    *k = (rc_batch_norm_plan){.p = p, .norm = norm, .c = c, .piece = piece, .eps = eps};
    k->pieces = (n + piece - 1) / piece;
    k->mean = rc_plan_take(plan, c);
    k->var = rc_plan_take(plan, c);
    k->rows = rc_plan_take(plan, 2);
    k->total = rc_plan_take(plan, 4 * c);
    k->part = rc_plan_take(plan, k->pieces * 4 * c);
}

static double *doubles_at(const rc_run *run, int64_t offset)
{
    return (double *)(run->scratch + offset);
}

typedef struct {
    const rc_batch_norm_plan *k;
    const rc_run *run;
    const float *dy, *x;
    int64_t n;
} norm_job;

static int64_t rows_of(const norm_job *job, int64_t index)
{
    return rc_min(job->k->piece, job->n - index * job->k->piece);
}

static rc_moments moments_at(const norm_job *job, int64_t index)
{
    double *at = doubles_at(job->run, job->k->part) + index * 2 * job->k->c;
    return (rc_moments){rows_of(job, index), at, at + job->k->c};
}

static void stats_piece(void *arg, int64_t index, int worker)
{
    (void)worker;
    const norm_job *job = arg;
    rc_moments m = moments_at(job, index);
    int64_t c = job->k->c;
    rc_moments_of(&m, job->x + index * job->k->piece * c, m.n, c, c);
}

bool rc_batch_norm_frozen(const rc_params *p, rc_batch_norm norm, float *mean, float *var)
{
    if (rc_batch_norm_learns(p, &norm)) return false;
    size_t bytes = (size_t)p->item[norm.mean].count * sizeof *mean;
    memcpy(mean, p->item[norm.mean].x, bytes);
    memcpy(var, p->item[norm.var].x, bytes);
    return true;
}

void rc_batch_norm_stats(const rc_batch_norm_plan *k, const rc_run *run, const float *x, int64_t n)
{
    norm_job job = {.k = k, .run = run, .x = x, .n = n};
    int64_t pieces = (n + k->piece - 1) / k->piece;
    float *mean = run->scratch + k->mean, *var = run->scratch + k->var;
    bool frozen = rc_batch_norm_frozen(k->p, k->norm, mean, var);
    *doubles_at(run, k->rows) = frozen ? 0 : (double)n;
    if (frozen || n < 1) return;
    rc_parallel(run->pool, pieces, stats_piece, &job);
    rc_moments all = moments_at(&job, 0);
    for (int64_t i = 1; i < pieces; i++) {
        rc_moments more = moments_at(&job, i);
        rc_moments_merge(&all, &more, k->c);
    }
    rc_moments_stats(mean, var, &all, k->c);
}

void rc_batch_norm_forward(const rc_batch_norm_plan *k, const rc_run *run, float *y, const float *x,
                           int64_t rows)
{
    rc_batchnorm_forward(y, x, run->scratch + k->mean, run->scratch + k->var,
                         k->p->item[k->norm.scale.w].x, k->p->item[k->norm.scale.b].x, rows, k->c,
                         k->eps);
}

static void sums_piece(void *arg, int64_t index, int worker)
{
    (void)worker;
    const norm_job *job = arg;
    const rc_batch_norm_plan *k = job->k;
    int64_t c = k->c, at = index * k->piece * c;
    double *sum = doubles_at(job->run, k->part) + index * 2 * c;
    memset(sum, 0, (size_t)(2 * c) * sizeof *sum);
    rc_batchnorm_sums(sum, sum + c, job->dy + at, job->x + at, job->run->scratch + k->mean,
                      job->run->scratch + k->var, rows_of(job, index), c, c, k->eps);
}

static void add_gradient(const rc_params *p, int64_t param, const double *sum)
{
    const rc_param *item = &p->item[param];
    for (int64_t j = 0; item->dx != NULL && j < item->count; j++) item->dx[j] += (float)sum[j];
}

void rc_batch_norm_sums(const rc_batch_norm_plan *k, const rc_run *run, const float *dy,
                        const float *x, int64_t n)
{
    norm_job job = {.k = k, .run = run, .dy = dy, .x = x, .n = n};
    int64_t pieces = (n + k->piece - 1) / k->piece, c = k->c;
    double *total = doubles_at(run, k->total), *part = doubles_at(run, k->part);
    memset(total, 0, (size_t)(2 * c) * sizeof *total);
    rc_parallel(run->pool, pieces, sums_piece, &job);
    for (int64_t i = 0; i < pieces; i++)
        for (int64_t j = 0; j < 2 * c; j++) total[j] += part[i * 2 * c + j];
    add_gradient(k->p, k->norm.scale.b, total);
    add_gradient(k->p, k->norm.scale.w, total + c);
}

void rc_batch_norm_backward(const rc_batch_norm_plan *k, const rc_run *run, float *dx,
                            const float *dy, const float *x, int64_t rows)
{
    const double *total = doubles_at(run, k->total);
    rc_batchnorm_backward(dx, dy, x, run->scratch + k->mean, run->scratch + k->var,
                          k->p->item[k->norm.scale.w].x, total, total + k->c,
                          (int64_t)*doubles_at(run, k->rows), rows, k->c, k->eps);
}

void rc_batch_norm_mix(const rc_params *p, rc_batch_norm norm, const float *mean, const float *var,
                       double rows, double momentum)
{
    float *running_mean = p->item[norm.mean].x, *running_var = p->item[norm.var].x;
    float by = (float)momentum, unbiased = rows > 1 ? (float)(rows / (rows - 1)) : 1;
    for (int64_t j = 0; rows > 0 && j < p->item[norm.mean].count; j++) {
        if (!isfinite(mean[j]) || !isfinite(var[j] * unbiased)) continue; /* overflowed */
        running_mean[j] += by * (mean[j] - running_mean[j]);
        running_var[j] += by * (var[j] * unbiased - running_var[j]);
    }
}

void rc_batch_norm_commit(const rc_batch_norm_plan *k, const rc_run *run, double momentum)
{
    rc_batch_norm_mix(k->p, k->norm, run->scratch + k->mean, run->scratch + k->var,
                      *doubles_at(run, k->rows), momentum);
}
