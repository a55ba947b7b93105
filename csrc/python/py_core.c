/* The module reclap._core: its functions and types. */
#include "python/py_module.h"

static int add_type(PyObject *module, PyType_Spec *spec, PyObject **slot)
{
    *slot = PyType_FromModuleAndSpec(module, spec, NULL);
    return *slot == NULL ? -1 : PyModule_AddType(module, (PyTypeObject *)*slot);
}

static int module_exec(PyObject *module)
{
    rc_state *state = PyModule_GetState(module);
    if (rc_py_begin(module) < 0) return -1;
    if (PyModule_AddFunctions(module, rc_py_front_methods) < 0) return -1;
    if (PyModule_AddFunctions(module, rc_py_score_methods) < 0) return -1;
    if (add_type(module, &rc_py_sndfile_spec, &state->sndfile_type) < 0) return -1;
    if (add_type(module, &rc_py_reader_spec, &state->reader_type) < 0) return -1;
    if (add_type(module, &rc_py_mel_spec, &state->mel_type) < 0) return -1;
    if (add_type(module, &rc_py_model_spec, &state->model_type) < 0) return -1;
    if (add_type(module, &rc_py_context_spec, &state->context_type) < 0) return -1;
    return add_type(module, &rc_py_trainer_spec, &state->trainer_type);
}

RC_PY_DEFINITION("reclap._core", "C core of reclap: audio front end, encoders, gradients, scoring.",
                 module_exec);

PyMODINIT_FUNC PyInit__core(void);
PyMODINIT_FUNC PyInit__core(void)
{
    return PyModuleDef_Init(&rc_py_module);
}
