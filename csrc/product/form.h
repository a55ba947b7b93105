/* form: how a factor of a product lies in memory: float32 rows, bfloat16 rows, int8 rows with their
 * scales, tiles of parts (split.h); and what undoes it. */
#ifndef RC_FORM_H
#define RC_FORM_H

#include "base/base.h"

/* The type of both factors of a product with a packed weight, a row each of the table in engines.c;
 * sums and results are float32, but for int8, whose sums are integers until a row's and a column's
 * scale are applied. Activations are rounded when they are laid, int8 with a scale for each row, so
 * that no row depends on another. RC_SPLIT_1 is RC_BF16 in our own kernel. */
typedef enum { RC_F32, RC_BF16, RC_S8, RC_SPLIT_1, RC_SPLIT_2, RC_SPLIT_3, RC_TYPES } rc_type;

/* A first factor: all rows of it, as float32 rows or laid in the form of another type. */
typedef struct {
    const void *at;
    rc_type form;
} rc_rows;

static inline rc_rows rc_floats(const float *x)
{
    return (rc_rows){x, RC_F32};
}

/* A second factor, packed or not; scales of its int8 columns and a bias, where there are some. */
typedef struct {
    const float *b, *scale, *bias;
} rc_factor;

/* y = x rounded to the nearest bfloat16, ties to even. */
void rc_to_bf16(uint16_t *y, const float *x, int64_t n);

/* Each of n rows of c values, times level / its largest magnitude, rounded; scale (n) undoes it,
 * and is NaN for a row that holds a value that is not finite. */
enum { RC_INT8_MOST = 127 };
void rc_quantize_rows(int8_t *y, float *scale, const float *x, int64_t n, int64_t c, int level);

/* y (n, c) = sums scale[i] column[j] + bias, added to y where `add`; its rows lie ld apart. y may
 * lie over sums where ld is c. */
void rc_dequantize(float *y, int64_t ld, const int32_t *sums, const float *scale,
                   const float *column, const float *bias, int64_t n, int64_t c, bool add);

/* y (n, c), whose rows lie ld apart, = x, added to y where `add`. */
void rc_place(float *y, int64_t ld, const float *x, int64_t n, int64_t c, bool add);

/* Bytes of a laid first factor (m, k), and rows from.. of it, which are laid in order; `parts` is 0
 * but of split factors. */
int64_t rc_bf16_size(int64_t m, int64_t k, int parts);
void rc_bf16_lay(void *form, const float *x, int64_t from, int64_t rows, int64_t m, int64_t k,
                 int parts);
int64_t rc_int8_size(int64_t m, int64_t k, int parts);
void rc_int8_lay(void *form, const float *x, int64_t from, int64_t rows, int64_t m, int64_t k,
                 int parts);
const float *rc_int8_scales(const void *form, int64_t m, int64_t k);
int64_t rc_tiles_size(int64_t m, int64_t k, int parts);
void rc_tiles_lay(void *form, const float *x, int64_t from, int64_t rows, int64_t m, int64_t k,
                  int parts);

#endif
