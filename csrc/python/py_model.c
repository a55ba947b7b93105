/* The types Model and Context. */
#include "python/py_model.h"

/* ---- Model ----------------------------------------------------------------------------------- */

static PyObject *model_new(PyTypeObject *type, PyObject *args, PyObject *kw)
{
    static char *names[] = {"audio", "text", "text_width", "audio_head", "text_head", "dim", NULL};
    PyObject *audio, *text;
    int audio_head, text_head;
    long long text_width, dim;
    rc_clap_config c = {0};
    if (!PyArg_ParseTupleAndKeywords(args, kw, "OOLiiL:Model", names, &audio, &text, &text_width,
                                     &audio_head, &text_head, &dim))
        return NULL;
    c.text_width = text_width;
    c.audio_head = (rc_head_kind)audio_head;
    c.text_head = (rc_head_kind)text_head;
    c.dim = dim;
    void *audio_config = NULL, *text_config = NULL;
    rc_py_model *self = NULL;
    rc_status status = RC_OK;
    if (rc_py_tower_config(audio, "audio", rc_audio_kind_of, &c.audio, &audio_config) == 0 &&
        rc_py_tower_config(text, "text", rc_text_kind_of, &c.text, &text_config) == 0) {
        c.audio_config = audio_config;
        c.text_config = text_config;
        self = (rc_py_model *)type->tp_alloc(type, 0);
        if (self != NULL) status = rc_clap_new(&self->model, &c);
    }
    PyMem_Free(audio_config);
    PyMem_Free(text_config);
    if (status != RC_OK) {
        rc_py_raise((PyObject *)self, status);
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

static int model_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((rc_py_model *)self)->bound);
    return 0;
}

static void model_dealloc(PyObject *object)
{
    rc_py_model *self = (rc_py_model *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    rc_clap_free(self->model);
    rc_free(self->trained);
    Py_XDECREF(self->bound);
    type->tp_free(object);
    Py_DECREF(type);
}

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

static PyObject *model_audio(PyObject *object, PyObject *args, PyObject *kw)
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

static PyObject *model_tokens(PyObject *object, PyObject *args)
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
    if (rc_py_log_mels(mel, &m->audio.shape) == 0) {
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

/* first must rise from 0 to the number of ids. */
static int check_first(PyArrayObject *id, PyArrayObject *first)
{
    if (rc_py_rank(id, 1, "ids") < 0 || rc_py_rank(first, 1, "first") < 0) return -1;
    const int32_t *f = PyArray_DATA(first);
    int64_t n = rc_py_size(first, 0);
    bool good = n >= 1 && f[0] == 0 && f[n - 1] == rc_py_size(id, 0);
    for (int64_t i = 1; good && i < n; i++) good = f[i] >= f[i - 1];
    if (!good) PyErr_SetString(PyExc_ValueError, "first: must rise from 0 to the number of ids");
    return good ? 0 : -1;
}

static PyObject *model_text(PyObject *object, PyObject *args, PyObject *kw)
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
    if (check_first(id, first) == 0) {
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

static PyObject *model_text_head(PyObject *object, PyObject *args, PyObject *kw)
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

static PyMethodDef model_methods[] = {
    {"parameters", rc_py_model_parameters, METH_NOARGS,
     "List of (name, shape, kind) in order; kind 0 weight, 1 bias, 2 statistic."},
    {"bind", (PyCFunction)(void (*)(void))rc_py_model_bind, METH_VARARGS | METH_KEYWORDS,
     "bind(arrays, *, pack=False, dtype='float32'): point the parameters at float32 arrays, in "
     "order; kept alive, but for linear weights that are packed on the way."},
    {"pack", (PyCFunction)(void (*)(void))rc_py_model_pack, METH_VARARGS | METH_KEYWORDS,
     "pack(dtype='float32'): lay out linear weights for inference, let their arrays go."},
    {"read", rc_py_model_read, METH_O, "Copy of the parameter at a place of parameters()."},
    {"audio", (PyCFunction)(void (*)(void))model_audio, METH_VARARGS | METH_KEYWORDS,
     "audio(context, mel, features=False, longer=None): (b, frames, mels) dB to (b, dim) unit "
     "rows; with fusion (b, 4, frames, mels) and for each clip whether its local log-mels count."},
    {"tokens", model_tokens, METH_VARARGS,
     "tokens(context, mel): features of each clip's tokens, (b, tokens, width), of a tower that "
     "has "
     "them."},
    {"text", (PyCFunction)(void (*)(void))model_text, METH_VARARGS | METH_KEYWORDS,
     "text(context, ids, first, features=False): packed sequences to (n, dim) unit rows."},
    {"text_head", (PyCFunction)(void (*)(void))model_text_head, METH_VARARGS | METH_KEYWORDS,
     "text_head(context, x): text features (n, text_width) to (n, dim) unit rows."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot model_slots[] = {
    {Py_tp_doc,
     "Model(audio, text, text_width, audio_head, text_head, dim): parameters and shape."},
    {Py_tp_new, model_new},
    {Py_tp_dealloc, model_dealloc},
    {Py_tp_traverse, model_traverse},
    {Py_tp_methods, model_methods},
    {0, NULL},
};

PyType_Spec rc_py_model_spec = {
    .name = "reclap._core.Model",
    .basicsize = sizeof(rc_py_model),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = model_slots,
};

/* ---- Context --------------------------------------------------------------------------------- */

static PyObject *context_new(PyTypeObject *type, PyObject *args, PyObject *kw)
{
    static char *names[] = {"threads", NULL};
    int threads;
    if (!PyArg_ParseTupleAndKeywords(args, kw, "i:Context", names, &threads)) return NULL;
    rc_py_context *self = (rc_py_context *)type->tp_alloc(type, 0);
    if (self == NULL) return NULL;
    rc_status status = rc_context_new(&self->context, threads);
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
