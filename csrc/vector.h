/* vector: what several hot loops share, to be inlined into each of their clones. */
#ifndef RC_VECTOR_H
#define RC_VECTOR_H

#include "base.h"

#include <string.h>

/* Functions that follow the instruction set of whom they are inlined into. */
#define RC_INLINE static inline __attribute__((always_inline))

enum { RC_LANES = 16 };

/* GCC lowers these to whatever vectors the clone's target has. */
typedef float rc_vec __attribute__((vector_size(RC_LANES * sizeof(float)), aligned(4)));

/* e^x by 2^k times a polynomial on |r| <= ln 2 / 2 (minimax fit, 2e-9); no denormals come out. */
RC_INLINE float rc_exp_of(float x)
{
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
    x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
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
    bits = (int32_t)((uint32_t)bits << 23) + 0x3f800000;
    float power;
    memcpy(&power, &bits, sizeof power);
    return p * power;
}

#endif
