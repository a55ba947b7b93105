/* What products run on: names of their types, what the processor offers. In both modules. */
#include "python/py.h"

#include "product/packed.h"
#include "product/split.h"

int rc_py_type(PyObject *object, void *type)
{
    static const char *names[] = {"float32",    "bfloat16",  "int8",
                                  "bfloat16x1", "float32x3", "float32x6"}; /* by rc_type */
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (PyUnicode_Check(object) && PyUnicode_CompareWithASCIIString(object, names[i]) == 0) {
            *(rc_type *)type = (rc_type)i;
            return 1;
        }
    PyErr_Format(PyExc_ValueError, "dtype: unknown type of products %R", object);
    return 0;
}

/* split_kind(most=None): what split products run on; `most` rules out what is better */
static PyObject *split_kind(PyObject *Py_UNUSED(module), PyObject *args)
{
    static const char *names[] = {"plain", "avx512", "amx"}; /* by rc_split_kind */
    const char *most = NULL;
    if (!PyArg_ParseTuple(args, "|z:split_kind", &most)) return NULL;
    for (int i = 0; most != NULL; i++) {
        if (i == 3) return PyErr_Format(PyExc_ValueError, "split_kind: unknown kind '%s'", most);
        if (strcmp(most, names[i]) != 0) continue;
        rc_split_limit((rc_split_kind)i);
        break;
    }
    return PyUnicode_FromString(names[rc_split_choice()]);
}

static PyObject *int8_weight(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    return PyLong_FromLong(rc_int8_weight());
}

PyMethodDef rc_py_product_methods[] = {
    {"split_kind", split_kind, METH_VARARGS,
     "split_kind(most=None): plain, avx512 or amx; most rules out what is better from now on."},
    {"int8_weight", int8_weight, METH_NOARGS, "int8_weight(): the largest that is used."},
    {NULL, NULL, 0, NULL},
};
