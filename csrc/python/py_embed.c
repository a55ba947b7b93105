/* Methods of Model that run its towers and the head of texts. */
#include "python/py_model.h"

typedef struct {
    const rc_clap *model;
    rc_context *context;
    rc_input in;
    const float *x; /* of the text head */
    float *y;
    int features;
} embed_job;

/* One call at a time per context, and none while the model is changed. */
static rc_status in_context(embed_job *job, rc_status (*run)(embed_job *))
{
    RC_TRY(rc_clap_enter(job->model));
    rc_status status = rc_context_enter(job->context);
    if (status == RC_OK) {
        status = job->in.b == 0 ? RC_OK : run(job);
        rc_context_leave(job->context);
    }
    rc_clap_leave(job->model);
    return status;
}

static rc_status audio_run(embed_job *j)
{
    return rc_clap_audio(j->model, j->context, j->y, &j->in, j->features);
}
static rc_status audio_work(void *job)
{
    return in_context(job, audio_run);
}

int rc_py_log_mels(PyArrayObject *mel, const rc_tower_shape *t)
{
    int64_t several = t->views * t->channels;
    int64_t plain[3] = {-1, -1, t->mels}, stacked[4] = {-1, several, -1, t->mels};
    return several > 1 ? rc_py_shape(mel, "mel", 4, stacked) : rc_py_shape(mel, "mel", 3, plain);
}

static int audio_shapes(PyArrayObject *mel, PyArrayObject *longer, const rc_tower_shape *t)
{
    if (rc_py_log_mels(mel, t) < 0) return -1;
    int64_t b = rc_py_size(mel, 0);
    return longer == NULL ? 0 : rc_py_shape(longer, "longer", 1, &b);
}

PyObject *rc_py_model_audio(PyObject *object, PyObject *args, PyObject *kw)
{
    static char *names[] = {"context", "mel", "features", "longer", NULL};
    rc_py_model *self = (rc_py_model *)object;
    rc_py_context *context;
    PyArrayObject *mel = NULL, *longer = NULL, *y = NULL;
    embed_job job = {.model = self->model};
    if (rc_py_model_ready(self) < 0) return NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kw, "O!O&|pO&:audio", names,
                                     rc_py_state(object)->context_type, &context, rc_py_f32, &mel,
                                     &job.features, rc_py_bool_or_none, &longer)) {
        Py_XDECREF(mel);
        return NULL;
    }
    const rc_clap *m = self->model;
    if (audio_shapes(mel, longer, &m->audio.shape) == 0) {
        int64_t out[2] = {job.in.b = rc_py_size(mel, 0),
                          job.features ? m->audio_head.in : m->config.dim};
        job.in.frames = rc_py_size(mel, PyArray_NDIM(mel) - 2);
        job.in.longer = longer == NULL ? NULL : PyArray_DATA(longer);
        job.context = context->context;
        job.in.x = rc_py_data(mel);
        y = rc_py_new(2, out, NPY_FLOAT32);
        job.y = rc_py_data(y);
        if (y != NULL && rc_py_run(object, audio_work, &job) < 0) Py_CLEAR(y);
    }
    Py_DECREF(mel);
    Py_XDECREF(longer);
    return (PyObject *)y;
}

static rc_status tokens_run(embed_job *j)
{
    return rc_clap_tokens(j->model, j->context, j->y, &j->in);
}
static rc_status tokens_work(void *job)
{
    return in_context(job, tokens_run);
}

PyObject *rc_py_model_tokens(PyObject *object, PyObject *args)
{
    rc_py_model *self = (rc_py_model *)object;
    rc_py_context *context;
    PyArrayObject *mel = NULL, *y = NULL;
    embed_job job = {.model = self->model};
    if (rc_py_model_ready(self) < 0) return NULL;
    if (!PyArg_ParseTuple(args, "O!O&:tokens", rc_py_state(object)->context_type, &context,
                          rc_py_f32, &mel))
        return NULL;
    const rc_clap *m = self->model;
    if (m->audio.kind == NULL) {
        PyErr_SetString(PyExc_ValueError, "this model has no audio tower");
    } else if (rc_py_log_mels(mel, &m->audio.shape) == 0) {
        job.in.b = rc_py_size(mel, 0);
        job.in.frames = rc_py_size(mel, PyArray_NDIM(mel) - 2);
        job.in.x = rc_py_data(mel);
        job.context = context->context;
        int64_t out[3] = {job.in.b, rc_clap_count_tokens(m, job.in.frames), m->audio_head.in};
        y = rc_py_new(3, out, NPY_FLOAT32);
        job.y = rc_py_data(y);
        if (y != NULL && rc_py_run(object, tokens_work, &job) < 0) Py_CLEAR(y);
    }
    Py_DECREF(mel);
    return (PyObject *)y;
}

static rc_status text_run(embed_job *j)
{
    return rc_clap_text(j->model, j->context, j->y, &j->in, j->features);
}
static rc_status text_work(void *job)
{
    return in_context(job, text_run);
}

int rc_py_check_first(PyArrayObject *id, PyArrayObject *first)
{
    if (rc_py_rank(id, 1, "ids") < 0 || rc_py_rank(first, 1, "first") < 0) return -1;
    const int32_t *f = PyArray_DATA(first);
    int64_t n = rc_py_size(first, 0);
    bool good = n >= 1 && f[0] == 0 && f[n - 1] == rc_py_size(id, 0);
    for (int64_t i = 1; good && i < n; i++) good = f[i] >= f[i - 1];
    if (!good) PyErr_SetString(PyExc_ValueError, "first: must rise from 0 to the number of ids");
    return good ? 0 : -1;
}

PyObject *rc_py_model_text(PyObject *object, PyObject *args, PyObject *kw)
{
    static char *names[] = {"context", "ids", "first", "features", NULL};
    rc_py_model *self = (rc_py_model *)object;
    rc_py_context *context;
    PyArrayObject *id = NULL, *first = NULL, *y = NULL;
    embed_job job = {.model = self->model};
    if (rc_py_model_ready(self) < 0) return NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kw, "O!O&O&|p:text", names,
                                     rc_py_state(object)->context_type, &context, rc_py_i32, &id,
                                     rc_py_i32, &first, &job.features)) {
        Py_XDECREF(id);
        return NULL;
    }
    if (rc_py_check_first(id, first) == 0) {
        const rc_clap *m = self->model;
        int64_t out[2] = {job.in.b = rc_py_size(first, 0) - 1,
                          job.features ? m->text.shape.width : m->config.dim};
        job.context = context->context;
        job.in.id = PyArray_DATA(id);
        job.in.first = PyArray_DATA(first);
        y = rc_py_new(2, out, NPY_FLOAT32);
        job.y = rc_py_data(y);
        if (y != NULL && rc_py_run(object, text_work, &job) < 0) Py_CLEAR(y);
    }
    Py_DECREF(id);
    Py_DECREF(first);
    return (PyObject *)y;
}

static rc_status head_run(embed_job *j)
{
    return rc_clap_text_head(j->model, j->context, j->y, j->x, j->in.b);
}
static rc_status head_work(void *job)
{
    return in_context(job, head_run);
}

PyObject *rc_py_model_text_head(PyObject *object, PyObject *args, PyObject *kw)
{
    static char *names[] = {"context", "x", NULL};
    rc_py_model *self = (rc_py_model *)object;
    rc_py_context *context;
    PyArrayObject *x = NULL, *y = NULL;
    embed_job job = {.model = self->model};
    if (rc_py_model_ready(self) < 0) return NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kw, "O!O&:text_head", names,
                                     rc_py_state(object)->context_type, &context, rc_py_f32, &x))
        return NULL;
    int64_t shape[2] = {-1, self->model->config.text_width};
    if (rc_py_shape(x, "x", 2, shape) == 0) {
        int64_t out[2] = {job.in.b = rc_py_size(x, 0), self->model->config.dim};
        job.context = context->context;
        job.x = rc_py_data(x);
        y = rc_py_new(2, out, NPY_FLOAT32);
        job.y = rc_py_data(y);
        if (y != NULL && rc_py_run(object, head_work, &job) < 0) Py_CLEAR(y);
    }
    Py_DECREF(x);
    return (PyObject *)y;
}
