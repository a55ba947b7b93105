/* Symmetric contrastive loss with a learned temperature, in tiles of the n x n logits.
 *
 * A tile is computed where it is needed: once for the sums, once for the gradient of its rows and
 * once for that of its columns. Each row and each column has one owner at a time and takes tiles in
 * order, so results do not depend on the number of threads. */
#include "train/loss.h"

#include <math.h>

enum { TILE = 256 };

typedef struct {
    const rc_contrastive *k;
    const rc_run *run;
    const float *a, *t;
    float *da, *dt;
    float scale;
} loss_job;

/* Rows or columns from..from+size-1. */
typedef struct {
    int64_t from, size;
    int last; /* and fewer than of the others */
} block;

static block block_at(const loss_job *job, int64_t index)
{
    const rc_contrastive *k = job->k;
    int64_t from = index * k->full, size = rc_min(k->full, k->n - from);
    return (block){from, size, size < k->full};
}

static float *at(const loss_job *job, int64_t offset)
{
    return job->run->scratch + offset;
}

static double *double_at(const loss_job *job, int64_t offset)
{
    return (double *)(job->run->scratch + offset);
}

static float *tile_of(const loss_job *job, int worker)
{
    return rc_share_of(job->run, job->k->tile, worker);
}

/* Cosines of some rows of a with some of t. */
static void run_tile(const loss_job *job, float *tile, block rows, block columns, int worker)
{
    const rc_contrastive *k = job->k;
    rc_product_run(k->logits[rows.last][columns.last], worker, tile,
                   rc_floats(job->a + rows.from * k->c),
                   (rc_factor){.b = job->t + columns.from * k->c});
}

/* ---- Plan ------------------------------------------------------------------------------------ */

static rc_status plan_logits(rc_contrastive *k, rc_plan *plan)
{
    int64_t size[2] = {k->full, k->n % k->full}, c = k->c;
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 2; j++) {
            rc_product_shape shape = {
                .m = size[i], .n = size[j], .k = c, .lda = c, .ldb = c, .ldc = size[j], .tb = 1};
            RC_TRY(rc_plan_product(plan, &k->logits[i][j], shape, NULL));
        }
    return RC_OK;
}

static rc_status plan_gradients(rc_contrastive *k, rc_plan *plan)
{
    int64_t size[2] = {k->full, k->n % k->full}, c = k->c;
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 2; j++)
            for (int sum = 0; sum < 2; sum++) {
                rc_product_shape shape = {.m = size[i], .n = c, .k = size[j], .lda = size[j]};
                shape.ldb = shape.ldc = c;
                shape.sum = sum;
                RC_TRY(rc_plan_product(plan, &k->for_a[i][j][sum], shape, NULL));
                shape.m = size[j];
                shape.k = size[i];
                shape.ta = 1;
                RC_TRY(rc_plan_product(plan, &k->for_t[i][j][sum], shape, NULL));
            }
    return RC_OK;
}

rc_status rc_contrastive_plan(rc_contrastive *k, rc_plan *plan, int64_t n, int64_t c)
{
    int64_t full = rc_min(n, TILE);
    *k = (rc_contrastive){.n = n, .c = c, .full = full, .blocks = (n + full - 1) / full};
    k->tile = rc_plan_shares(plan, rc_plan_threads(plan), full * full);
    k->lse = rc_plan_take(plan, 2 * n);
    k->diagonal = rc_plan_take(plan, n);
    k->best = rc_plan_take(plan, k->blocks * n);
    k->sum = rc_plan_take(plan, 2 * k->blocks * n);
    k->partial = rc_plan_take(plan, 2 * n);
    RC_TRY(plan_logits(k, plan));
    return plan_gradients(k, plan);
}

/* ---- Forward --------------------------------------------------------------------------------- */

/* The largest of some logits, and the sum of exp(scale (x - best)). */
typedef struct {
    float best;
    double sum;
} line_sum;

static line_sum sum_line(const float *x, int64_t n, int64_t stride, float scale)
{
    line_sum s = {.best = x[0]};
    for (int64_t i = 1; i < n; i++) s.best = fmaxf(s.best, x[i * stride]);
    for (int64_t i = 0; i < n; i++) s.sum += exp((double)scale * (x[i * stride] - s.best));
    return s;
}

static line_sum join(line_sum x, line_sum y, float scale)
{
    float best = fmaxf(x.best, y.best);
    return (line_sum){best, x.sum * exp((double)scale * (x.best - best)) +
                                y.sum * exp((double)scale * (y.best - best))};
}

static float log_sum_exp(line_sum s, float scale)
{
    return (float)((double)scale * s.best + log(s.sum));
}

/* The sums of a block's rows; those of the columns are left in part. */
static void sum_rows(void *arg, int64_t index, int worker)
{
    const loss_job *job = arg;
    const rc_contrastive *k = job->k;
    block rows = block_at(job, index);
    float *tile = tile_of(job, worker), *best = at(job, k->best) + index * k->n;
    double *sum = double_at(job, k->sum) + index * k->n;
    line_sum line[TILE];
    for (int64_t b = 0; b < k->blocks; b++) {
        block columns = block_at(job, b);
        run_tile(job, tile, rows, columns, worker);
        for (int64_t i = 0; i < rows.size; i++) {
            line_sum s = sum_line(tile + i * columns.size, columns.size, 1, job->scale);
            line[i] = b == 0 ? s : join(line[i], s, job->scale);
        }
        for (int64_t j = 0; j < columns.size; j++) {
            line_sum s = sum_line(tile + j, rows.size, columns.size, job->scale);
            best[columns.from + j] = s.best;
            sum[columns.from + j] = s.sum;
        }
        for (int64_t i = 0; b == index && i < rows.size; i++)
            at(job, k->diagonal)[rows.from + i] = tile[i * columns.size + i];
    }
    for (int64_t i = 0; i < rows.size; i++)
        at(job, k->lse)[rows.from + i] = log_sum_exp(line[i], job->scale);
}

static void sum_columns(const loss_job *job)
{
    const rc_contrastive *k = job->k;
    const float *best = at(job, k->best);
    const double *sum = double_at(job, k->sum);
    for (int64_t j = 0; j < k->n; j++) {
        line_sum line = {best[j], sum[j]};
        for (int64_t i = k->n + j; i < k->blocks * k->n; i += k->n)
            line = join(line, (line_sum){best[i], sum[i]}, job->scale);
        at(job, k->lse)[k->n + j] = log_sum_exp(line, job->scale);
    }
}

double rc_contrastive_forward(const rc_contrastive *k, const rc_run *run, const float *a,
                              const float *t, float s)
{
    loss_job job = {.k = k, .run = run, .a = a, .t = t, .scale = expf(s)};
    rc_parallel(run->pool, k->blocks, sum_rows, &job);
    sum_columns(&job);
    const float *lse = at(&job, k->lse), *diagonal = at(&job, k->diagonal);
    double sum = 0;
    for (int64_t i = 0; i < k->n; i++)
        sum += 0.5 * ((double)lse[i] + lse[k->n + i]) - (double)job.scale * diagonal[i];
    return sum / (double)k->n;
}

/* ---- Backward -------------------------------------------------------------------------------- */

/* Cosines of a tile become the gradients of the scaled logits; what the scale receives from each
 * row is added to `partial`, where that is not NULL. */
static void run_gradients(const loss_job *job, float *tile, block rows, block columns,
                          double *partial, int worker)
{
    int64_t n = job->k->n;
    const float *lse = at(job, job->k->lse);
    run_tile(job, tile, rows, columns, worker);
    for (int64_t i = 0; i < rows.size; i++) {
        float *row = tile + i * columns.size, own = lse[rows.from + i];
        double scale_gradient = partial == NULL ? 0 : partial[i];
        for (int64_t j = 0; j < columns.size; j++) {
            float z = job->scale * row[j];
            float g = 0.5f * (expf(z - own) + expf(z - lse[n + columns.from + j])) -
                      (rows.from + i == columns.from + j);
            g /= (float)n;
            scale_gradient += (double)g * z; /* d z / d s = z, since the scale is exp(s) */
            row[j] = g;
        }
        if (partial != NULL) partial[i] = scale_gradient;
    }
}

static void scale_rows(float *y, int64_t n, float scale)
{
    for (int64_t i = 0; i < n; i++) y[i] *= scale;
}

static void gradients_of_rows(const loss_job *job, int64_t index, int worker)
{
    const rc_contrastive *k = job->k;
    block rows = block_at(job, index);
    float *tile = tile_of(job, worker), *da = job->da + rows.from * k->c;
    double *partial = double_at(job, k->partial) + rows.from;
    for (int64_t i = 0; i < rows.size; i++) partial[i] = 0;
    for (int64_t b = 0; b < k->blocks; b++) {
        block columns = block_at(job, b);
        run_gradients(job, tile, rows, columns, partial, worker);
        rc_product_run(k->for_a[rows.last][columns.last][b > 0], worker, da, rc_floats(tile),
                       (rc_factor){.b = job->t + columns.from * k->c});
    }
    scale_rows(da, rows.size * k->c, job->scale);
}

static void gradients_of_columns(const loss_job *job, int64_t index, int worker)
{
    const rc_contrastive *k = job->k;
    block columns = block_at(job, index);
    float *tile = tile_of(job, worker), *dt = job->dt + columns.from * k->c;
    for (int64_t b = 0; b < k->blocks; b++) {
        block rows = block_at(job, b);
        run_gradients(job, tile, rows, columns, NULL, worker);
        rc_product_run(k->for_t[rows.last][columns.last][b > 0], worker, dt, rc_floats(tile),
                       (rc_factor){.b = job->a + rows.from * k->c});
    }
    scale_rows(dt, columns.size * k->c, job->scale);
}

static void block_gradients(void *arg, int64_t index, int worker)
{
    const loss_job *job = arg;
    if (index < job->k->blocks)
        gradients_of_rows(job, index, worker);
    else
        gradients_of_columns(job, index - job->k->blocks, worker);
}

void rc_contrastive_backward(const rc_contrastive *k, const rc_run *run, float *da, float *dt,
                             float *ds, const float *a, const float *t, float s)
{
    loss_job job = {.k = k, .run = run, .a = a, .t = t, .da = da, .dt = dt, .scale = expf(s)};
    rc_parallel(run->pool, 2 * k->blocks, block_gradients, &job);
    for (int64_t i = 0; i < k->n; i++) *ds += (float)double_at(&job, k->partial)[i];
}
