/* The type Trainer. */
#include "python/py_model.h"

#include "train/trainer.h"

typedef struct {
    PyObject_HEAD rc_trainer *trainer;
    rc_py_model *model;
} rc_py_trainer;

static PyObject *trainer_new(PyTypeObject *type, PyObject *args, PyObject *kw)
{
    static char *names[] = {"model", "threads", NULL};
    int threads;
    rc_py_model *model;
    rc_py_trainer *self = (rc_py_trainer *)type->tp_alloc(type, 0);
    if (self == NULL) return NULL;
    rc_state *state = rc_py_state((PyObject *)self);
    rc_status status = RC_OK;
    if (!PyArg_ParseTupleAndKeywords(args, kw, "O!i:Trainer", names, state->model_type, &model,
                                     &threads) ||
        rc_py_model_ready(model) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    status = rc_trainer_new(&self->trainer, model->model, threads);
    if (status != RC_OK) {
        rc_py_raise((PyObject *)self, status);
        Py_DECREF(self);
        return NULL;
    }
    self->model = (rc_py_model *)Py_NewRef(model);
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
    const float *mel, *text;
    int64_t b, frames;
} step_job;

static rc_status step_work(void *arg)
{
    step_job *j = arg;
    return rc_trainer_step(j->trainer, &j->result, j->mel, j->text, j->b, j->frames, &j->how);
}

static rc_status gradients_work(void *arg)
{
    step_job *j = arg;
    return rc_trainer_gradients(j->trainer, &j->result, j->mel, j->text, j->b, j->frames, &j->how);
}

static PyObject *run_step(PyObject *object, PyObject *args, PyObject *kw, rc_work *work)
{
    static char *names[] = {"mel",   "text", "seed",         "step", "lr", "beta1",
                            "beta2", "eps",  "weight_decay", "clip", NULL};
    rc_py_trainer *self = (rc_py_trainer *)object;
    step_job job = {.trainer = self->trainer};
    rc_step *h = &job.how;
    PyArrayObject *mel = NULL, *text = NULL;
    PyObject *result = NULL;
    *h = (rc_step){.lr = 1e-3, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8};
    if (!PyArg_ParseTupleAndKeywords(args, kw, "O&O&O&O&|dddddd:step", names, rc_py_f32, &mel,
                                     rc_py_f32, &text, rc_py_u64, &h->seed, rc_py_u64, &h->step,
                                     &h->lr, &h->beta1, &h->beta2, &h->eps, &h->weight_decay,
                                     &h->clip))
        goto done;
    const rc_clap *m = self->model->model;
    int64_t mel_shape[3] = {-1, -1, m->audio.shape.mels};
    if (rc_py_shape(mel, "mel", 3, mel_shape) < 0) goto done;
    int64_t text_shape[2] = {job.b = rc_py_size(mel, 0), m->config.text_width};
    if (rc_py_shape(text, "text", 2, text_shape) < 0) goto done;
    job.frames = rc_py_size(mel, 1);
    job.mel = rc_py_data(mel);
    job.text = rc_py_data(text);
    if (rc_py_run(object, work, &job) == 0)
        result = Py_BuildValue("{sdsdsd}", "loss", job.result.loss, "grad_norm",
                               job.result.grad_norm, "logit_scale", job.result.logit_scale);
done:
    Py_XDECREF(mel);
    Py_XDECREF(text);
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

/* One of the four flat buffers, cut into arrays of the parameters' shapes that keep the trainer
 * alive. */
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
        float *x =
            rc_trainer_buffer(self->trainer, (int)which) + rc_trainer_offset(self->trainer, i);
        PyObject *view = rc_py_view(x, p->item[i].rank, dims, object);
        if (view == NULL || PyList_Append(list, view) < 0) Py_CLEAR(list);
        Py_XDECREF(view);
    }
    return list;
}

static PyMethodDef trainer_methods[] = {
    {"step", (PyCFunction)(void (*)(void))trainer_step, METH_VARARGS | METH_KEYWORDS,
     "step(mel, text, seed, step, lr=, ...): one AdamW step; loss, grad_norm, logit_scale before "
     "it."},
    {"gradients", (PyCFunction)(void (*)(void))trainer_gradients, METH_VARARGS | METH_KEYWORDS,
     "gradients(mel, text, seed, step): loss and gradients without an update."},
    {"buffers", trainer_buffers, METH_O,
     "Views of the values (0), gradients (1), first (2) and second (3) moments, by parameter."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot trainer_slots[] = {
    {Py_tp_doc, "Trainer(model, threads): owns values, gradients, moments and activations."},
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
