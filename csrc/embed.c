/* Table lookup and its scatter-add, relative-position bias, mean pooling. */
#include "kernels.h"

#include <string.h>

void rc_lookup_forward(float *y, const float *table, const int32_t *id, int64_t n, int64_t c)
{
    rc_gather_rows(y, table, id, n, c);
}

void rc_lookup_backward(float *dtable, const float *dy, const int32_t *id, int64_t n, int64_t c)
{
    for (int64_t i = 0; i < n; i++) rc_add(dtable + id[i] * c, dy + i * c, c);
}

/* Row of the table for query i and key j of a window. */
static int64_t relpos_row(int64_t i, int64_t j, int64_t window)
{
    int64_t dy = i / window - j / window, dx = i % window - j % window;
    return (dy + window - 1) * (2 * window - 1) + dx + window - 1;
}

void rc_relpos_forward(float *bias, const float *table, int64_t window, int64_t h)
{
    int64_t t = window * window;
    for (int64_t head = 0; head < h; head++)
        for (int64_t i = 0; i < t; i++)
            for (int64_t j = 0; j < t; j++)
                bias[(head * t + i) * t + j] = table[relpos_row(i, j, window) * h + head];
}

void rc_relpos_backward(float *dtable, const float *dbias, int64_t window, int64_t h)
{
    int64_t t = window * window;
    for (int64_t head = 0; head < h; head++)
        for (int64_t i = 0; i < t; i++)
            for (int64_t j = 0; j < t; j++)
                dtable[relpos_row(i, j, window) * h + head] += dbias[(head * t + i) * t + j];
}

void rc_meanpool_forward(float *y, const float *x, int64_t t, int64_t c)
{
    memset(y, 0, (size_t)c * sizeof *y);
    for (int64_t i = 0; i < t; i++) rc_add(y, x + i * c, c);
    for (int64_t j = 0; j < c; j++) y[j] /= (float)t;
}

void rc_meanpool_backward(float *dx, const float *dy, int64_t t, int64_t c)
{
    for (int64_t i = 0; i < t; i++)
        for (int64_t j = 0; j < c; j++) dx[i * c + j] = dy[j] / (float)t;
}
