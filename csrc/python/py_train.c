/* The type Trainer. */
#include "python/py_model.h"

#include "train/trainer.h"

typedef struct {
    PyObject_HEAD rc_trainer *trainer;
    rc_py_model *model;
} rc_py_trainer;

/* A number for each parameter, or NULL for None. */
static int set_rates(const float **out, PyArrayObject *array, const char *name, const rc_clap *m)
{
    *out = rc_py_data(array);
    return array == NULL ? 0 : rc_py_shape(array, name, 1, &m->params.count);
}

static int open_trainer(rc_py_trainer *self, rc_py_model *model, PyArrayObject *rate,
                        PyArrayObject *decay, int threads)
{
    rc_rates rates;
    if (rc_py_model_ready(model) < 0 || set_rates(&rates.rate, rate, "rates", model->model) < 0 ||
        set_rates(&rates.decay, decay, "decays", model->model) < 0)
        return -1;
    rc_status status = rc_trainer_new(&self->trainer, model->model, &rates, threads);
    if (status != RC_OK) return rc_py_raise((PyObject *)self, status);
    self->model = (rc_py_model *)Py_NewRef(model);
    return 0;
}

static PyObject *trainer_new(PyTypeObject *type, PyObject *args, PyObject *kw)
{
    static char *names[] = {"model", "threads", "rates", "decays", NULL};
    int threads;
    rc_py_model *model;
    PyArrayObject *rate = NULL, *decay = NULL;
    rc_py_trainer *self = (rc_py_trainer *)type->tp_alloc(type, 0);
    if (self == NULL) return NULL;
    rc_state *state = rc_py_state((PyObject *)self);
    if (!PyArg_ParseTupleAndKeywords(args, kw, "O!i|O&O&:Trainer", names, state->model_type, &model,
                                     &threads, rc_py_f32_or_none, &rate, rc_py_f32_or_none,
                                     &decay) ||
        open_trainer(self, model, rate, decay, threads) < 0)
        Py_CLEAR(self);
    Py_XDECREF(rate);
    Py_XDECREF(decay);
    return (PyObject *)self;
}

static int trainer_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((rc_py_trainer *)self)->model);
    return 0;
}

static void trainer_dealloc(PyObject *object)
{
    rc_py_trainer *self = (rc_py_trainer *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    if (self->model != NULL) { /* goes on with what was learnt, also a call that runs right now */
        rc_free(self->model->trained);
        self->model->trained = rc_trainer_leave_values(self->trainer);
    }
    rc_trainer_free(self->trainer);
    Py_XDECREF(self->model);
    type->tp_free(object);
    Py_DECREF(type);
}

typedef struct {
    rc_trainer *trainer;
    rc_step how;
    rc_step_result result;
    rc_pairs pairs;
    float *audio, *text; /* embeddings, or gradients to them */
    const float *from_audio, *from_text;
    int64_t n;
} step_job;

static rc_status step_work(void *arg)
{
    step_job *j = arg;
    return rc_trainer_step(j->trainer, &j->result, &j->pairs, &j->how);
}

static rc_status gradients_work(void *arg)
{
    step_job *j = arg;
    return rc_trainer_gradients(j->trainer, &j->result, &j->pairs, &j->how);
}

static rc_status embed_work(void *arg)
{
    step_job *j = arg;
    return rc_trainer_embed(j->trainer, j->audio, j->text, &j->pairs, &j->how);
}

static rc_status loss_work(void *arg)
{
    step_job *j = arg;
    return rc_trainer_loss(j->trainer, &j->result.loss, j->audio, j->text, j->from_audio,
                           j->from_text, j->n);
}

static rc_status backward_work(void *arg)
{
    step_job *j = arg;
    return rc_trainer_backward(j->trainer, j->from_audio, j->from_text, &j->pairs, &j->how);
}

static rc_status update_work(void *arg)
{
    step_job *j = arg;
    return rc_trainer_update(j->trainer, &j->result, &j->how);
}

static step_job new_job(PyObject *object)
{
    return (step_job){.trainer = ((rc_py_trainer *)object)->trainer,
                      .how = {.lr = 1e-3, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8}};
}

/* ---- Pairs ----------------------------------------------------------------------------------- */

/* What the pairs of a call lie in. */
typedef struct {
    PyArrayObject *mel, *longer, *features, *id, *first;
} pair_arrays;

static void free_pairs(pair_arrays *a)
{
    PyArrayObject *arrays[] = {a->mel, a->longer, a->features, a->id, a->first};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) Py_XDECREF(arrays[i]);
}

/* Clips and, where the tower has several log-mels of one, which of them are longer. */
static int set_clips(rc_input *in, const pair_arrays *a, const rc_tower_shape *shape)
{
    if (rc_py_log_mels(a->mel, shape) < 0) return -1;
    in->b = rc_py_size(a->mel, 0);
    in->frames = rc_py_size(a->mel, PyArray_NDIM(a->mel) - 2);
    in->x = rc_py_data(a->mel);
    if (a->longer == NULL) return 0;
    in->longer = PyArray_DATA(a->longer);
    return rc_py_shape(a->longer, "longer", 1, &in->b);
}

/* A model with a text tower takes (ids, first), as Model.text does, one without features. */
static int set_texts(rc_pairs *pairs, pair_arrays *a, PyObject *text, const rc_clap *m)
{
    int64_t b = pairs->audio.b, shape[2] = {b, m->config.text_width};
    pairs->text.b = b;
    if (m->text.kind == NULL) {
        if (!rc_py_f32(text, &a->features) || rc_py_shape(a->features, "text", 2, shape) < 0)
            return -1;
        pairs->features = rc_py_data(a->features);
        return 0;
    }
    if (!PyTuple_Check(text)) {
        PyErr_Format(PyExc_TypeError, "text: expected (ids, first), got %.100s",
                     Py_TYPE(text)->tp_name);
        return -1;
    }
    if (!PyArg_ParseTuple(text, "O&O&:text", rc_py_i32, &a->id, rc_py_i32, &a->first)) return -1;
    int64_t ends = b + 1;
    if (rc_py_check_first(a->id, a->first) < 0 || rc_py_shape(a->first, "first", 1, &ends) < 0)
        return -1;
    pairs->text.id = PyArray_DATA(a->id);
    pairs->text.first = PyArray_DATA(a->first);
    return 0;
}

static int set_pairs(PyObject *object, rc_pairs *pairs, pair_arrays *a, PyObject *text,
                     long long clip)
{
    const rc_clap *m = ((rc_py_trainer *)object)->model->model;
    *pairs = (rc_pairs){.clip = clip};
    return set_clips(&pairs->audio, a, &m->audio.shape) < 0 ? -1 : set_texts(pairs, a, text, m);
}

static PyObject *run_step(PyObject *object, PyObject *args, PyObject *kw, rc_work *work)
{
    static char *names[] = {"mel", "text",         "seed", "step",    "lr",     "beta1", "beta2",
                            "eps", "weight_decay", "clip", "coupled", "longer", NULL};
    step_job job = new_job(object);
    rc_step *h = &job.how;
    pair_arrays a = {0};
    PyObject *result = NULL, *text;
    if (PyArg_ParseTupleAndKeywords(args, kw, "O&OO&O&|ddddddpO&:step", names, rc_py_f32, &a.mel,
                                    &text, rc_py_u64, &h->seed, rc_py_u64, &h->step, &h->lr,
                                    &h->beta1, &h->beta2, &h->eps, &h->weight_decay, &h->clip,
                                    &h->coupled, rc_py_bool_or_none, &a.longer) &&
        set_pairs(object, &job.pairs, &a, text, 0) == 0 && rc_py_run(object, work, &job) == 0)
        result = Py_BuildValue("{sdsdsd}", "loss", job.result.loss, "grad_norm",
                               job.result.grad_norm, "logit_scale", job.result.logit_scale);
    free_pairs(&a);
    return result;
}

static PyObject *trainer_step(PyObject *self, PyObject *args, PyObject *kw)
{
    return run_step(self, args, kw, step_work);
}

static PyObject *trainer_gradients(PyObject *self, PyObject *args, PyObject *kw)
{
    return run_step(self, args, kw, gradients_work);
}

/* ---- A step in calls of its own -------------------------------------------------------------- */

/* Two new arrays (n, dim), whose memory the job fills. */
static PyObject *new_pair(PyObject *object, step_job *job, int64_t n)
{
    int64_t shape[2] = {n, ((rc_py_trainer *)object)->model->model->config.dim};
    PyArrayObject *audio = rc_py_new(2, shape, NPY_FLOAT32);
    PyArrayObject *text = rc_py_new(2, shape, NPY_FLOAT32);
    PyObject *pair = audio == NULL || text == NULL ? NULL : PyTuple_Pack(2, audio, text);
    if (pair != NULL) {
        job->audio = rc_py_data(audio);
        job->text = rc_py_data(text);
    }
    Py_XDECREF(audio);
    Py_XDECREF(text);
    return pair;
}

/* What loss and backward are given: (n, dim) of audio, as many of text. */
static int set_embeddings(PyObject *object, step_job *job, PyArrayObject *audio,
                          PyArrayObject *text, int64_t n)
{
    int64_t shape[2] = {n, ((rc_py_trainer *)object)->model->model->config.dim};
    if (rc_py_shape(audio, "audio", 2, shape) < 0) return -1;
    shape[0] = job->n = rc_py_size(audio, 0);
    if (rc_py_shape(text, "text", 2, shape) < 0) return -1;
    job->from_audio = rc_py_data(audio);
    job->from_text = rc_py_data(text);
    return 0;
}

static PyObject *trainer_embed(PyObject *object, PyObject *args, PyObject *kw)
{
    static char *names[] = {"mel", "text", "seed", "step", "clip", "longer", NULL};
    step_job job = new_job(object);
    pair_arrays a = {0};
    PyObject *pair = NULL, *text;
    long long clip = 0;
    if (PyArg_ParseTupleAndKeywords(args, kw, "O&OO&O&|LO&:embed", names, rc_py_f32, &a.mel, &text,
                                    rc_py_u64, &job.how.seed, rc_py_u64, &job.how.step, &clip,
                                    rc_py_bool_or_none, &a.longer) &&
        set_pairs(object, &job.pairs, &a, text, clip) == 0 &&
        (pair = new_pair(object, &job, job.pairs.audio.b)) != NULL &&
        rc_py_run(object, embed_work, &job) < 0)
        Py_CLEAR(pair);
    free_pairs(&a);
    return pair;
}

static PyObject *trainer_loss(PyObject *object, PyObject *args)
{
    step_job job = new_job(object);
    PyArrayObject *audio = NULL, *text = NULL;
    PyObject *pair = NULL, *result = NULL;
    if (PyArg_ParseTuple(args, "O&O&:loss", rc_py_f32, &audio, rc_py_f32, &text) &&
        set_embeddings(object, &job, audio, text, -1) == 0 &&
        (pair = new_pair(object, &job, job.n)) != NULL && rc_py_run(object, loss_work, &job) == 0)
        result = Py_BuildValue("(dOO)", job.result.loss, PyTuple_GET_ITEM(pair, 0),
                               PyTuple_GET_ITEM(pair, 1));
    Py_XDECREF(pair);
    Py_XDECREF(audio);
    Py_XDECREF(text);
    return result;
}

static PyObject *trainer_backward(PyObject *object, PyObject *args, PyObject *kw)
{
    static char *names[] = {"daudio", "dtext", "mel",    "text", "seed",
                            "step",   "clip",  "longer", NULL};
    step_job job = new_job(object);
    PyArrayObject *daudio = NULL, *dtext = NULL;
    pair_arrays a = {0};
    PyObject *text;
    long long clip = 0;
    bool done = PyArg_ParseTupleAndKeywords(args, kw, "O&O&O&OO&O&|LO&:backward", names, rc_py_f32,
                                            &daudio, rc_py_f32, &dtext, rc_py_f32, &a.mel, &text,
                                            rc_py_u64, &job.how.seed, rc_py_u64, &job.how.step,
                                            &clip, rc_py_bool_or_none, &a.longer) &&
                set_pairs(object, &job.pairs, &a, text, clip) == 0 &&
                set_embeddings(object, &job, daudio, dtext, job.pairs.audio.b) == 0 &&
                rc_py_run(object, backward_work, &job) == 0;
    Py_XDECREF(daudio);
    Py_XDECREF(dtext);
    free_pairs(&a);
    if (!done) return NULL;
    Py_RETURN_NONE;
}

static PyObject *trainer_update(PyObject *object, PyObject *args, PyObject *kw)
{
    static char *names[] = {"step",         "lr",   "beta1",   "beta2", "eps",
                            "weight_decay", "clip", "coupled", NULL};
    step_job job = new_job(object);
    rc_step *h = &job.how;
    if (!PyArg_ParseTupleAndKeywords(args, kw, "O&|ddddddp:update", names, rc_py_u64, &h->step,
                                     &h->lr, &h->beta1, &h->beta2, &h->eps, &h->weight_decay,
                                     &h->clip, &h->coupled) ||
        rc_py_run(object, update_work, &job) < 0)
        return NULL;
    return Py_BuildValue("{sdsd}", "grad_norm", job.result.grad_norm, "logit_scale",
                         job.result.logit_scale);
}

/* One of the four flat buffers, cut into arrays of the parameters' shapes that keep the trainer
 * alive; None where a frozen parameter has none. */
static PyObject *trainer_buffers(PyObject *object, PyObject *arg)
{
    rc_py_trainer *self = (rc_py_trainer *)object;
    const rc_params *p = &self->model->model->params;
    long which = PyLong_AsLong(arg);
    if (which == -1 && PyErr_Occurred()) return NULL;
    if (which < 0 || which > 3) {
        PyErr_Format(PyExc_ValueError, "buffers: expected 0 to 3, got %ld", which);
        return NULL;
    }
    PyObject *list = PyList_New(0);
    for (int64_t i = 0; list != NULL && i < p->count; i++) {
        npy_intp dims[4];
        for (int k = 0; k < p->item[i].rank; k++) dims[k] = (npy_intp)p->item[i].size[k];
        float *x = rc_trainer_at(self->trainer, (int)which, i);
        PyObject *view =
            x == NULL ? Py_NewRef(Py_None) : rc_py_view(x, p->item[i].rank, dims, object);
        if (view == NULL || PyList_Append(list, view) < 0) Py_CLEAR(list);
        Py_XDECREF(view);
    }
    return list;
}

static PyMethodDef trainer_methods[] = {
    {"step", (PyCFunction)(void (*)(void))trainer_step, METH_VARARGS | METH_KEYWORDS,
     "step(mel, text, seed, step, lr=, ...): one step of AdamW, or of Adam (coupled=True); loss, "
     "grad_norm, logit_scale before "
     "it."},
    {"gradients", (PyCFunction)(void (*)(void))trainer_gradients, METH_VARARGS | METH_KEYWORDS,
     "gradients(mel, text, seed, step): loss and gradients without an update."},
    {"embed", (PyCFunction)(void (*)(void))trainer_embed, METH_VARARGS | METH_KEYWORDS,
     "embed(mel, text, seed, step, clip=0): embeddings of audio and text in train mode; clip of "
     "the "
     "batch come before, so that draws are those of the whole batch."},
    {"loss", trainer_loss, METH_VARARGS,
     "loss(audio, text): loss, and its gradients to the embeddings; the gradients of a step "
     "begin."},
    {"backward", (PyCFunction)(void (*)(void))trainer_backward, METH_VARARGS | METH_KEYWORDS,
     "backward(daudio, dtext, mel, text, seed, step, clip=0): embed, and add to the gradients."},
    {"update", (PyCFunction)(void (*)(void))trainer_update, METH_VARARGS | METH_KEYWORDS,
     "update(step, lr=, ...): clipping, AdamW, running statistics; grad_norm, logit_scale."},
    {"buffers", trainer_buffers, METH_O,
     "Views of the values (0), gradients (1), first (2) and second (3) moments, by parameter; None "
     "of frozen ones."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot trainer_slots[] = {
    {Py_tp_doc, "Trainer(model, threads, rates=None, decays=None): owns values, gradients, moments "
                "and activations. rates, decays: by parameter, factors of the learning rate (0: "
                "frozen) and of the weight decay. Texts are features, or (ids, first) for a model "
                "with a text tower."},
    {Py_tp_new, trainer_new},
    {Py_tp_dealloc, trainer_dealloc},
    {Py_tp_traverse, trainer_traverse},
    {Py_tp_methods, trainer_methods},
    {0, NULL},
};

PyType_Spec rc_py_trainer_spec = {
    .name = "reclap._core.Trainer",
    .basicsize = sizeof(rc_py_trainer),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = trainer_slots,
};
