/* Class vectors from several prompts per label, and the best of a row of scores. */
#include "score/score.h"

#include "base/clones.h"
#include "kernels/act.h"
#include "kernels/norm.h"

#include <float.h>
#include <string.h>

rc_status rc_check_finite(const float *x, int64_t n, int64_t c, const char *name)
{
    for (int64_t i = 0; i < n; i++)
        if (!rc_all_finite(x + i * c, c))
            return rc_fail(RC_EINVAL, "%s: row %lld has a value that is not finite", name,
                           (long long)i);
    return RC_OK;
}

void rc_class_vectors(float *y, const float *x, const int32_t *first, int64_t labels, int64_t c)
{
    for (int64_t i = 0; i < labels; i++) {
        float *yi = y + i * c;
        memset(yi, 0, (size_t)c * sizeof *y);
        for (int64_t p = first[i]; p < first[i + 1]; p++) {
            double s = 0;
            for (int64_t j = 0; j < c; j++) s += (double)x[p * c + j] * x[p * c + j];
            double by = 1 / __builtin_sqrt(s); /* infinite where all values are 0 */
            float k = by > FLT_MAX ? FLT_MAX : (float)by;
            for (int64_t j = 0; j < c; j++) yi[j] += k * x[p * c + j];
        }
        rc_l2norm_forward(yi, NULL, yi, 1, c);
    }
}

/* ---- The best of a row ----------------------------------------------------------------------- */

enum { BLOCK = 64 };

typedef struct {
    int32_t *index;
    float *value;
} heap;

static bool worse(const heap *h, int64_t a, int64_t b)
{
    return h->value[a] < h->value[b] || (h->value[a] == h->value[b] && h->index[a] > h->index[b]);
}

static void swap(const heap *h, int64_t a, int64_t b)
{
    float value = h->value[a];
    int32_t index = h->index[a];
    h->value[a] = h->value[b];
    h->index[a] = h->index[b];
    h->value[b] = value;
    h->index[b] = index;
}

static void rise(const heap *h, int64_t at)
{
    for (; at > 0 && worse(h, at, (at - 1) / 2); at = (at - 1) / 2) swap(h, at, (at - 1) / 2);
}

static void sink(const heap *h, int64_t at, int64_t n)
{
    for (int64_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && worse(h, child + 1, child)) child++;
        if (!worse(h, child, at)) return;
        swap(h, child, at);
    }
}

/* Where the first block of BLOCK scores begins that has one above `floor`, or the rest begins. */
RC_CLONES
static int64_t skip_below(const float *score, int64_t at, int64_t n, float floor)
{
    for (; at + BLOCK <= n; at += BLOCK) {
        int32_t above = 0;
        for (int j = 0; j < BLOCK; j++) above |= score[at + j] > floor;
        if (above) break;
    }
    return at;
}

void rc_best_add(int32_t *index, float *value, int64_t k, const float *score, int64_t from,
                 int64_t n)
{
    heap h = {index, value};
    int64_t at = 0;
    for (int64_t have = from; have < k && at < n; have++, at++) {
        value[have] = score[at];
        index[have] = (int32_t)have;
        rise(&h, have);
    }
    while ((at = skip_below(score, at, n, value[0])) < n)
        for (int64_t end = rc_min(at + BLOCK, n); at < end; at++) {
            if (!(score[at] > value[0])) continue;
            value[0] = score[at];
            index[0] = (int32_t)(from + at);
            sink(&h, 0, k);
        }
}

void rc_best_sort(int32_t *index, float *value, int64_t k)
{
    heap h = {index, value};
    for (int64_t n = k - 1; n > 0; n--) {
        swap(&h, 0, n);
        sink(&h, 0, n);
    }
}
