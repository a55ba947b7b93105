/* Tables, gathers, stretch, biases and pooling of the towers as plain functions, for tests and
 * benchmarks. */
#include "testing/testing.h"

#include "kernels/embed.h"
#include "kernels/window.h"

/* ---- Tables and moves -------------------------------------------------------------------------
 */

enum { MOST_SIDE = 4096, MOST_WINDOW = 64, MOST_ROWS = 1 << 24, MOST_VALUES = 1 << 28 };

/* A side must be whole pieces. */
static int whole(const char *name, long long side, long long piece)
{
    if (side >= 1 && side <= MOST_SIDE && piece >= 1 && side % piece == 0) return 0;
    PyErr_Format(PyExc_ValueError, "%s: expected %lld to divide %lld, of 1 to %d", name, piece,
                 side, MOST_SIDE);
    return -1;
}

static int window_sizes(PyObject *args, long long *side, long long *window, long long *shift)
{
    if (!PyArg_ParseTuple(args, "LLL:window", side, window, shift)) return -1;
    if (whole("window", *side, *window) < 0) return -1;
    if (*shift >= 0 && *shift < *window) return 0;
    PyErr_Format(PyExc_ValueError, "shift: expected 0 to %lld, got %lld", *window - 1, *shift);
    return -1;
}

static PyObject *window_index(PyObject *Py_UNUSED(m), PyObject *args)
{
    long long side, window, shift;
    if (window_sizes(args, &side, &window, &shift) < 0) return NULL;
    PyArrayObject *y = rc_py_new(1, (int64_t[]){side * side}, NPY_INT32);
    if (y != NULL) rc_window_index(PyArray_DATA(y), side, window, shift);
    return (PyObject *)y;
}

static PyObject *window_mask(PyObject *Py_UNUSED(m), PyObject *args)
{
    long long side, window, shift;
    if (window_sizes(args, &side, &window, &shift) < 0) return NULL;
    int64_t t = window * window, across = side / window, windows = across * across;
    if (windows > MOST_VALUES / t / t)
        return PyErr_Format(PyExc_ValueError, "window_mask: expected at most %d values",
                            MOST_VALUES);
    PyArrayObject *y = NEW(3, windows, t, t);
    for (int64_t w = 0; y != NULL && w < windows; w++)
        rc_window_mask(rc_py_data(y) + w * t * t, window, shift, rc_window_kind(w, across));
    return (PyObject *)y;
}

static PyObject *patch_index(PyObject *Py_UNUSED(m), PyObject *args)
{
    long long spec_size, mels, patch, columns = 0;
    if (!PyArg_ParseTuple(args, "LLL|L:patch_index", &spec_size, &mels, &patch, &columns))
        return NULL;
    if (whole("mels", spec_size, mels) < 0 || whole("patch", spec_size, patch) < 0) return NULL;
    if (columns == 0) columns = patch;
    if (columns < 1 || columns > spec_size)
        return PyErr_Format(PyExc_ValueError, "columns: expected 1 to %lld, got %lld", spec_size,
                            columns);
    int64_t n = spec_size / patch * (spec_size / columns);
    PyArrayObject *y = rc_py_new(2, (int64_t[]){n, patch * columns}, NPY_INT32);
    if (y != NULL) rc_patch_index(PyArray_DATA(y), spec_size, mels, patch, columns);
    return (PyObject *)y;
}

typedef void move(float *y, const float *x, const int32_t *index, int64_t n, int64_t c);

/* x (rows, c) and index (n): every index must lie in 0..limit-1. */
static PyObject *run_move(PyObject *args, move *kernel, int64_t out_rows, bool by_index)
{
    PyArrayObject *x = NULL, *index = NULL, *y = NULL;
    long long rows = -1;
    if (!PyArg_ParseTuple(args, "O&O&|L:move", rc_py_f32, &x, rc_py_i32, &index, &rows)) goto done;
    if (rc_py_rank(x, 2, "x") < 0 || rc_py_rank(index, 1, "index") < 0) goto done;
    int64_t n = rc_py_size(index, 0), limit = by_index ? rc_py_size(x, 0) : rows;
    const int32_t *at = PyArray_DATA(index);
    bool good = by_index || rc_py_size(x, 0) == n;
    for (int64_t i = 0; good && i < n; i++) good = at[i] >= 0 && at[i] < limit;
    if (!good)
        PyErr_SetString(PyExc_ValueError, "index: out of range, or of another length than x");
    if (good) y = rc_testing_zeros(2, (int64_t[]){out_rows >= 0 ? n : rows, rc_py_size(x, 1)});
    if (y != NULL) kernel(rc_py_data(y), rc_py_data(x), at, n, rc_py_size(x, 1));
done:
    Py_XDECREF(x);
    Py_XDECREF(index);
    return (PyObject *)y;
}

static PyObject *gather_rows(PyObject *Py_UNUSED(m), PyObject *args)
{
    return run_move(args, rc_gather_rows, 0, true);
}
static PyObject *scatter_rows(PyObject *Py_UNUSED(m), PyObject *args)
{
    return run_move(args, rc_scatter_rows, -1, false);
}
static PyObject *lookup_forward(PyObject *Py_UNUSED(m), PyObject *args)
{
    return run_move(args, rc_lookup_forward, 0, true);
}
static PyObject *lookup_backward(PyObject *Py_UNUSED(m), PyObject *args)
{
    return run_move(args, rc_lookup_backward, -1, false);
}

/* stretch_forward(x (from, c), to), stretch_backward(dy (to, c), from) */
static PyObject *stretch(PyObject *args, bool forward)
{
    PyArrayObject *x = NULL, *y = NULL;
    long long rows;
    if (!PyArg_ParseTuple(args, "O&L:stretch", rc_py_f32, &x, &rows)) return NULL;
    if (rc_py_rank(x, 2, "x") == 0) {
        int64_t n = rc_py_size(x, 0), c = rc_py_size(x, 1);
        if (n < 1 || n > MOST_ROWS || rows < 1 || rows > MOST_ROWS)
            PyErr_Format(PyExc_ValueError, "stretch: expected 1 to %d frames on both sides",
                         MOST_ROWS);
        else if ((y = NEW(2, rows, c)) != NULL && forward)
            rc_stretch_forward(rc_py_data(y), rc_py_data(x), n, rows, c);
        else if (y != NULL)
            rc_stretch_backward(rc_py_data(y), rc_py_data(x), rows, n, c);
    }
    Py_DECREF(x);
    return (PyObject *)y;
}
static PyObject *stretch_forward(PyObject *Py_UNUSED(m), PyObject *args)
{
    return stretch(args, true);
}
static PyObject *stretch_backward(PyObject *Py_UNUSED(m), PyObject *args)
{
    return stretch(args, false);
}

/* relpos_forward(table (places, h), window), relpos_backward(dbias (h, t, t), window) */
static PyObject *relpos(PyObject *args, bool forward)
{
    PyArrayObject *x = NULL, *y = NULL;
    long long w;
    if (!PyArg_ParseTuple(args, "O&L:relpos", rc_py_f32, &x, &w)) return NULL;
    bool good = w >= 1 && w <= MOST_WINDOW;
    int64_t places = good ? (2 * w - 1) * (2 * w - 1) : 0, t = good ? w * w : 0;
    int64_t table[2] = {places, -1}, bias[3] = {-1, t, t};
    if (!good)
        PyErr_Format(PyExc_ValueError, "window: expected 1 to %d, got %lld", MOST_WINDOW, w);
    else if (rc_py_shape(x, "argument 1", forward ? 2 : 3, forward ? table : bias) == 0) {
        int64_t h = rc_py_size(x, forward ? 1 : 0);
        y = forward ? NEW(3, h, t, t) : rc_testing_zeros(2, (int64_t[]){places, h});
        if (y != NULL)
            (forward ? rc_relpos_forward : rc_relpos_backward)(rc_py_data(y), rc_py_data(x), w, h);
    }
    Py_DECREF(x);
    return (PyObject *)y;
}
static PyObject *relpos_forward(PyObject *Py_UNUSED(m), PyObject *args)
{
    return relpos(args, true);
}
static PyObject *relpos_backward(PyObject *Py_UNUSED(m), PyObject *args)
{
    return relpos(args, false);
}

enum { MOST_TOKENS = 1 << 14, MOST_BUCKETS = 1 << 16 };

/* t5_bias_forward(table (buckets, h), t, max_distance): (h, t, t),
 * t5_bias_backward(dbias (h, t, t), buckets, max_distance): (buckets, h) */
static PyObject *t5_bias(PyObject *args, bool forward)
{
    PyArrayObject *x = NULL, *y = NULL;
    long long rows, distance;
    if (!PyArg_ParseTuple(args, "O&LL:t5_bias", rc_py_f32, &x, &rows, &distance)) return NULL;
    if (rc_py_rank(x, forward ? 2 : 3, "argument 1") < 0) goto done;
    int64_t t = forward ? rows : rc_py_size(x, 1), buckets = forward ? rc_py_size(x, 0) : rows;
    int64_t h = rc_py_size(x, forward ? 1 : 0);
    if (!forward && rc_py_shape(x, "dbias", 3, (int64_t[]){h, t, t}) < 0) goto done;
    if (t < 1 || t > MOST_TOKENS || buckets < 4 || buckets > MOST_BUCKETS || buckets % 4 != 0 ||
        distance <= buckets / 4) {
        PyErr_Format(PyExc_ValueError,
                     "t5_bias: %lld positions, %lld buckets and a distance of %lld do not fit",
                     (long long)t, (long long)buckets, distance);
        goto done;
    }
    y = forward ? NEW(3, h, t, t) : rc_testing_zeros(2, (int64_t[]){buckets, h});
    if (y != NULL)
        (forward ? rc_t5_bias_forward : rc_t5_bias_backward)(rc_py_data(y), rc_py_data(x), t, h,
                                                             buckets, distance);
done:
    Py_DECREF(x);
    return (PyObject *)y;
}
static PyObject *t5_bias_forward(PyObject *Py_UNUSED(m), PyObject *args)
{
    return t5_bias(args, true);
}
static PyObject *t5_bias_backward(PyObject *Py_UNUSED(m), PyObject *args)
{
    return t5_bias(args, false);
}

/* meanpool_forward(x (t, c)), meanpool_backward(dy (1, c), t): a tuple of one array, as the norms.
 */
static PyObject *meanpool(PyArrayObject *x, int64_t t, bool forward)
{
    int64_t c = rc_py_size(x, 1);
    PyArrayObject *y = forward ? NEW(1, c) : NEW(2, t, c);
    if (y == NULL) return NULL;
    (forward ? rc_meanpool_forward : rc_meanpool_backward)(rc_py_data(y), rc_py_data(x), t, c);
    return Py_BuildValue("(N)", y);
}

static PyObject *meanpool_forward(PyObject *Py_UNUSED(m), PyObject *arg)
{
    PyArrayObject *x = NULL;
    PyObject *y = NULL;
    if (!rc_py_f32(arg, &x)) return NULL;
    if (rc_py_rank(x, 2, "x") == 0) y = meanpool(x, rc_py_size(x, 0), true);
    Py_DECREF(x);
    return y;
}

static PyObject *meanpool_backward(PyObject *Py_UNUSED(m), PyObject *args)
{
    PyArrayObject *dy = NULL;
    PyObject *dx = NULL;
    long long t;
    if (!PyArg_ParseTuple(args, "O&L:meanpool_backward", rc_py_f32, &dy, &t)) return NULL;
    if (t < 0 || t > MOST_ROWS)
        PyErr_Format(PyExc_ValueError, "t: expected 0 to %d, got %lld", MOST_ROWS, t);
    else if (rc_py_shape(dy, "argument 1", 2, (int64_t[]){1, -1}) == 0)
        dx = meanpool(dy, t, false);
    Py_DECREF(dy);
    return dx;
}

PyMethodDef rc_testing_move_methods[] = {
    ENTRY(window_index, "window_index(side, window, shift)."),
    ENTRY(window_mask, "window_mask(side, window, shift)."),
    ENTRY(patch_index, "patch_index(spec_size, mels, patch, columns=patch)."),
    ENTRY(gather_rows, "gather_rows(x, index)."),
    ENTRY(scatter_rows, "scatter_rows(dy, index, rows)."),
    ENTRY(lookup_forward, "lookup_forward(table, ids)."),
    ENTRY(lookup_backward, "lookup_backward(dy, ids, rows)."),
    ENTRY(stretch_forward, "stretch_forward(x, to): bicubic along axis 0."),
    ENTRY(stretch_backward, "stretch_backward(dy, from)."),
    ENTRY(relpos_forward, "relpos_forward(table, window)."),
    ENTRY(relpos_backward, "relpos_backward(dbias, window)."),
    ENTRY(t5_bias_forward, "t5_bias_forward(table (buckets, h), t, max_distance): (h, t, t)."),
    ENTRY(t5_bias_backward, "t5_bias_backward(dbias, buckets, max_distance): (buckets, h)."),
    {"meanpool_forward", meanpool_forward, METH_O, "meanpool_forward(x): (y,)."},
    ENTRY(meanpool_backward, "meanpool_backward(dy (1, c), t): (dx,)."),
    {NULL, NULL, 0, NULL},
};
