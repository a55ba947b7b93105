/* Module definition, exceptions, and the one place that releases the lock. */
#define RC_PY_MODULE
#include "py.h"

rc_state *rc_py_state(PyObject *self)
{
    PyObject *module =
        PyModule_Check(self) ? self : PyType_GetModuleByDef(Py_TYPE(self), &rc_py_module);
    return module == NULL ? NULL : PyModule_GetState(module);
}

int rc_py_raise(PyObject *self, rc_status status)
{
    rc_state *state = rc_py_state(self);
    if (state == NULL) return -1;
    PyObject *type = PyExc_RuntimeError;
    if (status == RC_EINVAL) type = PyExc_ValueError;
    if (status == RC_ENOMEM) type = PyExc_MemoryError;
    if (status == RC_EFORMAT) type = state->format_error;
    if (status == RC_EBACKEND) type = state->backend_error;
    PyErr_SetString(type, rc_message());
    return -1;
}

void rc_py_free_instance(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type); /* instances of heap types own their type */
}

int rc_py_run(PyObject *self, rc_work *work, void *job)
{
    rc_status status;
    Py_BEGIN_ALLOW_THREADS
    status = work(job);
    Py_END_ALLOW_THREADS
    return status == RC_OK ? 0 : rc_py_raise(self, status);
}

static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
    rc_state *state = PyModule_GetState(module);
    Py_VISIT(state->format_error);
    Py_VISIT(state->backend_error);
    Py_VISIT(state->sndfile_type);
    Py_VISIT(state->reader_type);
    Py_VISIT(state->mel_type);
    Py_VISIT(state->model_type);
    Py_VISIT(state->context_type);
    Py_VISIT(state->trainer_type);
    return 0;
}

static int module_clear(PyObject *module)
{
    rc_state *state = PyModule_GetState(module);
    Py_CLEAR(state->format_error);
    Py_CLEAR(state->backend_error);
    Py_CLEAR(state->sndfile_type);
    Py_CLEAR(state->reader_type);
    Py_CLEAR(state->mel_type);
    Py_CLEAR(state->model_type);
    Py_CLEAR(state->context_type);
    Py_CLEAR(state->trainer_type);
    return 0;
}

static void module_free(void *module)
{
    module_clear(module);
}

static int add_type(PyObject *module, PyType_Spec *spec, PyObject **slot)
{
    *slot = PyType_FromModuleAndSpec(module, spec, NULL);
    return *slot == NULL ? -1 : PyModule_AddType(module, (PyTypeObject *)*slot);
}

static int module_exec(PyObject *module)
{
    rc_state *state = PyModule_GetState(module);
    import_array1(-1);
    PyObject *errors = PyImport_ImportModule("reclap.errors");
    if (errors == NULL) return -1;
    state->format_error = PyObject_GetAttrString(errors, "FormatError");
    state->backend_error = PyObject_GetAttrString(errors, "BackendError");
    Py_DECREF(errors);
    if (state->format_error == NULL || state->backend_error == NULL) return -1;
    if (PyModule_AddFunctions(module, rc_py_front_methods) < 0) return -1;
    if (PyModule_AddFunctions(module, rc_py_kernel_methods) < 0) return -1;
    if (PyModule_AddFunctions(module, rc_py_move_methods) < 0) return -1;
    if (PyModule_AddFunctions(module, rc_py_layer_methods) < 0) return -1;
    if (PyModule_AddFunctions(module, rc_py_score_methods) < 0) return -1;
    if (add_type(module, &rc_py_sndfile_spec, &state->sndfile_type) < 0) return -1;
    if (add_type(module, &rc_py_reader_spec, &state->reader_type) < 0) return -1;
    if (add_type(module, &rc_py_mel_spec, &state->mel_type) < 0) return -1;
    if (add_type(module, &rc_py_model_spec, &state->model_type) < 0) return -1;
    if (add_type(module, &rc_py_context_spec, &state->context_type) < 0) return -1;
    return add_type(module, &rc_py_trainer_spec, &state->trainer_type);
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
    .m_name = "reclap._core",
    .m_doc = "C core of reclap: audio front end, encoders, gradients, scoring.",
    .m_size = sizeof(rc_state),
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC PyInit__core(void);
PyMODINIT_FUNC PyInit__core(void)
{
    return PyModuleDef_Init(&rc_py_module);
}
