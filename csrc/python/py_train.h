/* py_train: what the files of the type Trainer share: its instances, what its calls are given. */
#ifndef RC_PY_TRAIN_H
#define RC_PY_TRAIN_H

#include "python/py_model.h"

#include "train/calls.h"

typedef struct {
    PyObject_HEAD rc_trainer *trainer;
    rc_py_model *model;
} rc_py_trainer;

/* py_pairs.c: what the pairs of a call lie in; released after it. */
typedef struct {
    PyArrayObject *mel, *longer, *features, *id, *first;
} rc_py_pairs;

/* Of log-mels and flags that are there: the clips. -1 with an exception. */
int rc_py_set_clips(PyObject *self, rc_input *in, const rc_py_pairs *a);

/* The same with texts. With `owned` texts say which clips they belong to, else
 * text i belongs to clip i. -1 with an exception. */
int rc_py_set_pairs(PyObject *self, rc_pairs *pairs, rc_py_pairs *a, PyObject *text, bool owned,
                    long long clip, long long caption);
void rc_py_free_pairs(rc_py_pairs *a);

/* What the targets of a call lie in, and embeddings of a teacher: a pair of arrays, or None. */
typedef struct {
    PyArrayObject *owner, *role, *audio, *text;
    bool without_teacher;
} rc_py_targets;

int rc_py_set_teacher(rc_py_targets *a, PyObject *teacher);
int rc_py_set_targets(PyObject *self, rc_targets *targets, const rc_py_targets *a, int64_t na,
                      int64_t nt);
void rc_py_free_targets(rc_py_targets *a);

/* py_train.c: methods of Trainer. */
PyObject *rc_py_trainer_step(PyObject *self, PyObject *args, PyObject *kw);
PyObject *rc_py_trainer_gradients(PyObject *self, PyObject *args, PyObject *kw);
PyObject *rc_py_trainer_moments(PyObject *self, PyObject *args, PyObject *kw);
PyObject *rc_py_trainer_embed(PyObject *self, PyObject *args, PyObject *kw);
PyObject *rc_py_trainer_loss(PyObject *self, PyObject *args, PyObject *kw);
PyObject *rc_py_trainer_backward(PyObject *self, PyObject *args, PyObject *kw);
PyObject *rc_py_trainer_update(PyObject *self, PyObject *args, PyObject *kw);
PyObject *rc_py_trainer_refresh(PyObject *self, PyObject *none);
PyObject *rc_py_trainer_measure(PyObject *self, PyObject *args, PyObject *kw);

#endif
