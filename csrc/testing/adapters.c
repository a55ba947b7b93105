/* A linear layer with a frozen weight and an adapter as a plain function, for tests. */
#include "testing/testing.h"

#include "layers/linear.h"

enum { WEIGHT, A, B, PARAMS };

typedef struct {
    rc_param item[PARAMS];
    const float *x, *dy;
    float *y, *dx;
    rc_linear layer;
    rc_linear_back back;
    int64_t n, rows;
    int threads;
} adapter_job;

static void adapter_chunk(void *arg, int64_t from, int64_t rows, rc_crew crew)
{
    const adapter_job *job = arg;
    int64_t out = job->item[WEIGHT].size[0], in = job->item[WEIGHT].size[1];
    rc_linear_run(&job->layer, crew, job->y + from * out, rc_floats(job->x + from * in), rows);
    rc_linear_back_run(&job->back, crew.worker, job->dx + from * in, job->dy + from * out, rows);
}

static rc_status adapter_run(adapter_job *job, rc_dnn *dnn, rc_plan *plan)
{
    rc_params p = {.item = job->item, .count = PARAMS};
    rc_pair pair = {WEIGHT, -1};
    rc_grid grid = rc_grid_rows(job->n, job->rows);
    RC_TRY(rc_linear_plan(&job->layer, plan, &p, pair, &grid, false));
    RC_TRY(rc_linear_back_plan(&job->back, plan, &p, pair, &grid));
    rc_grid_run(&grid, rc_dnn_pool(dnn), adapter_chunk, job);
    rc_linear_back_weight(&job->back, rc_dnn_pool(dnn), job->dy, job->x);
    return rc_dnn_check(dnn);
}

static rc_status adapter_work(void *arg)
{
    adapter_job *job = arg;
    rc_dnn *dnn;
    rc_plan *plan = NULL;
    RC_TRY(rc_dnn_new(&dnn, job->threads));
    rc_status status = rc_plan_new(&plan, dnn, RC_F32);
    if (status == RC_OK) status = adapter_run(job, dnn, plan);
    rc_plan_free(plan);
    rc_dnn_free(dnn);
    return status;
}

static rc_param item_of(PyArrayObject *x)
{
    return (rc_param){.rank = 2,
                      .size = {rc_py_size(x, 0), rc_py_size(x, 1)},
                      .count = PyArray_SIZE(x),
                      .x = rc_py_data(x)};
}

enum { X, W, A_OF, B_OF, DY, GIVEN, Y = 0, DX, DA, DB, MADE };

static int check_sizes(PyArrayObject *const *given)
{
    if (rc_py_rank(given[W], 2, "w") < 0 || rc_py_rank(given[A_OF], 2, "a") < 0 ||
        rc_py_rank(given[X], 2, "x") < 0)
        return -1;
    int64_t out = rc_py_size(given[W], 0), in = rc_py_size(given[W], 1);
    int64_t n = rc_py_size(given[X], 0), rank = rc_py_size(given[A_OF], 0);
    if (rc_py_shape(given[X], "x", 2, (int64_t[]){n, in}) < 0 ||
        rc_py_shape(given[A_OF], "a", 2, (int64_t[]){rank, in}) < 0 ||
        rc_py_shape(given[B_OF], "b", 2, (int64_t[]){out, rank}) < 0)
        return -1;
    return rc_py_shape(given[DY], "dy", 2, (int64_t[]){n, out});
}

/* Zeros of the size of y, dx, da, db. */
static int make(PyArrayObject **made, PyArrayObject *const *given)
{
    static const int like[MADE] = {DY, X, A_OF, B_OF};
    for (int i = 0; i < MADE; i++) {
        PyArrayObject *as = given[like[i]];
        made[i] = rc_testing_zeros(2, (int64_t[]){rc_py_size(as, 0), rc_py_size(as, 1)});
        if (made[i] == NULL) return -1;
    }
    return 0;
}

static void fill(adapter_job *job, PyArrayObject *const *given, PyArrayObject *const *made)
{
    for (int i = 0; i < PARAMS; i++) job->item[i] = item_of(given[W + i]);
    job->item[WEIGHT].adapter = A;
    job->item[A].dx = rc_py_data(made[DA]);
    job->item[B].dx = rc_py_data(made[DB]);
    job->x = rc_py_data(given[X]);
    job->dy = rc_py_data(given[DY]);
    job->y = rc_py_data(made[Y]);
    job->dx = rc_py_data(made[DX]);
    job->n = rc_py_size(given[X], 0);
}

/* adapter(x (n, in), w (out, in), a (rank, in), b (out, rank), scale, dy (n, out), threads=1,
 * rows=64): (y, dx, da, db) */
static PyObject *adapter(PyObject *module, PyObject *args)
{
    PyArrayObject *given[GIVEN] = {NULL}, *made[MADE] = {NULL};
    PyObject *result = NULL;
    float scale;
    long long rows = 64;
    adapter_job job = {.threads = 1};
    if (PyArg_ParseTuple(args, "O&O&O&O&fO&|iL:adapter", rc_py_f32, &given[X], rc_py_f32, &given[W],
                         rc_py_f32, &given[A_OF], rc_py_f32, &given[B_OF], &scale, rc_py_f32,
                         &given[DY], &job.threads, &rows) &&
        check_sizes(given) == 0 && make(made, given) == 0) {
        fill(&job, given, made);
        job.item[WEIGHT].scale = scale;
        job.rows = rc_max(1, rows);
        if (rc_py_run(module, adapter_work, &job) == 0)
            result = PyTuple_Pack(MADE, made[Y], made[DX], made[DA], made[DB]);
    }
    for (int i = 0; i < GIVEN; i++) Py_XDECREF(given[i]);
    for (int i = 0; i < MADE; i++) Py_XDECREF(made[i]);
    return result;
}

PyMethodDef rc_testing_adapter_methods[] = {
    ENTRY(adapter, "adapter(x, w, a, b, scale, dy, threads=1, rows=64): (y, dx, da, db) of a "
                   "linear layer with a frozen weight and an adapter."),
    {NULL, NULL, 0, NULL},
};
