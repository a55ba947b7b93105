/* kernels: the mathematics, every forward with its backward.
 *
 * Letters: n rows, c channels, b clips, t positions, h heads, d head width; x input, y output, w
 * weight, dx the gradient of x. Arrays are float32, contiguous, row-major; shapes stand in
 * brackets. Arguments come in one order: outputs, what forward keeps for backward, inputs, weights,
 * sizes, options. Input gradients are overwritten, weight gradients accumulate. Kernels are serial
 * and never fail: the towers hand them chunks of rows through rc_parallel. Where a weight gradient
 * sums over all rows, columns from..to-1 are done, so that workers can own columns and the order of
 * summation is fixed. */
#ifndef RC_KERNELS_H
#define RC_KERNELS_H

#include "base.h"

/* ---- norm.c ---------------------------------------------------------------------------------- */

/* y = (x - mean) rstd w + b per row, rstd = 1 / sqrt(var + eps). mean, rstd (n) may be NULL. x may
 * be y. */
void rc_layernorm_forward(float *y, float *mean, float *rstd, const float *x, const float *w,
                          const float *b, int64_t n, int64_t c, float eps);
void rc_layernorm_backward(float *dx, const float *dy, const float *x, const float *mean,
                           const float *rstd, const float *w, int64_t n, int64_t c);
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

/* Mean and biased variance of each of c columns over n rows, summed in double. */
void rc_batchnorm_stats(float *mean, float *var, const float *x, int64_t n, int64_t c);

/* y = (x - mean) w / sqrt(var + eps) + b per column, with batch or running statistics. */
void rc_batchnorm_forward(float *y, const float *x, const float *mean, const float *var,
                          const float *w, const float *b, int64_t n, int64_t c, float eps);

/* `batch` says whether mean and var came from these very rows and so carry gradient. dx may be
 * NULL. */
void rc_batchnorm_backward(float *dx, float *dw, float *db, const float *dy, const float *x,
                           const float *mean, const float *var, const float *w, int64_t n,
                           int64_t c, float eps, bool batch);

/* y = x / max(|x|, 1e-12) per row, as torch.nn.functional.normalize; length (n) keeps |x|. */
void rc_l2norm_forward(float *y, float *length, const float *x, int64_t n, int64_t c);
void rc_l2norm_backward(float *dx, const float *dy, const float *y, const float *length, int64_t n,
                        int64_t c);

/* ---- act.c ----------------------------------------------------------------------------------- */

/* Element-wise over n values; y may be x, dx may be dy. */
void rc_gelu_forward(float *y, const float *x, int64_t n); /* x Phi(x), exact */
void rc_gelu_backward(float *dx, const float *dy, const float *x, int64_t n);
void rc_gelu_tanh_forward(float *y, const float *x,
                          int64_t n); /* "gelu_new" of GPT-2 and T5 v1.1 */
void rc_gelu_tanh_backward(float *dx, const float *dy, const float *x, int64_t n);
/* x / (1 + exp(-1.702 x)) of CLIP */
void rc_quick_gelu_forward(float *y, const float *x, int64_t n);
void rc_quick_gelu_backward(float *dx, const float *dy, const float *x, int64_t n);
void rc_relu_forward(float *y, const float *x, int64_t n);
void rc_relu_backward(float *dx, const float *dy, const float *x, int64_t n);

/* Those of an MLP, both ways; the kinds count in the order of the names in reclap/towers.py. */
enum { RC_ACT_GELU, RC_ACT_GELU_TANH, RC_ACT_RELU, RC_ACT_QUICK_GELU, RC_ACTS };
typedef struct {
    void (*forward)(float *y, const float *x, int64_t n);
    void (*backward)(float *dx, const float *dy, const float *x, int64_t n);
} rc_act;
const rc_act *rc_act_of(int64_t kind);

void rc_tanh_forward(float *y, const float *x, int64_t n);
void rc_tanh_backward(float *dx, const float *dy, const float *y, int64_t n);
void rc_sigmoid_forward(float *y, const float *x, int64_t n);
void rc_sigmoid_backward(float *dx, const float *dy, const float *y, int64_t n);

/* y = a b, the second half of a gated layer whose a went through an activation. y may be a or b. */
void rc_gated_forward(float *y, const float *a, const float *b, int64_t n);
void rc_gated_backward(float *da, float *db, const float *dy, const float *a, const float *b,
                       int64_t n);

/* y = x keep / (1 - p): value i of n is kept with probability 1 - p by the draw at index first + i.
 * Its own backward: call it on dy with the same draw. */
void rc_dropout(float *y, const float *x, int64_t n, float p, rc_draw at, int64_t first);

void rc_exp(float *y, const float *x, int64_t n); /* relative error below 2e-7; flushes below -87 */
bool rc_all_finite(const float *x, int64_t n);    /* neither NaN nor infinity among them */
void rc_add(float *y, const float *x, int64_t n); /* y += x */

/* y (columns) += each row of x, whose rows lie ld apart. */
void rc_add_rows(float *y, const float *x, int64_t rows, int64_t ld, int64_t columns);

/* ---- attention.c ----------------------------------------------------------------------------- */

/* t queries of one sequence or window and the first `keys` of its keys: o = softmax(scale q kᵀ +
 * bias
 * + mask) v per head. Rows of q hold (h, d) and lie ldq floats apart, rows of k (h, d) and behind
 * them the values (h, d), ldk apart; o has h d a row. bias (h, side, side) and mask (side, side)
 * are added where not NULL, their first t rows and `keys` columns, so that one table serves
 * sequences of any length. */
typedef struct {
    int64_t t, h, d, keys, side, ldq, ldk;
    float scale;
} rc_attention;

/* Floats of scratch that either direction needs. */
int64_t rc_attention_scratch(const rc_attention *a);
void rc_attention_forward(float *o, const float *q, const float *k, const float *bias,
                          const float *mask, const rc_attention *a, float *scratch);

/* Of queries, keys and values that share rows of qkv, so ldq = ldk = 3 h d. The probabilities are
 * computed again, so nothing is kept. dbias (h, side, side) accumulates or is NULL. */
void rc_attention_backward(float *dqkv, float *dbias, const float *do_, const float *qkv,
                           const float *bias, const float *mask, const rc_attention *a,
                           float *scratch);

/* ---- window.c -------------------------------------------------------------------------------- */

/* Index tables of the audio tower on a side x side grid. All moves are gathers along such a table
 * and their transposes are scatters along the same one. */

/* index[i] = grid position (row-major) of place i in window order, the grid rolled by -shift. */
void rc_window_index(int32_t *index, int64_t side, int64_t window, int64_t shift);

/* Swin's mask for the rolled grid depends only on whether a window lies in the last row of windows
 * and in the last column: rc_window_kind is the sum of the flags of window w, 0 where there is
 * nothing to mask. */
enum { RC_LAST_ROW = 1, RC_LAST_COLUMN = 2, RC_WINDOW_KINDS = 4 };
int64_t rc_window_kind(int64_t w, int64_t across);

/* The mask of a kind: (window^2, window^2), 0 or -100. */
void rc_window_mask(float *mask, int64_t window, int64_t shift, int64_t kind);

/* Fold and cut into patches (LAION: clap_module/htsat.py, reshape_wav2img): for grid position i and
 * pixel j of its patch of `high` rows and `wide` columns, where in the (frames, mels) spectrogram
 * the value lies. Columns that do not fill a patch are left out. */
void rc_patch_index(int32_t *index, int64_t spec_size, int64_t mels, int64_t high, int64_t wide);

/* y (n, c) = x[index]; for backward dx[index] = dy, where no index occurs twice. */
void rc_gather_rows(float *y, const float *x, const int32_t *index, int64_t n, int64_t c);
void rc_scatter_rows(float *dx, const float *dy, const int32_t *index, int64_t n, int64_t c);

/* Bicubic stretch along time, (from, c) -> (to, c): Keys kernel with a = -0.75, corners aligned,
 * the source coordinate in float32 and taps clamped at the borders, as torch's interpolate. */
void rc_stretch_forward(float *y, const float *x, int64_t from, int64_t to, int64_t c);
void rc_stretch_backward(float *dx, const float *dy, int64_t from, int64_t to, int64_t c);

/* ---- embed.c --------------------------------------------------------------------------------- */

/* y (n, c) = table[id]. Backward accumulates into the table in row order. */
void rc_lookup_forward(float *y, const float *table, const int32_t *id, int64_t n, int64_t c);
void rc_lookup_backward(float *dtable, const float *dy, const int32_t *id, int64_t n, int64_t c);

/* Swin's relative-position bias: table ((2 window - 1)^2, h) -> bias (h, window^2, window^2). */
void rc_relpos_forward(float *bias, const float *table, int64_t window, int64_t h);
void rc_relpos_backward(float *dtable, const float *dbias, int64_t window, int64_t h);

/* T5's bias of query i and key j (Raffel et al. 2020): table (buckets, h) -> bias (h, t, t). Half
 * of the buckets are for keys to the right; half of those hold one distance each, the rest grow
 * like its logarithm and end at `distance`. */
void rc_t5_bias_forward(float *bias, const float *table, int64_t t, int64_t h, int64_t buckets,
                        int64_t distance);
void rc_t5_bias_backward(float *dtable, const float *dbias, int64_t t, int64_t h, int64_t buckets,
                         int64_t distance);

/* y (c) = mean of x (t, c) over t. */
void rc_meanpool_forward(float *y, const float *x, int64_t t, int64_t c);
void rc_meanpool_backward(float *dx, const float *dy, int64_t t, int64_t c);

/* ---- optim.c --------------------------------------------------------------------------------- */

typedef struct {
    float lr, beta1, beta2, eps, weight_decay;
    int64_t step;     /* 1 for the first update */
    float grad_scale; /* multiplies every gradient: clipping costs no pass of its own */
} rc_adamw;

/* AdamW with decoupled weight decay (Loshchilov and Hutter 2019), as torch.optim.AdamW. */
void rc_adamw_step(float *w, float *m, float *v, const float *g, int64_t n, const rc_adamw *how);

/* Sum of squares of n values, in double. */
double rc_sum_squares(const float *x, int64_t n);

#endif
