/* Losses by name, and what a batch is held to. */
#include "python/py_loss.h"

#include <string.h>

static int kind_of(const char *name, int64_t *kind)
{
    for (*kind = 0; rc_loss_kind_of(*kind) != NULL; ++*kind)
        if (strcmp(rc_loss_kind_of(*kind)->name, name) == 0) return 0;
    PyErr_Format(PyExc_ValueError, "losses: unknown loss %s", name);
    return -1;
}

static int parse_term(rc_loss_term *term, PyObject *pair)
{
    const char *name;
    if (!PyTuple_Check(pair)) {
        PyErr_SetString(PyExc_TypeError, "losses: expected pairs of name and weight");
        return -1;
    }
    if (!PyArg_ParseTuple(pair, "sf:losses", &name, &term->weight)) return -1;
    return kind_of(name, &term->kind);
}

int rc_py_terms_of(PyObject *object, void *out)
{
    rc_py_terms *terms = out;
    if (!PyList_Check(object)) {
        PyErr_Format(PyExc_TypeError, "losses: expected a list, got %.100s",
                     Py_TYPE(object)->tp_name);
        return 0;
    }
    terms->count = (int)rc_min(PyList_GET_SIZE(object), RC_LOSSES_MAX + 1);
    for (int i = 0; i < terms->count && i < RC_LOSSES_MAX; i++)
        if (parse_term(&terms->term[i], PyList_GET_ITEM(object, i)) < 0) return 0;
    return 1;
}

/* ---- Goal ------------------------------------------------------------------------------------ */

int rc_py_goal_of(PyObject *object, void *out)
{
    static char *names[] = {
        "losses", "owner", "role", "teacher_a", "teacher_t", "teacher_log_scale", NULL};
    rc_py_goal *g = out;
    if (object == Py_None) return 1;
    if (!PyDict_Check(object)) {
        PyErr_Format(PyExc_TypeError, "goal: expected a dictionary, got %.100s",
                     Py_TYPE(object)->tp_name);
        return 0;
    }
    PyObject *none = PyTuple_New(0);
    int good = none != NULL &&
               PyArg_ParseTupleAndKeywords(
                   none, object, "|O&O&O&O&O&f:goal", names, rc_py_terms_of, &g->terms,
                   rc_py_i32_or_none, &g->owner, rc_py_i32_or_none, &g->role, rc_py_f32_or_none,
                   &g->teacher_a, rc_py_f32_or_none, &g->teacher_t, &g->goal.teacher_log_scale);
    Py_XDECREF(none);
    return good;
}

static int set_teacher(rc_py_goal *g, int64_t na, int64_t nt)
{
    if (g->teacher_a == NULL || g->teacher_t == NULL) return 0;
    if (rc_py_rank(g->teacher_a, 2, "teacher_a") < 0) return -1;
    int64_t width = rc_py_size(g->teacher_a, 1);
    if (rc_py_shape(g->teacher_a, "teacher_a", 2, (int64_t[]){na, width}) < 0 ||
        rc_py_shape(g->teacher_t, "teacher_t", 2, (int64_t[]){nt, width}) < 0)
        return -1;
    g->goal.teacher = width;
    g->goal.teacher_a = rc_py_data(g->teacher_a);
    g->goal.teacher_t = rc_py_data(g->teacher_t);
    return 0;
}

int rc_py_goal_set(rc_py_goal *g, int64_t na, int64_t nt)
{
    if ((g->owner != NULL && rc_py_shape(g->owner, "owner", 1, &nt) < 0) ||
        (g->role != NULL && rc_py_shape(g->role, "role", 1, &nt) < 0) || set_teacher(g, na, nt) < 0)
        return -1;
    g->goal.term = g->terms.term;
    g->goal.terms = g->terms.count;
    g->goal.owner = g->owner == NULL ? NULL : PyArray_DATA(g->owner);
    g->goal.role = g->role == NULL ? NULL : PyArray_DATA(g->role);
    return 0;
}

void rc_py_goal_free(rc_py_goal *g)
{
    PyArrayObject *arrays[] = {g->owner, g->role, g->teacher_a, g->teacher_t};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) Py_XDECREF(arrays[i]);
}
