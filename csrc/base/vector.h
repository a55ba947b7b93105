/* vector: what several hot loops share, to be inlined into each of their clones. */
#ifndef RC_VECTOR_H
#define RC_VECTOR_H

#include "base/clones.h"

#include <stdint.h>
#include <string.h>

/* Functions that follow the instruction set of whom they are inlined into. */
#define RC_INLINE static inline __attribute__((always_inline))

enum { RC_LANES = 16 };

/* GCC lowers these to whatever vectors the clone's target has. */
typedef float rc_vec __attribute__((vector_size(RC_LANES * sizeof(float)), aligned(4)));

typedef int32_t rc_vec_bits __attribute__((vector_size(RC_LANES * sizeof(float)), aligned(4)));

/* Each lane of `a` becomes the larger of two. By address, because a vector that goes by value would
 * change the calling convention with the instruction set. */
RC_INLINE void rc_keep_larger(rc_vec *a, const rc_vec *b)
{
    rc_vec_bits less = *a < *b;
    *a = (rc_vec)(((rc_vec_bits)*a & ~less) | ((rc_vec_bits)*b & less));
}

/* w = v with lanes k and k ^ n exchanged: four such steps combine all lanes. */
#if defined(__clang__) || (defined(__GNUC__) && __GNUC__ >= 12)
#define RC_SWAP(w, v, n)                                                                           \
    ((w) = __builtin_shufflevector(v, v, 0 ^ n, 1 ^ n, 2 ^ n, 3 ^ n, 4 ^ n, 5 ^ n, 6 ^ n, 7 ^ n,   \
                                   8 ^ n, 9 ^ n, 10 ^ n, 11 ^ n, 12 ^ n, 13 ^ n, 14 ^ n, 15 ^ n))
#else
#define RC_SWAP(w, v, n)                                                                           \
    for (int k_ = 0; k_ < RC_LANES; k_++) (w)[k_] = (v)[k_ ^ n]
#endif

RC_INLINE float rc_lanes_max(const rc_vec *v)
{
    rc_vec most = *v, other;
    RC_SWAP(other, most, 8);
    rc_keep_larger(&most, &other);
    RC_SWAP(other, most, 4);
    rc_keep_larger(&most, &other);
    RC_SWAP(other, most, 2);
    rc_keep_larger(&most, &other);
    RC_SWAP(other, most, 1);
    rc_keep_larger(&most, &other);
    return most[0];
}

RC_INLINE float rc_lanes_sum(const rc_vec *v)
{
    rc_vec sum = *v, other;
    RC_SWAP(other, sum, 8);
    sum += other;
    RC_SWAP(other, sum, 4);
    sum += other;
    RC_SWAP(other, sum, 2);
    sum += other;
    RC_SWAP(other, sum, 1);
    sum += other;
    return sum[0];
}

/* value where x is above 0 or NaN, which must not get lost, else 0. */
RC_INLINE float rc_positive(float x, float value)
{
    return !(x <= 0) ? value : 0;
}

/* e^x by 2^k times a polynomial on |r| <= ln 2 / 2 (minimax fit, 2e-9); no denormals come out. For
 * x of at most 88: most callers have none above 0. */
RC_INLINE float rc_exp_below(float x)
{
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
    x = x < -87.0f ? -87.0f : x;
    float k = x * 1.44269504f + magic;
    int32_t bits;
    memcpy(&bits, &k, sizeof bits);
    k -= magic;
    float r = x - k * 0.693359375f;
    r -= k * -2.12194440e-4f;
    float p = 0.00138367153f;
    p = p * r + 0.00837480886f;
    p = p * r + 0.0416682273f;
    p = p * r + 0.166664203f;
    p = p * r + 0.499999921f;
    p = p * r + 1.00000004f;
    p = p * r + 1.0f;
    bits = (int32_t)(((uint32_t)bits << 23) + 0x3f800000u);
    float power;
    memcpy(&power, &bits, sizeof power);
    return p * power;
}

RC_INLINE float rc_exp_of(float x)
{
    return rc_exp_below(x > 88.0f ? 88.0f : x);
}

#endif
