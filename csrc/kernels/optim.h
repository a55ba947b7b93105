/* optim: AdamW, sum of squares. */
#ifndef RC_OPTIM_H
#define RC_OPTIM_H

#include "base/base.h"

typedef struct {
    float lr, beta1, beta2, eps, weight_decay;
    int64_t step;     /* 1 for the first update */
    float grad_scale; /* multiplies every gradient: clipping costs no pass of its own */
} rc_adamw;

/* AdamW with decoupled weight decay (Loshchilov and Hutter 2019), as torch.optim.AdamW. */
void rc_adamw_step(float *w, float *m, float *v, const float *g, int64_t n, const rc_adamw *how);

/* Sum of squares of n values, in double. */
double rc_sum_squares(const float *x, int64_t n);

#endif
