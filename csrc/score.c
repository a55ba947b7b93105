/* Class vectors from several prompts per label, and batched scores with the best of each row. */
#include "model.h"

#include <string.h>

void rc_class_vectors(float *y, const float *x, const int32_t *first, int64_t labels, int64_t c)
{
    for (int64_t i = 0; i < labels; i++) {
        float *yi = y + i * c;
        memset(yi, 0, (size_t)c * sizeof *y);
        for (int64_t p = first[i]; p < first[i + 1]; p++) {
            double s = 0;
            for (int64_t j = 0; j < c; j++) s += (double)x[p * c + j] * x[p * c + j];
            float k = s > 0 ? (float)(1 / __builtin_sqrt(s)) : 0;
            for (int64_t j = 0; j < c; j++) yi[j] += k * x[p * c + j];
        }
        rc_l2norm_forward(yi, NULL, yi, 1, c);
    }
}

/* Move the entry at `at` towards the front while it beats its neighbour. */
static void lift(int32_t *index, float *value, int64_t at)
{
    for (; at > 0 && value[at] > value[at - 1]; at--) {
        float v = value[at];
        int32_t i = index[at];
        value[at] = value[at - 1];
        index[at] = index[at - 1];
        value[at - 1] = v;
        index[at - 1] = i;
    }
}

void rc_top_k(int32_t *index, float *value, const float *score, int64_t n, int64_t k)
{
    int64_t have = 0;
    for (int64_t i = 0; i < n; i++) {
        if (have == k && !(score[i] > value[k - 1])) continue;
        int64_t at = have < k ? have++ : k - 1;
        value[at] = score[i];
        index[at] = (int32_t)i;
        lift(index, value, at);
    }
}

enum { SCORE_ROWS = 64 };

typedef struct {
    float *score, *best, *scratch; /* scratch (workers, SCORE_ROWS, labels) */
    int32_t *index;
    const float *x, *classes;
    rc_product *full, *tail;
    int64_t n, labels, c, k;
} score_job;

static void score_chunk(void *arg, int64_t chunk, int worker)
{
    const score_job *job = arg;
    int64_t first = chunk * SCORE_ROWS, rows = rc_min(SCORE_ROWS, job->n - first);
    float *score = job->score != NULL ? job->score + first * job->labels
                                      : job->scratch + worker * SCORE_ROWS * job->labels;
    rc_product_run(rows == rc_min(SCORE_ROWS, job->n) ? job->full : job->tail, worker, score,
                   job->x + first * job->c, job->classes, NULL);
    for (int64_t i = 0; i < rows; i++)
        rc_top_k(job->index + (first + i) * job->k, job->best + (first + i) * job->k,
                 score + i * job->labels, job->labels, job->k);
}

rc_status rc_scores_topk(rc_context *c, float *score, int32_t *index, float *best, const float *x,
                         const float *classes, int64_t n, int64_t labels, int64_t width, int64_t k)
{
    score_job job = {.score = score,
                     .best = best,
                     .index = index,
                     .x = x,
                     .classes = classes,
                     .n = n,
                     .labels = labels,
                     .c = width,
                     .k = k};
    rc_product_shape s = {
        .n = labels, .k = width, .lda = width, .ldb = width, .ldc = labels, .tb = 1};
    s.m = rc_min(n, SCORE_ROWS);
    RC_TRY(rc_product_get(c->dnn, &job.full, s, NULL));
    s.m = n % SCORE_ROWS;
    RC_TRY(rc_product_get(c->dnn, &job.tail, s, NULL));
    if (score == NULL) {
        int64_t floats;
        RC_TRY(rc_mul(&floats,
                      (int64_t)rc_dnn_threads(c->dnn) * SCORE_ROWS * (int64_t)sizeof(float),
                      labels));
        RC_TRY(rc_arena_reserve(&c->shared, floats));
        job.scratch = (float *)c->shared.base;
    }
    rc_parallel(rc_dnn_pool(c->dnn), (n + SCORE_ROWS - 1) / SCORE_ROWS, score_chunk, &job);
    return rc_dnn_check(c->dnn);
}
