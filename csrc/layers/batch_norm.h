/* batch_norm: batch norms over rows of channels in training: statistics of the call's rows,
 * forward, backward, running statistics. */
#ifndef RC_BATCH_NORM_H
#define RC_BATCH_NORM_H

#include "layers/params.h"
#include "layers/plan.h"

/* Numbers without another word are offsets in scratch: statistics of the call (c); in double, the
 * number of rows that these are of (0: they are frozen), moments or sums of each piece of rows, and
 * their totals. */
typedef struct {
    const rc_params *p;
    rc_batch_norm norm;
    int64_t c, piece, pieces; /* channels; rows of a piece; pieces at most */
    float eps;
    int64_t mean, var, rows, part, total;
} rc_batch_norm_plan;

/* For at most n rows. */
void rc_batch_norm_plan_make(rc_batch_norm_plan *k, rc_plan *plan, const rc_params *p,
                             rc_batch_norm norm, int64_t n, float eps);

/* Statistics of x (n, c), which the calls below use; the running ones where those are frozen.
 * Outside of regions; summed in pieces that do not depend on the threads. */
void rc_batch_norm_stats(const rc_batch_norm_plan *k, const rc_run *run, const float *x, int64_t n);

/* Some rows through the norm; y may be x. */
void rc_batch_norm_forward(const rc_batch_norm_plan *k, const rc_run *run, float *y, const float *x,
                           int64_t rows);

/* Sums over the same n rows that backward needs; added to the gradients of scale and bias, where
 * these learn. Outside of regions. */
void rc_batch_norm_sums(const rc_batch_norm_plan *k, const rc_run *run, const float *dy,
                        const float *x, int64_t n);

/* The gradient of some rows; dx may be dy. */
void rc_batch_norm_backward(const rc_batch_norm_plan *k, const rc_run *run, float *dx,
                            const float *dy, const float *x, int64_t rows);

/* Where statistics are frozen: mean and var become the running ones. */
bool rc_batch_norm_frozen(const rc_params *p, rc_batch_norm norm, float *mean, float *var);

/* Mix the statistics of the call into the running ones, with the unbiased variance of `rows` rows,
 * as torch.nn.BatchNorm2d; of no rows nothing, nor where a statistic is not finite. */
void rc_batch_norm_mix(const rc_params *p, rc_batch_norm norm, const float *mean, const float *var,
                       double rows, double momentum);
void rc_batch_norm_commit(const rc_batch_norm_plan *k, const rc_run *run, double momentum);

#endif
