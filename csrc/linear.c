/* Linear layers over chunks of rows, and the weight gradients that sum over all rows. */
#include "model.h"

enum { CHUNK_ROWS = 512, SHARES = 8 };

int64_t rc_chunk_rows(int64_t total, int64_t unit)
{
    int64_t units = (total / SHARES + unit - 1) / unit;
    return unit * rc_max(1, rc_min(units, rc_max(1, CHUNK_ROWS / unit)));
}

/* The products of outputs from..to-1, whose weight is `packed` or, where that is NULL, not. */
static rc_status forward_get(rc_linear *out, rc_dnn *dnn, const rc_params *p, rc_pair pair,
                             int64_t from, int64_t to, const rc_packed *packed, int64_t total,
                             int64_t rows, bool sum)
{
    const rc_param *w = &p->item[pair.w];
    int64_t k = w->count / w->size[0];
    *out = (rc_linear){.w = packed != NULL ? rc_packed_data(packed) : w->x + from * k,
                       .b = pair.b < 0 ? NULL : p->item[pair.b].x + from,
                       .full_rows = rc_min(rows, total)};
    rc_product_shape s = {.n = to - from, .k = k, .lda = k, .ldb = k, .ldc = to - from, .tb = 1};
    s.bias = out->b != NULL;
    s.sum = sum;
    s.m = out->full_rows;
    RC_TRY(rc_product_get(dnn, &out->full, s, packed));
    s.m = total % rows;
    return rc_product_get(dnn, &out->tail, s, packed);
}

rc_status rc_linear_get(rc_linear *out, rc_dnn *dnn, const rc_params *p, rc_pair pair,
                        int64_t total, int64_t rows, bool sum)
{
    const rc_param *w = &p->item[pair.w];
    return forward_get(out, dnn, p, pair, 0, w->size[0], w->packed, total, rows, sum);
}

rc_status rc_linear_get_part(rc_linear *out, rc_dnn *dnn, const rc_params *p, rc_pair pair,
                             rc_part part, int64_t total, int64_t rows)
{
    const rc_param *w = &p->item[pair.w];
    if (part == RC_FIRST)
        return forward_get(out, dnn, p, pair, 0, w->cut, w->packed, total, rows, false);
    return forward_get(out, dnn, p, pair, w->cut, w->size[0], w->rest, total, rows, false);
}

static rc_product *product_of(const rc_linear *l, int64_t rows)
{
    return rows == l->full_rows ? l->full : l->tail;
}

void rc_linear_run(const rc_linear *l, int worker, float *y, const float *x, int64_t rows)
{
    rc_product_run(product_of(l, rows), worker, y, x, l->w, l->b);
}

int64_t rc_linear_form(const rc_params *p, rc_pair pair, int64_t rows)
{
    const rc_param *w = &p->item[pair.w];
    return (rc_form_size(w->packed, rows, w->count / w->size[0]) + 63) / 64 * 16;
}

bool rc_linear_takes_floats(const rc_linear *l)
{
    return rc_product_takes_floats(l->full);
}

void rc_linear_lay(const rc_linear *l, void *form, const float *x, int64_t from, int64_t some,
                   int64_t rows)
{
    rc_product_lay(product_of(l, rows), form, x, from, some);
}

void rc_linear_run_laid(const rc_linear *l, int worker, float *y, const void *form, int64_t rows)
{
    rc_product_run_laid(product_of(l, rows), worker, y, form, l->w, l->b);
}

void rc_linear_run_between(const rc_linear *l, const rc_linear *next, int worker, void *to,
                           float *y, const void *form, rc_activation *activate, int64_t rows)
{
    rc_product_run_between(product_of(l, rows), product_of(next, rows), worker, to, y, form, l->w,
                           l->b, activate);
}

rc_status rc_linear_backward_get(rc_linear *out, rc_dnn *dnn, const rc_params *p, rc_pair pair,
                                 int64_t total, int64_t rows)
{
    const rc_param *w = &p->item[pair.w];
    int64_t n = w->size[0], k = w->count / n;
    *out = (rc_linear){.w = w->x, .full_rows = rc_min(rows, total)};
    rc_product_shape s = {.n = k, .k = n, .lda = n, .ldb = k, .ldc = k};
    s.m = rc_min(rows, total);
    RC_TRY(rc_product_get(dnn, &out->full, s, NULL));
    s.m = total % rows;
    return rc_product_get(dnn, &out->tail, s, NULL);
}

void rc_linear_backward_run(const rc_linear *l, int worker, float *dx, const float *dy,
                            int64_t rows)
{
    rc_product_run(product_of(l, rows), worker, dx, dy, l->w, NULL);
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
