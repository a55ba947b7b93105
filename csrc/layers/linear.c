/* Linear layers over chunks of rows, and the weight gradients that sum over all rows. */
#include "layers/linear.h"

#include "kernels/act.h"

enum {
    SHARES = 8,
    STEP = 64,              /* outputs that shares differ by, about */
    ACTIVE_ROWS = 32,       /* rows of an activation that threads share */
    SHARED_ROWS = 512,      /* at most, for threads to share a layer's outputs */
    SHARED_WEIGHT = 1 << 18 /* values of a weight, at least: work for several threads */
};

static int64_t inputs(const rc_param *w)
{
    return w->count / w->size[0];
}

/* ---- Forward --------------------------------------------------------------------------------- */

/* Outputs from..to-1 of a layer; `packed` is their weight or, where that is NULL, it is not packed.
 */
static rc_linear outputs(const rc_params *p, rc_pair pair, int64_t from, int64_t to,
                         const rc_packed *packed)
{
    const rc_param *w = &p->item[pair.w];
    rc_linear l = {.packed = packed, .n = to - from, .k = inputs(w)};
    l.f = packed != NULL ? rc_packed_factor(packed, 0) : (rc_factor){.b = w->x + from * inputs(w)};
    l.f.bias = pair.b < 0 ? NULL : p->item[pair.b].x + from;
    return l;
}

/* Of outputs before the cut of a weight (0) or from it on (1), as the plan wants it. An adapter
 * that is frozen may lie in a tower that runs as at inference, where rows are laid for the product:
 * it needs floats. */
static const rc_packed *packed_of(const rc_plan *plan, const rc_params *p, const rc_param *w,
                                  int piece)
{
    bool low = rc_plan_type(plan) != RC_F32 && w->low[piece] != NULL;
    if (low && (w->adapter == 0 || rc_params_learn(p, w->adapter, w->adapter + 2)))
        return w->low[piece];
    return piece == 0 ? w->packed : w->behind;
}

static rc_product_shape shape_of(const rc_linear *l, int64_t m, int64_t n, bool sum)
{
    int64_t ldb = l->packed != NULL ? l->n : l->k;
    rc_product_shape s = {.m = m, .n = n, .k = l->k, .lda = l->k, .ldb = ldb, .ldc = l->n, .tb = 1};
    s.bias = l->f.bias != NULL;
    s.sum = sum;
    return s;
}

/* Outputs that stay together where n are cut into shares, a multiple of what the weight's layout
 * asks for; 0 where it cannot be cut, or n is no whole number of steps. */
static int64_t step_of(const rc_packed *packed, int64_t n)
{
    int64_t unit = packed != NULL ? rc_packed_unit(packed) : 1;
    if (unit == 0) return 0;
    int64_t step = unit * ((STEP + unit - 1) / unit);
    return n % step == 0 ? step : 0;
}

/* Equal shares, but for the first ones, which have a step more where these cannot be equal; one
 * share of all outputs where there is no step. */
static void cut(rc_linear *l, bool columns)
{
    int64_t step = columns ? step_of(l->packed, l->n) : 0;
    l->shares = 1;
    l->share = l->n;
    if (step == 0) return;
    l->step = step;
    l->shares = rc_min(SHARES, l->n / step);
    l->longer = l->n / step % l->shares;
    l->share = l->n / step / l->shares * step;
}

static rc_status get(rc_linear *l, rc_plan *plan, const rc_grid *grid, bool sum)
{
    l->rows = rc_min(grid->rows, grid->total);
    cut(l, grid->columns);
    for (int last = 0; last < 2; last++)
        for (int longer = 0; longer < 2; longer++) {
            int64_t rows = last ? grid->total % grid->rows : l->rows;
            int64_t n = !longer ? l->share : l->longer > 0 ? l->share + l->step : 0;
            RC_TRY(rc_plan_product(plan, &l->product[last][longer], shape_of(l, rows, n, sum),
                                   l->packed));
        }
    return RC_OK;
}

rc_status rc_linear_plan(rc_linear *out, rc_plan *plan, const rc_params *p, rc_pair pair,
                         const rc_grid *grid, bool sum)
{
    const rc_param *w = &p->item[pair.w];
    *out = outputs(p, pair, 0, w->size[0], packed_of(plan, p, w, 0));
    RC_TRY(rc_adapter_plan(&out->adapter, plan, p, pair.w, 0, out->n, grid));
    return get(out, plan, grid, sum);
}

rc_status rc_linear_plan_part(rc_linear *out, rc_plan *plan, const rc_params *p, rc_pair pair,
                              rc_part part, const rc_grid *grid)
{
    const rc_param *w = &p->item[pair.w];
    *out = part == RC_FIRST ? outputs(p, pair, 0, w->cut, packed_of(plan, p, w, 0))
                            : outputs(p, pair, w->cut, w->size[0], packed_of(plan, p, w, 1));
    RC_TRY(rc_adapter_plan(&out->adapter, plan, p, pair.w, part == RC_FIRST ? 0 : w->cut, out->n,
                           grid));
    return get(out, plan, grid, false);
}

rc_grid rc_linear_grid(const rc_params *p, rc_pair pair, int64_t total, int64_t rows)
{
    const rc_param *w = &p->item[pair.w];
    bool cuts = step_of(w->packed, w->size[0]) > 0;
    bool columns = total <= SHARED_ROWS && w->count >= SHARED_WEIGHT && cuts;
    return columns ? rc_grid_columns(total) : rc_grid_rows(total, rows);
}

static rc_product *product_of(const rc_linear *l, int64_t rows, bool longer)
{
    return l->product[rows != l->rows][longer];
}

typedef struct {
    const rc_linear *l;
    float *y;
    rc_rows x;
    int64_t rows;
} share_job;

static void run_share(void *arg, int64_t index, int worker)
{
    const share_job *job = arg;
    const rc_linear *l = job->l;
    int64_t from = index * l->share + rc_min(index, l->longer) * l->step;
    rc_factor f = l->packed != NULL ? rc_packed_factor(l->packed, from)
                                    : (rc_factor){.b = l->f.b + from * l->k};
    f.bias = l->f.bias == NULL ? NULL : l->f.bias + from;
    rc_product_run(product_of(l, job->rows, index < l->longer), worker, job->y + from, job->x, f);
}

static void run_shares(const rc_linear *l, rc_crew crew, float *y, rc_rows x, int64_t rows)
{
    share_job job = {l, y, rc_product_rows(product_of(l, rows, false), crew.worker, x), rows};
    rc_each(crew, l->shares, run_share, &job);
}

void rc_linear_run(const rc_linear *l, rc_crew crew, float *y, rc_rows x, int64_t rows)
{
    if (l->shares == 1)
        rc_product_run(product_of(l, rows, false), crew.worker, y, x, l->f);
    else
        run_shares(l, crew, y, x, rows);
    rc_adapter_run(&l->adapter, crew.worker, y, x.at, rows); /* floats: see packed_of */
}

int64_t rc_linear_form(const rc_params *p, rc_pair pair, int64_t rows)
{
    const rc_param *w = &p->item[pair.w];
    rc_type type =
        w->packed != NULL ? rc_packed_type(w->packed) : (w->low[0] != NULL ? RC_BF16 : RC_F32);
    return (rc_form_bytes(type, rows, inputs(w)) + 63) / 64 * 16;
}

rc_sink rc_linear_sink(const rc_linear *l, float *floats, void *form, int64_t rows)
{
    return (rc_sink){product_of(l, rows, false), floats, form};
}

typedef struct {
    const rc_sink *sink;
    float *y;
    rc_activation *activate;
    int64_t rows;
} activate_job;

static void activate_rows(void *arg, int64_t index, int worker)
{
    (void)worker;
    const activate_job *job = arg;
    int64_t from = index * ACTIVE_ROWS;
    rc_sink_activate(job->sink, job->y, from, rc_min(ACTIVE_ROWS, job->rows - from), job->activate);
}

void rc_linear_run_into(const rc_linear *l, rc_crew crew, const rc_sink *sink, float *y, rc_rows x,
                        rc_activation *activate, int64_t rows)
{
    activate_job job = {sink, y, activate, rows};
    if (l->shares == 1 && l->adapter.a == NULL) {
        rc_product_run_into(product_of(l, rows, false), crew.worker, sink, y, x, l->f, activate);
        return;
    }
    rc_linear_run(l, crew, y, x, rows);
    rc_each(crew, (rows + ACTIVE_ROWS - 1) / ACTIVE_ROWS, activate_rows, &job);
}

/* ---- Backward -------------------------------------------------------------------------------- */

enum { BIASES = 64 }; /* gradients of biases that one worker sums */

static rc_status plan_dx(rc_linear_back *l, rc_plan *plan, bool sum)
{
    rc_product_shape s = {.n = l->k, .k = l->n, .lda = l->n, .ldb = l->k, .ldc = l->k, .sum = sum};
    s.m = l->rows;
    RC_TRY(rc_plan_product(plan, &l->dx[0], s, l->back));
    s.m = l->total % l->rows;
    return rc_plan_product(plan, &l->dx[1], s, l->back);
}

static rc_status plan_back(rc_linear_back *out, rc_plan *plan, const rc_params *p, rc_pair pair,
                           int64_t from, int64_t n, const rc_grid *grid, bool sum, bool laid)
{
    const rc_param *w = &p->item[pair.w];
    *out = (rc_linear_back){.w = w,
                            .b = pair.b < 0 ? NULL : &p->item[pair.b],
                            .from = from,
                            .n = n,
                            .k = inputs(w),
                            .rows = rc_max(rc_min(grid->rows, grid->total), 1),
                            .total = grid->total};
    if (rc_plan_type(plan) != RC_F32) out->back = w->back[from > 0];
    out->narrow = out->back != NULL;
    RC_TRY(rc_adapter_back_plan(&out->adapter, plan, p, pair.w, from, n, grid));
    RC_TRY(plan_dx(out, plan, sum));
    if (w->dx == NULL) return RC_OK;
    return rc_weight_gradient_plan(&out->dw, plan, n, out->k, grid->total, out->narrow, laid);
}

rc_status rc_linear_back_plan(rc_linear_back *out, rc_plan *plan, const rc_params *p, rc_pair pair,
                              const rc_grid *grid)
{
    return plan_back(out, plan, p, pair, 0, p->item[pair.w].size[0], grid, false, false);
}

rc_status rc_linear_back_plan_part(rc_linear_back *out, rc_plan *plan, const rc_params *p,
                                   rc_pair pair, rc_part part, const rc_grid *grid, bool sum)
{
    const rc_param *w = &p->item[pair.w];
    int64_t from = part == RC_REST ? w->cut : 0, to = part == RC_FIRST ? w->cut : w->size[0];
    return plan_back(out, plan, p, pair, from, to - from, grid, sum, true);
}

void rc_linear_back_run_low(const rc_linear_back *l, int worker, float *dx, rc_lowered dy,
                            int64_t rows)
{
    rc_factor w =
        l->narrow ? rc_packed_factor(l->back, 0) : (rc_factor){.b = l->w->x + l->from * l->k};
    rc_rows laid = l->narrow && dy.low != NULL ? (rc_rows){dy.low, RC_BF16} : rc_floats(dy.x);
    rc_product_run(l->dx[rows != l->rows], worker, dx, laid, w);
    rc_adapter_back_run(&l->adapter, worker, dx, dy.x, rows);
}

void rc_linear_back_run(const rc_linear_back *l, int worker, float *dx, const float *dy,
                        int64_t rows)
{
    rc_linear_back_run_low(l, worker, dx, (rc_lowered){dy, NULL}, rows);
}

static bool learns(const rc_param *p)
{
    return p != NULL && p->dx != NULL;
}

typedef struct {
    const rc_linear_back *l;
    const float *dy;
} bias_job;

static void sum_biases(void *arg, int64_t index, int worker)
{
    (void)worker;
    const bias_job *job = arg;
    const rc_linear_back *l = job->l;
    int64_t from = index * BIASES;
    rc_add_rows(l->b->dx + l->from + from, job->dy + from, l->total, l->n,
                rc_min(BIASES, l->n - from));
}

void rc_linear_back_weight_low(const rc_linear_back *l, rc_pool *pool, rc_lowered dy, rc_lowered x)
{
    bias_job job = {l, dy.x};
    rc_adapter_back_weight(&l->adapter, pool, dy.x, x.x);
    if (l->w->dx != NULL) rc_weight_gradient_run(&l->dw, pool, l->w->dx + l->from * l->k, dy, x);
    if (learns(l->b)) rc_parallel(pool, (l->n + BIASES - 1) / BIASES, sum_biases, &job);
}

void rc_linear_back_weight(const rc_linear_back *l, rc_pool *pool, const float *dy, const float *x)
{
    rc_linear_back_weight_low(l, pool, (rc_lowered){dy, NULL}, (rc_lowered){x, NULL});
}
