/* Index moves of the audio tower: fold, window split with shift, patch cutting, bicubic stretch. */
#include "kernels/window.h"

#include <math.h>
#include <string.h>

void rc_window_index(int32_t *index, int64_t side, int64_t window, int64_t shift)
{
    int64_t across = side / window;
    for (int64_t i = 0; i < side * side; i++) {
        int64_t w = i / (window * window), p = i % (window * window);
        int64_t y = (w / across * window + p / window + shift) % side;
        int64_t x = (w % across * window + p % window + shift) % side;
        index[i] = (int32_t)(y * side + x);
    }
}

int64_t rc_window_kind(int64_t w, int64_t across)
{
    return (w / across == across - 1 ? RC_LAST_ROW : 0) +
           (w % across == across - 1 ? RC_LAST_COLUMN : 0);
}

/* Which part of its window a place lies in, where the grid's edge cuts the window in two or four.
 */
static int64_t part_of(int64_t place, int64_t window, int64_t shift, int64_t kind)
{
    bool below = place / window >= window - shift, right = place % window >= window - shift;
    return (kind & RC_LAST_ROW && below) + 2 * (kind & RC_LAST_COLUMN && right);
}

void rc_window_mask(float *mask, int64_t window, int64_t shift, int64_t kind)
{
    int64_t t = window * window;
    for (int64_t i = 0; i < t; i++) {
        int64_t part = part_of(i, window, shift, kind);
        for (int64_t j = 0; j < t; j++)
            mask[i * t + j] = part == part_of(j, window, shift, kind) ? 0.0f : -100.0f;
    }
}

void rc_patch_index(int32_t *index, int64_t spec_size, int64_t mels, int64_t rows, int64_t columns)
{
    int64_t down = spec_size / rows, across = spec_size / columns;
    for (int64_t i = 0; i < down * across; i++)
        for (int64_t j = 0; j < rows * columns; j++) {
            int64_t row = i / across * rows + j / columns, col = i % across * columns + j % columns;
            int64_t frame = row / mels * spec_size + col;
            index[i * rows * columns + j] = (int32_t)(frame * mels + row % mels);
        }
}

void rc_gather_rows(float *y, const float *x, const int32_t *index, int64_t n, int64_t c)
{
    if (c == 1)
        for (int64_t i = 0; i < n; i++) y[i] = x[index[i]];
    else
        for (int64_t i = 0; i < n; i++) memcpy(y + i * c, x + index[i] * c, (size_t)c * sizeof *y);
}

void rc_scatter_rows(float *dx, const float *dy, const int32_t *index, int64_t n, int64_t c)
{
    if (c == 1)
        for (int64_t i = 0; i < n; i++) dx[index[i]] = dy[i];
    else
        for (int64_t i = 0; i < n; i++)
            memcpy(dx + index[i] * c, dy + i * c, (size_t)c * sizeof *dx);
}

/* Not inlined: fused with the subtraction of its floor the coordinate would keep more than float32,
 * and torch's does not (2.7e-4 apart on unit-variance data). */
__attribute__((noinline)) static float source_position(int64_t i, float step)
{
    return (float)i * step;
}

/* Weights of the four taps around a fraction u in [0, 1). */
static void keys_weights(float *w, float u)
{
    const float a = -0.75f;
    const float far0 = u + 1, far1 = 2 - u, near1 = 1 - u;
    w[0] = ((a * far0 - 5 * a) * far0 + 8 * a) * far0 - 4 * a;
    w[1] = ((a + 2) * u - (a + 3)) * u * u + 1;
    w[2] = ((a + 2) * near1 - (a + 3)) * near1 * near1 + 1;
    w[3] = ((a * far1 - 5 * a) * far1 + 8 * a) * far1 - 4 * a;
}

/* Taps and weights of output frame i. */
static void stretch_taps(int64_t *tap, float *w, int64_t i, int64_t from, int64_t to)
{
    float step = to > 1 ? (float)(from - 1) / (float)(to - 1) : 0;
    float at = source_position(i, step), base = floorf(at);
    keys_weights(w, at - base);
    for (int k = 0; k < 4; k++) tap[k] = rc_max(0, rc_min(from - 1, (int64_t)base - 1 + k));
}

void rc_stretch_forward(float *y, const float *x, int64_t from, int64_t to, int64_t c)
{
    for (int64_t i = 0; i < to; i++) {
        int64_t tap[4];
        float w[4];
        stretch_taps(tap, w, i, from, to);
        for (int64_t j = 0; j < c; j++)
            y[i * c + j] = w[0] * x[tap[0] * c + j] + w[1] * x[tap[1] * c + j] +
                           w[2] * x[tap[2] * c + j] + w[3] * x[tap[3] * c + j];
    }
}

void rc_stretch_backward(float *dx, const float *dy, int64_t from, int64_t to, int64_t c)
{
    memset(dx, 0, (size_t)(from * c) * sizeof *dx);
    for (int64_t i = 0; i < to; i++) {
        int64_t tap[4];
        float w[4];
        stretch_taps(tap, w, i, from, to);
        for (int k = 0; k < 4; k++)
            for (int64_t j = 0; j < c; j++) dx[tap[k] * c + j] += w[k] * dy[i * c + j];
    }
}
