/* Attention, linear layers, the loss and the optimizer as plain functions, for tests and
 * benchmarks. */
#include "testing/testing.h"

#include "kernels/attention.h"
#include "kernels/optim.h"
#include "layers/context.h"
#include "layers/linear.h"
#include "layers/low.h"

/* ---- Attention ------------------------------------------------------------------------------- */

enum { MOST_TOKENS = 1 << 14 };

/* attention(qkv (t, 3 h d), heads, keys, scale, bias or None, mask or None[, dout[, add]]); with
 * add, gradients of keys and values are added to zeros. */
static PyObject *attention(PyObject *Py_UNUSED(m), PyObject *args)
{
    PyArrayObject *qkv = NULL, *bias = NULL, *mask = NULL, *dout = NULL, *y = NULL, *dbias = NULL;
    PyObject *result = NULL;
    long long h, keys;
    double scale;
    int add = 0;
    float *scratch = NULL;
    if (!PyArg_ParseTuple(args, "O&LLdO&O&|O&p:attention", rc_py_f32, &qkv, &h, &keys, &scale,
                          rc_py_f32_or_none, &bias, rc_py_f32_or_none, &mask, rc_py_f32, &dout,
                          &add))
        goto done;
    if (rc_py_rank(qkv, 2, "qkv") < 0) goto done;
    int64_t t = rc_py_size(qkv, 0), columns = rc_py_size(qkv, 1);
    if (h < 1 || h > columns || columns % (3 * h) != 0 || keys < 1 || keys > t || t > MOST_TOKENS) {
        PyErr_SetString(PyExc_ValueError,
                        "attention: heads do not divide qkv, or keys out of range");
        goto done;
    }
    rc_attention a = {t, h, columns / 3 / h, keys, t, columns, columns, columns / 3, (float)scale};
    int64_t bias_shape[3] = {h, t, t}, out_shape[2] = {t, columns / 3}, qkv_shape[2] = {t, columns};
    if (bias != NULL && rc_py_shape(bias, "bias", 3, bias_shape) < 0) goto done;
    if (mask != NULL && rc_py_shape(mask, "mask", 2, bias_shape + 1) < 0) goto done;
    if (dout != NULL && rc_py_shape(dout, "dout", 2, out_shape) < 0) goto done;
    rc_status status =
        rc_alloc((void **)&scratch, rc_attention_scratch(&a) * (int64_t)sizeof(float));
    if (status != RC_OK) {
        PyErr_NoMemory();
        goto done;
    }
    if ((y = rc_py_new(2, dout == NULL ? out_shape : qkv_shape, NPY_FLOAT32)) == NULL) goto done;
    if (dout == NULL) {
        const float *q = rc_py_data(qkv), *k = q + columns / 3;
        rc_attention_forward(rc_py_data(y), q, k, rc_py_data(bias), rc_py_data(mask), &a, scratch);
        result = Py_NewRef((PyObject *)y);
    } else if ((dbias = rc_py_new(3, bias_shape, NPY_FLOAT32)) != NULL) {
        const float *q = rc_py_data(qkv), *k = q + columns / 3;
        float *dq = rc_py_data(y), *dk = dq + columns / 3;
        memset(PyArray_DATA(dbias), 0, (size_t)PyArray_NBYTES(dbias));
        memset(dq, 0, (size_t)PyArray_NBYTES(y)); /* of keys that nobody sees */
        rc_attention_backward(dq, dk, rc_py_data(dbias), rc_py_data(dout), q, k, rc_py_data(bias),
                              rc_py_data(mask), &a, add, scratch);
        result = PyTuple_Pack(2, y, dbias);
    }
done:
    rc_free(scratch);
    Py_XDECREF(qkv);
    Py_XDECREF(bias);
    Py_XDECREF(mask);
    Py_XDECREF(dout);
    Py_XDECREF(y);
    Py_XDECREF(dbias);
    return result;
}

/* ---- Linear ---------------------------------------------------------------------------------- */

typedef struct {
    rc_param item[2]; /* weight and bias */
    const float *x, *dy;
    float *y, *dx;
    rc_linear layer;
    rc_linear_back back;
    int64_t n, rows;
    int threads;
    rc_type type; /* used where the weight may be packed */
} linear_job;

static void linear_chunk(void *arg, int64_t from, int64_t rows, rc_crew crew)
{
    const linear_job *job = arg;
    int64_t out = job->item[0].size[0], in = job->item[0].size[1];
    if (job->dy == NULL)
        rc_linear_run(&job->layer, crew, job->y + from * out, rc_floats(job->x + from * in), rows);
    else
        rc_linear_back_run(&job->back, crew.worker, job->dx + from * in, job->dy + from * out,
                           rows);
}

static rc_status linear_run(linear_job *job, rc_dnn *dnn, rc_plan *plan)
{
    rc_params p = {.item = job->item, .count = 2};
    rc_pair pair = {0, job->item[1].x == NULL && job->item[1].dx == NULL ? -1 : 1};
    if (job->dy == NULL)
        RC_TRY(rc_param_pack(&job->item[0], dnn, job->type));
    else if (job->type != RC_F32)
        RC_TRY(rc_param_lower(&job->item[0], dnn, job->item[0].x, true));
    int64_t rows = job->rows == 0 ? rc_max(job->n, 1) : rc_min(job->rows, rc_max(job->n, 1));
    rc_grid grid = job->rows == 0 && job->dy == NULL ? rc_linear_grid(&p, pair, job->n, rows)
                                                     : rc_grid_rows(job->n, rows);
    if (job->dy == NULL)
        RC_TRY(rc_linear_plan(&job->layer, plan, &p, pair, &grid, false));
    else
        RC_TRY(rc_linear_back_plan(&job->back, plan, &p, pair, &grid));
    rc_grid_run(&grid, rc_dnn_pool(dnn), linear_chunk, job);
    if (job->dy != NULL) rc_linear_back_weight(&job->back, rc_dnn_pool(dnn), job->dy, job->x);
    return rc_dnn_check(dnn);
}

static rc_status linear_work(void *arg)
{
    linear_job *job = arg;
    rc_dnn *dnn;
    rc_plan *plan = NULL;
    RC_TRY(rc_dnn_new(&dnn, job->threads));
    rc_status status = rc_plan_new(&plan, dnn, job->dy == NULL ? RC_F32 : job->type);
    if (status == RC_OK) status = linear_run(job, dnn, plan);
    rc_param_unpack(&job->item[0]);
    rc_param_raise(&job->item[0]);
    rc_plan_free(plan);
    rc_dnn_free(dnn);
    return status;
}

static void fill_items(linear_job *job, PyArrayObject *w, PyArrayObject *b)
{
    job->item[0] = (rc_param){.rank = 2,
                              .size = {rc_py_size(w, 0), rc_py_size(w, 1)},
                              .count = PyArray_SIZE(w),
                              .x = rc_py_data(w)};
    job->item[1] = (rc_param){.rank = 1, .x = rc_py_data(b)};
}

/* The towers have no empty layers and no empty chunks; callers from Python might. */
static int check_linear(PyArrayObject *w, long long rows, int least)
{
    if (rows >= least && PyArray_SIZE(w) > 0) return 0;
    if (rows < least)
        PyErr_Format(PyExc_ValueError, "rows: expected at least %d, got %lld", least, rows);
    else
        PyErr_SetString(PyExc_ValueError, "w: needs at least one row and one column");
    return -1;
}

/* linear_forward(x (n, in), w (out, in), b or None, threads=1, rows=64, packed=None); with rows=0
 * all rows are one chunk, whose outputs threads share where sizes allow it */
static PyObject *linear_forward(PyObject *module, PyObject *args, PyObject *kw)
{
    static char *names[] = {"x", "w", "b", "threads", "rows", "packed", NULL};
    PyArrayObject *x = NULL, *w = NULL, *b = NULL, *y = NULL;
    linear_job job = {.threads = 1, .rows = 64};
    long long rows = 64;
    PyObject *packed = Py_None;
    rc_type type = RC_F32;
    if (!PyArg_ParseTupleAndKeywords(args, kw, "O&O&O&|iLO:linear_forward", names, rc_py_f32, &x,
                                     rc_py_f32, &w, rc_py_f32_or_none, &b, &job.threads, &rows,
                                     &packed))
        goto done;
    if (packed != Py_None && !rc_py_type(packed, &type)) goto done;
    if (rc_py_rank(x, 2, "x") < 0) goto done;
    int64_t w_shape[2] = {-1, rc_py_size(x, 1)};
    if (rc_py_shape(w, "w", 2, w_shape) < 0 || check_linear(w, rows, 0) < 0) goto done;
    int64_t out[2] = {rc_py_size(x, 0), rc_py_size(w, 0)};
    if (b != NULL && rc_py_shape(b, "b", 1, out + 1) < 0) goto done;
    if ((y = rc_py_new(2, out, NPY_FLOAT32)) == NULL) goto done;
    fill_items(&job, w, b);
    job.x = rc_py_data(x);
    job.y = rc_py_data(y);
    job.n = out[0];
    job.rows = rows;
    job.item[0].packing = packed != Py_None ? RC_PACK_ANY : RC_PACK_NO;
    job.type = type;
    if (rc_py_run(module, linear_work, &job) < 0) Py_CLEAR(y);
done:
    Py_XDECREF(x);
    Py_XDECREF(w);
    Py_XDECREF(b);
    return (PyObject *)y;
}

/* linear_backward(dy (n, out), x (n, in), w (out, in), threads=1, rows=64, dtype="float32"): (dx,
 * dw, db) */
static PyObject *linear_backward(PyObject *module, PyObject *args, PyObject *kw)
{
    static char *names[] = {"dy", "x", "w", "threads", "rows", "dtype", NULL};
    PyArrayObject *dy = NULL, *x = NULL, *w = NULL, *dx = NULL, *dw = NULL, *db = NULL;
    PyObject *result = NULL;
    linear_job job = {.threads = 1};
    long long rows = 64;
    if (!PyArg_ParseTupleAndKeywords(args, kw, "O&O&O&|iLO&:linear_backward", names, rc_py_f32, &dy,
                                     rc_py_f32, &x, rc_py_f32, &w, &job.threads, &rows, rc_py_type,
                                     &job.type))
        goto done;
    if (rc_py_rank(w, 2, "w") < 0 || rc_py_rank(x, 2, "x") < 0 || check_linear(w, rows, 1) < 0)
        goto done;
    int64_t out = rc_py_size(w, 0), in = rc_py_size(w, 1), n = rc_py_size(x, 0);
    if (rc_py_shape(x, "x", 2, (int64_t[]){n, in}) < 0 ||
        rc_py_shape(dy, "dy", 2, (int64_t[]){n, out}) < 0)
        goto done;
    dx = rc_py_new(2, (int64_t[]){n, in}, NPY_FLOAT32);
    dw = rc_py_new(2, (int64_t[]){out, in}, NPY_FLOAT32);
    db = rc_py_new(1, &out, NPY_FLOAT32);
    if (dx == NULL || dw == NULL || db == NULL) goto done;
    memset(PyArray_DATA(dw), 0, (size_t)PyArray_NBYTES(dw));
    memset(PyArray_DATA(db), 0, (size_t)PyArray_NBYTES(db));
    fill_items(&job, w, NULL);
    job.item[0].packing = RC_PACK_ANY;
    job.item[0].dx = rc_py_data(dw);
    job.item[1].dx = rc_py_data(db);
    job.x = rc_py_data(x);
    job.dy = rc_py_data(dy);
    job.dx = rc_py_data(dx);
    job.n = n;
    job.rows = rows;
    if (rc_py_run(module, linear_work, &job) == 0) result = PyTuple_Pack(3, dx, dw, db);
done:
    Py_XDECREF(dy);
    Py_XDECREF(x);
    Py_XDECREF(w);
    Py_XDECREF(dx);
    Py_XDECREF(dw);
    Py_XDECREF(db);
    return result;
}

/* ---- Optimizer ------------------------------------------------------------------------------- */

/* adamw_step(w, m, v, g, step, lr, beta1, beta2, eps, weight_decay, grad_scale, coupled=False) */
static PyObject *adamw_step(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyArrayObject *w = NULL, *m = NULL, *v = NULL, *g = NULL;
    long long step;
    rc_adamw how = {0};
    bool good = false;
    if (!PyArg_ParseTuple(args, "O&O&O&O&Lffffff|p:adamw_step", rc_py_f32_inout, &w,
                          rc_py_f32_inout, &m, rc_py_f32_inout, &v, rc_py_f32, &g, &step, &how.lr,
                          &how.beta1, &how.beta2, &how.eps, &how.weight_decay, &how.grad_scale,
                          &how.coupled))
        goto done;
    int64_t n = PyArray_SIZE(w);
    good = PyArray_SIZE(m) == n && PyArray_SIZE(v) == n && PyArray_SIZE(g) == n && step >= 1;
    how.step = step;
    if (good)
        rc_adamw_step(rc_py_data(w), rc_py_data(m), rc_py_data(v), rc_py_data(g), n, &how);
    else
        PyErr_SetString(PyExc_ValueError, "adamw_step: sizes differ, or step below 1");
done:
    Py_XDECREF(w);
    Py_XDECREF(m);
    Py_XDECREF(v);
    Py_XDECREF(g);
    if (!good) return NULL;
    Py_RETURN_NONE;
}

static PyObject *sum_squares(PyObject *Py_UNUSED(module), PyObject *arg)
{
    PyArrayObject *x = NULL;
    if (!rc_py_f32(arg, &x)) return NULL;
    double s = rc_sum_squares(rc_py_data(x), PyArray_SIZE(x));
    Py_DECREF(x);
    return PyFloat_FromDouble(s);
}

PyMethodDef rc_testing_layer_methods[] = {
    {"attention", attention, METH_VARARGS,
     "attention(qkv, heads, keys, scale, bias, mask[, dout[, add]]): o, or (dqkv, dbias) with "
     "dout."},
    {"linear_forward", (PyCFunction)(void (*)(void))linear_forward, METH_VARARGS | METH_KEYWORDS,
     "linear_forward(x, w, b, threads=1, rows=64, packed=None): x wT + b; packed names a dtype, "
     "with rows=0 threads share outputs."},
    {"linear_backward", (PyCFunction)(void (*)(void))linear_backward, METH_VARARGS | METH_KEYWORDS,
     "linear_backward(dy, x, w, threads=1, rows=64): (dx, dw, db)."},
    {"adamw_step", adamw_step, METH_VARARGS,
     "adamw_step(w, m, v, g, step, lr, beta1, beta2, eps, weight_decay, grad_scale, "
     "coupled=False): in place; coupled: Adam."},
    {"sum_squares", sum_squares, METH_O, "Sum of squares, in double."},
    {NULL, NULL, 0, NULL},
};
