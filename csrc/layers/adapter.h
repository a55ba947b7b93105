/* adapter: a low-rank update of a linear layer (LoRA, Hu et al. 2021), for training.
 *
 * y += scale (x Aᵀ) Bᵀ beside a weight that may be frozen, with A (rank, in) and B (out, rank) in
 * the table of parameters. Linear layers run it: nobody else knows of it. For inference it is added
 * to the weight, w + scale B A. Dropout of its input is left out. */
#ifndef RC_ADAPTER_H
#define RC_ADAPTER_H

#include "layers/grid.h"
#include "layers/params.h"
#include "layers/plan.h"

/* Of outputs from..from+n-1, over the chunks of a grid. */
typedef struct {
    const rc_param *a, *b; /* NULL: the weight has no adapter, and what follows is not there */
    float scale;
    int64_t from, n, in, rank, rows; /* outputs, inputs; rows of a chunk but the last */
    rc_product *down[2], *up[2];     /* [of the last, shorter chunk] */
    const rc_turns *worker;
} rc_adapter;

rc_status rc_adapter_plan(rc_adapter *out, rc_plan *plan, const rc_params *p, int64_t weight,
                          int64_t from, int64_t n, const rc_grid *grid);

/* y (rows, n) += scale (x Aᵀ) Bᵀ, of one chunk. */
void rc_adapter_run(const rc_adapter *l, int worker, float *y, const float *x, int64_t rows);

/* The way back. u = scale x Aᵀ and du = scale dy B are computed again for the gradients of B and
 * A, so that nothing is kept between the calls. */
typedef struct {
    rc_adapter forward;
    int64_t total, chunks, groups;             /* rows; chunks of a group; groups */
    rc_product *du[2], *dx[2], *da[2], *db[2]; /* [of the last, shorter chunk] */
    const rc_turns *worker, *all;
} rc_adapter_back;

rc_status rc_adapter_back_plan(rc_adapter_back *out, rc_plan *plan, const rc_params *p,
                               int64_t weight, int64_t from, int64_t n, const rc_grid *grid);

/* dx (rows, in) += du A, of one chunk. */
void rc_adapter_back_run(const rc_adapter_back *l, int worker, float *dx, const float *dy,
                         int64_t rows);

/* dA += duᵀ x and dB += dyᵀ u over all rows, of what learns, in groups of chunks that do not depend
 * on the threads. */
void rc_adapter_back_weight(const rc_adapter_back *l, rc_pool *pool, const float *dy,
                            const float *x);

#endif
