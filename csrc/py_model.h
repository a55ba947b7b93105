/* py_model: what the types Model, Context and Trainer know of each other. */
#ifndef RC_PY_MODEL_H
#define RC_PY_MODEL_H

#include "py.h"

#include "model.h"

typedef struct {
    PyObject_HEAD rc_clap *model;
    PyObject *bound; /* tuple of the arrays that hold the parameters */
    float *trained;  /* or what a trainer left; ours to free */
} rc_py_model;

typedef struct {
    PyObject_HEAD rc_context *context;
} rc_py_context;

/* -1 with RuntimeError before bind. */
int rc_py_model_ready(rc_py_model *self);

#endif
