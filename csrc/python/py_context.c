/* The type Context. */
#include "python/py_model.h"

static PyObject *context_new(PyTypeObject *type, PyObject *args, PyObject *kw)
{
    static char *names[] = {"threads", NULL};
    int threads;
    if (!PyArg_ParseTupleAndKeywords(args, kw, "i:Context", names, &threads)) return NULL;
    rc_py_context *self = (rc_py_context *)type->tp_alloc(type, 0);
    if (self == NULL) return NULL;
    rc_status status = rc_context_new(&self->context, threads, RC_F32);
    if (status != RC_OK) {
        rc_py_raise((PyObject *)self, status);
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

static void context_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    rc_context_free(((rc_py_context *)object)->context);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyObject *context_stats(PyObject *object, PyObject *Py_UNUSED(none))
{
    const rc_context *c = ((rc_py_context *)object)->context;
    rc_dnn_counts n = rc_dnn_count(c->dnn);
    return Py_BuildValue("{sLsLsLsLsi}", "hits", n.hits, "misses", n.misses, "products", n.products,
                         "slow", n.slow, "plans", rc_plans_count(&c->plans));
}

static PyMethodDef context_methods[] = {
    {"stats", context_stats, METH_NOARGS,
     "Look-ups of compiled products: hits, misses; how many there are, and of them slow; plans."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot context_slots[] = {
    {Py_tp_doc, "Context(threads): threads, plans and scratch of one caller at a time."},
    {Py_tp_new, context_new},
    {Py_tp_dealloc, context_dealloc},
    {Py_tp_methods, context_methods},
    {0, NULL},
};

PyType_Spec rc_py_context_spec = {
    .name = "reclap._core.Context",
    .basicsize = sizeof(rc_py_context),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = context_slots,
};
