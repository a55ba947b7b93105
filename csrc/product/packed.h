/* packed: weights laid out for products, whole or some of their outputs. */
#ifndef RC_PACKED_H
#define RC_PACKED_H

#include "product/dnn.h"

/* Lay out w (n, k), the weight of y = x wᵀ. The layout is a function of n, k and type. RC_EBACKEND
 * where oneDNN has no such product on this processor. */
rc_status rc_packed_new(rc_packed **out, rc_dnn *dnn, const float *w, int64_t n, int64_t k,
                        rc_type type);

/* Of w (k, n), the weight of y = x w, in bfloat16. */
rc_status rc_packed_turned(rc_packed **out, rc_dnn *dnn, const float *w, int64_t n, int64_t k);

/* Other values in the place of those of a bfloat16 weight, by a worker; a refusal by oneDNN is
 * remembered for rc_dnn_check. */
void rc_packed_refill(rc_packed *packed, rc_dnn *dnn, const float *w, int worker);

void rc_packed_free(rc_packed *packed);

rc_type rc_packed_type(const rc_packed *packed);

/* The largest int8 weight: 127, or 63 without VNNI, where oneDNN adds pairs of products in 16 bits,
 * which saturate unless one factor has seven. */
int rc_int8_weight(void);

/* The weight (n, k) as it was, bit for bit; RC_EINVAL for narrower types. */
rc_status rc_packed_read(float *w, rc_dnn *dnn, const rc_packed *packed);

/* A packed weight as a factor, or its outputs from `from` on, a multiple of the unit in which they
 * can be cut (0: not at all). The product of some of them has ldb = all. */
rc_factor rc_packed_factor(const rc_packed *packed, int64_t from);
int64_t rc_packed_unit(const rc_packed *packed);

#endif
