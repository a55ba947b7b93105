/* py_module: what the modules reclap._core and reclap._kernels have in common. */
#ifndef RC_PY_MODULE_H
#define RC_PY_MODULE_H

#include "python/py.h"

/* The module that this is linked into: py_core.c or testing/module.c defines it, with rc_state. */
extern PyModuleDef rc_py_module;

/* What executing it begins with: NumPy, exceptions, digest of the sources, functions of both. */
int rc_py_begin(PyObject *module);

int rc_py_traverse(PyObject *module, visitproc visit, void *arg);
int rc_py_clear(PyObject *module);
void rc_py_free(void *module);

#if PY_VERSION_HEX >= 0x030c0000
#define RC_PY_INTERPRETERS                                                                         \
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#else
#define RC_PY_INTERPRETERS
#endif

/* The definition of a module that `exec` fills. */
#define RC_PY_DEFINITION(name, doc, exec)                                                          \
    static PyModuleDef_Slot module_slots[] = {                                                     \
        {Py_mod_exec, exec},                                                                       \
        RC_PY_INTERPRETERS{0, NULL},                                                               \
    };                                                                                             \
    PyModuleDef rc_py_module = {                                                                   \
        PyModuleDef_HEAD_INIT,      .m_name = name,          .m_doc = doc,                         \
        .m_size = sizeof(rc_state), .m_slots = module_slots, .m_traverse = rc_py_traverse,         \
        .m_clear = rc_py_clear,     .m_free = rc_py_free,                                          \
    }

#endif
