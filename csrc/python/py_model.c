/* The types Model and Context. */
#include "python/py_model.h"

/* ---- Configuration from a dictionary --------------------------------------------------------- */

/* A new reference, because converting an item may run code that takes it out of the dictionary. */
static PyObject *item_of(PyObject *dict, const char *key)
{
    if (!PyDict_Check(dict)) {
        PyErr_Format(PyExc_TypeError, "configuration: expected a dict, got %.100s",
                     Py_TYPE(dict)->tp_name);
        return NULL;
    }
    PyObject *name = PyUnicode_FromString(key);
    PyObject *item = name == NULL ? NULL : PyDict_GetItemWithError(dict, name); /* borrowed */
    Py_XDECREF(name);
    if (item == NULL && !PyErr_Occurred())
        PyErr_Format(PyExc_ValueError, "configuration: \"%s\" is missing", key);
    return Py_XNewRef(item);
}

/* Say which setting an exception of the right kind is about. */
static int name_culprit(const char *key)
{
    if (!PyErr_ExceptionMatches(PyExc_OverflowError) && !PyErr_ExceptionMatches(PyExc_TypeError))
        return -1;
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    PyErr_Format(type, "configuration: \"%s\": %S", key, value);
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(trace);
    return -1;
}

static int get_int(PyObject *dict, const char *key, int64_t *out)
{
    PyObject *item = item_of(dict, key);
    if (item == NULL) return -1;
    *out = PyLong_AsLongLong(item);
    Py_DECREF(item);
    return *out == -1 && PyErr_Occurred() ? name_culprit(key) : 0;
}

static int get_bool(PyObject *dict, const char *key, bool *out)
{
    PyObject *item = item_of(dict, key);
    if (item == NULL) return -1;
    bool good = PyBool_Check(item);
    if (!good)
        PyErr_Format(PyExc_TypeError, "configuration: \"%s\": expected a bool, got %R", key, item);
    *out = item == Py_True;
    Py_DECREF(item);
    return good ? 0 : -1;
}

static int get_double(PyObject *dict, const char *key, double *out)
{
    PyObject *item = item_of(dict, key);
    if (item == NULL) return -1;
    *out = PyFloat_AsDouble(item);
    Py_DECREF(item);
    return *out == -1 && PyErr_Occurred() ? name_culprit(key) : 0;
}

static int get_list(PyObject *dict, const char *key, int64_t *out, int64_t *count)
{
    PyObject *item = item_of(dict, key);
    if (item == NULL) return -1;
    PyObject *tuple = PySequence_Tuple(item); /* ours alone, whatever converting its items runs */
    Py_DECREF(item);
    if (tuple == NULL) return name_culprit(key);
    *count = PyTuple_GET_SIZE(tuple);
    if (*count > RC_STAGES_MAX)
        PyErr_Format(PyExc_ValueError, "configuration: \"%s\" has more than %d entries", key,
                     RC_STAGES_MAX);
    for (Py_ssize_t i = 0; i < *count && !PyErr_Occurred(); i++)
        out[i] = PyLong_AsLongLong(PyTuple_GET_ITEM(tuple, i));
    Py_DECREF(tuple);
    return PyErr_Occurred() ? name_culprit(key) : 0;
}

static int get_setting(PyObject *d, const rc_setting *s, char *config)
{
    void *at = config + s->at;
    switch (s->kind) {
    case RC_SETTING_BOOL:
        return get_bool(d, s->name, at);
    case RC_SETTING_DOUBLE:
        return get_double(d, s->name, at);
    case RC_SETTING_LIST:
        return get_list(d, s->name, at, (int64_t *)(config + s->count));
    default:
        return get_int(d, s->name, at);
    }
}

/* A configuration of the kind that the dictionary names, to be freed. */
static void *get_audio(PyObject *d, const rc_audio_kind **kind)
{
    int64_t number;
    if (get_int(d, "kind", &number) < 0) return NULL;
    *kind = rc_audio_kind_of(number);
    if (*kind == NULL) {
        PyErr_Format(PyExc_ValueError, "configuration: unknown kind %lld of audio tower",
                     (long long)number);
        return NULL;
    }
    void *config = PyMem_Calloc(1, (*kind)->config_size);
    if (config == NULL) return PyErr_NoMemory();
    for (const rc_setting *s = (*kind)->settings; s->name != NULL; s++)
        if (get_setting(d, s, config) < 0) {
            PyMem_Free(config);
            return NULL;
        }
    return config;
}

static int get_text(PyObject *d, rc_text_config *c)
{
    struct {
        const char *key;
        int64_t *out;
    } items[] = {
        {"vocab", &c->vocab},     {"positions", &c->positions},   {"types", &c->types},
        {"width", &c->width},     {"layers", &c->layers},         {"heads", &c->heads},
        {"mlp", &c->mlp},         {"head_width", &c->head_width}, {"norm", &c->norm},
        {"place", &c->place},     {"position", &c->position},     {"position_offset", &c->offset},
        {"buckets", &c->buckets}, {"max_distance", &c->distance}, {"activation", &c->activation},
        {"gated", &c->gated},     {"causal", &c->causal},         {"biases", &c->biases},
        {"scaled", &c->scaled},   {"embed_norm", &c->embed_norm}, {"final_norm", &c->final_norm},
        {"pool", &c->pool},       {"pad_to", &c->pad_to},         {"pad_id", &c->pad_id},
    };
    for (size_t i = 0; i < sizeof items / sizeof *items; i++)
        if (get_int(d, items[i].key, items[i].out) < 0) return -1;
    return get_double(d, "eps", &c->eps);
}

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
    c.has_text = text != Py_None;
    c.text_width = text_width;
    c.audio_head = (rc_head_kind)audio_head;
    c.text_head = (rc_head_kind)text_head;
    c.dim = dim;
    if (c.has_text && get_text(text, &c.text) < 0) return NULL;
    void *config = audio == Py_None ? NULL : get_audio(audio, &c.audio);
    if (audio != Py_None && config == NULL) return NULL;
    c.audio_config = config;
    rc_py_model *self = (rc_py_model *)type->tp_alloc(type, 0);
    rc_status status = self == NULL ? RC_OK : rc_clap_new(&self->model, &c);
    PyMem_Free(config);
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
    const float *x;
    const bool *longer;
    const int32_t *id, *first;
    float *y;
    int64_t n, frames;
    int features;
} embed_job;

/* One call at a time per context, and none while the model is changed. */
static rc_status in_context(embed_job *job, rc_status (*run)(embed_job *))
{
    RC_TRY(rc_clap_enter(job->model));
    rc_status status = rc_context_enter(job->context);
    if (status == RC_OK) {
        status = job->n == 0 ? RC_OK : run(job);
        rc_context_leave(job->context);
    }
    rc_clap_leave(job->model);
    return status;
}

static rc_status audio_run(embed_job *j)
{
    rc_log_mels in = {j->x, j->longer, j->n, j->frames};
    return rc_clap_audio(j->model, j->context, j->y, &in, j->features);
}
static rc_status audio_work(void *job)
{
    return in_context(job, audio_run);
}

/* (b, frames, mels), or with fusion (b, views, frames, mels), and a flag for each clip. */
static int audio_shapes(PyArrayObject *mel, PyArrayObject *longer, const rc_audio_shape *t)
{
    int64_t plain[3] = {-1, -1, t->mels}, views[4] = {-1, t->views, -1, t->mels};
    if ((t->views > 1 ? rc_py_shape(mel, "mel", 4, views) : rc_py_shape(mel, "mel", 3, plain)) < 0)
        return -1;
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
        int64_t out[2] = {job.n = rc_py_size(mel, 0),
                          job.features ? m->audio_head.in : m->config.dim};
        job.frames = rc_py_size(mel, PyArray_NDIM(mel) - 2);
        job.longer = longer == NULL ? NULL : PyArray_DATA(longer);
        job.context = context->context;
        job.x = rc_py_data(mel);
        y = rc_py_new(2, out, NPY_FLOAT32);
        job.y = rc_py_data(y);
        if (y != NULL && rc_py_run(object, audio_work, &job) < 0) Py_CLEAR(y);
    }
    Py_DECREF(mel);
    Py_XDECREF(longer);
    return (PyObject *)y;
}

static rc_status text_run(embed_job *j)
{
    return rc_clap_text(j->model, j->context, j->y, j->id, j->first, j->n, j->features);
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
        const rc_clap_config *c = &self->model->config;
        int64_t out[2] = {job.n = rc_py_size(first, 0) - 1, job.features ? c->text.width : c->dim};
        job.context = context->context;
        job.id = PyArray_DATA(id);
        job.first = PyArray_DATA(first);
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
    return rc_clap_text_head(j->model, j->context, j->y, j->x, j->n);
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
        int64_t out[2] = {job.n = rc_py_size(x, 0), self->model->config.dim};
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
     "rows; with fusion (b, 4, frames, mels) and for each clip whether its local pictures count."},
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
    int64_t hits, misses, slow;
    rc_dnn_stats(((rc_py_context *)object)->context->dnn, &hits, &misses, &slow);
    return Py_BuildValue("{sLsLsL}", "hits", hits, "misses", misses, "slow", slow);
}

static PyMethodDef context_methods[] = {
    {"stats", context_stats, METH_NOARGS, "Cache of compiled products: hits, misses, slow."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot context_slots[] = {
    {Py_tp_doc, "Context(threads): scratch memory and compiled products for one caller at a time."},
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
