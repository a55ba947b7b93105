/* optim: AdamW and Adam, sum of squares. */
#ifndef RC_OPTIM_H
#define RC_OPTIM_H

#include "base/base.h"

typedef struct {
    float lr, beta1, beta2, eps, weight_decay;
    int64_t step;     /* 1 for the first update */
    float grad_scale; /* multiplies every gradient: clipping costs no pass of its own */
    int coupled;      /* Adam: the decay is added to the gradient, not taken from the weight */
} rc_adamw;

/* AdamW with decoupled weight decay (Loshchilov and Hutter 2019), as torch.optim.AdamW; with
 * `coupled`, Adam (Kingma and Ba 2015) with L2 decay, as torch.optim.Adam. */
void rc_adamw_step(float *w, float *m, float *v, const float *g, int64_t n, const rc_adamw *how);

/* Sum of squares of n values, in double. */
double rc_sum_squares(const float *x, int64_t n);

#endif
