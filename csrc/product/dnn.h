/* dnn: matrix products through oneDNN, and those of split factors through split.h.
 *
 * A product runs on one thread. Parallelism is ours: rc_parallel hands chunks of rows to workers,
 * and each worker runs the same compiled primitive with its own memory objects and scratchpad.
 * Results therefore do not depend on the number of threads, and a chunk of windows can pass through
 * a whole block while it is warm in the cache.
 *
 * Look-ups (rc_product_get) happen outside parallel regions, runs (rc_product_run) inside. An
 * rc_dnn serves one caller at a time. */
#ifndef RC_DNN_H
#define RC_DNN_H

#include "base/parallel.h"
#include "product/form.h"

typedef struct rc_packed rc_packed; /* a weight in oneDNN's preferred layout: packed.h */

/* The second factor, packed or not; scales of its int8 columns and a bias, where there are some. */
typedef struct {
    const float *b, *scale, *bias;
} rc_factor;

typedef struct rc_dnn rc_dnn; /* engine, one stream and scratchpad per worker, primitive cache */
typedef struct rc_product rc_product; /* one compiled product of the cache */

/* c (m, n) = op(a) (m, k) op(b) (k, n) [+ bias (n)] [+ c].  Leading dimensions count floats per
 * stored row; op transposes where ta, tb are 1, so a is stored (m, k) or (k, m), b (k, n) or (n,
 * k). */
typedef struct {
    int64_t m, n, k, lda, ldb, ldc, ta, tb, bias, sum; /* one type only: no padding bytes to hash */
} rc_product_shape;

/* RC_EBACKEND if oneDNN refuses. `threads` is the most workers that will ever run products. */
rc_status rc_dnn_new(rc_dnn **out, int threads);
void rc_dnn_free(rc_dnn *dnn);
int rc_dnn_threads(const rc_dnn *dnn);
rc_pool *rc_dnn_pool(const rc_dnn *dnn); /* its workers, for rc_parallel */

/* The compiled product for a shape, built at its first use. `packed` replaces b (then tb, ldb do
 * not matter) or is NULL. Pointers stay valid until rc_dnn_trim or rc_dnn_free. Shapes with a zero
 * size give NULL, which rc_product_run skips. */
rc_status rc_product_get(rc_dnn *dnn, rc_product **out, rc_product_shape shape,
                         const rc_packed *packed);

/* Run on `worker`'s memory objects. Not to be called for one worker from two threads. A refusal by
 * oneDNN is remembered for rc_dnn_check. For factors of floats. */
void rc_product_run(rc_product *product, int worker, float *c, const float *a, const float *b,
                    const float *bias);

/* The same in steps, so that what fills the first factor can do so a few rows at a time. A form
 * holds the whole factor as the product wants it: float32 rows, which need not be laid, or narrower
 * ones, or tiles. The last rows are laid last. `packed` is the product's weight, NULL for one that
 * is not packed. */
bool rc_product_takes_floats(const rc_product *product);
void rc_product_lay(const rc_product *product, void *form, const float *x, int64_t from,
                    int64_t rows);
void rc_product_run_laid(rc_product *product, int worker, float *c, const void *form, rc_factor f);

/* All rows of a first factor, laid in memory of `worker`; `a` itself where the product takes that.
 */
const void *rc_product_form(const rc_product *product, int worker, const float *a);

/* activate(c) goes into the form `to` of the next product, whose first factor it is; c is scratch.
 * Where both are float32, `to` is c. */
typedef void rc_activation(float *y, const float *x, int64_t n);
void rc_product_run_between(rc_product *product, const rc_product *next, int worker, void *to,
                            float *c, const void *form, rc_factor f, rc_activation *activate);

/* Its second half, of some rows. */
void rc_product_activate(const rc_product *next, void *to, float *c, int64_t from, int64_t rows,
                         rc_activation *activate);

/* RC_EBACKEND if any run since the last check failed, RC_ESTOPPED if the call is to end. */
rc_status rc_dnn_check(rc_dnn *dnn);

/* Empty the cache when it holds more than half of its slots; call where no product is in use. */
void rc_dnn_trim(rc_dnn *dnn);

/* Hits, misses and how many cached products run a reference implementation (should be none). */
void rc_dnn_stats(const rc_dnn *dnn, int64_t *hits, int64_t *misses, int64_t *slow);

#endif
