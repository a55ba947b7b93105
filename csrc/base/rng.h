/* rng: random numbers that are a pure function of their coordinates. */
#ifndef RC_RNG_H
#define RC_RNG_H

#include <stdint.h>

/* Where in a run a draw stands: equal coordinates give equal numbers, on any thread, after resume.
 */
typedef struct {
    uint64_t seed, step, site;
} rc_draw;

/* Uniform in [0, 1) with 24 bits. */
float rc_uniform(rc_draw at, uint64_t index);

/* The same in two steps, of which the first serves many indices. */
uint64_t rc_draw_key(rc_draw at);

static inline uint64_t rc_mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static inline uint64_t rc_draw_bits(uint64_t key, uint64_t index)
{
    return rc_mix(key + (index + 1) * 0x9e3779b97f4a7c15u);
}

static inline float rc_uniform_of(uint64_t key, uint64_t index)
{
    return (float)(int32_t)(rc_draw_bits(key, index) >> 40) * 0x1p-24f;
}

/* Standard normal (Box-Muller on two uniforms). */
float rc_normal(rc_draw at, uint64_t index);

#endif
