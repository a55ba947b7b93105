/* The type Trainer. */
#include "python/py_train.h"

/* A number for each parameter, or NULL for None. */
static int set_rates(const float **out, PyArrayObject *array, const char *name, const rc_clap *m)
{
    *out = rc_py_data(array);
    return array == NULL ? 0 : rc_py_shape(array, name, 1, &m->params.count);
}

/* Pairs of a kind and a weight, of which there may be none. */
static int set_losses(rc_trainer_config *c, PyObject *losses)
{
    if (losses == NULL || losses == Py_None) return 0;
    PyObject *list = PySequence_Fast(losses, "losses: expected pairs (kind, weight)");
    if (list == NULL) return -1;
    Py_ssize_t n = PySequence_Fast_GET_SIZE(list);
    int status = 0;
    if (n < 1 || n > RC_LOSSES_MAX) {
        PyErr_Format(PyExc_ValueError, "losses: expected 1 to %d, got %zd", RC_LOSSES_MAX, n);
        status = -1;
    }
    for (Py_ssize_t i = 0; status == 0 && i < n; i++) {
        long long kind;
        float weight;
        PyObject *pair = PySequence_Fast_GET_ITEM(list, i);
        if (!PyTuple_Check(pair)) {
            PyErr_SetString(PyExc_TypeError, "losses: expected pairs (kind, weight)");
            status = -1;
        } else if (!PyArg_ParseTuple(pair, "Lf:losses", &kind, &weight)) {
            status = -1;
        } else {
            c->term[i] = (rc_loss_term){kind, weight};
        }
    }
    c->terms = (int)n;
    Py_DECREF(list);
    return status;
}

static int open_trainer(rc_py_trainer *self, rc_py_model *model, PyArrayObject *rate,
                        PyArrayObject *decay, rc_trainer_config *config, int threads)
{
    if (rc_py_model_ready(model) < 0 || set_rates(&config->rate, rate, "rates", model->model) < 0 ||
        set_rates(&config->decay, decay, "decays", model->model) < 0)
        return -1;
    rc_status status = rc_trainer_new(&self->trainer, model->model, config, threads);
    if (status != RC_OK) return rc_py_raise((PyObject *)self, status);
    self->model = (rc_py_model *)Py_NewRef(model);
    return 0;
}

static PyObject *trainer_new(PyTypeObject *type, PyObject *args, PyObject *kw)
{
    static char *names[] = {"model",   "threads",           "rates", "decays",        "losses",
                            "teacher", "teacher_log_scale", "dtype", "checkpointing", NULL};
    int threads, checkpointing = 0;
    long long teacher = 0;
    rc_trainer_config config = {0};
    rc_py_model *model;
    PyObject *losses = NULL;
    PyArrayObject *rate = NULL, *decay = NULL;
    rc_py_trainer *self = (rc_py_trainer *)type->tp_alloc(type, 0);
    if (self == NULL) return NULL;
    rc_state *state = rc_py_state((PyObject *)self);
    bool parsed = PyArg_ParseTupleAndKeywords(
        args, kw, "O!i|O&O&OLfO&p:Trainer", names, state->model_type, &model, &threads,
        rc_py_f32_or_none, &rate, rc_py_f32_or_none, &decay, &losses, &teacher,
        &config.teacher_log_scale, rc_py_type, &config.type, &checkpointing);
    config.checkpointing = checkpointing;
    config.teacher = teacher;
    if (!parsed || set_losses(&config, losses) < 0 ||
        open_trainer(self, model, rate, decay, &config, threads) < 0)
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
    {"step", (PyCFunction)(void (*)(void))rc_py_trainer_step, METH_VARARGS | METH_KEYWORDS,
     "step(mel, text, seed, step, lr=, ...): one step of AdamW, or of Adam (coupled=True); loss, "
     "grad_norm, logit_scale before "
     "it."},
    {"gradients", (PyCFunction)(void (*)(void))rc_py_trainer_gradients,
     METH_VARARGS | METH_KEYWORDS,
     "gradients(mel, text, seed, step): loss and gradients without an update."},
    {"moments", (PyCFunction)(void (*)(void))rc_py_trainer_moments, METH_VARARGS | METH_KEYWORDS,
     "moments(mel, longer=None, first=False): add clips to what is known of their batch, whose "
     "statistics embed and backward then use, until the update; or begin with them."},
    {"embed", (PyCFunction)(void (*)(void))rc_py_trainer_embed, METH_VARARGS | METH_KEYWORDS,
     "embed(mel, text, seed, step, clip=0, longer=None, caption=clip): embeddings of audio and "
     "text in train mode; clip of "
     "the batch come before, so that draws are those of the whole batch."},
    {"loss", (PyCFunction)(void (*)(void))rc_py_trainer_loss, METH_VARARGS | METH_KEYWORDS,
     "loss(audio, text, owner=None, role=None, teacher=None, factor=1, more=False): loss, and its "
     "gradients to the embeddings times factor; the gradients of a step begin, or with more go "
     "on."},
    {"measure", (PyCFunction)(void (*)(void))rc_py_trainer_measure, METH_VARARGS | METH_KEYWORDS,
     "measure(clips, frames, texts, tokens, longest, na, nt): bytes of scratch that a call needs, "
     "and of values, gradients and moments."},
    {"backward", (PyCFunction)(void (*)(void))rc_py_trainer_backward, METH_VARARGS | METH_KEYWORDS,
     "backward(daudio, dtext, mel, text, seed, step, clip=0): embed, and add to the gradients."},
    {"update", (PyCFunction)(void (*)(void))rc_py_trainer_update, METH_VARARGS | METH_KEYWORDS,
     "update(step, lr=, ...): clipping, AdamW, running statistics; grad_norm, logit_scale."},
    {"refresh", rc_py_trainer_refresh, METH_NOARGS,
     "refresh(): to be called after values were written into their views."},
    {"buffers", trainer_buffers, METH_O,
     "Views of the values (0), gradients (1), first (2) and second (3) moments, by parameter; None "
     "of frozen ones."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot trainer_slots[] = {
    {Py_tp_doc,
     "Trainer(model, threads, rates=None, decays=None, ..., dtype='float32'): owns values, "
     "gradients, moments and activations. rates, decays: by parameter, factors of the "
     "learning rate (0: frozen) and of the weight decay. dtype: of the factors of "
     "products in the towers, float32 or bfloat16. Texts are features, or (ids, first) "
     "for a model with a text tower."},
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
