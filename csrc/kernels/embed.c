/* Table lookup and its scatter-add, relative-position biases of both towers, mean pooling. */
#include "kernels/embed.h"

#include "kernels/act.h"
#include "kernels/window.h"

#include <math.h>
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

/* Bucket of a key `d` places to the right of the query (transformers: modeling_t5.py,
 * _relative_position_bucket; the logarithm in float32, as there). */
static int64_t bucket_of(int64_t d, int64_t buckets, int64_t distance)
{
    int64_t half = buckets / 2, exact = half / 2, n = d < 0 ? -d : d, right = d > 0 ? half : 0;
    if (n < exact) return right + n;
    float far = logf((float)n / (float)exact) / logf((float)distance / (float)exact);
    int64_t log_bucket = exact + (int64_t)(far * (float)(half - exact));
    return right + rc_min(log_bucket, half - 1);
}

/* Every row is the one above it moved by one. */
void rc_t5_bias_forward(float *bias, const float *table, int64_t t, int64_t h, int64_t buckets,
                        int64_t distance)
{
    for (int64_t head = 0; head < h; head++) {
        float *b = bias + head * t * t;
        for (int64_t j = 0; j < t; j++) b[j] = table[bucket_of(j, buckets, distance) * h + head];
        for (int64_t i = 1; i < t; i++) {
            b[i * t] = table[bucket_of(-i, buckets, distance) * h + head];
            memcpy(b + i * t + 1, b + (i - 1) * t, (size_t)(t - 1) * sizeof *b);
        }
    }
}

void rc_t5_bias_backward(float *dtable, const float *dbias, int64_t t, int64_t h, int64_t buckets,
                         int64_t distance)
{
    for (int64_t head = 0; head < h; head++)
        for (int64_t d = 1 - t; d < t; d++) {
            float sum = 0;
            for (int64_t i = rc_max(0, -d); i < rc_min(t, t - d); i++)
                sum += dbias[(head * t + i) * t + i + d];
            dtable[bucket_of(d, buckets, distance) * h + head] += sum;
        }
}

void rc_meanpool_forward(float *y, const float *x, int64_t t, int64_t c)
{
    memset(y, 0, (size_t)c * sizeof *y);
    rc_add_rows(y, x, t, c, c);
    for (int64_t j = 0; j < c; j++) y[j] /= (float)t;
}

void rc_meanpool_backward(float *dx, const float *dy, int64_t t, int64_t c)
{
    for (int64_t i = 0; i < t; i++)
        for (int64_t j = 0; j < c; j++) dx[i * c + j] = dy[j] / (float)t;
}
