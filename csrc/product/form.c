/* Factors in the form in which a product wants them, and back. */
#include "product/form.h"

#include "base/clones.h"
#include "product/split.h"

#include <float.h>
#include <math.h>
#include <string.h>

RC_CLONES
void rc_to_bf16(uint16_t *y, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        uint32_t nan = (bits & 0x7fffffffu) > 0x7f800000u; /* must not be rounded over the edge */
        y[i] = (uint16_t)(nan ? bits >> 16 | 0x40 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    }
}

enum { LANES = 16 };

static inline __attribute__((always_inline)) int32_t magnitude_bits(float x)
{
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits & 0x7fffffff;
}

/* Compared as integers, where NaN is the largest of all. */
static inline __attribute__((always_inline)) float largest_magnitude(const float *x, int64_t n)
{
    int32_t lane[LANES] = {0}, most = 0;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int k = 0; k < LANES; k++) {
            int32_t size = magnitude_bits(x[i + k]);
            lane[k] = size > lane[k] ? size : lane[k];
        }
    for (; i < n; i++) most = magnitude_bits(x[i]) > most ? magnitude_bits(x[i]) : most;
    for (int k = 0; k < LANES; k++) most = lane[k] > most ? lane[k] : most;
    float largest;
    memcpy(&largest, &most, sizeof largest);
    return largest;
}

/* Below it the quotient of a level and a magnitude does not fit a float: such a row is all zero. */
static const float TINY = 1e-36f;

RC_CLONES
void rc_quantize_rows(int8_t *y, float *scale, const float *x, int64_t n, int64_t c, int level)
{
    for (int64_t i = 0; i < n; i++) {
        float most = largest_magnitude(x + i * c, c), by = most > TINY ? (float)level / most : 0;
        scale[i] = most / (float)level;
        if (!(most <= FLT_MAX)) { /* the scale says of the whole row that it is not finite */
            memset(y + i * c, 0, (size_t)c);
            scale[i] = NAN;
            continue;
        }
        for (int64_t j = 0; j < c; j++) {
            float v = x[i * c + j] * by;
            y[i * c + j] = (int8_t)(int32_t)(v + (v < 0 ? -0.5f : 0.5f));
        }
    }
}

RC_CLONES
void rc_dequantize(float *y, int64_t ld, const int32_t *sums, const float *scale,
                   const float *column, const float *bias, int64_t n, int64_t c, bool add)
{
    for (int64_t i = 0; i < n; i++) {
        const int32_t *s = sums + i * c;
        float *row = y + i * ld, by = scale[i];
/* row may be s, but never lies half over it */
#ifdef __clang__
#pragma clang loop vectorize(assume_safety)
#else
#pragma GCC ivdep
#endif
        for (int64_t j = 0; j < c; j++) {
            float value = (float)s[j] * by * column[j] + (add ? row[j] : 0);
            memcpy(&row[j], &value, sizeof value); /* the memory may hold integers so far */
        }
        for (int64_t j = 0; bias != NULL && j < c; j++) row[j] += bias[j];
    }
}

RC_CLONES
void rc_place(float *y, int64_t ld, const float *x, int64_t n, int64_t c, bool add)
{
    for (int64_t i = 0; i < n; i++, y += ld, x += c)
        for (int64_t j = 0; j < c; j++) y[j] = x[j] + (add ? y[j] : 0);
}

/* ---- Laid factors ---------------------------------------------------------------------------- */

int64_t rc_bf16_size(int64_t m, int64_t k, int parts)
{
    (void)parts;
    return m * k * 2;
}

void rc_bf16_lay(void *form, const float *x, int64_t from, int64_t rows, int64_t m, int64_t k,
                 int parts)
{
    (void)m;
    (void)parts;
    rc_to_bf16((uint16_t *)form + from * k, x, rows * k);
}

/* The rows, then their scales, on cache lines of their own. */
static int64_t scales_at(int64_t m, int64_t k)
{
    return (m * k + 63) / 64 * 64;
}

const float *rc_int8_scales(const void *form, int64_t m, int64_t k)
{
    return (const float *)((const char *)form + scales_at(m, k));
}

int64_t rc_int8_size(int64_t m, int64_t k, int parts)
{
    (void)parts;
    return scales_at(m, k) + m * 4;
}

void rc_int8_lay(void *form, const float *x, int64_t from, int64_t rows, int64_t m, int64_t k,
                 int parts)
{
    (void)parts;
    rc_quantize_rows((int8_t *)form + from * k, (float *)rc_int8_scales(form, m, k) + from, x, rows,
                     k, RC_INT8_MOST);
}

int64_t rc_tiles_size(int64_t m, int64_t k, int parts)
{
    return rc_split_bytes(m, k, parts);
}

void rc_tiles_lay(void *form, const float *x, int64_t from, int64_t rows, int64_t m, int64_t k,
                  int parts)
{
    rc_split_rows(form, x, from, rows, k, parts);
    if (from + rows == m) rc_split_pad(form, m, k, parts);
}
