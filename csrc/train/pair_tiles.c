/* Logits of pairs in tiles, and the gradients that come of them. */
#include "train/loss_inside.h"

#include <math.h>

/* ---- Plan ------------------------------------------------------------------------------------ */

static rc_status plan_gradients(rc_pair_tiles *k, rc_plan *plan)
{
    int64_t rows[2] = {k->rows, k->na % k->rows}, columns[2] = {k->columns, k->nt % k->columns};
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 2; j++)
            for (int sum = 0; sum < 2; sum++) {
                rc_product_shape shape = {.m = rows[i], .n = k->c, .k = columns[j]};
                shape.lda = columns[j];
                shape.ldb = shape.ldc = k->c;
                shape.sum = sum;
                RC_TRY(rc_plan_product(plan, &k->for_a[i][j][sum], shape, NULL));
                shape.m = columns[j];
                shape.k = rows[i];
                shape.ta = 1;
                RC_TRY(rc_plan_product(plan, &k->for_t[i][j][sum], shape, NULL));
            }
    return RC_OK;
}

rc_status rc_pair_tiles_plan(rc_pair_tiles *k, rc_plan *plan, const rc_loss_size *size,
                             int64_t rows_of_tile, int64_t columns_of_tile, bool gradients)
{
    int64_t m = rc_min(size->na, rows_of_tile), n = rc_min(size->nt, columns_of_tile);
    int64_t c = size->c;
    *k = (rc_pair_tiles){.na = size->na, .nt = size->nt, .c = c, .rows = m, .columns = n};
    k->row_blocks = (k->na + m - 1) / m;
    k->column_blocks = (k->nt + n - 1) / n;
    k->tile = rc_plan_shares(plan, rc_plan_threads(plan), m * n);
    int64_t rows[2] = {m, k->na % m}, columns[2] = {n, k->nt % n};
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 2; j++) {
            rc_product_shape shape = {.m = rows[i], .n = columns[j], .k = c, .lda = c};
            shape.ldb = c;
            shape.ldc = columns[j];
            shape.tb = 1;
            RC_TRY(rc_plan_product(plan, &k->logits[i][j], shape, NULL));
        }
    if (!gradients) return RC_OK;
    k->partial = rc_plan_take(plan, k->na * (int64_t)(sizeof(rc_partial) / sizeof(float)));
    return plan_gradients(k, plan);
}

/* ---- Tiles ----------------------------------------------------------------------------------- */

static rc_pair_block block_at(int64_t index, int64_t full, int64_t n)
{
    int64_t from = index * full, size = rc_min(full, n - from);
    return (rc_pair_block){from, size, size < full};
}

rc_pair_block rc_pair_rows(const rc_pair_tiles *k, int64_t index)
{
    return block_at(index, k->rows, k->na);
}

rc_pair_block rc_pair_columns(const rc_pair_tiles *k, int64_t index)
{
    return block_at(index, k->columns, k->nt);
}

float *rc_pair_tile_of(const rc_pair_tiles *k, const rc_run *run, int worker)
{
    return rc_share_of(run, k->tile, worker);
}

void rc_pair_cosines(const rc_pair_tiles *k, float *tile, const rc_loss_in *in, rc_pair_block rows,
                     rc_pair_block columns, int worker)
{
    rc_product_run(k->logits[rows.last][columns.last], worker, tile,
                   rc_floats(in->a + rows.from * k->c),
                   (rc_factor){.b = in->t + columns.from * k->c});
}

/* ---- Gradients ------------------------------------------------------------------------------- */

static void scale_rows(float *y, int64_t n, float scale)
{
    for (int64_t i = 0; i < n; i++) y[i] *= scale;
}

static void gradients_of_rows(const rc_pair_job *job, int64_t index, int worker)
{
    const rc_pair_tiles *k = job->k;
    rc_pair_block rows = rc_pair_rows(k, index);
    float *tile = rc_pair_tile_of(k, job->run, worker), *da = job->out.da + rows.from * k->c;
    rc_partial *partial = (rc_partial *)(job->run->scratch + k->partial) + rows.from;
    for (int64_t i = 0; i < rows.size; i++) partial[i] = (rc_partial){0, 0};
    for (int64_t b = 0; b < k->column_blocks; b++) {
        rc_pair_block columns = rc_pair_columns(k, b);
        rc_pair_cosines(k, tile, job->in, rows, columns, worker);
        job->slopes(job, tile, rows, columns, partial, worker);
        rc_product_run(k->for_a[rows.last][columns.last][b > 0], worker, da, rc_floats(tile),
                       (rc_factor){.b = job->in->t + columns.from * k->c});
    }
    scale_rows(da, rows.size * k->c, job->scale);
}

static void gradients_of_columns(const rc_pair_job *job, int64_t index, int worker)
{
    const rc_pair_tiles *k = job->k;
    rc_pair_block columns = rc_pair_columns(k, index);
    float *tile = rc_pair_tile_of(k, job->run, worker), *dt = job->out.dt + columns.from * k->c;
    for (int64_t b = 0; b < k->row_blocks; b++) {
        rc_pair_block rows = rc_pair_rows(k, b);
        rc_pair_cosines(k, tile, job->in, rows, columns, worker);
        job->slopes(job, tile, rows, columns, NULL, worker);
        rc_product_run(k->for_t[rows.last][columns.last][b > 0], worker, dt, rc_floats(tile),
                       (rc_factor){.b = job->in->a + rows.from * k->c});
    }
    scale_rows(dt, columns.size * k->c, job->scale);
}

static void block_gradients(void *arg, int64_t index, int worker)
{
    const rc_pair_job *job = arg;
    if (index < job->k->row_blocks)
        gradients_of_rows(job, index, worker);
    else
        gradients_of_columns(job, index - job->k->row_blocks, worker);
}

void rc_pair_backward(rc_pair_job *job)
{
    const rc_pair_tiles *k = job->k;
    const rc_partial *partial = (const rc_partial *)(job->run->scratch + k->partial);
    job->scale = expf(job->in->log_scale);
    rc_parallel(job->run->pool, k->row_blocks + k->column_blocks, block_gradients, job);
    for (int64_t i = 0; i < k->na; i++) {
        if (job->out.dscale != NULL) *job->out.dscale += (float)partial[i].scale;
        if (job->out.dbias != NULL) *job->out.dbias += (float)partial[i].bias;
    }
}
