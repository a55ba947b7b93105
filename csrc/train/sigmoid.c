/* Sigmoid loss: each pair of clip and text by itself (Zhai et al. 2023, SigLIP, equation 1).
 *
 *     1/na sum over pairs of  -log sigmoid(y z),   z = exp(log_scale) cosine + bias,
 *
 * y is 1 for a text and its own clip, else -1. A clip may have several texts: the sum is divided by
 * the number of clips all the same. Hard negatives are -1 for their own clip too; a clip's pairs
 * with texts that it does not see are left out. */
#include "train/loss_inside.h"

#include <math.h>

typedef struct {
    rc_pair_tiles tiles;
    int64_t sum; /* (na) of the losses of each clip's pairs, in double */
} sigmoid_loss;

typedef struct {
    const sigmoid_loss *k;
    const rc_run *run;
    const rc_loss_in *in;
    float scale;
} sum_job;

static rc_status plan_sigmoid(void **body, rc_plan *plan, const rc_loss_size *size)
{
    RC_TRY(rc_plan_alloc(plan, body, sizeof(sigmoid_loss)));
    sigmoid_loss *k = *body;
    RC_TRY(rc_pair_tiles_plan(&k->tiles, plan, size, RC_PAIR_TILE, RC_PAIR_TILE, true));
    k->sum = rc_plan_take(plan, 2 * size->na);
    return RC_OK;
}

/* y of a pair; 0 where the clip does not see the text. */
static int sign_of(const rc_loss_in *in, int64_t clip, int64_t text)
{
    int32_t role = rc_role_of(in, text);
    if (rc_owner_of(in, text) == clip) return role == RC_ROLE_NEGATIVE ? -1 : 1;
    return role == RC_ROLE_SHARED ? -1 : 0;
}

/* ---- Forward --------------------------------------------------------------------------------- */

/* -log sigmoid(x) */
static double loss_of(double x)
{
    return log1p(exp(-fabs(x))) + (x < 0 ? -x : 0);
}

static void sum_rows(void *arg, int64_t index, int worker)
{
    const sum_job *job = arg;
    const rc_pair_tiles *k = &job->k->tiles;
    rc_pair_block rows = rc_pair_rows(k, index);
    float *tile = rc_pair_tile_of(k, job->run, worker);
    double *sum = (double *)(job->run->scratch + job->k->sum) + rows.from;
    for (int64_t i = 0; i < rows.size; i++) sum[i] = 0;
    for (int64_t b = 0; b < k->column_blocks; b++) {
        rc_pair_block columns = rc_pair_columns(k, b);
        rc_pair_cosines(k, tile, job->in, rows, columns, worker);
        for (int64_t i = 0; i < rows.size; i++)
            for (int64_t j = 0; j < columns.size; j++) {
                int y = sign_of(job->in, rows.from + i, columns.from + j);
                float z = job->scale * tile[i * columns.size + j] + job->in->bias;
                if (y != 0) sum[i] += loss_of((double)y * z);
            }
    }
}

static double run_forward(const void *body, const rc_run *run, const rc_loss_in *in)
{
    const sigmoid_loss *k = body;
    sum_job job = {.k = k, .run = run, .in = in, .scale = expf(in->log_scale)};
    rc_parallel(run->pool, k->tiles.row_blocks, sum_rows, &job);
    const double *sum = (const double *)(run->scratch + k->sum);
    double all = 0;
    for (int64_t i = 0; i < in->na; i++) all += sum[i];
    return all / (double)in->na;
}

/* ---- Backward -------------------------------------------------------------------------------- */

static float sigmoid(float x)
{
    float e = expf(-fabsf(x));
    return x < 0 ? e / (1 + e) : 1 / (1 + e);
}

static void slopes(const rc_pair_job *job, float *tile, rc_pair_block rows, rc_pair_block columns,
                   rc_partial *partial, int worker)
{
    (void)worker;
    for (int64_t i = 0; i < rows.size; i++) {
        float *row = tile + i * columns.size;
        rc_partial sum = {0, 0};
        for (int64_t j = 0; j < columns.size; j++) {
            float y = (float)sign_of(job->in, rows.from + i, columns.from + j);
            float z = job->scale * row[j];
            float g = y == 0 ? 0 : -y * sigmoid(-y * (z + job->in->bias)) / (float)job->k->na;
            sum.scale += (double)g * z;
            sum.bias += (double)g;
            row[j] = g;
        }
        if (partial == NULL) continue;
        partial[i].scale += sum.scale;
        partial[i].bias += sum.bias;
    }
}

static void run_backward(const void *body, const rc_run *run, const rc_loss_out *out,
                         const rc_loss_in *in)
{
    const sigmoid_loss *k = body;
    rc_pair_job job = {
        .k = &k->tiles, .run = run, .in = in, .out = *out, .loss = k, .slopes = slopes};
    rc_pair_backward(&job);
}

const rc_loss_kind rc_sigmoid_kind = {
    .name = "sigmoid",
    .bias = true,
    .plan = plan_sigmoid,
    .forward = run_forward,
    .backward = run_backward,
};
