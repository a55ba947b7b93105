/* What both modules share: state, exceptions, and the one place that releases the lock. */
#define RC_PY_MODULE
#include "python/py_module.h"

#include "base/parallel.h"

#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/syscall.h>
#endif

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

/* ---- Work without the lock ------------------------------------------------------------------- */

/* Seconds between looks for a signal: short for who waits for Ctrl-C to work, and long enough that
 * taking the lock, which other threads may want, costs nothing. */
static const double SIGNAL_INTERVAL = 0.2;

typedef struct {
    PyThreadState *thread;
    double due;
} signal_watch;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Run the handlers of signals that came; true when one raised, as that of Ctrl-C does. */
static bool handle_signals(void *arg)
{
    signal_watch *signals = arg;
    double time = now();
    if (time < signals->due) return false;
    signals->due = time + SIGNAL_INTERVAL;
    PyEval_RestoreThread(signals->thread);
    bool raised = PyErr_CheckSignals() < 0;
    signals->thread = PyEval_SaveThread();
    return raised;
}

/* Only there do handlers run; elsewhere asking for the lock would be in vain. */
static bool on_main_thread(void)
{
#ifdef __linux__
    return syscall(SYS_gettid) == getpid();
#else
    return false;
#endif
}

int rc_py_run(PyObject *self, rc_work *work, void *job)
{
    bool main = on_main_thread();
    signal_watch signals = {.due = main ? now() + SIGNAL_INTERVAL : 0};
    rc_watch watch = {.ends = handle_signals, .arg = &signals};
    signals.thread = PyEval_SaveThread();
    rc_watch *before = rc_watch_set(main ? &watch : NULL); /* a handler may be what calls */
    rc_status status = work(job);
    rc_watch_set(before);
    PyEval_RestoreThread(signals.thread);
    if (watch.stopped) return -1; /* with what the handler raised */
    return status == RC_OK ? 0 : rc_py_raise(self, status);
}

/* ---- State ----------------------------------------------------------------------------------- */

int rc_py_traverse(PyObject *module, visitproc visit, void *arg)
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

int rc_py_clear(PyObject *module)
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

void rc_py_free(void *module)
{
    rc_py_clear(module);
}

/* What setup.py says of the sources, so that tests can tell a module that is older than these. */
#ifndef RC_SOURCES
#define RC_SOURCES ""
#endif

int rc_py_begin(PyObject *module)
{
    rc_state *state = PyModule_GetState(module);
    import_array1(-1);
    PyObject *errors = PyImport_ImportModule("reclap.errors");
    if (errors == NULL) return -1;
    state->format_error = PyObject_GetAttrString(errors, "FormatError");
    state->backend_error = PyObject_GetAttrString(errors, "BackendError");
    Py_DECREF(errors);
    if (state->format_error == NULL || state->backend_error == NULL) return -1;
    if (PyModule_AddStringConstant(module, "sources", RC_SOURCES) < 0) return -1;
    return PyModule_AddFunctions(module, rc_py_product_methods);
}
