/* Rows of pixels of convolutional towers. */
#include "kernels/conv.h"

#include "base/clones.h"

#include <math.h>
#include <string.h>

/* ---- Neighbourhoods -------------------------------------------------------------------------- */

/* Columns x - 1 to x + 1 of one row of pixels for every x, RC_TAPS c numbers apart; 0 outside. */
static void gather_row(float *y, const float *row, int64_t mels, int64_t c)
{
    for (int64_t x = 0; x < mels; x++, y += RC_TAPS * c) {
        int64_t first = rc_max(x - 1, 0), last = rc_min(x + 1, mels - 1), left = first - (x - 1);
        if (left > 0) memset(y, 0, (size_t)c * sizeof *y);
        memcpy(y + left * c, row + first * c, (size_t)((last - first + 1) * c) * sizeof *y);
        if (last == x) memset(y + 2 * c, 0, (size_t)c * sizeof *y);
    }
}

void rc_neighbourhoods(float *y, const float *clip, int64_t row, int64_t frames, int64_t mels,
                       int64_t c)
{
    for (int64_t k = 0; k < 3; k++) {
        int64_t from = row + k - 1;
        if (from >= 0 && from < frames)
            gather_row(y + k * 3 * c, clip + from * mels * c, mels, c);
        else
            for (int64_t x = 0; x < mels; x++)
                memset(y + (x * RC_TAPS + k * 3) * c, 0, (size_t)(3 * c) * sizeof *y);
    }
}

void rc_turn_kernels(float *y, const float *w, int64_t n, int64_t c, int64_t from, int64_t to)
{
    for (int64_t tap = 0; tap < RC_TAPS; tap++)
        for (int64_t i = from; i < to; i++)
            memcpy(y + (tap * n + i) * c, w + (i * RC_TAPS + RC_TAPS - 1 - tap) * c,
                   (size_t)c * sizeof *y);
}

/* ---- Pooling --------------------------------------------------------------------------------- */

RC_CLONES
void rc_halve_rows(float *y, const float *x, int64_t mels, int64_t c)
{
    const float *below = x + mels * c;
    for (int64_t i = 0; i < mels / 2; i++)
        for (int64_t j = 0; j < c; j++) {
            int64_t left = 2 * i * c + j, right = left + c;
            y[i * c + j] = ((x[left] + x[right]) + (below[left] + below[right])) / 4;
        }
}

RC_CLONES
void rc_halve_rows_backward(float *dx, const float *dy, int64_t mels, int64_t c)
{
    for (int64_t i = 0; i < mels / 2 * 2; i++)
        for (int64_t j = 0; j < c; j++) dx[i * c + j] = dy[i / 2 * c + j] / 4;
    if (mels % 2 != 0) memset(dx + (mels - 1) * c, 0, (size_t)c * sizeof *dx);
}

RC_CLONES
void rc_peak_mean_forward(float *y, float *sum, const float *x, int64_t frames, int64_t mels,
                          int64_t c)
{
    for (int64_t j = 0; j < c; j++) {
        y[j] = -INFINITY;
        sum[j] = 0;
    }
    for (int64_t i = 0; i < frames; i++, x += mels * c)
        for (int64_t j = 0; j < c; j++) {
            float row = 0;
            for (int64_t k = 0; k < mels; k++) row += x[k * c + j];
            row /= (float)mels;
            y[j] = y[j] > row ? y[j] : row;
            sum[j] += row;
        }
    for (int64_t j = 0; j < c; j++) y[j] += sum[j] / (float)frames;
}

/* best: the largest of the sums over mels, and the frame where it is. */
RC_CLONES
static void find_peaks(float *best, const float *x, int64_t frames, int64_t mels, int64_t c)
{
    for (int64_t j = 0; j < c; j++) best[j] = -INFINITY, best[c + j] = 0;
    for (int64_t i = 0; i < frames; i++, x += mels * c)
        for (int64_t j = 0; j < c; j++) {
            float row = 0;
            for (int64_t k = 0; k < mels; k++) row += x[k * c + j];
            if (row > best[j]) best[j] = row, best[c + j] = (float)i;
        }
}

void rc_peak_mean_backward(float *dx, float *best, const float *dy, const float *x, int64_t frames,
                           int64_t mels, int64_t c)
{
    float share = 1 / (float)frames;
    find_peaks(best, x, frames, mels, c);
    for (int64_t i = 0; i < frames * mels; i++)
        for (int64_t j = 0; j < c; j++) {
            float peak = best[c + j] == (float)(i / mels) ? 1 : 0;
            dx[i * c + j] = dy[j] * (share + peak) / (float)mels;
        }
}
