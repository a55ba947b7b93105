/* Distillation: the softmax of a teacher's logits as the target of the student's, for each clip
 * over all texts and for each text over all clips (open_clip: loss.py, DistillClipLoss, its second
 * term):
 *
 *     half of  mean over clips of  -sum_j p_ij log softmax_j z_ij,  and the same of texts.
 *
 * Owners and roles do not matter. The teacher receives no gradient. */
#include "train/loss_inside.h"

#include <math.h>

typedef struct {
    rc_pair_tiles student, teacher;
    rc_pair_sums of_student, of_teacher;
    int64_t sum; /* (na) of the teacher's probabilities times the student's logits, in double */
} distillation;

static rc_status plan_distillation(void **body, rc_plan *plan, const rc_loss_size *size)
{
    RC_TRY(rc_plan_alloc(plan, body, sizeof(distillation)));
    distillation *k = *body;
    rc_loss_size teacher = *size;
    teacher.c = size->teacher;
    RC_TRY(rc_pair_tiles_plan(&k->student, plan, size, RC_PAIR_TILE, RC_PAIR_TILE, true));
    RC_TRY(rc_pair_tiles_plan(&k->teacher, plan, &teacher, RC_PAIR_TILE, RC_PAIR_TILE, false));
    rc_pair_sums_plan(&k->of_student, plan, &k->student);
    rc_pair_sums_plan(&k->of_teacher, plan, &k->teacher);
    k->sum = rc_plan_take(plan, 2 * size->na);
    return RC_OK;
}

/* All clips and texts, which all see each other. */
static rc_loss_in student_of(const rc_loss_in *in)
{
    rc_loss_in student = *in;
    student.owner = student.role = NULL;
    return student;
}

static rc_loss_in teacher_of(const rc_loss_in *in)
{
    rc_loss_in teacher = {.na = in->na, .nt = in->nt};
    teacher.a = in->teacher_a;
    teacher.t = in->teacher_t;
    teacher.log_scale = in->teacher_log_scale;
    return teacher;
}

/* ---- A tile of both -------------------------------------------------------------------------- */

/* log-sum-exp of the rows and columns of a tile. */
typedef struct {
    const float *rows, *columns;
} sums_of_tile;

static sums_of_tile sums_at(const rc_run *run, const rc_pair_sums *sums, rc_pair_block rows,
                            rc_pair_block columns)
{
    return (sums_of_tile){run->scratch + sums->rows + rows.from,
                          run->scratch + sums->columns + columns.from};
}

/* What a logit weighs in the loss: its two probabilities, halved and averaged. */
static float weight(const distillation *k, float z, float of_row, float of_column)
{
    return 0.5f *
           (expf(z - of_row) / (float)k->student.na + expf(z - of_column) / (float)k->student.nt);
}

/* The teacher's cosines of some pairs become what their logits weigh. */
static const float *teacher_weights(const distillation *k, const rc_run *run, const rc_loss_in *in,
                                    rc_pair_block rows, rc_pair_block columns, int worker)
{
    float *tile = rc_pair_tile_of(&k->teacher, run, worker), scale = expf(in->teacher_log_scale);
    rc_loss_in teacher = teacher_of(in);
    sums_of_tile sums = sums_at(run, &k->of_teacher, rows, columns);
    rc_pair_cosines(&k->teacher, tile, &teacher, rows, columns, worker);
    for (int64_t i = 0; i < rows.size; i++)
        for (int64_t j = 0; j < columns.size; j++) {
            float *x = &tile[i * columns.size + j];
            *x = weight(k, scale * *x, sums.rows[i], sums.columns[j]);
        }
    return tile;
}

/* ---- Forward --------------------------------------------------------------------------------- */

typedef struct {
    const distillation *k;
    const rc_run *run;
    const rc_loss_in *in;
    float scale;
} sum_job;

static void sum_rows(void *arg, int64_t index, int worker)
{
    const sum_job *job = arg;
    const distillation *k = job->k;
    rc_pair_block rows = rc_pair_rows(&k->student, index);
    float *tile = rc_pair_tile_of(&k->student, job->run, worker);
    double *sum = (double *)(job->run->scratch + k->sum) + rows.from;
    for (int64_t i = 0; i < rows.size; i++) sum[i] = 0;
    for (int64_t b = 0; b < k->student.column_blocks; b++) {
        rc_pair_block columns = rc_pair_columns(&k->student, b);
        const float *p = teacher_weights(k, job->run, job->in, rows, columns, worker);
        rc_pair_cosines(&k->student, tile, job->in, rows, columns, worker);
        for (int64_t i = 0; i < rows.size; i++)
            for (int64_t j = 0; j < columns.size; j++) {
                int64_t at = i * columns.size + j;
                sum[i] += (double)p[at] * job->scale * tile[at];
            }
    }
}

static double run_forward(const void *body, const rc_run *run, const rc_loss_in *in)
{
    const distillation *k = body;
    rc_loss_in student = student_of(in), teacher = teacher_of(in);
    sum_job job = {.k = k, .run = run, .in = in, .scale = expf(in->log_scale)};
    rc_pair_sums_run(&k->of_student, &k->student, run, &student);
    rc_pair_sums_run(&k->of_teacher, &k->teacher, run, &teacher);
    rc_parallel(run->pool, k->student.row_blocks, sum_rows, &job);
    const float *rows = run->scratch + k->of_student.rows;
    const float *columns = run->scratch + k->of_student.columns;
    const double *sum = (const double *)(run->scratch + k->sum);
    double of_rows = 0, of_columns = 0, of_logits = 0;
    for (int64_t i = 0; i < in->na; i++) of_rows += rows[i];
    for (int64_t i = 0; i < in->na; i++) of_logits += sum[i];
    for (int64_t j = 0; j < in->nt; j++) of_columns += columns[j];
    return 0.5 * (of_rows / (double)in->na + of_columns / (double)in->nt) - of_logits;
}

/* ---- Backward -------------------------------------------------------------------------------- */

static void slopes(const rc_pair_job *job, float *tile, rc_pair_block rows, rc_pair_block columns,
                   rc_partial *partial, int worker)
{
    const distillation *k = job->loss;
    const float *p = teacher_weights(k, job->run, job->in, rows, columns, worker);
    sums_of_tile sums = sums_at(job->run, &k->of_student, rows, columns);
    for (int64_t i = 0; i < rows.size; i++) {
        double for_scale = 0;
        for (int64_t j = 0; j < columns.size; j++) {
            float *x = &tile[i * columns.size + j], z = job->scale * *x;
            *x = weight(k, z, sums.rows[i], sums.columns[j]) - p[i * columns.size + j];
            for_scale += (double)*x * z;
        }
        if (partial != NULL) partial[i].scale += for_scale;
    }
}

static void run_backward(const void *body, const rc_run *run, const rc_loss_out *out,
                         const rc_loss_in *in)
{
    const distillation *k = body;
    rc_pair_job job = {
        .k = &k->student, .run = run, .in = in, .out = *out, .loss = k, .slopes = slopes};
    rc_pair_backward(&job);
}

const rc_loss_kind rc_distillation_kind = {
    .name = "distillation",
    .teacher = true,
    .plan = plan_distillation,
    .forward = run_forward,
    .backward = run_backward,
};
