/* py_loss: what embeddings are held to, from Python, for the trainer and for tests. */
#ifndef RC_PY_LOSS_H
#define RC_PY_LOSS_H

#include "python/py.h"

#include "train/trainer.h"

typedef struct {
    rc_loss_term term[RC_LOSSES_MAX];
    int count; /* may be more than there is room for: rc_losses_check refuses it */
} rc_py_terms;

/* "O&" converter of a list of (name, weight). */
int rc_py_terms_of(PyObject *object, void *out);

typedef struct {
    rc_goal goal;
    rc_py_terms terms;
    PyArrayObject *owner, *role, *teacher_a, *teacher_t;
} rc_py_goal;

/* "O&" converter of None or a dictionary: losses, owner, role, teacher_a, teacher_t,
 * teacher_log_scale. Then, once the sizes are known, its `goal` is filled: -1 with ValueError where
 * it does not fit na clips and nt texts. */
int rc_py_goal_of(PyObject *object, void *out);
int rc_py_goal_set(rc_py_goal *g, int64_t na, int64_t nt);
void rc_py_goal_free(rc_py_goal *g);

#endif
