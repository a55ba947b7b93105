/* dnn: matrix products through oneDNN, and those of split factors through split.h.
 *
 * A product runs on one thread. Parallelism is ours: rc_parallel hands chunks of rows to workers,
 * and each worker runs the same compiled primitive with its own memory objects and scratchpad.
 * Results therefore do not depend on the number of threads, and a chunk of windows can pass through
 * a whole block while it is warm in the cache.
 *
 * Look-ups (rc_product_get) happen outside parallel regions, runs (rc_product_run) inside. What the
 * types of factors differ in is a table in engines.c. An
 * rc_dnn serves one caller at a time. */
#ifndef RC_DNN_H
#define RC_DNN_H

#include "base/parallel.h"
#include "product/form.h"

typedef struct rc_packed rc_packed; /* a weight in oneDNN's preferred layout: packed.h */

typedef struct rc_dnn rc_dnn; /* engine, one stream and scratchpad per worker, primitive cache */
typedef struct rc_product rc_product; /* one compiled product of the cache */

/* c (m, n) = op(a) (m, k) op(b) (k, n) [+ bias (n)] [+ c].  Leading dimensions count values per
 * stored row; op transposes where ta, tb are 1, so a is stored (m, k) or (k, m), b (k, n) or (n,
 * k). With `narrow` both factors are bfloat16 rows, and b is not packed. */
typedef struct {
    int64_t m, n, k, lda, ldb, ldc, ta, tb, bias, sum, narrow; /* one type only: no padding bytes
                                                                  to hash */
} rc_product_shape;

/* RC_EBACKEND if oneDNN refuses. `threads` is the most workers that will ever run products. */
rc_status rc_dnn_new(rc_dnn **out, int threads);
void rc_dnn_free(rc_dnn *dnn);
int rc_dnn_threads(const rc_dnn *dnn);
rc_pool *rc_dnn_pool(const rc_dnn *dnn); /* its workers, for rc_parallel */

/* The compiled product for a shape, built where nobody holds one. `packed` replaces b (then tb, ldb
 * do not matter) or is NULL. Shapes with a zero size give NULL, which rc_product_run skips. It
 * stays until each that got it has released it, or rc_dnn_free. */
rc_status rc_product_get(rc_dnn *dnn, rc_product **out, rc_product_shape shape,
                         const rc_packed *packed);
void rc_product_release(rc_product *product); /* NULL allowed */

/* Run on `worker`'s memory objects. Not to be called for one worker from two threads. Float rows
 * are laid before, in memory of the worker, where the product's type wants another form. A refusal
 * by oneDNN is remembered for rc_dnn_check. */
void rc_product_run(rc_product *product, int worker, float *c, rc_rows a, rc_factor b);

/* A first factor in the form that the product wants: `a` itself, or laid in memory of `worker`. */
rc_rows rc_product_rows(const rc_product *product, int worker, rc_rows a);

/* Where rows go that become the first factor of a product: the one place that knows whether they
 * are laid or stay float rows. What fills it does so a few rows at a time, the last ones last. */
typedef struct {
    const rc_product *product;
    float *floats; /* (m, k), where float rows stay */
    void *form;    /* rc_form_bytes, where others are laid; may be the same memory */
} rc_sink;

/* Where rows from.. are to be computed: in place, or in `scratch`; rc_sink_put then takes them from
 * there. */
float *rc_sink_at(const rc_sink *sink, int64_t from, float *scratch);
void rc_sink_put(const rc_sink *sink, const float *x, int64_t from, int64_t rows);
bool rc_sink_lays(const rc_sink *sink);
rc_rows rc_sink_rows(const rc_sink *sink); /* what was put, as a first factor */

/* activate(c) goes into a sink whose float rows stay in c; c is scratch. */
typedef void rc_activation(float *y, const float *x, int64_t n);
void rc_product_run_into(rc_product *product, int worker, const rc_sink *sink, float *c, rc_rows a,
                         rc_factor b, rc_activation *activate);

/* Its second half, of some rows. */
void rc_sink_activate(const rc_sink *sink, float *c, int64_t from, int64_t rows,
                      rc_activation *activate);

/* Bytes of a first factor (m, k) laid in the form of a type; 0 of float rows. */
int64_t rc_form_bytes(rc_type type, int64_t m, int64_t k);

/* RC_EBACKEND if any run since the last check failed, RC_ESTOPPED if the call is to end. */
rc_status rc_dnn_check(rc_dnn *dnn);

/* Look-ups that found a product and that built one; products there are now, and how many of them
 * run a reference implementation (should be none). */
typedef struct {
    int64_t hits, misses, products, slow;
} rc_dnn_counts;

rc_dnn_counts rc_dnn_count(const rc_dnn *dnn);

#endif
