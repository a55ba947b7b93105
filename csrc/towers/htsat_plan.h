/* htsat_plan: plan and call of HTS-AT, which htsat_input.c and htsat_run.c share. */
#ifndef RC_HTSAT_PLAN_H
#define RC_HTSAT_PLAN_H

#include "towers/fusion_train.h"
#include "towers/htsat_inside.h"
#include "towers/input_norm.h"

/* Numbers without another word are offsets in scratch.
 *
 * The input path. Kept for backward: statistics of the batch, patches, and the embedding before its
 * norm, if it has one. Fusion has a plan for inference and one for training. */
typedef struct {
    rc_linear patch;
    rc_linear_back back;
    rc_fusion_plan fusion;
    rc_fusion_train fusion_train;
    rc_input_norm norm;
    rc_shares worker, worker_back;
    int64_t pixels, embed, mean, rstd;
    int64_t da, dx;
} rc_htsat_input;

/* Patch merging. Kept for backward: the four rows side by side and their statistics. */
typedef struct {
    rc_grid grid;
    rc_linear linear;
    rc_linear_back back;
    rc_shares worker;
    int64_t x, mean, rstd;
    int64_t a, da;
} rc_htsat_merge;

/* The final norm and pooling. Kept for backward: the input of the norm and its statistics. */
typedef struct {
    rc_shares worker;
    int64_t last, mean, rstd;
    int64_t da;
} rc_htsat_pool;

typedef struct {
    const rc_htsat *t;
    const rc_params *p;
    int64_t b, frames;
    bool train;
    int64_t stream[2]; /* take turns */
    rc_htsat_input input;
    rc_block_plan **block; /* of all stages in order */
    rc_htsat_merge merge[RC_STAGES_MAX];
    rc_htsat_pool pool;
} rc_htsat_plan;

/* A call, and the step that is under way. */
typedef struct {
    const rc_htsat_plan *k;
    const rc_run *run;
    const rc_input *in;
    int64_t stage;
    const float *x, *dy;
    float *y, *dx;
} rc_htsat_call;

static inline const float *rc_htsat_value(const rc_htsat_call *job, int64_t index)
{
    return job->k->p->item[index].x;
}

static inline float *rc_htsat_at(const rc_htsat_call *job, int64_t offset)
{
    return job->run->scratch + offset;
}

/* htsat_input.c: log-mels of the call -> job->y (b tokens, embed) in grid order; and the gradient
 * of these, job->dy, down to bn0. */
rc_status rc_htsat_input_plan(rc_htsat_plan *k, rc_plan *plan);
void rc_htsat_input_forward(rc_htsat_call *job);
void rc_htsat_input_backward(rc_htsat_call *job);

#endif
