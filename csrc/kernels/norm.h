/* norm: layer norm, RMS norm, batch norm per column, L2 normalisation. */
#ifndef RC_NORM_H
#define RC_NORM_H

#include "base/base.h"

/* y = (x - mean) rstd w + b per row, rstd = 1 / sqrt(var + eps). mean, rstd (n) may be NULL. x may
 * be y. */
void rc_layernorm_forward(float *y, float *mean, float *rstd, const float *x, const float *w,
                          const float *b, int64_t n, int64_t c, float eps);
void rc_layernorm_backward(float *dx, const float *dy, const float *x, const float *mean,
                           const float *rstd, const float *w, int64_t n, int64_t c);
/* Either of dw and db may be NULL. */
void rc_layernorm_backward_weight(float *dw, float *db, const float *dy, const float *x,
                                  const float *mean, const float *rstd, int64_t n, int64_t c,
                                  int64_t from, int64_t to);

/* y = x r w, r = 1 / sqrt(mean(x^2) + eps) per row (Zhang and Sennrich 2019). r (n) may be NULL. */
void rc_rmsnorm_forward(float *y, float *r, const float *x, const float *w, int64_t n, int64_t c,
                        float eps);
void rc_rmsnorm_backward(float *dx, const float *dy, const float *x, const float *r, const float *w,
                         int64_t n, int64_t c);
void rc_rmsnorm_backward_weight(float *dw, const float *dy, const float *x, const float *r,
                                int64_t n, int64_t c, int64_t from, int64_t to);

/* Moments of columns over n rows: means, and sums of squared deviations from them. */
typedef struct {
    int64_t n;
    double *mean, *square;
} rc_moments;

/* Those of c columns of x, whose rows lie ld apart; and all of `b` added to `a`. */
void rc_moments_of(rc_moments *m, const float *x, int64_t n, int64_t ld, int64_t c);
void rc_moments_merge(rc_moments *a, const rc_moments *b, int64_t c);

/* As the statistics of a batch: means and biased variances. */
void rc_moments_stats(float *mean, float *var, const rc_moments *m, int64_t c);

/* y = (x - mean) w / sqrt(var + eps) + b per column, with batch or running statistics. */
void rc_batchnorm_forward(float *y, const float *x, const float *mean, const float *var,
                          const float *w, const float *b, int64_t n, int64_t c, float eps);

/* Of c columns whose rows lie ld apart: adds the sums of dy to `sum`, those of dy times the
 * normalised x to `dot`, which are the gradients of b and w. */
void rc_batchnorm_sums(double *sum, double *dot, const float *dy, const float *x, const float *mean,
                       const float *var, int64_t n, int64_t ld, int64_t c, float eps);

/* dx of some rows of a batch of `total`, whose statistics carry gradient, from its sums; 0 where
 * these are not the batch's. dx may be dy. */
void rc_batchnorm_backward(float *dx, const float *dy, const float *x, const float *mean,
                           const float *var, const float *w, const double *sum, const double *dot,
                           int64_t total, int64_t n, int64_t c, float eps);

/* y = x / max(|x|, 1e-12) per row, as torch.nn.functional.normalize; length (n) keeps |x|. */
void rc_l2norm_forward(float *y, float *length, const float *x, int64_t n, int64_t c);
void rc_l2norm_backward(float *dx, const float *dy, const float *y, const float *length, int64_t n,
                        int64_t c);

#endif
