/* Forward and backward kernels as plain functions, for tests, benchmarks and the curious.
 * Arrays are (rows, columns) unless said otherwise; gradients of weights start from zero. */
#include "testing/testing.h"

#include "kernels/act.h"
#include "kernels/norm.h"

/* "y" or (y, a, b): what a binding returns, taking over the references; NULL if one is missing. */
static PyObject *give(int count, PyArrayObject **array)
{
    bool whole = true;
    for (int i = 0; i < count; i++) whole = whole && array[i] != NULL;
    PyObject *tuple = whole && !PyErr_Occurred() ? PyTuple_New(count) : NULL;
    for (int i = 0; i < count; i++) {
        if (tuple != NULL)
            PyTuple_SET_ITEM(tuple, i, (PyObject *)array[i]);
        else
            Py_XDECREF(array[i]);
    }
    return tuple;
}

static void drop(int count, PyArrayObject **array)
{
    for (int i = 0; i < count; i++) Py_XDECREF(array[i]);
}

/* Parse `count` float32 arrays, then an optional float, by one format. */
static int parse(PyObject *args, const char *name, int count, PyArrayObject **a, double *option)
{
    if (PyTuple_GET_SIZE(args) != count + (option != NULL)) {
        PyErr_Format(PyExc_TypeError, "%s: expected %d arguments, got %zd", name,
                     count + (option != NULL), PyTuple_GET_SIZE(args));
        return -1;
    }
    for (int i = 0; i < count; i++)
        if (!rc_py_f32(PyTuple_GET_ITEM(args, i), &a[i])) return -1;
    if (option == NULL) return 0;
    *option = PyFloat_AsDouble(PyTuple_GET_ITEM(args, count));
    return *option == -1 && PyErr_Occurred() ? -1 : 0;
}

/* a[0] is (n, c); every later array must have the shape its letter says: m matrix, r rows, c
 * columns. */
static int fit(PyArrayObject **a, const char *shapes, int64_t *n, int64_t *c)
{
    if (rc_py_rank(a[0], 2, "argument 1") < 0) return -1;
    *n = rc_py_size(a[0], 0);
    *c = rc_py_size(a[0], 1);
    for (int i = 0; shapes[i] != 0; i++) {
        char name[32];
        snprintf(name, sizeof name, "argument %d", i + 1);
        int64_t matrix[2] = {*n, *c};
        const int64_t *want = shapes[i] == 'm' ? matrix : shapes[i] == 'r' ? n : c;
        if (rc_py_shape(a[i], name, shapes[i] == 'm' ? 2 : 1, want) < 0) return -1;
    }
    return 0;
}

#define DATA(i) rc_py_data(a[i])
#define OUT(i) rc_py_data(out[i])
#define ZERO(rank, ...) rc_testing_zeros(rank, (int64_t[]){__VA_ARGS__})

/* ---- Norms ----------------------------------------------------------------------------------- */

static PyObject *layernorm_forward(PyObject *Py_UNUSED(m), PyObject *args)
{
    PyArrayObject *a[3] = {NULL}, *out[3] = {NULL};
    double eps;
    int64_t n, c;
    if (parse(args, "layernorm_forward", 3, a, &eps) == 0 && fit(a, "mcc", &n, &c) == 0) {
        out[0] = NEW(2, n, c), out[1] = NEW(1, n), out[2] = NEW(1, n);
        if (out[0] && out[1] && out[2])
            rc_layernorm_forward(OUT(0), OUT(1), OUT(2), DATA(0), DATA(1), DATA(2), n, c,
                                 (float)eps);
    }
    drop(3, a);
    return give(3, out);
}

static PyObject *layernorm_backward(PyObject *Py_UNUSED(m), PyObject *args)
{
    PyArrayObject *a[5] = {NULL}, *out[3] = {NULL}; /* dy, x, mean, rstd, w */
    int64_t n, c;
    if (parse(args, "layernorm_backward", 5, a, NULL) == 0 && fit(a, "mmrrc", &n, &c) == 0) {
        out[0] = NEW(2, n, c), out[1] = ZERO(1, c), out[2] = ZERO(1, c);
        if (out[0] && out[1] && out[2]) {
            rc_layernorm_backward(OUT(0), DATA(0), DATA(1), DATA(2), DATA(3), DATA(4), n, c);
            rc_layernorm_backward_weight(OUT(1), OUT(2), DATA(0), DATA(1), DATA(2), DATA(3), n, c,
                                         0, c);
        }
    }
    drop(5, a);
    return give(3, out);
}

static PyObject *rmsnorm_forward(PyObject *Py_UNUSED(m), PyObject *args)
{
    PyArrayObject *a[2] = {NULL}, *out[2] = {NULL};
    double eps;
    int64_t n, c;
    if (parse(args, "rmsnorm_forward", 2, a, &eps) == 0 && fit(a, "mc", &n, &c) == 0) {
        out[0] = NEW(2, n, c), out[1] = NEW(1, n);
        if (out[0] && out[1])
            rc_rmsnorm_forward(OUT(0), OUT(1), DATA(0), DATA(1), n, c, (float)eps);
    }
    drop(2, a);
    return give(2, out);
}

static PyObject *rmsnorm_backward(PyObject *Py_UNUSED(m), PyObject *args)
{
    PyArrayObject *a[4] = {NULL}, *out[2] = {NULL}; /* dy, x, r, w */
    int64_t n, c;
    if (parse(args, "rmsnorm_backward", 4, a, NULL) == 0 && fit(a, "mmrc", &n, &c) == 0) {
        out[0] = NEW(2, n, c), out[1] = ZERO(1, c);
        if (out[0] && out[1]) {
            rc_rmsnorm_backward(OUT(0), DATA(0), DATA(1), DATA(2), DATA(3), n, c);
            rc_rmsnorm_backward_weight(OUT(1), DATA(0), DATA(1), DATA(2), n, c, 0, c);
        }
    }
    drop(4, a);
    return give(2, out);
}

enum { PIECE = 400 };

/* Of pieces of rows, merged in order. */
static void merged_moments(rc_moments *all, rc_moments *piece, const float *x, int64_t n, int64_t c)
{
    for (int64_t i = 0; i < n; i += PIECE) {
        rc_moments_of(piece, x + i * c, rc_min(PIECE, n - i), c, c);
        rc_moments_merge(all, piece, c);
    }
}

static PyObject *batchnorm_stats(PyObject *Py_UNUSED(m), PyObject *args)
{
    PyArrayObject *a[1] = {NULL}, *out[2] = {NULL};
    int64_t n, c;
    if (parse(args, "batchnorm_stats", 1, a, NULL) == 0 && fit(a, "m", &n, &c) == 0) {
        double *memory = PyMem_Calloc((size_t)(4 * c), sizeof *memory);
        rc_moments all = {0, memory, memory + c}, piece = {0, memory + 2 * c, memory + 3 * c};
        out[0] = NEW(1, c), out[1] = NEW(1, c);
        if (memory == NULL) PyErr_NoMemory();
        if (memory && out[0] && out[1]) {
            merged_moments(&all, &piece, DATA(0), n, c);
            rc_moments_stats(OUT(0), OUT(1), &all, c);
        }
        PyMem_Free(memory);
    }
    drop(1, a);
    return give(2, out);
}

static PyObject *batchnorm_forward(PyObject *Py_UNUSED(m), PyObject *args)
{
    PyArrayObject *a[5] = {NULL}, *out[1] = {NULL}; /* x, mean, var, w, b */
    double eps;
    int64_t n, c;
    if (parse(args, "batchnorm_forward", 5, a, &eps) == 0 && fit(a, "mcccc", &n, &c) == 0) {
        out[0] = NEW(2, n, c);
        if (out[0])
            rc_batchnorm_forward(OUT(0), DATA(0), DATA(1), DATA(2), DATA(3), DATA(4), n, c,
                                 (float)eps);
    }
    drop(5, a);
    return give(1, out);
}

/* batchnorm_backward(dy, x, mean, var, w, eps): batch statistics. */
static PyObject *batchnorm_backward(PyObject *Py_UNUSED(m), PyObject *args)
{
    PyArrayObject *a[5] = {NULL}, *out[3] = {NULL};
    double eps;
    int64_t n, c;
    if (parse(args, "batchnorm_backward", 5, a, &eps) == 0 && fit(a, "mmccc", &n, &c) == 0) {
        double *sum = PyMem_Calloc((size_t)(2 * c), sizeof *sum), *dot = sum + c;
        out[0] = NEW(2, n, c), out[1] = ZERO(1, c), out[2] = ZERO(1, c);
        if (sum == NULL) PyErr_NoMemory();
        if (sum && out[0] && out[1] && out[2]) {
            rc_batchnorm_sums(sum, dot, DATA(0), DATA(1), DATA(2), DATA(3), n, c, c, (float)eps);
            rc_batchnorm_backward(OUT(0), DATA(0), DATA(1), DATA(2), DATA(3), DATA(4), sum, dot, n,
                                  n, c, (float)eps);
            for (int64_t j = 0; j < c; j++) {
                OUT(1)[j] = (float)dot[j];
                OUT(2)[j] = (float)sum[j];
            }
        }
        PyMem_Free(sum);
    }
    drop(5, a);
    return give(3, out);
}

static PyObject *l2norm_forward(PyObject *Py_UNUSED(m), PyObject *args)
{
    PyArrayObject *a[1] = {NULL}, *out[2] = {NULL};
    int64_t n, c;
    if (parse(args, "l2norm_forward", 1, a, NULL) == 0 && fit(a, "m", &n, &c) == 0) {
        out[0] = NEW(2, n, c), out[1] = NEW(1, n);
        if (out[0] && out[1]) rc_l2norm_forward(OUT(0), OUT(1), DATA(0), n, c);
    }
    drop(1, a);
    return give(2, out);
}

static PyObject *l2norm_backward(PyObject *Py_UNUSED(m), PyObject *args)
{
    PyArrayObject *a[3] = {NULL}, *out[1] = {NULL}; /* dy, y, length */
    int64_t n, c;
    if (parse(args, "l2norm_backward", 3, a, NULL) == 0 && fit(a, "mmr", &n, &c) == 0) {
        out[0] = NEW(2, n, c);
        if (out[0]) rc_l2norm_backward(OUT(0), DATA(0), DATA(1), DATA(2), n, c);
    }
    drop(3, a);
    return give(1, out);
}

/* ---- Activations ----------------------------------------------------------------------------- */

typedef void unary(float *y, const float *x, int64_t n);
typedef void unary_backward(float *dx, const float *dy, const float *x, int64_t n);

/* activation(kind, x) and activation_backward(kind, dy, x); tanh and sigmoid take y for x
 * in backward. */
static const struct {
    const char *name;
    unary *forward;
    unary_backward *backward;
} activations[] = {
    {"gelu", rc_gelu_forward, rc_gelu_backward},
    {"gelu_tanh", rc_gelu_tanh_forward, rc_gelu_tanh_backward},
    {"quick_gelu", rc_quick_gelu_forward, rc_quick_gelu_backward},
    {"relu", rc_relu_forward, rc_relu_backward},
    {"tanh", rc_tanh_forward, rc_tanh_backward},
    {"sigmoid", rc_sigmoid_forward, rc_sigmoid_backward},
    {"exp", rc_exp, NULL},
};

static int activation_kind(const char *name)
{
    for (int i = 0; i < (int)(sizeof activations / sizeof *activations); i++)
        if (strcmp(name, activations[i].name) == 0) return i;
    PyErr_Format(PyExc_ValueError, "unknown activation \"%s\"", name);
    return -1;
}

static PyObject *activation(PyObject *Py_UNUSED(m), PyObject *args)
{
    const char *name;
    PyArrayObject *x = NULL, *y = NULL;
    if (!PyArg_ParseTuple(args, "sO&:activation", &name, rc_py_f32, &x)) return NULL;
    int kind = activation_kind(name);
    if (kind >= 0) y = (PyArrayObject *)PyArray_NewLikeArray(x, NPY_CORDER, NULL, 0);
    if (y != NULL) activations[kind].forward(rc_py_data(y), rc_py_data(x), PyArray_SIZE(x));
    Py_DECREF(x);
    return (PyObject *)y;
}

static PyObject *activation_backward(PyObject *Py_UNUSED(m), PyObject *args)
{
    const char *name;
    PyArrayObject *dy = NULL, *x = NULL, *dx = NULL;
    if (!PyArg_ParseTuple(args, "sO&O&:activation_backward", &name, rc_py_f32, &dy, rc_py_f32, &x))
        goto done;
    int kind = activation_kind(name);
    if (kind < 0) goto done;
    if (PyArray_SIZE(dy) != PyArray_SIZE(x) || activations[kind].backward == NULL) {
        PyErr_SetString(PyExc_ValueError, "activation_backward: sizes differ, or no backward");
        goto done;
    }
    dx = (PyArrayObject *)PyArray_NewLikeArray(x, NPY_CORDER, NULL, 0);
    if (dx != NULL)
        activations[kind].backward(rc_py_data(dx), rc_py_data(dy), rc_py_data(x), PyArray_SIZE(x));
done:
    Py_XDECREF(dy);
    Py_XDECREF(x);
    return (PyObject *)dx;
}

static PyObject *gated_forward(PyObject *Py_UNUSED(m), PyObject *args)
{
    PyArrayObject *a[2] = {NULL}, *out[1] = {NULL};
    int64_t n, c;
    if (parse(args, "gated_forward", 2, a, NULL) == 0 && fit(a, "mm", &n, &c) == 0) {
        out[0] = NEW(2, n, c);
        if (out[0]) rc_gated_forward(OUT(0), DATA(0), DATA(1), n * c);
    }
    drop(2, a);
    return give(1, out);
}

static PyObject *gated_backward(PyObject *Py_UNUSED(m), PyObject *args)
{
    PyArrayObject *a[3] = {NULL}, *out[2] = {NULL}; /* dy, a, b */
    int64_t n, c;
    if (parse(args, "gated_backward", 3, a, NULL) == 0 && fit(a, "mmm", &n, &c) == 0) {
        out[0] = NEW(2, n, c), out[1] = NEW(2, n, c);
        if (out[0] && out[1]) rc_gated_backward(OUT(0), OUT(1), DATA(0), DATA(1), DATA(2), n * c);
    }
    drop(3, a);
    return give(2, out);
}

/* dropout(x, p, seed, step, site, first) */
static PyObject *dropout(PyObject *Py_UNUSED(m), PyObject *args)
{
    PyArrayObject *x = NULL, *y;
    double p;
    rc_draw at;
    long long first;
    if (!PyArg_ParseTuple(args, "O&dO&O&O&L:dropout", rc_py_f32, &x, &p, rc_py_u64, &at.seed,
                          rc_py_u64, &at.step, rc_py_u64, &at.site, &first)) {
        Py_XDECREF(x);
        return NULL;
    }
    y = (PyArrayObject *)PyArray_NewLikeArray(x, NPY_CORDER, NULL, 0);
    if (y != NULL) rc_dropout(rc_py_data(y), rc_py_data(x), PyArray_SIZE(x), (float)p, at, first);
    Py_DECREF(x);
    return (PyObject *)y;
}

/* draws(kind, n, seed, step, site): n numbers of the counter-based generator. */
static PyObject *draws(PyObject *Py_UNUSED(m), PyObject *args)
{
    const char *kind;
    long long n;
    rc_draw at;
    if (!PyArg_ParseTuple(args, "sLO&O&O&:draws", &kind, &n, rc_py_u64, &at.seed, rc_py_u64,
                          &at.step, rc_py_u64, &at.site))
        return NULL;
    PyArrayObject *y = NEW(1, n);
    for (int64_t i = 0; y != NULL && i < n; i++)
        rc_py_data(y)[i] =
            kind[0] == 'n' ? rc_normal(at, (uint64_t)i) : rc_uniform(at, (uint64_t)i);
    return (PyObject *)y;
}

PyMethodDef rc_testing_kernel_methods[] = {
    ENTRY(layernorm_forward, "layernorm_forward(x, w, b, eps): (y, mean, rstd)."),
    ENTRY(layernorm_backward, "layernorm_backward(dy, x, mean, rstd, w): (dx, dw, db)."),
    ENTRY(rmsnorm_forward, "rmsnorm_forward(x, w, eps): (y, r)."),
    ENTRY(rmsnorm_backward, "rmsnorm_backward(dy, x, r, w): (dx, dw)."),
    ENTRY(batchnorm_stats, "batchnorm_stats(x): (mean, biased variance) per column."),
    ENTRY(batchnorm_forward, "batchnorm_forward(x, mean, var, w, b, eps): (y,)."),
    ENTRY(batchnorm_backward, "batchnorm_backward(dy, x, mean, var, w, eps): (dx, dw, db)."),
    ENTRY(l2norm_forward, "l2norm_forward(x): (y, length)."),
    ENTRY(l2norm_backward, "l2norm_backward(dy, y, length): (dx,)."),
    ENTRY(activation,
          "activation(kind, x); kind gelu, gelu_tanh, quick_gelu, relu, tanh, sigmoid or exp."),
    ENTRY(activation_backward,
          "activation_backward(kind, dy, x); tanh and sigmoid take their output for x."),
    ENTRY(gated_forward, "gated_forward(a, b): (a b,)."),
    ENTRY(gated_backward, "gated_backward(dy, a, b): (da, db)."),
    ENTRY(dropout, "dropout(x, p, seed, step, site, first)."),
    ENTRY(draws, "draws(kind, n, seed, step, site); kind uniform or normal."),
    {NULL, NULL, 0, NULL},
};
