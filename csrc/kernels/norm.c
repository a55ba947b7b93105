/* Layer norm, RMS norm, batch norm over columns, L2 normalisation. */
#include "kernels/norm.h"

#include "base/clones.h"

#include <float.h>
#include <math.h>

/* ---- Layer norm ------------------------------------------------------------------------------ */

RC_CLONES
static float row_mean(const float *x, int64_t c)
{
    float s[16] = {0};
    int64_t j = 0;
    for (; j + 16 <= c; j += 16)
        for (int k = 0; k < 16; k++) s[k] += x[j + k];
    float total = 0;
    for (int k = 0; k < 16; k++) total += s[k];
    for (; j < c; j++) total += x[j];
    return total / (float)c;
}

/* Mean of (x - mean)^2: a second pass, because the sum of squares less the square of the sum
 * cancels. */
RC_CLONES
static float row_var(const float *x, float mean, int64_t c)
{
    float s[16] = {0};
    int64_t j = 0;
    for (; j + 16 <= c; j += 16)
        for (int k = 0; k < 16; k++) s[k] += (x[j + k] - mean) * (x[j + k] - mean);
    float total = 0;
    for (int k = 0; k < 16; k++) total += s[k];
    for (; j < c; j++) total += (x[j] - mean) * (x[j] - mean);
    return total / (float)c;
}

RC_CLONES
static void normalise_row(float *y, const float *x, const float *w, const float *b, float mean,
                          float rstd, int64_t c)
{
    for (int64_t j = 0; j < c; j++) y[j] = (x[j] - mean) * rstd * w[j] + b[j];
}

void rc_layernorm_forward(float *y, float *mean, float *rstd, const float *x, const float *w,
                          const float *b, int64_t n, int64_t c, float eps)
{
    for (int64_t i = 0; i < n; i++) {
        float m = row_mean(x + i * c, c);
        float r = 1 / sqrtf(row_var(x + i * c, m, c) + eps);
        normalise_row(y + i * c, x + i * c, w, b, m, r, c);
        if (mean != NULL) mean[i] = m;
        if (rstd != NULL) rstd[i] = r;
    }
}

RC_CLONES
static void layernorm_row_backward(float *dx, const float *dy, const float *x, const float *w,
                                   float mean, float rstd, int64_t c)
{
    float s[16] = {0}, q[16] = {0};
    int64_t j = 0;
    for (; j + 16 <= c; j += 16)
        for (int k = 0; k < 16; k++) {
            float g = dy[j + k] * w[j + k];
            s[k] += g;
            q[k] += g * (x[j + k] - mean);
        }
    float sum = 0, dot = 0;
    for (int k = 0; k < 16; k++) sum += s[k], dot += q[k];
    for (; j < c; j++) sum += dy[j] * w[j], dot += dy[j] * w[j] * (x[j] - mean);
    float a = sum / (float)c, p = dot * rstd * rstd / (float)c;
    for (j = 0; j < c; j++) dx[j] = rstd * (dy[j] * w[j] - a - (x[j] - mean) * p);
}

void rc_layernorm_backward(float *dx, const float *dy, const float *x, const float *mean,
                           const float *rstd, const float *w, int64_t n, int64_t c)
{
    for (int64_t i = 0; i < n; i++)
        layernorm_row_backward(dx + i * c, dy + i * c, x + i * c, w, mean[i], rstd[i], c);
}

RC_CLONES
void rc_layernorm_backward_weight(float *dw, float *db, const float *dy, const float *x,
                                  const float *mean, const float *rstd, int64_t n, int64_t c,
                                  int64_t from, int64_t to)
{
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = from; dw != NULL && j < to; j++)
            dw[j] += dy[i * c + j] * (x[i * c + j] - mean[i]) * rstd[i];
        for (int64_t j = from; db != NULL && j < to; j++) db[j] += dy[i * c + j];
    }
}

/* ---- RMS norm -------------------------------------------------------------------------------- */

RC_CLONES
void rc_rmsnorm_forward(float *y, float *r, const float *x, const float *w, int64_t n, int64_t c,
                        float eps)
{
    for (int64_t i = 0; i < n; i++) {
        float k = 1 / sqrtf(row_var(x + i * c, 0, c) + eps);
        for (int64_t j = 0; j < c; j++) y[i * c + j] = x[i * c + j] * k * w[j];
        if (r != NULL) r[i] = k;
    }
}

RC_CLONES
void rc_rmsnorm_backward(float *dx, const float *dy, const float *x, const float *r, const float *w,
                         int64_t n, int64_t c)
{
    for (int64_t i = 0; i < n; i++) {
        const float *g = dy + i * c, *xi = x + i * c;
        double s = 0;
        for (int64_t j = 0; j < c; j++) s += (double)w[j] * g[j] * xi[j];
        float k = (float)(s / (double)c) * r[i] * r[i];
        for (int64_t j = 0; j < c; j++) dx[i * c + j] = r[i] * (w[j] * g[j] - k * xi[j]);
    }
}

RC_CLONES
void rc_rmsnorm_backward_weight(float *dw, const float *dy, const float *x, const float *r,
                                int64_t n, int64_t c, int64_t from, int64_t to)
{
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = from; j < to; j++) dw[j] += dy[i * c + j] * x[i * c + j] * r[i];
}

/* ---- Batch norm ------------------------------------------------------------------------------ */

enum { COLUMNS = 64 }; /* worked on together, so that rows are read along */

RC_CLONES
static void column_moments(double *mean, double *square, const float *x, int64_t n, int64_t ld,
                           int64_t c)
{
    double s[COLUMNS] = {0}, q[COLUMNS] = {0};
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < c; j++) s[j] += x[i * ld + j];
    for (int64_t j = 0; j < c; j++) s[j] /= (double)n;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < c; j++) q[j] += (x[i * ld + j] - s[j]) * (x[i * ld + j] - s[j]);
    for (int64_t j = 0; j < c; j++) {
        mean[j] = s[j];
        square[j] = q[j];
    }
}

void rc_moments_of(rc_moments *m, const float *x, int64_t n, int64_t ld, int64_t c)
{
    m->n = n;
    for (int64_t j = 0; j < c; j += COLUMNS)
        column_moments(m->mean + j, m->square + j, x + j, n, ld, rc_min(COLUMNS, c - j));
}

/* Chan, Golub and LeVeque 1979. */
void rc_moments_merge(rc_moments *a, const rc_moments *b, int64_t c)
{
    int64_t n = a->n + b->n;
    double share = n > 0 ? (double)b->n / (double)n : 0;
    for (int64_t j = 0; j < c; j++) {
        double apart = b->mean[j] - a->mean[j];
        a->mean[j] += apart * share;
        a->square[j] += b->square[j] + apart * apart * share * (double)a->n;
    }
    a->n = n;
}

void rc_moments_stats(float *mean, float *var, const rc_moments *m, int64_t c)
{
    for (int64_t j = 0; j < c; j++) {
        mean[j] = (float)m->mean[j];
        var[j] = (float)(m->square[j] / (double)m->n);
    }
}

RC_CLONES
void rc_batchnorm_forward(float *y, const float *x, const float *mean, const float *var,
                          const float *w, const float *b, int64_t n, int64_t c, float eps)
{
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < c; j++)
            y[i * c + j] = (x[i * c + j] - mean[j]) / sqrtf(var[j] + eps) * w[j] + b[j];
}

RC_CLONES
static void column_sums(double *s, double *q, const float *dy, const float *x, const float *mean,
                        const double *rstd, int64_t n, int64_t ld, int64_t c)
{
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < c; j++) {
            s[j] += dy[i * ld + j];
            q[j] += dy[i * ld + j] * ((double)x[i * ld + j] - mean[j]) * rstd[j];
        }
}

static void reciprocal_roots(double *rstd, const float *var, int64_t c, float eps)
{
    for (int64_t j = 0; j < c; j++) rstd[j] = 1 / sqrt((double)var[j] + eps);
}

void rc_batchnorm_sums(double *sum, double *dot, const float *dy, const float *x, const float *mean,
                       const float *var, int64_t n, int64_t ld, int64_t c, float eps)
{
    for (int64_t j = 0; j < c; j += COLUMNS) {
        double rstd[COLUMNS] = {0};
        int64_t some = rc_min(COLUMNS, c - j);
        reciprocal_roots(rstd, var + j, some, eps);
        column_sums(sum + j, dot + j, dy + j, x + j, mean + j, rstd, n, ld, some);
    }
}

/* dx = k (dy - sum / n - xhat dot / n) */
RC_CLONES
static void columns_backward(float *dx, const float *dy, const float *x, const float *mean,
                             const float *w, const double *rstd, const double *sum,
                             const double *dot, double share, int64_t n, int64_t ld, int64_t c)
{
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < c; j++) {
            double xhat = ((double)x[i * ld + j] - mean[j]) * rstd[j];
            double apart = dy[i * ld + j] - share * (sum[j] + xhat * dot[j]);
            dx[i * ld + j] = (float)(w[j] * rstd[j] * apart);
        }
}

void rc_batchnorm_backward(float *dx, const float *dy, const float *x, const float *mean,
                           const float *var, const float *w, const double *sum, const double *dot,
                           int64_t total, int64_t n, int64_t c, float eps)
{
    for (int64_t j = 0; j < c; j += COLUMNS) {
        double rstd[COLUMNS] = {0};
        int64_t some = rc_min(COLUMNS, c - j);
        reciprocal_roots(rstd, var + j, some, eps);
        columns_backward(dx + j, dy + j, x + j, mean + j, w + j, rstd, sum + j, dot + j,
                         total > 0 ? 1 / (double)total : 0, n, c, some);
    }
}

/* ---- L2 normalisation ------------------------------------------------------------------------ */

static const float SHORTEST = 1e-12f;

/* fmaxf would forget that a length is NaN. */
static float at_least_shortest(float length)
{
    return length <= SHORTEST ? SHORTEST : length;
}

void rc_l2norm_forward(float *y, float *length, const float *x, int64_t n, int64_t c)
{
    for (int64_t i = 0; i < n; i++) {
        double s = 0;
        for (int64_t j = 0; j < c; j++) s += (double)x[i * c + j] * x[i * c + j];
        double root = sqrt(s);
        float l = (float)root, k = 1 / at_least_shortest(l);
        if (l > FLT_MAX) /* of values that are finite nevertheless */
            for (int64_t j = 0; j < c; j++) y[i * c + j] = (float)(x[i * c + j] / root);
        else
            for (int64_t j = 0; j < c; j++) y[i * c + j] = x[i * c + j] * k;
        if (length != NULL) length[i] = l;
    }
}

void rc_l2norm_backward(float *dx, const float *dy, const float *y, const float *length, int64_t n,
                        int64_t c)
{
    for (int64_t i = 0; i < n; i++) {
        double s = 0;
        for (int64_t j = 0; j < c; j++) s += (double)dy[i * c + j] * y[i * c + j];
        /* below the floor the divisor is a constant, so the row only scales */
        float k = 1 / at_least_shortest(length[i]), dot = length[i] > SHORTEST ? (float)s : 0;
        for (int64_t j = 0; j < c; j++) dx[i * c + j] = k * (dy[i * c + j] - dot * y[i * c + j]);
    }
}
