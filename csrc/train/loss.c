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
    const float *a, *t;
    float *da, *dt;
    int64_t n, c, full, blocks;
    float scale;
    /* by whether the tile's rows, then its columns are the last ones; then by adding or not */
    rc_product *logits[2][2], *for_a[2][2][2], *for_t[2][2][2];
} loss_job;

/* Rows or columns from..from+size-1. */
typedef struct {
    int64_t from, size;
    int last; /* and fewer than of the others */
} block;

static block block_at(const loss_job *job, int64_t index)
{
    int64_t from = index * job->full, size = rc_min(job->full, job->n - from);
    return (block){from, size, size < job->full};
}

static loss_job job_of(const rc_contrastive *k, const float *a, const float *t, float s, int64_t n,
                       int64_t c)
{
    int64_t full = rc_min(n, TILE);
    return (loss_job){.k = k,
                      .a = a,
                      .t = t,
                      .n = n,
                      .c = c,
                      .full = full,
                      .blocks = (n + full - 1) / full,
                      .scale = expf(s)};
}

void rc_contrastive_take(rc_contrastive *k, rc_arena *arena, int64_t n, int threads)
{
    int64_t full = rc_min(n, TILE), blocks = (n + full - 1) / full;
    k->tile = rc_take(arena, threads * full * full);
    k->lse = rc_take(arena, 2 * n);
    k->diagonal = rc_take(arena, n);
    k->best = rc_take(arena, blocks * n);
    k->sum = (double *)rc_take(arena, 2 * blocks * n);
    k->partial = (double *)rc_take(arena, 2 * n);
}

static float *tile_of(const loss_job *job, int worker)
{
    return job->k->tile + worker * job->full * job->full;
}

/* Cosines of some rows of a with some of t. */
static void run_tile(const loss_job *job, float *tile, block rows, block columns, int worker)
{
    rc_product_run(job->logits[rows.last][columns.last], worker, tile,
                   rc_floats(job->a + rows.from * job->c),
                   (rc_factor){.b = job->t + columns.from * job->c});
}

static rc_status get_logits(loss_job *job, rc_dnn *dnn)
{
    int64_t size[2] = {job->full, job->n % job->full}, c = job->c;
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 2; j++) {
            rc_product_shape shape = {
                .m = size[i], .n = size[j], .k = c, .lda = c, .ldb = c, .ldc = size[j], .tb = 1};
            RC_TRY(rc_product_get(dnn, &job->logits[i][j], shape, NULL));
        }
    return RC_OK;
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
    float *tile = tile_of(job, worker);
    line_sum line[TILE];
    for (int64_t b = 0; b < job->blocks; b++) {
        block columns = block_at(job, b);
        run_tile(job, tile, rows, columns, worker);
        for (int64_t i = 0; i < rows.size; i++) {
            line_sum s = sum_line(tile + i * columns.size, columns.size, 1, job->scale);
            line[i] = b == 0 ? s : join(line[i], s, job->scale);
        }
        for (int64_t j = 0; j < columns.size; j++) {
            line_sum s = sum_line(tile + j, rows.size, columns.size, job->scale);
            k->best[index * job->n + columns.from + j] = s.best;
            k->sum[index * job->n + columns.from + j] = s.sum;
        }
        for (int64_t i = 0; b == index && i < rows.size; i++)
            k->diagonal[rows.from + i] = tile[i * columns.size + i];
    }
    for (int64_t i = 0; i < rows.size; i++)
        k->lse[rows.from + i] = log_sum_exp(line[i], job->scale);
}

static void sum_columns(const loss_job *job)
{
    const rc_contrastive *k = job->k;
    for (int64_t j = 0; j < job->n; j++) {
        line_sum line = {k->best[j], k->sum[j]};
        for (int64_t at = job->n + j; at < job->blocks * job->n; at += job->n)
            line = join(line, (line_sum){k->best[at], k->sum[at]}, job->scale);
        k->lse[job->n + j] = log_sum_exp(line, job->scale);
    }
}

rc_status rc_contrastive_forward(double *loss, const rc_contrastive *k, rc_dnn *dnn, const float *a,
                                 const float *t, float s, int64_t n, int64_t c)
{
    if (n < 1) return rc_fail(RC_EINVAL, "contrastive loss: the batch is empty");
    loss_job job = job_of(k, a, t, s, n, c);
    RC_TRY(get_logits(&job, dnn));
    rc_parallel(rc_dnn_pool(dnn), job.blocks, sum_rows, &job);
    sum_columns(&job);
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += 0.5 * ((double)k->lse[i] + k->lse[n + i]) - (double)job.scale * k->diagonal[i];
    *loss = sum / (double)n;
    return rc_dnn_check(dnn);
}

/* ---- Backward -------------------------------------------------------------------------------- */

/* Cosines of a tile become the gradients of the scaled logits; what the scale receives from each
 * row is added to `partial`, where that is not NULL. */
static void run_gradients(const loss_job *job, float *tile, block rows, block columns,
                          double *partial, int worker)
{
    const float *lse = job->k->lse;
    run_tile(job, tile, rows, columns, worker);
    for (int64_t i = 0; i < rows.size; i++) {
        float *row = tile + i * columns.size, own = lse[rows.from + i];
        double scale_gradient = partial == NULL ? 0 : partial[i];
        for (int64_t j = 0; j < columns.size; j++) {
            float z = job->scale * row[j];
            float g = 0.5f * (expf(z - own) + expf(z - lse[job->n + columns.from + j])) -
                      (rows.from + i == columns.from + j);
            g /= (float)job->n;
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
    block rows = block_at(job, index);
    float *tile = tile_of(job, worker), *da = job->da + rows.from * job->c;
    double *partial = job->k->partial + rows.from;
    for (int64_t i = 0; i < rows.size; i++) partial[i] = 0;
    for (int64_t b = 0; b < job->blocks; b++) {
        block columns = block_at(job, b);
        run_gradients(job, tile, rows, columns, partial, worker);
        rc_product_run(job->for_a[rows.last][columns.last][b > 0], worker, da, rc_floats(tile),
                       (rc_factor){.b = job->t + columns.from * job->c});
    }
    scale_rows(da, rows.size * job->c, job->scale);
}

static void gradients_of_columns(const loss_job *job, int64_t index, int worker)
{
    block columns = block_at(job, index);
    float *tile = tile_of(job, worker), *dt = job->dt + columns.from * job->c;
    for (int64_t b = 0; b < job->blocks; b++) {
        block rows = block_at(job, b);
        run_gradients(job, tile, rows, columns, NULL, worker);
        rc_product_run(job->for_t[rows.last][columns.last][b > 0], worker, dt, rc_floats(tile),
                       (rc_factor){.b = job->a + rows.from * job->c});
    }
    scale_rows(dt, columns.size * job->c, job->scale);
}

static void block_gradients(void *arg, int64_t index, int worker)
{
    const loss_job *job = arg;
    if (index < job->blocks)
        gradients_of_rows(job, index, worker);
    else
        gradients_of_columns(job, index - job->blocks, worker);
}

static rc_status get_gradients(loss_job *job, rc_dnn *dnn)
{
    int64_t size[2] = {job->full, job->n % job->full}, c = job->c;
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 2; j++)
            for (int sum = 0; sum < 2; sum++) {
                rc_product_shape shape = {.m = size[i], .n = c, .k = size[j], .lda = size[j]};
                shape.ldb = shape.ldc = c;
                shape.sum = sum;
                RC_TRY(rc_product_get(dnn, &job->for_a[i][j][sum], shape, NULL));
                shape.m = size[j];
                shape.k = size[i];
                shape.ta = 1;
                RC_TRY(rc_product_get(dnn, &job->for_t[i][j][sum], shape, NULL));
            }
    return RC_OK;
}

rc_status rc_contrastive_backward(float *da, float *dt, float *ds, const rc_contrastive *k,
                                  rc_dnn *dnn, const float *a, const float *t, float s, int64_t n,
                                  int64_t c)
{
    loss_job job = job_of(k, a, t, s, n, c);
    job.da = da;
    job.dt = dt;
    RC_TRY(get_logits(&job, dnn));
    RC_TRY(get_gradients(&job, dnn));
    rc_parallel(rc_dnn_pool(dnn), 2 * job.blocks, block_gradients, &job);
    for (int64_t i = 0; i < n; i++) *ds += (float)k->partial[i];
    return rc_dnn_check(dnn);
}
