/* conv: what convolutional towers do to rows of pixels, (mels, c) each: neighbourhoods, pooling. */
#ifndef RC_CONV_H
#define RC_CONV_H

#include "base/base.h"

enum { RC_TAPS = 9 }; /* pixels of a neighbourhood, 3 x 3 */

/* The neighbourhoods of one row of pixels of a clip (frames, mels, c): (mels, 3, 3, c), 0 outside.
 */
void rc_neighbourhoods(float *y, const float *clip, int64_t row, int64_t frames, int64_t mels,
                       int64_t c);

/* The kernels w (n, 3, 3, c) of a convolution turned to those of its transpose, (3, 3, n, c): for
 * outputs from..to-1. */
void rc_turn_kernels(float *y, const float *w, int64_t n, int64_t c, int64_t from, int64_t to);

/* Two rows of pixels to one of half the width; the last of an odd number is left out. */
void rc_halve_rows(float *y, const float *x, int64_t mels, int64_t c);
/* One of these rows of dx; the last pixel of an odd number is 0. */
void rc_halve_rows_backward(float *dx, const float *dy, int64_t mels, int64_t c);

/* y (c): of the means over mels of x (frames, mels, c), the largest plus the mean over time. sum
 * (c) is scratch. */
void rc_peak_mean_forward(float *y, float *sum, const float *x, int64_t frames, int64_t mels,
                          int64_t c);
/* dx; where several frames are largest, the first is. best (2, c) is scratch. */
void rc_peak_mean_backward(float *dx, float *best, const float *dy, const float *x, int64_t frames,
                           int64_t mels, int64_t c);

#endif
