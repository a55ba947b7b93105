/* input_norm: the batch norm over mel bands that audio towers begin with, in training. */
#ifndef RC_INPUT_NORM_H
#define RC_INPUT_NORM_H

#include "layers/batch_norm.h"
#include "towers/tower.h"

/* Offsets in scratch: statistics (mels) that a call works with, and of how many rows they are. */
typedef struct {
    const rc_params *p;
    rc_batch_norm norm;
    int64_t views, mels;
    float eps;
    int64_t mean, var, rows, moments;
} rc_input_norm;

void rc_input_norm_plan(rc_input_norm *k, rc_plan *plan, const rc_params *p, rc_batch_norm norm,
                        int64_t views, float eps);

/* Add what a call hears to the moments of each band, clip by clip: a clip of one log-mel counts as
 * if all of its views were that. */
void rc_input_moments(rc_pool *pool, rc_moments *m, const rc_input *in, int64_t views,
                      int64_t mels);

/* The statistics of the whole batch, if the call knows them, or else its own. */
void rc_input_norm_stats(const rc_input_norm *k, const rc_run *run, const rc_input *in);

static inline const float *rc_input_norm_mean(const rc_input_norm *k, const rc_run *run)
{
    return run->scratch + k->mean;
}

static inline const float *rc_input_norm_var(const rc_input_norm *k, const rc_run *run)
{
    return run->scratch + k->var;
}

/* Add to the gradients of scale and bias; dy lies as in->x does. */
void rc_input_norm_backward(const rc_input_norm *k, const rc_run *run, const float *dy,
                            const rc_input *in);

void rc_input_norm_commit(const rc_input_norm *k, const rc_run *run, double momentum);

#endif
