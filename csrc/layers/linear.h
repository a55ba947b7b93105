/* linear: linear layers over chunks of rows, or with outputs that threads share; weight gradients.
 */
#ifndef RC_LINEAR_H
#define RC_LINEAR_H

#include "layers/params.h"

/* Rows of a chunk: a multiple of `unit`, enough chunks to share, small enough to stay in the cache.
 * A function of the batch alone, so that results do not depend on the number of threads. */
int64_t rc_chunk_rows(int64_t total, int64_t unit);

/* y = x wᵀ + b over chunks of `rows` rows, the last one shorter. Looked up once per call of a
 * tower, run by any worker on any chunk. Where all rows together are few it is one chunk, whose
 * outputs all threads share: then it is run outside of parallel regions. */
typedef struct {
    rc_factor f;
    const rc_packed *packed;
    int64_t n, k;
    /* of a whole chunk, and of the last one; of a share, and of a longer one */
    rc_product *full, *tail;
    int64_t full_rows;
    /* where outputs are shared: how many shares, outputs of one and of a step, longer shares */
    rc_dnn *dnn;
    int64_t shares, share, step, more;
} rc_linear;

/* Outputs of a layer before the cut of its weight, or those from it on. */
typedef enum { RC_FIRST, RC_REST } rc_part;

/* Whether threads should share the outputs of a layer of this size for so many rows; depends on
 * sizes and on how the weight is packed, not on the threads. */
bool rc_linear_shares(const rc_params *p, rc_pair pair, int64_t rows);

enum { RC_SHARED = 0 }; /* as the rows of a chunk: it is the only one, and its outputs are shared */

/* Forward products, adding into y with `sum`. total is the number of rows of all chunks together.
 */
rc_status rc_linear_get(rc_linear *out, rc_dnn *dnn, const rc_params *p, rc_pair pair,
                        int64_t total, int64_t rows, bool sum);
rc_status rc_linear_get_part(rc_linear *out, rc_dnn *dnn, const rc_params *p, rc_pair pair,
                             rc_part part, int64_t total, int64_t rows);

void rc_linear_run(const rc_linear *l, int worker, float *y, rc_rows x, int64_t rows);

/* Where the first factor of a chunk of `rows` rows goes (see rc_sink): as floats, or laid in
 * `form`, which has room for so many floats, 0 where it stays floats. */
int64_t rc_linear_form(const rc_params *p, rc_pair pair, int64_t rows);
rc_sink rc_linear_sink(const rc_linear *l, float *floats, void *form, int64_t rows);

/* activate(the layer) goes into the sink of the next one; y (rows, outputs) is scratch, and where
 * that keeps floats. */
void rc_linear_run_into(const rc_linear *l, int worker, const rc_sink *sink, float *y, rc_rows x,
                        rc_activation *activate, int64_t rows);

/* dx = dy w. */
rc_status rc_linear_backward_get(rc_linear *out, rc_dnn *dnn, const rc_params *p, rc_pair pair,
                                 int64_t total, int64_t rows);
void rc_linear_backward_run(const rc_linear *l, int worker, float *dx, const float *dy,
                            int64_t rows);

/* dw += dyᵀ x and db += column sums of dy over all `total` rows, sliced over outputs: worker-count
 * independent because each slice has one owner. */
rc_status rc_linear_backward_weight(rc_dnn *dnn, const rc_params *p, rc_pair pair, const float *dy,
                                    const float *x, int64_t total);

/* Layer-norm weight gradient over all rows, sliced over columns. */
void rc_norm_backward_weight(rc_pool *pool, const rc_params *p, rc_pair pair, const float *dy,
                             const float *x, const float *mean, const float *rstd, int64_t total);

#endif
