/* AdamW, Adam and the global gradient norm. */
#include "kernels/optim.h"

#include "base/clones.h"

#include <math.h>

RC_CLONES
void rc_adamw_step(float *w, float *m, float *v, const float *g, int64_t n, const rc_adamw *how)
{
    float b1 = how->beta1, b2 = how->beta2, decay = how->coupled ? how->weight_decay : 0;
    float keep = how->coupled ? 1 : 1 - how->lr * how->weight_decay;
    float rate = (float)(how->lr / (1 - pow(b1, (double)how->step)));
    float root = (float)(1 / sqrt(1 - pow(b2, (double)how->step)));
    for (int64_t i = 0; i < n; i++) {
        float gi = g[i] * how->grad_scale + decay * w[i];
        m[i] = b1 * m[i] + (1 - b1) * gi;
        v[i] = b2 * v[i] + (1 - b2) * gi * gi;
        w[i] = keep * w[i] - rate * m[i] / (sqrtf(v[i]) * root + how->eps);
    }
}

enum { LANES = 32 }; /* sums that do not wait for each other */

RC_CLONES
double rc_sum_squares(const float *x, int64_t n)
{
    double lane[LANES] = {0}, sum = 0;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int k = 0; k < LANES; k++) lane[k] += (double)x[i + k] * x[i + k];
    for (int k = 0; i + k < n; k++) lane[k] += (double)x[i + k] * x[i + k];
    for (int k = 0; k < LANES; k++) sum += lane[k];
    return sum;
}
