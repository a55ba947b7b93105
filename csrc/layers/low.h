/* low: bfloat16 copies of linear weights, for the products of a trainer.
 *
 * rc_param.low is laid out for y = x wᵀ, rc_param.back for dx = dy w; each of outputs before the
 * cut of a weight [0] and from it on [1]. */
#ifndef RC_LOW_H
#define RC_LOW_H

#include "layers/params.h"

/* Copies of the values x, those of the way back with `back`; none where a weight may not be packed
 * in any type. */
rc_status rc_param_lower(rc_param *p, rc_dnn *dnn, const float *x, bool back);

/* New values of a parameter in them, by a worker. */
void rc_param_lower_again(rc_param *p, rc_dnn *dnn, int worker);

int64_t rc_param_low_bytes(const rc_param *p); /* of both, about */

/* Free them. */
void rc_param_raise(rc_param *p);

#endif
