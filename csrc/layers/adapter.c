/* Low-rank updates of linear layers, forward and backward. */
#include "layers/adapter.h"

#include "kernels/act.h"

#include <string.h>

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

enum { GROUPS = 16, PIECE = 4096 };

/* Values of the gradients of A and, behind them, of B. */
static int64_t values_of(const rc_adapter *f)
{
    return f->rank * (f->in + f->n);
}

static rc_status plan_back_chunk(rc_adapter_back *l, rc_plan *plan, int last, int64_t rows)
{
    const rc_adapter *f = &l->forward;
    rc_product_shape du = {.m = rows, .n = f->rank, .k = f->n, .lda = f->n};
    du.ldb = du.ldc = f->rank;
    RC_TRY(rc_plan_product(plan, &l->du[last], du, NULL));
    rc_product_shape dx = {.m = rows, .n = f->in, .k = f->rank, .lda = f->rank, .sum = 1};
    dx.ldb = dx.ldc = f->in;
    RC_TRY(rc_plan_product(plan, &l->dx[last], dx, NULL));
    rc_product_shape da = {.m = f->rank, .n = f->in, .k = rows, .lda = f->rank, .ta = 1, .sum = 1};
    da.ldb = da.ldc = f->in;
    RC_TRY(rc_plan_product(plan, &l->da[last], da, NULL));
    rc_product_shape db = {.m = f->n, .n = f->rank, .k = rows, .lda = f->n, .ta = 1, .sum = 1};
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
    int64_t chunks = (out->total + f->rows - 1) / f->rows;
    out->chunks = rc_max(1, (chunks + GROUPS - 1) / GROUPS);
    out->groups = (chunks + out->chunks - 1) / out->chunks;
    RC_TRY(rc_plan_turns(plan, &out->worker, RC_TURNS_WORKERS, 2 * f->rows * f->rank));
    RC_TRY(rc_plan_turns(plan, &out->all, RC_TURNS_ALL, out->groups * values_of(f)));
    RC_TRY(plan_back_chunk(out, plan, 0, f->rows));
    return plan_back_chunk(out, plan, 1, out->total % f->rows);
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
} weight_job;

/* What some rows add, while they are in the cache. */
static void add_chunk(const weight_job *job, float *da, int64_t first, int64_t rows, int worker)
{
    const rc_adapter_back *l = job->l;
    const rc_adapter *f = &l->forward;
    const float *x = job->x + first * f->in, *dy = job->dy + first * f->n;
    float *u = own(l->worker, worker), *du = u + f->rows * f->rank;
    bool last = rows != f->rows;
    run_down(f, worker, u, x, rows);
    run_du(l, worker, du, dy, rows);
    rc_product_run(l->da[last], worker, da, rc_floats(du), (rc_factor){.b = x});
    rc_product_run(l->db[last], worker, da + f->rank * f->in, rc_floats(dy), (rc_factor){.b = u});
}

/* Chunks that stand together have a sum of their own, so that the order does not depend on the
 * threads. */
static void sum_group(void *arg, int64_t group, int worker)
{
    const weight_job *job = arg;
    const rc_adapter_back *l = job->l;
    const rc_adapter *f = &l->forward;
    float *da = l->all->x + group * values_of(f);
    int64_t step = l->chunks * f->rows, to = rc_min(l->total, (group + 1) * step);
    memset(da, 0, (size_t)values_of(f) * sizeof *da);
    for (int64_t first = group * step; first < to; first += f->rows)
        add_chunk(job, da, first, rc_min(f->rows, to - first), worker);
}

static void add_groups(const rc_adapter_back *l, float *y, int64_t from, int64_t n)
{
    for (int64_t i = 0; i < l->groups; i++)
        rc_add(y, l->all->x + i * values_of(&l->forward) + from, n);
}

/* Some values of the gradient of A, or of that of B. */
static void add_piece(void *arg, int64_t index, int worker)
{
    (void)worker;
    const rc_adapter_back *l = ((const weight_job *)arg)->l;
    const rc_adapter *f = &l->forward;
    int64_t border = f->rank * f->in, from = index * PIECE, to = rc_min(from + PIECE, values_of(f));
    int64_t of_a = rc_min(rc_max(border - from, 0), to - from), behind = rc_max(from, border);
    if (f->a->dx != NULL && of_a > 0) add_groups(l, f->a->dx + from, from, of_a);
    if (f->b->dx != NULL && behind < to)
        add_groups(l, f->b->dx + f->from * f->rank + behind - border, behind, to - behind);
}

void rc_adapter_back_weight(const rc_adapter_back *l, rc_pool *pool, const float *dy,
                            const float *x)
{
    const rc_adapter *f = &l->forward;
    if (f->a == NULL || (f->a->dx == NULL && f->b->dx == NULL)) return;
    weight_job job = {l, dy, x};
    rc_parallel(pool, l->groups, sum_group, &job);
    rc_parallel(pool, (values_of(f) + PIECE - 1) / PIECE, add_piece, &job);
}
