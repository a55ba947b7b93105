/* norms: layer norms and RMS norms as layers; which one a norm is, its parameters tell: an RMS norm
 * has no bias. */
#ifndef RC_NORMS_H
#define RC_NORMS_H

#include "base/parallel.h"
#include "layers/params.h"

/* y = the norm of each row of x, which may be y; its statistics where they are not NULL. */
void rc_norm_forward(const rc_params *p, rc_pair norm, float eps, float *y, float *mean,
                     float *rstd, const float *x, int64_t rows);

/* dx of dy, from the statistics that forward kept; an RMS norm has no mean. */
void rc_norm_backward(const rc_params *p, rc_pair norm, float *dx, const float *dy, const float *x,
                      const float *mean, const float *rstd, int64_t rows);

/* Gradients of the parameters over all rows, sliced over columns. */
void rc_norm_backward_weight(rc_pool *pool, const rc_params *p, rc_pair pair, const float *dy,
                             const float *x, const float *mean, const float *rstd, int64_t total);

#endif
