/* act: activations, dropout, the exponential, sums. */
#ifndef RC_ACT_H
#define RC_ACT_H

#include "base/base.h"
#include "base/rng.h"

/* Element-wise over n values; y may be x, dx may be dy. */
void rc_gelu_forward(float *y, const float *x, int64_t n); /* x Phi(x), exact */
void rc_gelu_backward(float *dx, const float *dy, const float *x, int64_t n);
void rc_gelu_both(float *y, float *dx, const float *dy, const float *x, int64_t n);
void rc_gelu_tanh_forward(float *y, const float *x,
                          int64_t n); /* "gelu_new" of GPT-2 and T5 v1.1 */
void rc_gelu_tanh_backward(float *dx, const float *dy, const float *x, int64_t n);
/* x / (1 + exp(-1.702 x)) of CLIP */
void rc_quick_gelu_forward(float *y, const float *x, int64_t n);
void rc_quick_gelu_backward(float *dx, const float *dy, const float *x, int64_t n);
void rc_relu_forward(float *y, const float *x, int64_t n);
void rc_relu_backward(float *dx, const float *dy, const float *x, int64_t n);

/* Those of an MLP, both ways; the kinds count in the order of the names in reclap/towers.py. */
enum { RC_ACT_GELU, RC_ACT_GELU_TANH, RC_ACT_RELU, RC_ACT_QUICK_GELU, RC_ACTS };
typedef struct {
    void (*forward)(float *y, const float *x, int64_t n);
    void (*backward)(float *dx, const float *dy, const float *x, int64_t n);
    /* Both at once, where that takes less, or NULL. */
    void (*both)(float *y, float *dx, const float *dy, const float *x, int64_t n);
} rc_act;
const rc_act *rc_act_of(int64_t kind);

void rc_tanh_forward(float *y, const float *x, int64_t n);
void rc_tanh_backward(float *dx, const float *dy, const float *y, int64_t n);
void rc_sigmoid_forward(float *y, const float *x, int64_t n);
void rc_sigmoid_backward(float *dx, const float *dy, const float *y, int64_t n);

/* y = a b, the second half of a gated layer whose a went through an activation. y may be a or b. */
void rc_gated_forward(float *y, const float *a, const float *b, int64_t n);
void rc_gated_backward(float *da, float *db, const float *dy, const float *a, const float *b,
                       int64_t n);

/* y = x keep / (1 - p): value i of n is kept with probability 1 - p by the draw at index first + i.
 * Its own backward: call it on dy with the same draw. */
void rc_dropout(float *y, const float *x, int64_t n, float p, rc_draw at, int64_t first);

void rc_exp(float *y, const float *x, int64_t n); /* relative error below 2e-7; flushes below -87 */
bool rc_all_finite(const float *x, int64_t n);    /* neither NaN nor infinity among them */
void rc_add(float *y, const float *x, int64_t n); /* y += x */

/* y (columns) += each row of x, whose rows lie ld apart. */
void rc_add_rows(float *y, const float *x, int64_t rows, int64_t ld, int64_t columns);

#endif
