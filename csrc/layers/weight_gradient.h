/* weight_gradient: the gradient of a linear weight, which sums over all rows of a call.
 *
 * dw (outputs, inputs) += dyᵀ x, cut into tiles of dw and, where these are few, into groups of rows
 * whose sums are added in order. All cuts depend on sizes alone and each sum has one owner, so that
 * the number of workers changes nothing. */
#ifndef RC_WEIGHT_GRADIENT_H
#define RC_WEIGHT_GRADIENT_H

#include "layers/plan.h"

typedef struct {
    int64_t n, k, total;          /* outputs, inputs, rows */
    int64_t out, in, outs, ins;   /* of a tile but the last; tiles along both */
    int64_t rows, groups;         /* of a group but the last; groups */
    int64_t stretch[3];           /* rows of a product: full, last of a group, at the end */
    rc_product *product[2][2][3]; /* [of the last outputs][of the last inputs][stretch] */
    bool narrow, laid;            /* both factors are rounded to bfloat16; by the caller */
    const rc_turns *own, *sums;   /* of a worker; of groups */
} rc_weight_gradient;

/* All rows of a factor, and the same rounded to bfloat16, or NULL. */
typedef struct {
    const float *x;
    const uint16_t *low;
} rc_lowered;

/* With `laid` narrow factors come rounded; else they are rounded on their way into a product. */
rc_status rc_weight_gradient_plan(rc_weight_gradient *out, rc_plan *plan, int64_t n, int64_t k,
                                  int64_t total, bool narrow, bool laid);

void rc_weight_gradient_run(const rc_weight_gradient *g, rc_pool *pool, float *dw, rc_lowered dy,
                            rc_lowered x);

#endif
