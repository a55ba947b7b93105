/* Counter-based random numbers: SplitMix64's finaliser over (seed, step, site, index). */
#include "base/rng.h"

#include <math.h>

uint64_t rc_draw_key(rc_draw at)
{
    const uint64_t golden = 0x9e3779b97f4a7c15u;
    uint64_t z = rc_mix(at.seed + golden);
    z = rc_mix(z ^ (at.step + 1) * golden);
    return rc_mix(z ^ (at.site + 1) * 0xd1342543de82ef95u);
}

float rc_uniform(rc_draw at, uint64_t index)
{
    return rc_uniform_of(rc_draw_key(at), index);
}

float rc_normal(rc_draw at, uint64_t index)
{
    uint64_t b = rc_draw_bits(rc_draw_key(at), index);
    double u = ((double)(b >> 32) + 0.5) * 0x1p-32; /* never 0: its logarithm is taken */
    double v = (double)(b & 0xffffffffu) * 0x1p-32;
    return (float)(sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
}
