/* Low-rank updates of linear layers, forward and backward. */
#include "layers/adapter.h"

static void scale_all(float *x, float scale, int64_t n)
{
    for (int64_t i = 0; i < n; i++) x[i] *= scale;
}

static float *own(const rc_turns *turns, int worker)
{
    return turns->x + worker * turns->size;
}

/* ---- Forward --------------------------------------------------------------------------------- */

static rc_status plan_chunk(rc_adapter *l, rc_plan *plan, int last, int64_t rows)
{
    rc_product_shape down = {.m = rows, .n = l->rank, .k = l->in, .tb = 1};
    down.lda = down.ldb = l->in;
    down.ldc = l->rank;
    RC_TRY(rc_plan_product(plan, &l->down[last], down, NULL));
    rc_product_shape up = {.m = rows, .n = l->n, .k = l->rank, .tb = 1, .sum = 1};
    up.lda = up.ldb = l->rank;
    up.ldc = l->n;
    return rc_plan_product(plan, &l->up[last], up, NULL);
}

rc_status rc_adapter_plan(rc_adapter *out, rc_plan *plan, const rc_params *p, int64_t weight,
                          int64_t from, int64_t n, const rc_grid *grid)
{
    const rc_param *w = &p->item[weight];
    *out = (rc_adapter){.from = from, .n = n};
    if (w->adapter == 0) return RC_OK;
    out->a = &p->item[w->adapter];
    out->b = out->a + 1;
    out->scale = w->scale;
    out->rank = out->a->size[0];
    out->in = out->a->size[1];
    out->rows = rc_max(rc_min(grid->rows, grid->total), 1);
    RC_TRY(rc_plan_turns(plan, &out->worker, RC_TURNS_WORKERS, out->rows * out->rank));
    RC_TRY(plan_chunk(out, plan, 0, out->rows));
    return plan_chunk(out, plan, 1, grid->total % out->rows);
}

/* u (rows, rank) = scale x Aᵀ. */
static void run_down(const rc_adapter *l, int worker, float *u, const float *x, int64_t rows)
{
    rc_product_run(l->down[rows != l->rows], worker, u, rc_floats(x), (rc_factor){.b = l->a->x});
    scale_all(u, l->scale, rows * l->rank);
}

void rc_adapter_run(const rc_adapter *l, int worker, float *y, const float *x, int64_t rows)
{
    if (l->a == NULL) return;
    float *u = own(l->worker, worker);
    run_down(l, worker, u, x, rows);
    rc_product_run(l->up[rows != l->rows], worker, y, rc_floats(u),
                   (rc_factor){.b = l->b->x + l->from * l->rank});
}

/* ---- Backward -------------------------------------------------------------------------------- */

enum { SLICES = 8, SLICE_UNIT = 16 };

static int64_t slice_of(int64_t n)
{
    int64_t slice = (n + SLICES - 1) / SLICES;
    return rc_min(n, (slice + SLICE_UNIT - 1) / SLICE_UNIT * SLICE_UNIT);
}

static int64_t slices(int64_t n, int64_t slice)
{
    return (n + slice - 1) / slice;
}

static rc_status plan_back_chunk(rc_adapter_back *l, rc_plan *plan, int last, int64_t rows)
{
    const rc_adapter *f = &l->forward;
    rc_product_shape du = {.m = rows, .n = f->rank, .k = f->n, .lda = f->n};
    du.ldb = du.ldc = f->rank;
    RC_TRY(rc_plan_product(plan, &l->du[last], du, NULL));
    rc_product_shape dx = {.m = rows, .n = f->in, .k = f->rank, .lda = f->rank, .sum = 1};
    dx.ldb = dx.ldc = f->in;
    return rc_plan_product(plan, &l->dx[last], dx, NULL);
}

static rc_status plan_slice(rc_adapter_back *l, rc_plan *plan, int last, int64_t in, int64_t out)
{
    const rc_adapter *f = &l->forward;
    rc_product_shape da = {.m = f->rank, .n = in, .k = l->total, .lda = f->rank, .ta = 1, .sum = 1};
    da.ldb = da.ldc = f->in;
    RC_TRY(rc_plan_product(plan, &l->da[last], da, NULL));
    rc_product_shape db = {.m = out, .n = f->rank, .k = l->total, .lda = f->n, .ta = 1, .sum = 1};
    db.ldb = db.ldc = f->rank;
    return rc_plan_product(plan, &l->db[last], db, NULL);
}

rc_status rc_adapter_back_plan(rc_adapter_back *out, rc_plan *plan, const rc_params *p,
                               int64_t weight, int64_t from, int64_t n, const rc_grid *grid)
{
    *out = (rc_adapter_back){.total = grid->total};
    rc_adapter *f = &out->forward;
    RC_TRY(rc_adapter_plan(f, plan, p, weight, from, n, grid));
    if (f->a == NULL) return RC_OK;
    out->slice_in = slice_of(f->in);
    out->slice_out = slice_of(f->n);
    RC_TRY(rc_plan_turns(plan, &out->worker, RC_TURNS_WORKERS, f->rows * f->rank));
    RC_TRY(rc_plan_turns(plan, &out->all, RC_TURNS_ALL, 2 * out->total * f->rank));
    RC_TRY(plan_back_chunk(out, plan, 0, f->rows));
    RC_TRY(plan_back_chunk(out, plan, 1, out->total % f->rows));
    RC_TRY(plan_slice(out, plan, 0, out->slice_in, out->slice_out));
    return plan_slice(out, plan, 1, f->in % out->slice_in, f->n % out->slice_out);
}

/* du (rows, rank) = scale dy B. */
static void run_du(const rc_adapter_back *l, int worker, float *du, const float *dy, int64_t rows)
{
    const rc_adapter *f = &l->forward;
    rc_product_run(l->du[rows != f->rows], worker, du, rc_floats(dy),
                   (rc_factor){.b = f->b->x + f->from * f->rank});
    scale_all(du, f->scale, rows * f->rank);
}

void rc_adapter_back_run(const rc_adapter_back *l, int worker, float *dx, const float *dy,
                         int64_t rows)
{
    const rc_adapter *f = &l->forward;
    if (f->a == NULL) return;
    float *du = own(l->worker, worker);
    run_du(l, worker, du, dy, rows);
    rc_product_run(l->dx[rows != f->rows], worker, dx, rc_floats(du), (rc_factor){.b = f->a->x});
}

typedef struct {
    const rc_adapter_back *l;
    const float *dy, *x;
    float *u, *du;
} weight_job;

static void rank_rows(void *arg, int64_t first, int64_t rows, rc_crew crew)
{
    const weight_job *job = arg;
    const rc_adapter *f = &job->l->forward;
    run_down(f, crew.worker, job->u + first * f->rank, job->x + first * f->in, rows);
    run_du(job->l, crew.worker, job->du + first * f->rank, job->dy + first * f->n, rows);
}

static void input_slice(const weight_job *job, int64_t from, int worker)
{
    const rc_adapter_back *l = job->l;
    const rc_adapter *f = &l->forward;
    int64_t columns = rc_min(l->slice_in, f->in - from);
    rc_product_run(l->da[columns != l->slice_in], worker, f->a->dx + from, rc_floats(job->du),
                   (rc_factor){.b = job->x + from});
}

static void output_slice(const weight_job *job, int64_t from, int worker)
{
    const rc_adapter_back *l = job->l;
    const rc_adapter *f = &l->forward;
    int64_t columns = rc_min(l->slice_out, f->n - from);
    rc_product_run(l->db[columns != l->slice_out], worker, f->b->dx + (f->from + from) * f->rank,
                   rc_floats(job->dy + from), (rc_factor){.b = job->u});
}

static void weight_slice(void *arg, int64_t index, int worker)
{
    const weight_job *job = arg;
    const rc_adapter_back *l = job->l;
    const rc_adapter *f = &l->forward;
    int64_t of_inputs = slices(f->in, l->slice_in);
    if (index < of_inputs && f->a->dx != NULL) input_slice(job, index * l->slice_in, worker);
    if (index >= of_inputs && f->b->dx != NULL)
        output_slice(job, (index - of_inputs) * l->slice_out, worker);
}

void rc_adapter_back_weight(const rc_adapter_back *l, rc_pool *pool, const float *dy,
                            const float *x)
{
    const rc_adapter *f = &l->forward;
    if (f->a == NULL || (f->a->dx == NULL && f->b->dx == NULL)) return;
    weight_job job = {l, dy, x, l->all->x, l->all->x + l->total * f->rank};
    rc_grid grid = rc_grid_rows(l->total, f->rows);
    rc_grid_run(&grid, pool, rank_rows, &job);
    rc_parallel(pool, slices(f->in, l->slice_in) + slices(f->n, l->slice_out), weight_slice, &job);
}
