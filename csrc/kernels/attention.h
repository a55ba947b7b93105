/* attention: softmax attention over one window or sequence. */
#ifndef RC_ATTENTION_H
#define RC_ATTENTION_H

#include "base/base.h"

/* t queries of one sequence or window and the first `keys` of its keys: o = softmax(scale q kᵀ +
 * bias + mask) v for each of h heads, which may be some of all. Rows of q hold (heads, d) and lie
 * ldq floats apart, rows of k ldk apart; values lie `inner`, the width of all heads, behind keys,
 * and rows of o as far apart. bias (h, side, side) and mask (side, side) are added where not NULL,
 * their first t rows and `keys` columns, so that one table serves sequences of any length. */
typedef struct {
    int64_t t, h, d, keys, side, ldq, ldk, inner;
    float scale;
} rc_attention;

/* Floats of scratch that either direction needs. */
int64_t rc_attention_scratch(const rc_attention *a);
void rc_attention_forward(float *o, const float *q, const float *k, const float *bias,
                          const float *mask, const rc_attention *a, float *scratch);

/* Gradients lie as what they belong to; those of keys and values are overwritten or, with `add`,
 * added to, where other queries have seen them. The probabilities are computed again, so nothing is
 * kept. dbias (h, side, side) accumulates or is NULL. */
void rc_attention_backward(float *dq, float *dk, float *dbias, const float *dout, const float *q,
                           const float *k, const float *bias, const float *mask,
                           const rc_attention *a, bool add, float *scratch);

#endif
