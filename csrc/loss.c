/* Symmetric contrastive loss with a learned temperature. */
#include "model.h"

#include <math.h>

typedef struct {
    float *logits, *lse;
    double *partial;
    int64_t n;
    float scale;
} loss_job;

/* log(sum exp(scale x)) over a strided line of n logits. */
static double log_sum_exp(const float *x, int64_t n, int64_t stride, float scale)
{
    float best = x[0];
    for (int64_t i = 1; i < n; i++) best = fmaxf(best, x[i * stride]);
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += exp((double)scale * (x[i * stride] - best));
    return (double)scale * best + log(sum);
}

static void line_sums(void *arg, int64_t i, int worker)
{
    (void)worker;
    const loss_job *job = arg;
    int64_t n = job->n;
    job->lse[i] = (float)log_sum_exp(job->logits + i * n, n, 1, job->scale);
    job->lse[n + i] = (float)log_sum_exp(job->logits + i, n, n, job->scale);
}

rc_status rc_contrastive_forward(double *loss, float *logits, float *lse, rc_dnn *dnn,
                                 const float *a, const float *t, float s, int64_t n, int64_t c)
{
    if (n < 1) return rc_fail(RC_EINVAL, "contrastive loss: the batch is empty");
    rc_product *product;
    rc_product_shape shape = {.m = n, .n = n, .k = c, .lda = c, .ldb = c, .ldc = n, .tb = 1};
    RC_TRY(rc_product_get(dnn, &product, shape, NULL));
    rc_product_run(product, 0, logits, a, t, NULL);
    loss_job job = {.logits = logits, .lse = lse, .n = n, .scale = expf(s)};
    rc_parallel(rc_dnn_pool(dnn), n, line_sums, &job);
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += 0.5 * ((double)lse[i] + lse[n + i]) - (double)job.scale * logits[i * n + i];
    *loss = sum / (double)n;
    return rc_dnn_check(dnn);
}

/* Cosines of row i become the gradient of the scaled logits; what the scale receives is summed. */
static void line_gradients(void *arg, int64_t i, int worker)
{
    (void)worker;
    const loss_job *job = arg;
    int64_t n = job->n;
    float *row = job->logits + i * n;
    double scale_gradient = 0;
    for (int64_t j = 0; j < n; j++) {
        float z = job->scale * row[j];
        float g = 0.5f * (expf(z - job->lse[i]) + expf(z - job->lse[n + j])) - (i == j);
        g /= (float)n;
        scale_gradient += (double)g * z; /* d z / d s = z, since the scale is exp(s) */
        row[j] = g;
    }
    job->partial[i] = scale_gradient;
}

rc_status rc_contrastive_backward(float *da, float *dt, float *ds, float *logits, const float *lse,
                                  rc_dnn *dnn, const float *a, const float *t, float s, int64_t n,
                                  int64_t c)
{
    rc_product *for_a, *for_t;
    rc_product_shape shape = {.m = n, .n = c, .k = n, .lda = n, .ldb = c, .ldc = c};
    RC_TRY(rc_product_get(dnn, &for_a, shape, NULL));
    shape.ta = 1;
    RC_TRY(rc_product_get(dnn, &for_t, shape, NULL));
    double *partial;
    RC_TRY(rc_alloc((void **)&partial, n * (int64_t)sizeof *partial));
    loss_job job = {logits, (float *)lse, partial, n, expf(s)};
    rc_parallel(rc_dnn_pool(dnn), n, line_gradients, &job);
    for (int64_t i = 0; i < n; i++) *ds += (float)partial[i];
    rc_free(partial);
    rc_product_run(for_a, 0, da, logits, t, NULL);
    rc_product_run(for_t, 0, dt, logits, a, NULL);
    for (int64_t i = 0; i < n * c; i++) {
        da[i] *= job.scale;
        dt[i] *= job.scale;
    }
    return rc_dnn_check(dnn);
}
