/* Softmax attention over one window or sequence, forward and backward.
 *
 * Keys, queries or values of one head are packed into rows padded to whole vectors, so that both
 * products run on one small kernel that keeps a block of the result in registers. */
#include "kernels.h"

#include <string.h>

enum { LANES = 16, ROWS = 4 };

/* GCC lowers these to whatever vectors the clone's target has. */
typedef float vec __attribute__((vector_size(LANES * sizeof(float)), aligned(4)));

#define INLINE static inline __attribute__((always_inline))

static int64_t pad(int64_t n)
{
    return (n + LANES - 1) / LANES * LANES;
}

/* c (rows, cols) = a b for a block that stays in registers; element (i, k) of a is a[i * ai + k *
 * ak]. */
INLINE void block(float *c, int64_t ldc, const float *a, int64_t ai, int64_t ak, const float *b,
                  int64_t ldb, int64_t terms, int rows, int vecs)
{
    vec acc[ROWS][2] = {{{0}}};
    for (int64_t k = 0; k < terms; k++)
        for (int v = 0; v < vecs; v++) {
            vec bk = *(const vec *)(b + k * ldb + v * LANES);
            for (int i = 0; i < rows; i++) acc[i][v] += a[i * ai + k * ak] * bk;
        }
    for (int i = 0; i < rows; i++)
        for (int v = 0; v < vecs; v++) *(vec *)(c + i * ldc + v * LANES) = acc[i][v];
}

INLINE void block_rows(float *c, int64_t ldc, const float *a, int64_t ai, int64_t ak,
                       const float *b, int64_t ldb, int64_t terms, int64_t n, int rows)
{
    int64_t j = 0;
    for (; j + 2 * LANES <= n; j += 2 * LANES)
        block(c + j, ldc, a, ai, ak, b + j, ldb, terms, rows, 2);
    if (j < n) block(c + j, ldc, a, ai, ak, b + j, ldb, terms, rows, 1);
}

/* c (m, n) = a (m, terms) b (terms, n); n a multiple of LANES. */
RC_CLONES
static void product(float *c, int64_t ldc, const float *a, int64_t ai, int64_t ak, const float *b,
                    int64_t ldb, int64_t m, int64_t n, int64_t terms)
{
    int64_t i = 0;
    for (; i + ROWS <= m; i += ROWS)
        block_rows(c + i * ldc, ldc, a + i * ai, ai, ak, b, ldb, terms, n, ROWS);
    for (; i < m; i++) block_rows(c + i * ldc, ldc, a + i * ai, ai, ak, b, ldb, terms, n, 1);
}

/* y (d, ldy) = the transpose of t strided rows of x; the padding is zeroed. */
static void pack_transposed(float *y, int64_t ldy, const float *x, int64_t ld, int64_t t, int64_t d)
{
    memset(y, 0, (size_t)(d * ldy) * sizeof *y);
    for (int64_t i = 0; i < t; i++)
        for (int64_t j = 0; j < d; j++) y[j * ldy + i] = x[i * ld + j];
}

static void pack_rows(float *y, int64_t ldy, const float *x, int64_t ld, int64_t t, int64_t d)
{
    for (int64_t i = 0; i < t; i++) {
        memcpy(y + i * ldy, x + i * ld, (size_t)d * sizeof *y);
        memset(y + i * ldy + d, 0, (size_t)(ldy - d) * sizeof *y);
    }
}

static void unpack_rows(float *y, int64_t ld, const float *x, int64_t ldx, int64_t t, int64_t d,
                        float scale)
{
    for (int64_t i = 0; i < t; i++)
        for (int64_t j = 0; j < d; j++) y[i * ld + j] = scale * x[i * ldx + j];
}

RC_CLONES
static void add_scaled(float *s, float scale, const float *bias, const float *mask, int64_t n)
{
    if (bias != NULL && mask != NULL)
        for (int64_t j = 0; j < n; j++) s[j] = s[j] * scale + bias[j] + mask[j];
    else if (bias != NULL || mask != NULL)
        for (int64_t j = 0; j < n; j++) s[j] = s[j] * scale + (bias != NULL ? bias : mask)[j];
    else
        for (int64_t j = 0; j < n; j++) s[j] *= scale;
}

RC_CLONES
static float row_max(const float *s, int64_t n)
{
    float lane[LANES], best = s[0];
    int64_t j = 0;
    for (int k = 0; k < LANES; k++) lane[k] = s[0];
    for (; j + LANES <= n; j += LANES)
        for (int k = 0; k < LANES; k++) lane[k] = s[j + k] > lane[k] ? s[j + k] : lane[k];
    for (int k = 0; k < LANES; k++) best = lane[k] > best ? lane[k] : best;
    for (; j < n; j++) best = s[j] > best ? s[j] : best;
    return best;
}

RC_CLONES
static float row_sum(const float *s, int64_t n)
{
    float lane[LANES] = {0}, sum = 0;
    int64_t j = 0;
    for (; j + LANES <= n; j += LANES)
        for (int k = 0; k < LANES; k++) lane[k] += s[j + k];
    for (int k = 0; k < LANES; k++) sum += lane[k];
    for (; j < n; j++) sum += s[j];
    return sum;
}

RC_CLONES
static void shift_row(float *s, float by, int64_t n)
{
    for (int64_t j = 0; j < n; j++) s[j] -= by;
}

RC_CLONES
static void scale_row(float *s, float by, int64_t n)
{
    for (int64_t j = 0; j < n; j++) s[j] *= by;
}

/* Scores of one row become probabilities; unseen keys and padding become zero. */
static void softmax_row(float *s, int64_t keys, int64_t padded)
{
    shift_row(s, row_max(s, keys), keys);
    rc_exp(s, s, keys);
    scale_row(s, 1 / row_sum(s, keys), keys);
    memset(s + keys, 0, (size_t)(padded - keys) * sizeof *s);
}

/* p (t, pad(t)) = the probabilities of head `head`; kt is scratch of d pad(t) floats. */
static void probabilities(float *p, float *kt, const float *qkv, const float *bias,
                          const float *mask, const rc_attention *a, int64_t head)
{
    int64_t t = a->t, d = a->d, hd = a->h * d, ld = 3 * hd, tp = pad(t);
    pack_transposed(kt, tp, qkv + hd + head * d, ld, t, d);
    product(p, tp, qkv + head * d, ld, 1, kt, tp, t, tp, d);
    for (int64_t i = 0; i < t; i++) {
        const float *b = bias == NULL ? NULL : bias + (head * a->side + i) * a->side;
        const float *m = mask == NULL ? NULL : mask + i * a->side;
        add_scaled(p + i * tp, a->scale, b, m, t);
        softmax_row(p + i * tp, a->keys, tp);
    }
}

int64_t rc_attention_scratch(const rc_attention *a)
{
    int64_t tp = pad(a->t), dp = pad(a->d);
    return 2 * a->t * tp + a->d * tp + 2 * a->t * dp;
}

void rc_attention_forward(float *o, const float *qkv, const float *bias, const float *mask,
                          const rc_attention *a, float *scratch)
{
    int64_t t = a->t, d = a->d, hd = a->h * d, ld = 3 * hd, tp = pad(t), dp = pad(d);
    float *p = scratch, *kt = p + t * tp, *v = kt + d * tp, *out = v + t * dp;
    for (int64_t head = 0; head < a->h; head++) {
        probabilities(p, kt, qkv, bias, mask, a, head);
        pack_rows(v, dp, qkv + 2 * hd + head * d, ld, t, d);
        product(out, dp, p, tp, 1, v, dp, t, dp, t);
        unpack_rows(o + head * d, hd, out, dp, t, d, 1);
    }
}

/* ds = p (dp - sum_j p dp), in place of dp. */
RC_CLONES
static void softmax_row_backward(float *ds, const float *p, int64_t n)
{
    float lane[LANES] = {0}, sum = 0;
    int64_t j = 0;
    for (; j + LANES <= n; j += LANES)
        for (int k = 0; k < LANES; k++) lane[k] += p[j + k] * ds[j + k];
    for (int k = 0; k < LANES; k++) sum += lane[k];
    for (; j < n; j++) sum += p[j] * ds[j];
    for (j = 0; j < n; j++) ds[j] = p[j] * (ds[j] - sum);
}

void rc_attention_backward(float *dqkv, float *dbias, const float *do_, const float *qkv,
                           const float *bias, const float *mask, const rc_attention *a,
                           float *scratch)
{
    int64_t t = a->t, d = a->d, hd = a->h * d, ld = 3 * hd, tp = pad(t), dp = pad(d);
    float *p = scratch, *ds = p + t * tp, *xt = ds + t * tp, *x = xt + d * tp, *out = x + t * dp;
    for (int64_t head = 0; head < a->h; head++) {
        const float *q = qkv + head * d, *k = q + hd, *v = k + hd, *dout = do_ + head * d;
        float *dq = dqkv + head * d;
        probabilities(p, xt, qkv, bias, mask, a, head);
        pack_transposed(xt, tp, v, ld, t, d);
        product(ds, tp, dout, hd, 1, xt, tp, t, tp, d); /* dP = dO Vᵀ */
        for (int64_t i = 0; i < t; i++) softmax_row_backward(ds + i * tp, p + i * tp, tp);
        for (int64_t i = 0; dbias != NULL && i < t; i++)
            rc_add(dbias + (head * a->side + i) * a->side, ds + i * tp, t);
        pack_rows(x, dp, k, ld, t, d);
        product(out, dp, ds, tp, 1, x, dp, t, dp, t); /* dQ = dS K */
        unpack_rows(dq, ld, out, dp, t, d, a->scale);
        pack_rows(x, dp, q, ld, t, d);
        product(out, dp, ds, 1, tp, x, dp, t, dp, t); /* dK = dSᵀ Q */
        unpack_rows(dq + hd, ld, out, dp, t, d, a->scale);
        pack_rows(x, dp, dout, hd, t, d);
        product(out, dp, p, 1, tp, x, dp, t, dp, t); /* dV = Pᵀ dO */
        unpack_rows(dq + 2 * hd, ld, out, dp, t, d, 1);
    }
}
