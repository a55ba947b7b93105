/* htsat_call: one call of HTS-AT, which htsat_input.c and htsat_run.c share. */
#ifndef RC_HTSAT_CALL_H
#define RC_HTSAT_CALL_H

#include "layers/linear.h"
#include "towers/htsat_inside.h"

/* A forward or backward pass. It runs twice: with a counting arena nothing is computed. */
typedef struct {
    const rc_htsat *t;
    const rc_params *p;
    rc_dnn *dnn;
    rc_arena *arena;
    rc_htsat_tape *tape;
    const float *mel;
    const bool *longer;
    int64_t b, frames;
    const float *bn_mean, *bn_var;
    rc_draw draw;
    rc_linear linear; /* of the step under way */
    rc_fusion_run fusion;
    float *scratch; /* per worker */
    int64_t scratch_size;
    /* the step under way: merging, input or pooling */
    const rc_htsat_stage *stage;
    const rc_merge_tape *merge;
    const float *x;
    float *y, *dx;
    const float *dy;
    float *da;
    rc_grid grid;
} rc_htsat_call;

static inline const float *rc_call_value(const rc_htsat_call *job, int64_t index)
{
    return job->p->item[index].x;
}

static inline float *rc_call_scratch(const rc_htsat_call *job, int worker)
{
    return job->scratch + worker * job->scratch_size;
}

static inline void rc_call_take(rc_htsat_call *job, int64_t floats)
{
    job->scratch_size = (floats + 15) / 16 * 16;
    job->scratch = rc_take(job->arena, rc_dnn_threads(job->dnn) * job->scratch_size);
}

/* ---- htsat_input.c --------------------------------------------------------------------------- */

/* mel of the call -> y (b tokens, embed) in grid order; and its gradient down to bn0. */
rc_status rc_htsat_input_forward(rc_htsat_call *job, float *y);
rc_status rc_htsat_input_backward(rc_htsat_call *job, const float *dy);

#endif
