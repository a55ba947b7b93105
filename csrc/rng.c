/* Counter-based random numbers: SplitMix64's finaliser over (seed, step, site, index). */
#include "base.h"

#include <math.h>

static uint64_t mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static uint64_t bits(rc_draw at, uint64_t index)
{
    const uint64_t golden = 0x9e3779b97f4a7c15u;
    uint64_t z = mix(at.seed + golden);
    z = mix(z ^ (at.step + 1) * golden);
    z = mix(z ^ (at.site + 1) * 0xd1342543de82ef95u);
    return mix(z + (index + 1) * golden);
}

float rc_uniform(rc_draw at, uint64_t index)
{
    return (float)(bits(at, index) >> 40) * 0x1p-24f;
}

float rc_normal(rc_draw at, uint64_t index)
{
    uint64_t b = bits(at, index);
    double u = ((double)(b >> 32) + 0.5) * 0x1p-32; /* never 0: its logarithm is taken */
    double v = (double)(b & 0xffffffffu) * 0x1p-32;
    return (float)(sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
}
