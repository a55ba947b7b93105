/* embed: table lookup, relative-position bias, mean pooling. */
#ifndef RC_EMBED_H
#define RC_EMBED_H

#include "base/base.h"

/* y (n, c) = table[id]. Backward accumulates into the table in row order. */
void rc_lookup_forward(float *y, const float *table, const int32_t *id, int64_t n, int64_t c);
void rc_lookup_backward(float *dtable, const float *dy, const int32_t *id, int64_t n, int64_t c);

/* Swin's relative-position bias: table ((2 window - 1)^2, h) -> bias (h, window^2, window^2). */
void rc_relpos_forward(float *bias, const float *table, int64_t window, int64_t h);
void rc_relpos_backward(float *dtable, const float *dbias, int64_t window, int64_t h);

/* T5's bias of query i and key j (Raffel et al. 2020): table (buckets, h) -> bias (h, t, t). Half
 * of the buckets are for keys to the right; half of those hold one distance each, the rest grow
 * like its logarithm and end at `distance`. */
void rc_t5_bias_forward(float *bias, const float *table, int64_t t, int64_t h, int64_t buckets,
                        int64_t distance);
void rc_t5_bias_backward(float *dtable, const float *dbias, int64_t t, int64_t h, int64_t buckets,
                         int64_t distance);

/* y (c) = mean of x (t, c) over t. */
void rc_meanpool_forward(float *y, const float *x, int64_t t, int64_t c);
void rc_meanpool_backward(float *dx, const float *dy, int64_t t, int64_t c);

#endif
