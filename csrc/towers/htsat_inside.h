/* htsat_inside: the inside of the audio tower, shared by htsat.c (parameters and tables),
 * htsat_input.c and htsat_run.c (computation). */
#ifndef RC_HTSAT_INSIDE_H
#define RC_HTSAT_INSIDE_H

#include "layers/block.h"
#include "towers/fusion.h"
#include "towers/htsat.h"

/* One resolution: blocks, then patch merging (not after the last stage). */
typedef struct {
    int64_t side, tokens, c, depth, window, shift;
    int32_t *order[2]; /* grid position of each row, unshifted and shifted windows */
    int32_t *from[4];  /* where rows come from: grid to unshifted, unshifted to shifted, shifted to
                          unshifted, last block to patch merging */
    rc_swin *block;
    rc_pair merge_norm, merge;
} rc_htsat_stage;

struct rc_htsat {
    rc_htsat_config config;
    int64_t blocks; /* of all stages */
    rc_fusion fusion;
    rc_batch_norm bn;
    rc_pair patch, patch_norm, norm;
    int32_t *patch_from; /* (spec_size^2) */
    float *mask;         /* of shifted windows, in all stages that have some */
    rc_htsat_stage stage[RC_STAGES_MAX];
};

/* ---- Tape ------------------------------------------------------------------------------------ */

/* What patch merging keeps: the four rows side by side and their statistics. */
typedef struct {
    float *x, *mean, *rstd;
} rc_merge_tape;

struct rc_htsat_tape {
    rc_arena arena;
    const float *mel; /* the caller's, must live until backward */
    int64_t b, frames;
    rc_draw draw;
    float *bn_mean, *bn_var;    /* of this batch */
    float *pixels;              /* (b tokens, patch^2) */
    float *embed, *mean, *rstd; /* (b tokens, embed) before the patch norm, if there is one */
    rc_swin_tape *block;        /* all blocks in order */
    rc_merge_tape merge[RC_STAGES_MAX];
    float *last, *last_mean, *last_rstd; /* input of the final norm */
};

/* ---- One call -------------------------------------------------------------------------------- */

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
