/* Activations, dropout, and the exponential they share. */
#include "kernels/act.h"

#include "base/vector.h"

#include <math.h>
#include <string.h>

/* The loops below are plain C that the compiler vectorises: no branches, no library calls. */

/* Phi(x) of the normal distribution and e^(-x^2/2): erfc(z) = t P(t) e^(-z^2), t = 1 / (1 + 0.55
 * z), with P a minimax fit of degree 5 (absolute error of Phi 1.5e-7 in float32). */
RC_INLINE float normal_cdf(float x, float *density)
{
    float z = fabsf(x) * 0.707106781f;
    float t = 1 / (1 + 0.55f * z);
    float p = 0.107354554f;
    p = p * t - 0.51816185f;
    p = p * t + 0.759916019f;
    p = p * t - 0.0415892646f;
    p = p * t + 0.390907526f;
    p = p * t + 0.301573032f;
    float e = rc_exp_below(-z * z);
    float upper = 0.5f * p * t * e;
    *density = e;
    return x < 0 ? upper : 1 - upper;
}

/* Slopes no longer change beyond it, and what is next to nothing does not meet what is huge. NaN
 * stays. */
RC_INLINE float bounded(float x)
{
    x = x > 1e4f ? 1e4f : x;
    return x < -1e4f ? -1e4f : x;
}

RC_CLONES
void rc_exp(float *y, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) y[i] = x[i] == INFINITY ? INFINITY : rc_exp_of(x[i]);
}

RC_CLONES
void rc_gelu_forward(float *y, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        float density;
        y[i] = x[i] * normal_cdf(x[i], &density);
    }
}

RC_CLONES
void rc_gelu_backward(float *dx, const float *dy, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        float density, phi = normal_cdf(x[i], &density);
        dx[i] = dy[i] * (phi + bounded(x[i]) * density * 0.398942280f);
    }
}

RC_CLONES
void rc_gelu_both(float *y, float *dx, const float *dy, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        float v = x[i], density, phi = normal_cdf(v, &density);
        dx[i] = dy[i] * (phi + bounded(v) * density * 0.398942280f);
        y[i] = v * phi;
    }
}

RC_INLINE float tanh_of(float x)
{
    float e = rc_exp_below(-2 * fabsf(x));
    float small = x * x < 4e-3f ? x - x * x * x * (1.0f / 3) + x * x * x * x * x * (2.0f / 15) : 0;
    float t = (1 - e) / (1 + e);
    return x * x < 4e-3f ? small : x < 0 ? -t : t;
}

static const float GELU_A = 0.797884561f, GELU_B = 0.044715f; /* sqrt(2 / pi) and its cubic term */

RC_CLONES
void rc_gelu_tanh_forward(float *y, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        y[i] = 0.5f * x[i] * (1 + tanh_of(GELU_A * (x[i] + GELU_B * x[i] * x[i] * x[i])));
}

RC_CLONES
void rc_gelu_tanh_backward(float *dx, const float *dy, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        float v = bounded(x[i]), q = v * v, t = tanh_of(GELU_A * (v + GELU_B * v * q));
        dx[i] = dy[i] * 0.5f * (1 + t + v * (1 - t * t) * GELU_A * (1 + 3 * GELU_B * q));
    }
}

static const float QUICK = 1.702f;

RC_CLONES
void rc_quick_gelu_forward(float *y, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) y[i] = x[i] / (1 + rc_exp_of(-QUICK * x[i]));
}

RC_CLONES
void rc_quick_gelu_backward(float *dx, const float *dy, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        float v = bounded(x[i]), s = 1 / (1 + rc_exp_of(-QUICK * v));
        dx[i] = dy[i] * s * (1 + QUICK * v * (1 - s));
    }
}

RC_CLONES
void rc_relu_forward(float *y, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) y[i] = rc_positive(x[i], x[i]);
}

RC_CLONES
void rc_relu_backward(float *dx, const float *dy, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) dx[i] = rc_positive(x[i], dy[i]);
}

const rc_act *rc_act_of(int64_t kind)
{
    static const rc_act acts[RC_ACTS] = {
        [RC_ACT_GELU] = {rc_gelu_forward, rc_gelu_backward, rc_gelu_both},
        [RC_ACT_GELU_TANH] = {rc_gelu_tanh_forward, rc_gelu_tanh_backward, NULL},
        [RC_ACT_RELU] = {rc_relu_forward, rc_relu_backward, NULL},
        [RC_ACT_QUICK_GELU] = {rc_quick_gelu_forward, rc_quick_gelu_backward, NULL},
    };
    return &acts[kind];
}

RC_CLONES
void rc_tanh_forward(float *y, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) y[i] = tanh_of(x[i]);
}

RC_CLONES
void rc_tanh_backward(float *dx, const float *dy, const float *y, int64_t n)
{
    for (int64_t i = 0; i < n; i++) dx[i] = dy[i] * (1 - y[i] * y[i]);
}

RC_CLONES
void rc_sigmoid_forward(float *y, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) y[i] = 1 / (1 + rc_exp_of(-x[i]));
}

RC_CLONES
void rc_sigmoid_backward(float *dx, const float *dy, const float *y, int64_t n)
{
    for (int64_t i = 0; i < n; i++) dx[i] = dy[i] * y[i] * (1 - y[i]);
}

RC_CLONES
void rc_gated_forward(float *y, const float *a, const float *b, int64_t n)
{
    for (int64_t i = 0; i < n; i++) y[i] = a[i] * b[i];
}

RC_CLONES
void rc_gated_backward(float *da, float *db, const float *dy, const float *a, const float *b,
                       int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        float g = dy[i];
        da[i] = g * b[i];
        db[i] = g * a[i];
    }
}

RC_CLONES
void rc_dropout(float *y, const float *x, int64_t n, float p, rc_draw at, int64_t first)
{
    float scale = p < 1 ? 1 / (1 - p) : 0;
    uint64_t key = rc_draw_key(at);
    for (int64_t i = 0; i < n; i++)
        y[i] = rc_uniform_of(key, (uint64_t)first + (uint64_t)i) >= p ? x[i] * scale : 0;
}

RC_CLONES
bool rc_all_finite(const float *x, int64_t n)
{
    uint32_t most = 0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        bits &= 0x7fffffffu;
        most = bits > most ? bits : most;
    }
    return most < 0x7f800000u; /* the exponent of infinity and NaN */
}

RC_CLONES
void rc_add(float *y, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) y[i] += x[i];
}

RC_CLONES
void rc_add_rows(float *y, const float *x, int64_t rows, int64_t ld, int64_t columns)
{
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) y[j] += x[i * ld + j];
}
