/* py_model: what the types Model, Context and Trainer know of each other. */
#ifndef RC_PY_MODEL_H
#define RC_PY_MODEL_H

#include "python/py.h"

#include "towers/clap.h"

typedef struct {
    PyObject_HEAD rc_clap *model;
    PyObject *bound; /* list of the arrays that hold the parameters, None for packed ones */
    float *trained;  /* or what a trainer left; ours to free */
} rc_py_model;

typedef struct {
    PyObject_HEAD rc_context *context;
} rc_py_context;

/* -1 with ValueError unless mel is (b, frames, mels), or with several views or channels (b, these,
 * frames, mels). In py_embed.c. */
int rc_py_log_mels(PyArrayObject *mel, const rc_tower_shape *t);

/* -1 with ValueError unless first rises from 0 to the number of ids. In py_embed.c. */
int rc_py_check_first(PyArrayObject *id, PyArrayObject *first);

/* py_config.c: a configuration of the kind that the dictionary names, among those that `find`
 * knows, to be freed with PyMem_Free, also after -1; *config is NULL for None. */
int rc_py_tower_config(PyObject *d, const char *name, const rc_tower_kind *(*find)(int64_t),
                       const rc_tower_kind **kind, void **config);

/* py_embed.c: methods of Model. */
PyObject *rc_py_model_audio(PyObject *self, PyObject *args, PyObject *kw);
PyObject *rc_py_model_tokens(PyObject *self, PyObject *args);
PyObject *rc_py_model_text(PyObject *self, PyObject *args, PyObject *kw);
PyObject *rc_py_model_text_head(PyObject *self, PyObject *args, PyObject *kw);

/* py_params.c: -1 with RuntimeError before bind; methods of Model. */
int rc_py_model_ready(rc_py_model *self);
PyObject *rc_py_model_parameters(PyObject *self, PyObject *none);
PyObject *rc_py_model_bind(PyObject *self, PyObject *args, PyObject *kw);
PyObject *rc_py_model_pack(PyObject *self, PyObject *args, PyObject *kw);
PyObject *rc_py_model_read(PyObject *self, PyObject *place);
PyObject *rc_py_model_linear(PyObject *self, PyObject *none);
PyObject *rc_py_model_adapt(PyObject *self, PyObject *args);

#endif
