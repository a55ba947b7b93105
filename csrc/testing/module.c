/* The module reclap._kernels, which wheels do not carry. */
#include "testing/testing.h"

#include "python/py_module.h"

PyArrayObject *rc_testing_zeros(int rank, const int64_t *sizes)
{
    PyArrayObject *array = rc_py_new(rank, sizes, NPY_FLOAT32);
    if (array != NULL) memset(PyArray_DATA(array), 0, (size_t)PyArray_NBYTES(array));
    return array;
}

static int module_exec(PyObject *module)
{
    if (rc_py_begin(module) < 0) return -1;
    if (PyModule_AddFunctions(module, rc_testing_kernel_methods) < 0) return -1;
    if (PyModule_AddFunctions(module, rc_testing_move_methods) < 0) return -1;
    if (PyModule_AddFunctions(module, rc_testing_layer_methods) < 0) return -1;
    if (PyModule_AddFunctions(module, rc_testing_adapter_methods) < 0) return -1;
    if (PyModule_AddFunctions(module, rc_testing_loss_methods) < 0) return -1;
    return PyModule_AddFunctions(module, rc_testing_block_methods);
}

RC_PY_DEFINITION("reclap._kernels",
                 "Kernels of the core as plain functions, for tests and benchmarks.", module_exec);

PyMODINIT_FUNC PyInit__kernels(void);
PyMODINIT_FUNC PyInit__kernels(void)
{
    return PyModuleDef_Init(&rc_py_module);
}
