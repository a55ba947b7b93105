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
    return PyModule_AddFunctions(module, rc_testing_block_methods);
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
#if PY_VERSION_HEX >= 0x030c0000
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
    {0, NULL},
};

PyModuleDef rc_py_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "reclap._kernels",
    .m_doc = "Kernels of the core as plain functions, for tests and benchmarks.",
    .m_size = sizeof(rc_state),
    .m_slots = module_slots,
    .m_traverse = rc_py_traverse,
    .m_clear = rc_py_clear,
    .m_free = rc_py_free,
};

PyMODINIT_FUNC PyInit__kernels(void);
PyMODINIT_FUNC PyInit__kernels(void)
{
    return PyModuleDef_Init(&rc_py_module);
}
