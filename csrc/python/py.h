/* py: the only code that knows Python; testing/ knows it through this header. Every py_*.c includes
 * it and nothing foreign else.
 *
 * A binding fills a plain job struct, calls rc_py_run, and wraps the result. rc_py_run alone
 * releases the interpreter lock; no Python object is touched while it is released. */
#ifndef RC_PY_H
#define RC_PY_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#define PY_ARRAY_UNIQUE_SYMBOL reclap_numpy_api
#ifndef RC_PY_MODULE
#define NO_IMPORT_ARRAY
#endif
#include <numpy/arrayobject.h>

#include "base/base.h"

/* Per-module state: exception classes (from reclap.errors) and our types, which only the core has.
 */
typedef struct {
    PyObject *format_error;
    PyObject *backend_error;
    PyObject *sndfile_type;
    PyObject *reader_type;
    PyObject *mel_type;
    PyObject *model_type;
    PyObject *context_type;
    PyObject *trainer_type;
} rc_state;

/* Work without the lock. */
typedef rc_status rc_work(void *job);

/* Run `work(job)` with the lock released; -1 with an exception set when it fails, or when a
 * signal's handler raised meanwhile. `self` is a module or an instance of one of our types. */
int rc_py_run(PyObject *self, rc_work *work, void *job);

/* The state of the module that defines `self`'s type. */
rc_state *rc_py_state(PyObject *self);

/* What every tp_dealloc of our types ends with. */
void rc_py_free_instance(PyObject *self);

/* Turn a status into its exception: ValueError, MemoryError, FormatError, BackendError,
 * RuntimeError. Always returns -1. */
int rc_py_raise(PyObject *self, rc_status status);

/* "O&" converters: a new reference to a C-contiguous, aligned array; anything numeric is converted,
 * complex, text and objects are refused; integers must fit. Those of ..._or_none map None to NULL.
 */
int rc_py_f32(PyObject *object, void *out);
int rc_py_f32_or_none(PyObject *object, void *out);
int rc_py_i32(PyObject *object, void *out);
int rc_py_i32_or_none(PyObject *object, void *out);

/* "O&" converter of one integer to uint64_t, which must fit. */
int rc_py_u64(PyObject *object, void *out);

/* "O&" converter: the name of an rc_type. */
int rc_py_type(PyObject *object, void *type);

/* "O&" converter: None to NULL, else a contiguous array of booleans, never made from numbers. */
int rc_py_bool_or_none(PyObject *object, void *out);

/* "O&" converter for a float32 array that is written in place: must already be writable, aligned,
 * C-contiguous float32. */
int rc_py_f32_inout(PyObject *object, void *out);

/* Require `array` to have `rank` axes; -1 with ValueError that names it. */
int rc_py_rank(PyArrayObject *array, int rank, const char *name);

/* Require exact sizes; a negative size means any. -1 with ValueError that shows both shapes. */
int rc_py_shape(PyArrayObject *array, const char *name, int rank, const int64_t *sizes);

/* A new uninitialised array. */
PyArrayObject *rc_py_new(int rank, const int64_t *sizes, int type);

/* An array over memory from rc_alloc; the array frees it with rc_free, also when this call fails.
 */
PyArrayObject *rc_py_adopt(void *memory, int rank, const int64_t *sizes);

/* A float32 array over memory that `owner` keeps alive. */
PyObject *rc_py_view(float *memory, int rank, const npy_intp *dims, PyObject *owner);

static inline float *rc_py_data(PyArrayObject *array)
{
    return array == NULL ? NULL : PyArray_DATA(array);
}
static inline int64_t rc_py_size(PyArrayObject *array, int axis)
{
    return (int64_t)PyArray_DIM(array, axis);
}

/* Method tables and types of the other files, gathered by py_core.c. */
extern PyMethodDef rc_py_front_methods[], rc_py_product_methods[], rc_py_score_methods[];
extern PyType_Spec rc_py_sndfile_spec, rc_py_reader_spec, rc_py_mel_spec, rc_py_model_spec,
    rc_py_context_spec, rc_py_trainer_spec;

#endif
