/* Sums over the logits of each clip and of each text, in one pass over the tiles. */
#include "train/loss_inside.h"

#include <math.h>

typedef struct {
    const rc_pair_sums *k;
    const rc_pair_tiles *tiles;
    const rc_run *run;
    const rc_loss_in *in;
    float scale;
} sums_job;

void rc_pair_sums_plan(rc_pair_sums *k, rc_plan *plan, const rc_pair_tiles *tiles)
{
    k->rows = rc_plan_take(plan, tiles->na);
    k->columns = rc_plan_take(plan, tiles->nt);
    k->own = rc_plan_take(plan, tiles->nt);
    k->best = rc_plan_take(plan, tiles->row_blocks * tiles->nt);
    k->sum = rc_plan_take(plan, 2 * tiles->row_blocks * tiles->nt);
}

/* What exponents are relative to: where all is hidden there is no largest one. */
static float base_of(float best)
{
    return best == -INFINITY ? 0 : best;
}

static rc_line_sum sum_line(const float *x, int64_t n, int64_t stride, float scale)
{
    rc_line_sum s = {.best = x[0]};
    for (int64_t i = 1; i < n; i++) s.best = fmaxf(s.best, x[i * stride]);
    float base = base_of(s.best);
    for (int64_t i = 0; i < n; i++) s.sum += exp((double)scale * (x[i * stride] - base));
    return s;
}

rc_line_sum rc_line_join(rc_line_sum x, rc_line_sum y, float scale)
{
    float best = fmaxf(x.best, y.best), base = base_of(best);
    return (rc_line_sum){best, x.sum * exp((double)scale * (x.best - base)) +
                                   y.sum * exp((double)scale * (y.best - base))};
}

float rc_line_log(rc_line_sum s, float scale)
{
    return (float)((double)scale * s.best + log(s.sum));
}

/* Cosines of each text with its own clip. */
static void keep_own(const sums_job *job, const float *tile, rc_pair_block rows,
                     rc_pair_block columns)
{
    float *own = job->run->scratch + job->k->own;
    for (int64_t j = 0; j < columns.size; j++) {
        int64_t i = rc_owner_of(job->in, columns.from + j) - rows.from;
        if (i >= 0 && i < rows.size) own[columns.from + j] = tile[i * columns.size + j];
    }
}

/* Texts that are seen by their own clip only become minus infinity for the others. */
static void hide(const rc_loss_in *in, float *tile, rc_pair_block rows, rc_pair_block columns)
{
    for (int64_t j = 0; in->role != NULL && j < columns.size; j++) {
        if (rc_role_of(in, columns.from + j) == RC_ROLE_SHARED) continue;
        int64_t own = rc_owner_of(in, columns.from + j) - rows.from;
        for (int64_t i = 0; i < rows.size; i++)
            if (i != own) tile[i * columns.size + j] = -INFINITY;
    }
}

/* The sums of a block's rows; those of the columns are left in part. */
static void sum_rows(void *arg, int64_t index, int worker)
{
    const sums_job *job = arg;
    const rc_pair_tiles *tiles = job->tiles;
    rc_pair_block rows = rc_pair_rows(tiles, index);
    float *tile = rc_pair_tile_of(tiles, job->run, worker);
    float *best = job->run->scratch + job->k->best + index * tiles->nt;
    double *sum = (double *)(job->run->scratch + job->k->sum) + index * tiles->nt;
    rc_line_sum line[RC_PAIR_TILE];
    for (int64_t b = 0; b < tiles->column_blocks; b++) {
        rc_pair_block columns = rc_pair_columns(tiles, b);
        rc_pair_cosines(tiles, tile, job->in, rows, columns, worker);
        keep_own(job, tile, rows, columns);
        for (int64_t j = 0; j < columns.size; j++) {
            rc_line_sum s = sum_line(tile + j, rows.size, columns.size, job->scale);
            best[columns.from + j] = s.best;
            sum[columns.from + j] = s.sum;
        }
        hide(job->in, tile, rows, columns);
        for (int64_t i = 0; i < rows.size; i++) {
            rc_line_sum s = sum_line(tile + i * columns.size, columns.size, 1, job->scale);
            line[i] = b == 0 ? s : rc_line_join(line[i], s, job->scale);
        }
    }
    for (int64_t i = 0; i < rows.size; i++)
        job->run->scratch[job->k->rows + rows.from + i] = rc_line_log(line[i], job->scale);
}

static void join_columns(const sums_job *job)
{
    int64_t n = job->tiles->nt;
    const float *best = job->run->scratch + job->k->best;
    const double *sum = (const double *)(job->run->scratch + job->k->sum);
    for (int64_t j = 0; j < n; j++) {
        rc_line_sum line = {best[j], sum[j]};
        for (int64_t i = n + j; i < job->tiles->row_blocks * n; i += n)
            line = rc_line_join(line, (rc_line_sum){best[i], sum[i]}, job->scale);
        job->run->scratch[job->k->columns + j] = rc_line_log(line, job->scale);
    }
}

void rc_pair_sums_run(const rc_pair_sums *k, const rc_pair_tiles *tiles, const rc_run *run,
                      const rc_loss_in *in)
{
    sums_job job = {.k = k, .tiles = tiles, .run = run, .in = in, .scale = expf(in->log_scale)};
    rc_parallel(run->pool, tiles->row_blocks, sum_rows, &job);
    join_columns(&job);
}
