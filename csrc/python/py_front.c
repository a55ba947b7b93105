/* The audio front end for Python: type Mel, and functions over samples. */
#include "python/py.h"

#include "audio/decode.h"
#include "audio/mel.h"
#include "kernels/act.h"

/* ---- Mel ------------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD rc_mel_plan *plan;
    int64_t bins;
} mel_object;

static PyObject *mel_new(PyTypeObject *type, PyObject *args, PyObject *kw)
{
    static char *names[] = {"rate", "n_fft", "hop",       "mels", "fmin",
                            "fmax", "htk",   "area_norm", NULL};
    long long rate, n_fft, hop, mels;
    double fmin, fmax;
    int htk, area_norm;
    if (!PyArg_ParseTupleAndKeywords(args, kw, "$LLLLddpp:Mel", names, &rate, &n_fft, &hop, &mels,
                                     &fmin, &fmax, &htk, &area_norm))
        return NULL;
    rc_mel_config config = {rate, n_fft, hop, mels, fmin, fmax, htk != 0, area_norm != 0};
    mel_object *self = (mel_object *)type->tp_alloc(type, 0);
    if (self == NULL) return NULL;
    rc_status st = rc_mel_plan_new(&self->plan, &config);
    if (st != RC_OK) {
        rc_py_raise((PyObject *)self, st);
        Py_CLEAR(self);
    } else {
        self->bins = n_fft / 2 + 1;
    }
    return (PyObject *)self;
}

static void mel_dealloc(PyObject *self)
{
    rc_mel_plan_free(((mel_object *)self)->plan);
    rc_py_free_instance(self);
}

typedef struct {
    const rc_mel_plan *plan;
    const float *x;
    float *y;
    int64_t samples;
} mel_job;

static rc_status mel_work(void *job)
{
    mel_job *j = job;
    void *scratch;
    RC_TRY(rc_alloc(&scratch, rc_mel_scratch(j->plan)));
    rc_status st = rc_log_mel(j->y, j->plan, j->x, j->samples, scratch);
    rc_free(scratch);
    return st;
}

static PyObject *mel_call(PyObject *self, PyObject *args, PyObject *kw)
{
    static char *names[] = {"samples", NULL};
    const rc_mel_plan *plan = ((mel_object *)self)->plan;
    PyArrayObject *x = NULL, *y = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kw, "O&:Mel", names, rc_py_f32, &x)) return NULL;
    if (rc_py_rank(x, 1, "samples") < 0) goto done;
    mel_job job = {plan, rc_py_data(x), NULL, rc_py_size(x, 0)};
    int64_t shape[] = {rc_mel_frames(plan, job.samples), rc_mel_bands(plan)};
    if ((y = rc_py_new(2, shape, NPY_FLOAT32)) == NULL) goto done;
    job.y = rc_py_data(y);
    if (rc_py_run(self, mel_work, &job) < 0) Py_CLEAR(y);
done:
    Py_DECREF(x);
    return (PyObject *)y;
}

static PyObject *mel_filters(PyObject *self, PyObject *unused)
{
    mel_object *mel = (mel_object *)self;
    int64_t shape[] = {rc_mel_bands(mel->plan), mel->bins};
    PyArrayObject *w = rc_py_new(2, shape, NPY_FLOAT32);
    (void)unused;
    if (w != NULL) rc_mel_filters(rc_py_data(w), mel->plan);
    return (PyObject *)w;
}

PyDoc_STRVAR(mel_doc, "Mel(*, rate, n_fft, hop, mels, fmin, fmax, htk, area_norm)\n--\n\n"
                      "Log-mel transform: called with samples (T,), returns decibels\n"
                      "(T // hop + 1, mels) as float32. Safe to call from several threads.");
PyDoc_STRVAR(filters_doc, "filters($self, /)\n--\n\n"
                          "The filter bank, float32 of shape (mels, n_fft // 2 + 1).");

static PyMethodDef mel_methods[] = {
    {"filters", mel_filters, METH_NOARGS, filters_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot mel_slots[] = {
    {Py_tp_doc, (void *)mel_doc}, {Py_tp_new, mel_new},         {Py_tp_dealloc, mel_dealloc},
    {Py_tp_call, mel_call},       {Py_tp_methods, mel_methods}, {0, NULL},
};

PyType_Spec rc_py_mel_spec = {
    .name = "reclap._core.Mel",
    .basicsize = sizeof(mel_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = mel_slots,
};

/* ---- Functions over samples ------------------------------------------------------------------ */

typedef struct {
    float *y;
    const float *x;
    int64_t m, n; /* sizes of y and x, or frames and channels */
    bool finite;
} samples_job;

static rc_status downmix_work(void *job)
{
    samples_job *j = job;
    rc_downmix(j->y, j->x, j->m, j->n);
    return RC_OK;
}

static PyObject *downmix(PyObject *module, PyObject *args)
{
    PyArrayObject *x = NULL, *y = NULL;
    if (!PyArg_ParseTuple(args, "O&:downmix", rc_py_f32, &x)) return NULL;
    if (rc_py_rank(x, 2, "samples") < 0) goto done;
    samples_job job = {.x = rc_py_data(x), .m = rc_py_size(x, 0), .n = rc_py_size(x, 1)};
    if (job.n < 1) {
        PyErr_SetString(PyExc_ValueError, "downmix: samples have no channel");
        goto done;
    }
    if ((y = rc_py_new(1, &job.m, NPY_FLOAT32)) == NULL) goto done;
    job.y = rc_py_data(y);
    if (rc_py_run(module, downmix_work, &job) < 0) Py_CLEAR(y);
done:
    Py_DECREF(x);
    return (PyObject *)y;
}

static rc_status repeat_pad_work(void *job)
{
    samples_job *j = job;
    rc_repeat_pad(j->y, j->m, j->x, j->n);
    return RC_OK;
}

static PyObject *repeat_pad(PyObject *module, PyObject *args)
{
    PyArrayObject *x = NULL, *y = NULL;
    long long m;
    if (!PyArg_ParseTuple(args, "O&L:repeat_pad", rc_py_f32, &x, &m)) return NULL;
    if (rc_py_rank(x, 1, "samples") < 0) goto done;
    samples_job job = {.x = rc_py_data(x), .m = m, .n = rc_py_size(x, 0)};
    if (m < 0 || m > 1 << 30) {
        PyErr_Format(PyExc_ValueError, "repeat_pad: length is %lld, expected 0 to 2^30", m);
        goto done;
    }
    if ((y = rc_py_new(1, &job.m, NPY_FLOAT32)) == NULL) goto done;
    job.y = rc_py_data(y);
    if (rc_py_run(module, repeat_pad_work, &job) < 0) Py_CLEAR(y);
done:
    Py_DECREF(x);
    return (PyObject *)y;
}

static rc_status all_finite_work(void *job)
{
    samples_job *j = job;
    j->finite = rc_all_finite(j->x, j->n);
    return RC_OK;
}

static PyObject *all_finite(PyObject *module, PyObject *args)
{
    PyArrayObject *x = NULL;
    if (!PyArg_ParseTuple(args, "O&:all_finite", rc_py_f32, &x)) return NULL;
    samples_job job = {.x = rc_py_data(x), .n = (int64_t)PyArray_SIZE(x)};
    int failed = rc_py_run(module, all_finite_work, &job);
    Py_DECREF(x);
    return failed ? NULL : PyBool_FromLong(job.finite);
}

PyDoc_STRVAR(downmix_doc, "downmix($module, samples, /)\n--\n\n"
                          "Mean over channels: (T, channels) to (T,), float32.");
PyDoc_STRVAR(repeat_pad_doc,
             "repeat_pad($module, samples, length, /)\n--\n\n"
             "As many whole copies of samples (T,) as fit into length, then zeros.");
PyDoc_STRVAR(all_finite_doc, "all_finite($module, samples, /)\n--\n\n"
                             "Whether no element is NaN or infinite.");

PyMethodDef rc_py_front_methods[] = {
    {"downmix", downmix, METH_VARARGS, downmix_doc},
    {"repeat_pad", repeat_pad, METH_VARARGS, repeat_pad_doc},
    {"all_finite", all_finite, METH_VARARGS, all_finite_doc},
    {NULL, NULL, 0, NULL},
};
