/* py_module: what the modules reclap._core and reclap._kernels have in common. */
#ifndef RC_PY_MODULE_H
#define RC_PY_MODULE_H

#include "python/py.h"

/* The module that this is linked into: py_core.c or testing/module.c defines it, with rc_state. */
extern PyModuleDef rc_py_module;

/* What executing it begins with: NumPy, exceptions, digest of the sources, functions of both. */
int rc_py_begin(PyObject *module);

/* Slots of the definition. */
int rc_py_traverse(PyObject *module, visitproc visit, void *arg);
int rc_py_clear(PyObject *module);
void rc_py_free(void *module);

#endif
