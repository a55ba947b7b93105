/* window: index tables of the audio tower, gathers and scatters along them, bicubic stretch. */
#ifndef RC_WINDOW_H
#define RC_WINDOW_H

#include "base/base.h"

/* Index tables of the audio tower on a side x side grid. All moves are gathers along such a table
 * and their transposes are scatters along the same one. */

/* index[i] = grid position (row-major) of place i in window order, the grid rolled by -shift. */
void rc_window_index(int32_t *index, int64_t side, int64_t window, int64_t shift);

/* Swin's mask for the rolled grid depends only on whether a window lies in the last row of windows
 * and in the last column: rc_window_kind is the sum of the flags of window w, 0 where there is
 * nothing to mask. */
enum { RC_LAST_ROW = 1, RC_LAST_COLUMN = 2, RC_WINDOW_KINDS = 4 };
int64_t rc_window_kind(int64_t w, int64_t across);

/* The mask of a kind: (window^2, window^2), 0 or -100. */
void rc_window_mask(float *mask, int64_t window, int64_t shift, int64_t kind);

/* Fold and cut into patches (LAION: clap_module/htsat.py, reshape_wav2img): for grid position i and
 * pixel j of its patch of `rows` rows and `columns` columns, where in the (frames, mels)
 * spectrogram the value lies. Columns that do not fill a patch are left out. */
void rc_patch_index(int32_t *index, int64_t spec_size, int64_t mels, int64_t rows, int64_t columns);

/* y (n, c) = x[index]; for backward dx[index] = dy, where no index occurs twice. */
void rc_gather_rows(float *y, const float *x, const int32_t *index, int64_t n, int64_t c);
void rc_scatter_rows(float *dx, const float *dy, const int32_t *index, int64_t n, int64_t c);

/* Bicubic stretch along time, (from, c) -> (to, c): Keys kernel with a = -0.75, corners aligned,
 * the source coordinate in float32 and taps clamped at the borders, as torch's interpolate. */
void rc_stretch_forward(float *y, const float *x, int64_t from, int64_t to, int64_t c);
void rc_stretch_backward(float *dx, const float *dy, int64_t from, int64_t to, int64_t c);

#endif
