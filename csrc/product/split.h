/* split: products whose float32 factors are split into one, two or three bfloat16 parts.
 *
 * A part holds the 8 leading bits of what the parts before it left, so one part is bfloat16, two
 * keep 16 bits of a significand and three all 24. Of the products of parts those are computed that
 * are not below the rounding of the whole: 1, 3 or 6, with sums in float32. The kernel works on
 * tiles of 16 rows by 32 terms, the shape of AMX's registers; processors without AMX run the same
 * tiles through AVX-512's bfloat16 instructions or plain C, with the same result but for the order
 * in which pairs of terms are added. */
#ifndef RC_SPLIT_H
#define RC_SPLIT_H

#include "base/base.h"

typedef enum { RC_SPLIT_PLAIN, RC_SPLIT_AVX512, RC_SPLIT_AMX } rc_split_kind;

/* The best kind that this processor and its system can run and that is not ruled out. */
rc_split_kind rc_split_choice(void);

/* Rule out what is better than `most`, for the whole process; what exists keeps its kind. */
void rc_split_limit(rc_split_kind most);

/* Bytes of a matrix of so many rows and terms, padded to whole tiles, in `parts` parts. */
int64_t rc_split_bytes(int64_t rows, int64_t terms, int parts);

/* Lay out x (rows, terms): rows from.. of the first factor, of activations; zero those from `rows`
 * on up to whole blocks ... */
void rc_split_rows(uint16_t *to, const float *x, int64_t from, int64_t rows, int64_t terms,
                   int parts);
void rc_split_pad(uint16_t *to, int64_t rows, int64_t terms, int parts);

/* ... and the second, w (n, terms), whose rows are outputs. */
void rc_split_weight(uint16_t *to, const float *w, int64_t n, int64_t terms, int parts);

/* Outputs of w that lie together: from a multiple of them on, it lies behind their bytes. */
int64_t rc_split_unit(void);

/* y (m, n) = a bᵀ + bias, added to y where `add`; bias may be NULL. Both factors are laid out in
 * `parts` parts; rows of y lie `ldy` apart. */
typedef struct {
    int64_t m, n, terms, ldy;
    int parts;
    bool add;
    uint16_t *next; /* or NULL: here results go through `activate`, laid out in `parts` parts; y
                     * holds sums meanwhile */
    void (*activate)(float *y, const float *x, int64_t n);
} rc_split_shape;

void rc_split_product(float *y, const uint16_t *a, const uint16_t *b, const float *bias,
                      const rc_split_shape *shape, rc_split_kind kind);

#endif
