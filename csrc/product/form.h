/* form: how the first factor of a product lies in memory: float32 rows, bfloat16 rows, int8 rows
 * with their scales, tiles of parts; and what undoes it. */
#ifndef RC_FORM_H
#define RC_FORM_H

#include "base/base.h"

/* The type of both factors of a product with a packed weight; sums and results are float32, but for
 * int8, whose sums are integers until a row's and a column's scale are applied. Activations are
 * rounded when they are laid (rc_product_lay), int8 with a scale for each row, so that no row
 * depends on another. RC_SPLIT_1 is RC_BF16 in our own kernel. */
typedef enum { RC_F32, RC_BF16, RC_S8, RC_SPLIT_1, RC_SPLIT_2, RC_SPLIT_3 } rc_type;

/* How many bfloat16 parts a factor of a type is split into; 0 for oneDNN's own types. */
static inline int rc_type_parts(rc_type type)
{
    return type < RC_SPLIT_1 ? 0 : (int)(type - RC_SPLIT_1) + 1;
}

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

/* Rows from.. of a first factor (m, k) in the form of its type, see rc_product_lay; nothing of
 * float32. */
int64_t rc_form_bytes(rc_type type, int64_t m, int64_t k);
void rc_form_lay(rc_type type, void *form, const float *x, int64_t from, int64_t rows, int64_t m,
                 int64_t k);
const float *rc_form_scales(const void *form, int64_t m, int64_t k); /* of int8 rows */

#endif
