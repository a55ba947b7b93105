/* linear: linear layers over chunks of rows, or with outputs that threads share; weight gradients.
 */
#ifndef RC_LINEAR_H
#define RC_LINEAR_H

#include "layers/adapter.h"
#include "layers/grid.h"
#include "layers/params.h"
#include "layers/plan.h"
#include "layers/weight_gradient.h"

/* y = x wᵀ + b over the chunks of a grid, and what an adapter of w adds. Its outputs are cut into
 * shares, of which a grid of rows has one: the first `longer` ones have a step more outputs than
 * the others. */
typedef struct {
    rc_factor f;
    const rc_packed *packed;
    int64_t n, k, rows; /* outputs, inputs; rows of a chunk but the last */
    int64_t shares, share, longer, step;
    rc_product *product[2][2]; /* [of the last, shorter chunk][of a longer share] */
    rc_adapter adapter;
} rc_linear;

/* Outputs of a layer before the cut of its weight, or those from it on; all of one without. */
typedef enum { RC_FIRST, RC_REST, RC_WHOLE } rc_part;

/* Columns where threads should share the outputs of a layer for so many rows, else chunks of `rows`
 * rows; depends on sizes and on how the weight is packed, not on the threads. */
rc_grid rc_linear_grid(const rc_params *p, rc_pair pair, int64_t total, int64_t rows);

/* Forward products, adding into y with `sum`. */
rc_status rc_linear_plan(rc_linear *out, rc_plan *plan, const rc_params *p, rc_pair pair,
                         const rc_grid *grid, bool sum);
rc_status rc_linear_plan_part(rc_linear *out, rc_plan *plan, const rc_params *p, rc_pair pair,
                              rc_part part, const rc_grid *grid);

/* On one chunk, by whoever the crew is. */
void rc_linear_run(const rc_linear *l, rc_crew crew, float *y, rc_rows x, int64_t rows);

/* Where the first factor of a chunk of `rows` rows goes (see rc_sink): as floats, or laid in
 * `form`, which has room for so many floats, 0 where it stays floats. */
int64_t rc_linear_form(const rc_params *p, rc_pair pair, int64_t rows);
rc_sink rc_linear_sink(const rc_linear *l, float *floats, void *form, int64_t rows);

/* activate(the layer) goes into the sink of the next one; y (rows, outputs) is scratch, and where
 * that keeps floats. */
void rc_linear_run_into(const rc_linear *l, rc_crew crew, const rc_sink *sink, float *y, rc_rows x,
                        rc_activation *activate, int64_t rows);

/* The way back of a layer over the chunks of a grid: the gradient of its input chunk by chunk; that
 * of its weight over all rows. */
typedef struct {
    const rc_param *w, *b;
    const rc_packed *back; /* of the weight, where products are narrow */
    bool narrow;
    int64_t from, n, k, rows, total; /* outputs from..from+n-1 */
    rc_product *dx[2];               /* [of the last, shorter chunk] */
    rc_weight_gradient dw;
    rc_adapter_back adapter;
} rc_linear_back;

rc_status rc_linear_back_plan(rc_linear_back *out, rc_plan *plan, const rc_params *p, rc_pair pair,
                              const rc_grid *grid);

/* Of some outputs, whose rows come rounded where products are narrow; with `sum` their gradient of
 * the input is added. */
rc_status rc_linear_back_plan_part(rc_linear_back *out, rc_plan *plan, const rc_params *p,
                                   rc_pair pair, rc_part part, const rc_grid *grid, bool sum);

/* dx = dy w and what an adapter adds, of one chunk. */
void rc_linear_back_run(const rc_linear_back *l, int worker, float *dx, const float *dy,
                        int64_t rows);
void rc_linear_back_run_low(const rc_linear_back *l, int worker, float *dx, rc_lowered dy,
                            int64_t rows);

/* dw += dyᵀ x and db += column sums of dy over all rows, of what learns, and an adapter's; each sum
 * has one owner, so that the number of workers changes nothing. */
void rc_linear_back_weight(const rc_linear_back *l, rc_pool *pool, const float *dy, const float *x);
void rc_linear_back_weight_low(const rc_linear_back *l, rc_pool *pool, rc_lowered dy, rc_lowered x);

#endif
