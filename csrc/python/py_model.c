/* The type Model. */
#include "python/py_model.h"

static PyObject *model_new(PyTypeObject *type, PyObject *args, PyObject *kw)
{
    static char *names[] = {"audio",     "text", "text_width", "audio_head",
                            "text_head", "dim",  "logit_bias", NULL};
    PyObject *audio, *text;
    int audio_head, text_head, logit_bias = 0;
    long long text_width, dim;
    rc_clap_config c = {0};
    if (!PyArg_ParseTupleAndKeywords(args, kw, "OOLiiL|p:Model", names, &audio, &text, &text_width,
                                     &audio_head, &text_head, &dim, &logit_bias))
        return NULL;
    c.text_width = text_width;
    c.audio_head = (rc_head_kind)audio_head;
    c.text_head = (rc_head_kind)text_head;
    c.dim = dim;
    c.logit_bias = logit_bias;
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

static PyMethodDef model_methods[] = {
    {"parameters", rc_py_model_parameters, METH_NOARGS,
     "List of (name, shape, kind) in order; kind 0 weight, 1 bias, 2 statistic."},
    {"bind", (PyCFunction)(void (*)(void))rc_py_model_bind, METH_VARARGS | METH_KEYWORDS,
     "bind(arrays, *, pack=False, dtype='float32'): point the parameters at float32 arrays, in "
     "order; kept alive, but for linear weights that are packed on the way."},
    {"pack", (PyCFunction)(void (*)(void))rc_py_model_pack, METH_VARARGS | METH_KEYWORDS,
     "pack(dtype='float32'): lay out linear weights for inference, let their arrays go."},
    {"read", rc_py_model_read, METH_O, "Copy of the parameter at a place of parameters()."},
    {"linear", rc_py_model_linear, METH_NOARGS,
     "Places in parameters() of the weights of linear layers."},
    {"adapt", rc_py_model_adapt, METH_VARARGS,
     "adapt(place, rank, alpha): give the linear weight at a place of parameters() a low-rank "
     "adapter, before bind; its two parameters come last."},
    {"audio", (PyCFunction)(void (*)(void))rc_py_model_audio, METH_VARARGS | METH_KEYWORDS,
     "audio(context, mel, features=False, longer=None): (b, frames, mels) dB to (b, dim) unit "
     "rows; with fusion (b, 4, frames, mels) and for each clip whether its local log-mels count."},
    {"tokens", rc_py_model_tokens, METH_VARARGS,
     "tokens(context, mel): features of each clip's tokens, (b, tokens, width), of a tower that "
     "has "
     "them."},
    {"text", (PyCFunction)(void (*)(void))rc_py_model_text, METH_VARARGS | METH_KEYWORDS,
     "text(context, ids, first, features=False): packed sequences to (n, dim) unit rows."},
    {"text_head", (PyCFunction)(void (*)(void))rc_py_model_text_head, METH_VARARGS | METH_KEYWORDS,
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
