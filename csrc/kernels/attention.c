/* Softmax attention over one window or sequence, forward and backward.
 *
 * Keys, queries or values of one head are packed into rows padded to whole vectors, so that both
 * products run on one small kernel that keeps a block of the result in registers. */
#include "kernels/attention.h"

#include "base/vector.h"
#include "kernels/act.h"

#include <math.h>

enum { LANES = RC_LANES, ROWS = 8 };

static int64_t pad(int64_t n)
{
    return (n + LANES - 1) / LANES * LANES;
}

/* c (rows, cols) = a b for a block that stays in registers; element (i, k) of a is a[i * ai + k *
 * ak]. */
RC_INLINE void block(float *c, int64_t ldc, const float *a, int64_t ai, int64_t ak, const float *b,
                     int64_t ldb, int64_t terms, int rows, int vecs)
{
    rc_vec acc[ROWS][2] = {{{0}}};
    for (int64_t k = 0; k < terms; k++)
        for (int v = 0; v < vecs; v++) {
            rc_vec bk = *(const rc_vec *)(b + k * ldb + v * LANES);
            for (int i = 0; i < rows; i++) acc[i][v] += a[i * ai + k * ak] * bk;
        }
    for (int i = 0; i < rows; i++)
        for (int v = 0; v < vecs; v++) *(rc_vec *)(c + i * ldc + v * LANES) = acc[i][v];
}

RC_INLINE void block_rows(float *c, int64_t ldc, const float *a, int64_t ai, int64_t ak,
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

/* s = s scale + bias + mask. */
RC_INLINE void add_scaled(float *s, float scale, const float *bias, const float *mask, int64_t n)
{
    if (bias != NULL && mask != NULL)
        for (int64_t j = 0; j < n; j++) s[j] = s[j] * scale + bias[j] + mask[j];
    else if (bias != NULL || mask != NULL)
        for (int64_t j = 0; j < n; j++) s[j] = s[j] * scale + (bias != NULL ? bias : mask)[j];
    else
        for (int64_t j = 0; j < n; j++) s[j] *= scale;
}

/* Scores become probabilities times their sum, padding zero. */
RC_INLINE void softmax(float *p, float *sum, int64_t keys, int64_t padded, int rows)
{
    for (int r = 0; r < rows; r++) {
        float *s = p + r * padded;
        for (int64_t j = keys; j < padded; j++) s[j] = -INFINITY;
        rc_vec most = *(const rc_vec *)s, total = {0};
        for (int64_t j = LANES; j < padded; j += LANES)
            rc_keep_larger(&most, (const rc_vec *)(s + j));
        float shift = rc_lanes_max(&most);
        for (int64_t j = 0; j < padded; j++) s[j] = rc_exp_below(s[j] - shift);
        for (int64_t j = keys; j < padded; j++) s[j] = 0;
        for (int64_t j = 0; j < padded; j += LANES) total += *(const rc_vec *)(s + j);
        sum[r] = rc_lanes_sum(&total);
    }
}

/* p (rows, pad(keys)) = scores of queries i..i+rows-1 of head `head` against kt (d, pad(keys)),
 * through softmax, but for the factor 1 / sum of each row. */
RC_INLINE void softmax_rows(float *p, float *sum, const float *q, const float *kt,
                            const float *bias, const float *mask, const rc_attention *a,
                            int64_t head, int64_t i, int rows)
{
    int64_t kp = pad(a->keys);
    block_rows(p, kp, q + i * a->ldq, a->ldq, 1, kt, kp, a->d, kp, rows);
    for (int r = 0; r < rows; r++) {
        const float *b = bias == NULL ? NULL : bias + (head * a->side + i + r) * a->side;
        const float *m = mask == NULL ? NULL : mask + (i + r) * a->side;
        add_scaled(p + r * kp, a->scale, b, m, a->keys);
    }
    softmax(p, sum, a->keys, kp, rows);
}

/* p (t, pad(keys)) = the probabilities of head `head`. */
RC_CLONES
static void probabilities(float *p, const float *q, const float *kt, const float *bias,
                          const float *mask, const rc_attention *a, int64_t head)
{
    int64_t kp = pad(a->keys);
    float sum[ROWS];
    for (int64_t i = 0; i < a->t; i += ROWS) {
        int64_t rows = rc_min(ROWS, a->t - i);
        if (rows == ROWS)
            softmax_rows(p + i * kp, sum, q, kt, bias, mask, a, head, i, ROWS);
        else
            for (int64_t r = 0; r < rows; r++)
                softmax_rows(p + (i + r) * kp, sum + r, q, kt, bias, mask, a, head, i + r, 1);
        for (int64_t r = 0; r < rows; r++)
            for (int64_t j = 0; j < kp; j++) p[(i + r) * kp + j] *= 1 / sum[r];
    }
}

/* o (rows of h d) of queries i..i+rows-1; p (ROWS, pad(keys)) and out (ROWS, pad(d)) are scratch.
 */
RC_INLINE void attend_rows(float *o, float *p, float *out, const float *q, const float *kt,
                           const float *v, const float *bias, const float *mask,
                           const rc_attention *a, int64_t head, int64_t i, int rows)
{
    int64_t kp = pad(a->keys), dp = pad(a->d), ldo = a->inner;
    float sum[ROWS];
    softmax_rows(p, sum, q, kt, bias, mask, a, head, i, rows);
    block_rows(out, dp, p, kp, 1, v, dp, a->keys, dp, rows);
    for (int r = 0; r < rows; r++) {
        float scale = 1 / sum[r];
        for (int64_t j = 0; j < a->d; j++) o[(i + r) * ldo + j] = scale * out[r * dp + j];
    }
}

/* One head, a few rows at a time from scores to output, so that nothing leaves the first cache. */
RC_CLONES
static void attend_head(float *o, float *p, float *out, const float *q, const float *kt,
                        const float *v, const float *bias, const float *mask, const rc_attention *a,
                        int64_t head)
{
    int64_t i = 0;
    for (; i + ROWS <= a->t; i += ROWS)
        attend_rows(o, p, out, q, kt, v, bias, mask, a, head, i, ROWS);
    for (; i < a->t; i++) attend_rows(o, p, out, q, kt, v, bias, mask, a, head, i, 1);
}

int64_t rc_attention_scratch(const rc_attention *a)
{
    int64_t kp = pad(a->keys), dp = pad(a->d), most = rc_max(a->t, a->keys);
    return 2 * a->t * kp + a->d * kp + 2 * most * dp + ROWS * (kp + dp);
}

void rc_attention_forward(float *o, const float *q, const float *k, const float *bias,
                          const float *mask, const rc_attention *a, float *scratch)
{
    int64_t n = a->keys, d = a->d, kp = pad(n), dp = pad(d);
    float *p = scratch, *out = p + ROWS * kp, *kt = out + ROWS * dp, *v = kt + d * kp;
    for (int64_t head = 0; head < a->h; head++, q += d, k += d) {
        pack_transposed(kt, kp, k, a->ldk, n, d);
        pack_rows(v, dp, k + a->inner, a->ldk, n, d);
        attend_head(o + head * d, p, out, q, kt, v, bias, mask, a, head);
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

/* The same, or added to what is there. */
static void put_rows(float *y, int64_t ld, const float *x, int64_t ldx, int64_t t, int64_t d,
                     float scale, bool add)
{
    if (!add) {
        unpack_rows(y, ld, x, ldx, t, d, scale);
        return;
    }
    for (int64_t i = 0; i < t; i++)
        for (int64_t j = 0; j < d; j++) y[i * ld + j] += scale * x[i * ldx + j];
}

void rc_attention_backward(float *dq, float *dk, float *dbias, const float *dout, const float *q,
                           const float *k, const float *bias, const float *mask,
                           const rc_attention *a, bool add, float *scratch)
{
    int64_t t = a->t, n = a->keys, d = a->d, hd = a->inner, kp = pad(n), dp = pad(d);
    float *p = scratch, *ds = p + t * kp, *xt = ds + t * kp, *x = xt + d * kp;
    float *out = x + rc_max(t, n) * dp;
    for (int64_t head = 0; head < a->h; head++, q += d, k += d, dq += d, dk += d, dout += d) {
        pack_transposed(xt, kp, k, a->ldk, n, d);
        probabilities(p, q, xt, bias, mask, a, head);
        pack_transposed(xt, kp, k + hd, a->ldk, n, d);
        product(ds, kp, dout, hd, 1, xt, kp, t, kp, d); /* dP = dO Vᵀ */
        for (int64_t i = 0; i < t; i++) softmax_row_backward(ds + i * kp, p + i * kp, kp);
        for (int64_t i = 0; dbias != NULL && i < t; i++)
            rc_add(dbias + (head * a->side + i) * a->side, ds + i * kp, n);
        pack_rows(x, dp, k, a->ldk, n, d);
        product(out, dp, ds, kp, 1, x, dp, t, dp, n); /* dQ = dS K */
        unpack_rows(dq, a->ldq, out, dp, t, d, a->scale);
        pack_rows(x, dp, q, a->ldq, t, d);
        product(out, dp, ds, 1, kp, x, dp, n, dp, t); /* dK = dSᵀ Q */
        put_rows(dk, a->ldk, out, dp, n, d, a->scale, add);
        pack_rows(x, dp, dout, hd, t, d);
        product(out, dp, p, 1, kp, x, dp, n, dp, t); /* dV = Pᵀ dO */
        put_rows(dk + hd, a->ldk, out, dp, n, d, 1, add);
    }
}
