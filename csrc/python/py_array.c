/* NumPy arguments in, new arrays out, adoption of C memory. */
#include "python/py.h"

#include <string.h>

static int convert(PyObject *object, int type, void *out)
{
    PyArrayObject *any = (PyArrayObject *)PyArray_FROM_O(object);
    if (any == NULL) return 0;
    int kind = PyArray_DESCR(any)->kind;
    if (strchr("biuf", kind) == NULL) {
        PyErr_Format(PyExc_TypeError, "expected an array of real numbers, got dtype %S",
                     (PyObject *)PyArray_DESCR(any));
        Py_DECREF(any);
        return 0;
    }
    PyObject *array =
        PyArray_FROMANY((PyObject *)any, type, 0, 0, NPY_ARRAY_IN_ARRAY | NPY_ARRAY_FORCECAST);
    Py_DECREF(any);
    *(PyArrayObject **)out = (PyArrayObject *)array;
    return array != NULL;
}

int rc_py_f32(PyObject *object, void *out)
{
    return convert(object, NPY_FLOAT32, out);
}

int rc_py_f32_or_none(PyObject *object, void *out)
{
    if (object != Py_None) return convert(object, NPY_FLOAT32, out);
    *(PyArrayObject **)out = NULL;
    return 1;
}

/* Whether all integers of `array` are those of 32 bits. */
static int fits_i32(PyArrayObject *array)
{
    int type = PyArray_DESCR(array)->kind == 'u' ? NPY_UINT64 : NPY_INT64;
    PyArrayObject *whole =
        (PyArrayObject *)PyArray_FROMANY((PyObject *)array, type, 0, 0, NPY_ARRAY_IN_ARRAY);
    if (whole == NULL) return 0;
    const int64_t *at = PyArray_DATA(whole);
    bool good = true;
    for (npy_intp i = 0; good && i < PyArray_SIZE(whole); i++)
        good = at[i] >= (type == NPY_INT64 ? INT32_MIN : 0) && at[i] <= INT32_MAX;
    Py_DECREF(whole);
    if (!good)
        PyErr_SetString(PyExc_ValueError, "expected integers of 32 bits, got one that is larger");
    return good;
}

int rc_py_i32(PyObject *object, void *out)
{
    PyArrayObject *any = (PyArrayObject *)PyArray_FROM_O(object);
    if (any == NULL) return 0;
    bool empty = PyArray_SIZE(any) == 0; /* a list without items has no type of its own */
    bool good = empty || strchr("biu", PyArray_DESCR(any)->kind) != NULL;
    if (!good)
        PyErr_Format(PyExc_TypeError, "expected an array of integers, got dtype %S",
                     (PyObject *)PyArray_DESCR(any));
    else if (!empty && !PyArray_CanCastSafely(PyArray_TYPE(any), NPY_INT32))
        good = fits_i32(any);
    good = good && convert((PyObject *)any, NPY_INT32, out);
    Py_DECREF(any);
    return good;
}

int rc_py_u64(PyObject *object, void *out)
{
    PyObject *index = PyNumber_Index(object);
    if (index == NULL) return 0;
    unsigned long long value = PyLong_AsUnsignedLongLong(index);
    Py_DECREF(index);
    if (PyErr_Occurred()) return 0;
    *(uint64_t *)out = value;
    return 1;
}

int rc_py_i32_or_none(PyObject *object, void *out)
{
    if (object != Py_None) return rc_py_i32(object, out);
    *(PyArrayObject **)out = NULL;
    return 1;
}

int rc_py_bool_or_none(PyObject *object, void *out)
{
    *(PyArrayObject **)out = NULL;
    if (object == Py_None) return 1;
    PyObject *any = PyArray_FROM_O(object); /* so that numbers of a list do not become booleans */
    if (any == NULL) return 0;
    PyArrayObject *array =
        (PyArrayObject *)PyArray_FROMANY(any, NPY_BOOL, 0, 0, NPY_ARRAY_IN_ARRAY);
    Py_DECREF(any);
    if (array == NULL) return 0;
    *(PyObject **)out =
        PyArray_NewCopy(array, NPY_CORDER); /* a view may hold other bytes than 0, 1 */
    Py_DECREF(array);
    if (*(PyObject **)out == NULL) return 0;
    unsigned char *byte = PyArray_DATA(*(PyArrayObject **)out);
    for (npy_intp i = 0; i < PyArray_SIZE(*(PyArrayObject **)out); i++) byte[i] = byte[i] != 0;
    return 1;
}

int rc_py_f32_inout(PyObject *object, void *out)
{
    if (!PyArray_Check(object) || PyArray_TYPE((PyArrayObject *)object) != NPY_FLOAT32 ||
        !PyArray_ISCARRAY((PyArrayObject *)object)) {
        PyErr_SetString(PyExc_TypeError, "expected a writable C-contiguous float32 array");
        return 0;
    }
    *(PyArrayObject **)out = (PyArrayObject *)Py_NewRef(object);
    return 1;
}

int rc_py_rank(PyArrayObject *array, int rank, const char *name)
{
    if (PyArray_NDIM(array) == rank) return 0;
    PyErr_Format(PyExc_ValueError, "%s: expected %d axes, got %d", name, rank, PyArray_NDIM(array));
    return -1;
}

/* "(3, 768)" or, with a negative size, "(3, *)". */
static void shape_text(char *text, size_t size, int rank, const int64_t *sizes)
{
    size_t at = (size_t)snprintf(text, size, "(");
    for (int i = 0; i < rank && at < size; i++) {
        const char *comma = i + 1 < rank ? ", " : rank == 1 ? "," : "";
        int n = sizes[i] < 0 ? snprintf(text + at, size - at, "*%s", comma)
                             : snprintf(text + at, size - at, "%lld%s", (long long)sizes[i], comma);
        at += (size_t)n;
    }
    if (at < size) snprintf(text + at, size - at, ")");
}

int rc_py_shape(PyArrayObject *array, const char *name, int rank, const int64_t *sizes)
{
    bool same = PyArray_NDIM(array) == rank;
    for (int i = 0; same && i < rank; i++)
        same = sizes[i] < 0 || sizes[i] == (int64_t)PyArray_DIM(array, i);
    if (same) return 0;
    int64_t have[NPY_MAXDIMS];
    for (int i = 0; i < PyArray_NDIM(array); i++) have[i] = (int64_t)PyArray_DIM(array, i);
    char want_text[160], have_text[160];
    shape_text(want_text, sizeof want_text, rank, sizes);
    shape_text(have_text, sizeof have_text, PyArray_NDIM(array), have);
    PyErr_Format(PyExc_ValueError, "%s: expected shape %s, got %s", name, want_text, have_text);
    return -1;
}

PyArrayObject *rc_py_new(int rank, const int64_t *sizes, int type)
{
    npy_intp dims[NPY_MAXDIMS];
    for (int i = 0; i < rank; i++) dims[i] = (npy_intp)sizes[i];
    return (PyArrayObject *)PyArray_SimpleNew(rank, dims, type);
}

PyObject *rc_py_view(float *memory, int rank, const npy_intp *dims, PyObject *owner)
{
    PyObject *array = PyArray_SimpleNewFromData(rank, dims, NPY_FLOAT32, memory);
    if (array == NULL) return NULL;
    if (PyArray_SetBaseObject((PyArrayObject *)array, Py_NewRef(owner)) < 0) Py_CLEAR(array);
    return array;
}

static void capsule_free(PyObject *capsule)
{
    rc_free(PyCapsule_GetPointer(capsule, NULL));
}

PyArrayObject *rc_py_adopt(void *memory, int rank, const int64_t *sizes)
{
    npy_intp dims[NPY_MAXDIMS];
    for (int i = 0; i < rank; i++) dims[i] = (npy_intp)sizes[i];
    PyObject *owner = PyCapsule_New(memory, NULL, capsule_free);
    if (owner == NULL) {
        rc_free(memory);
        return NULL;
    }
    PyObject *array = rc_py_view(memory, rank, dims, owner);
    Py_DECREF(owner);
    return (PyArrayObject *)array;
}
