/* Linear layers over chunks of rows, and the weight gradients that sum over all rows. */
#include "model.h"

enum { CHUNK_ROWS = 512, SHARES = 8 };

int64_t rc_chunk_rows(int64_t total, int64_t unit)
{
    int64_t units = (total / SHARES + unit - 1) / unit;
    return unit * rc_max(1, rc_min(units, rc_max(1, CHUNK_ROWS / unit)));
}

static rc_product_shape forward_shape(int64_t m, int64_t n, int64_t k, bool bias, bool sum)
{
    return (rc_product_shape){
        .m = m, .n = n, .k = k, .lda = k, .ldb = k, .ldc = n, .tb = 1, .bias = bias, .sum = sum};
}

rc_status rc_linear_get(rc_linear *out, rc_dnn *dnn, const rc_params *p, rc_pair pair,
                        int64_t total, int64_t rows, bool sum)
{
    const rc_param *w = &p->item[pair.w], *b = pair.b < 0 ? NULL : &p->item[pair.b];
    int64_t n = w->size[0], k = w->count / n;
    *out = (rc_linear){.w = w, .b = b, .full_rows = rc_min(rows, total)};
    RC_TRY(rc_product_get(dnn, &out->full, forward_shape(rc_min(rows, total), n, k, b != NULL, sum),
                          w->packed));
    return rc_product_get(dnn, &out->tail, forward_shape(total % rows, n, k, b != NULL, sum),
                          w->packed);
}

void rc_linear_run(const rc_linear *l, int worker, float *y, const float *x, int64_t rows)
{
    const float *w = l->w->packed != NULL ? rc_packed_data(l->w->packed) : l->w->x;
    rc_product_run(rows == l->full_rows ? l->full : l->tail, worker, y, x, w,
                   l->b == NULL ? NULL : l->b->x);
}

rc_status rc_linear_backward_get(rc_linear *out, rc_dnn *dnn, const rc_params *p, rc_pair pair,
                                 int64_t total, int64_t rows)
{
    const rc_param *w = &p->item[pair.w];
    int64_t n = w->size[0], k = w->count / n;
    *out = (rc_linear){.w = w, .full_rows = rc_min(rows, total)};
    rc_product_shape s = {.n = k, .k = n, .lda = n, .ldb = k, .ldc = k};
    s.m = rc_min(rows, total);
    RC_TRY(rc_product_get(dnn, &out->full, s, NULL));
    s.m = total % rows;
    return rc_product_get(dnn, &out->tail, s, NULL);
}

void rc_linear_backward_run(const rc_linear *l, int worker, float *dx, const float *dy,
                            int64_t rows)
{
    rc_product_run(rows == l->full_rows ? l->full : l->tail, worker, dx, dy, l->w->x, NULL);
}

/* ---- Weight gradients ------------------------------------------------------------------------ */

typedef struct {
    const rc_param *w, *b;
    rc_product *full, *tail;
    const float *dy, *x;
    int64_t total, n, k, slice;
} weight_job;

RC_CLONES
static void add_columns(float *sum, const float *dy, int64_t rows, int64_t ld, int64_t columns)
{
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) sum[j] += dy[i * ld + j];
}

static void weight_slice(void *arg, int64_t index, int worker)
{
    const weight_job *job = arg;
    int64_t from = index * job->slice, columns = rc_min(job->slice, job->n - from);
    rc_product_run(columns == job->slice ? job->full : job->tail, worker,
                   job->w->dx + from * job->k, job->dy + from, job->x, NULL);
    if (job->b != NULL) add_columns(job->b->dx + from, job->dy + from, job->total, job->n, columns);
}

enum { SLICES = 8, SLICE_UNIT = 16 };

rc_status rc_linear_backward_weight(rc_dnn *dnn, const rc_params *p, rc_pair pair, const float *dy,
                                    const float *x, int64_t total)
{
    const rc_param *w = &p->item[pair.w];
    int64_t n = w->size[0], k = w->count / n;
    int64_t slice = (n + SLICES - 1) / SLICES;
    slice = rc_min(n, (slice + SLICE_UNIT - 1) / SLICE_UNIT * SLICE_UNIT);
    weight_job job = {.w = w,
                      .b = pair.b < 0 ? NULL : &p->item[pair.b],
                      .dy = dy,
                      .x = x,
                      .total = total,
                      .n = n,
                      .k = k,
                      .slice = slice};
    rc_product_shape s = {.n = k, .k = total, .lda = n, .ldb = k, .ldc = k, .ta = 1, .sum = 1};
    s.m = slice;
    RC_TRY(rc_product_get(dnn, &job.full, s, NULL));
    s.m = n % slice;
    RC_TRY(rc_product_get(dnn, &job.tail, s, NULL));
    rc_parallel(rc_dnn_pool(dnn), (n + slice - 1) / slice, weight_slice, &job);
    return RC_OK;
}

typedef struct {
    const rc_param *w, *b;
    const float *dy, *x, *mean, *rstd;
    int64_t total, c;
} norm_job;

static void norm_columns(void *arg, int64_t index, int worker)
{
    (void)worker;
    const norm_job *job = arg;
    int64_t from = index * SLICE_UNIT;
    rc_layernorm_backward_weight(job->w->dx, job->b->dx, job->dy, job->x, job->mean, job->rstd,
                                 job->total, job->c, from, rc_min(from + SLICE_UNIT, job->c));
}

void rc_norm_backward_weight(rc_pool *pool, const rc_params *p, rc_pair pair, const float *dy,
                             const float *x, const float *mean, const float *rstd, int64_t total)
{
    norm_job job = {&p->item[pair.w],     &p->item[pair.b], dy, x, mean, rstd, total,
                    p->item[pair.w].count};
    rc_parallel(pool, (job.c + SLICE_UNIT - 1) / SLICE_UNIT, norm_columns, &job);
}
