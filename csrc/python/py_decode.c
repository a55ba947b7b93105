/* Decoding for Python: types SndFile and Reader. */
#include "python/py.h"

#include "audio/decode.h"

/* ---- SndFile --------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD rc_sndfile *lib;
} sndfile_object;

static PyObject *sndfile_new(PyTypeObject *type, PyObject *args, PyObject *kw)
{
    static char *names[] = {"path", NULL};
    PyObject *path = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kw, "O&:SndFile", names, PyUnicode_FSConverter, &path))
        return NULL;
    sndfile_object *self = (sndfile_object *)type->tp_alloc(type, 0);
    rc_status st = RC_OK;
    if (self != NULL) st = rc_sndfile_new(&self->lib, PyBytes_AS_STRING(path));
    Py_DECREF(path);
    if (st != RC_OK) {
        rc_py_raise((PyObject *)self, st);
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

static void sndfile_dealloc(PyObject *self)
{
    rc_sndfile_free(((sndfile_object *)self)->lib);
    rc_py_free_instance(self);
}

static PyObject *reader_make(PyObject *self, Py_buffer *bytes, int fd, int64_t size);

static PyObject *sndfile_open(PyObject *self, PyObject *data)
{
    Py_buffer bytes;
    if (PyObject_GetBuffer(data, &bytes, PyBUF_SIMPLE) < 0) return NULL;
    PyObject *reader = reader_make(self, &bytes, -1, (int64_t)bytes.len);
    if (reader == NULL) PyBuffer_Release(&bytes);
    return reader;
}

static PyObject *sndfile_open_file(PyObject *self, PyObject *args)
{
    int fd;
    long long size;
    if (!PyArg_ParseTuple(args, "iL:open_file", &fd, &size)) return NULL;
    return reader_make(self, NULL, fd, size);
}

PyDoc_STRVAR(sndfile_doc, "SndFile(path)\n--\n\n"
                          "libsndfile, loaded from `path` at run time.");
PyDoc_STRVAR(open_doc, "open($self, data, /)\n--\n\n"
                       "A Reader of a sound file held in memory.");
PyDoc_STRVAR(open_file_doc, "open_file($self, fd, size, /)\n--\n\n"
                            "A Reader of the first `size` bytes of an open regular file.");

static PyMethodDef sndfile_methods[] = {
    {"open", sndfile_open, METH_O, open_doc},
    {"open_file", sndfile_open_file, METH_VARARGS, open_file_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot sndfile_slots[] = {
    {Py_tp_doc, (void *)sndfile_doc},
    {Py_tp_new, sndfile_new},
    {Py_tp_dealloc, sndfile_dealloc},
    {Py_tp_methods, sndfile_methods},
    {0, NULL},
};

PyType_Spec rc_py_sndfile_spec = {
    .name = "reclap._core.SndFile",
    .basicsize = sizeof(sndfile_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = sndfile_slots,
};

/* ---- Reader ---------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD rc_reader *reader;
    PyObject *lib;   /* the SndFile, which must outlive the reader */
    Py_buffer bytes; /* of an object in memory; bytes.obj is NULL for a file */
    bool busy;       /* guarded by the interpreter lock */
} reader_object;

typedef struct {
    const rc_sndfile *lib;
    rc_bytes from;
    rc_reader *reader;
} open_job;

static rc_status open_work(void *job)
{
    open_job *j = job;
    return rc_reader_new(&j->reader, j->lib, j->from);
}

/* Takes over `bytes` (NULL for a file) when it succeeds. */
static PyObject *reader_make(PyObject *self, Py_buffer *bytes, int fd, int64_t size)
{
    open_job job = {.lib = ((sndfile_object *)self)->lib};
    job.from = (rc_bytes){bytes == NULL ? NULL : bytes->buf, fd, size};
    PyTypeObject *type = (PyTypeObject *)rc_py_state(self)->reader_type;
    reader_object *made = (reader_object *)type->tp_alloc(type, 0);
    if (made == NULL) return NULL;
    if (rc_py_run(self, open_work, &job) < 0) {
        Py_DECREF(made);
        return NULL;
    }
    made->reader = job.reader;
    made->lib = Py_NewRef(self);
    if (bytes != NULL) made->bytes = *bytes;
    return (PyObject *)made;
}

static void reader_dealloc(PyObject *object)
{
    reader_object *self = (reader_object *)object;
    rc_reader_free(self->reader);
    if (self->bytes.obj != NULL) PyBuffer_Release(&self->bytes);
    Py_XDECREF(self->lib);
    rc_py_free_instance(object);
}

typedef struct {
    rc_reader *reader;
    int64_t frames;
    rc_audio audio;
} read_job;

static rc_status read_work(void *job)
{
    read_job *j = job;
    return rc_reader_read(&j->audio, j->reader, j->frames);
}

static PyObject *reader_read(PyObject *object, PyObject *args)
{
    reader_object *self = (reader_object *)object;
    long long frames = -1;
    if (!PyArg_ParseTuple(args, "|L:read", &frames)) return NULL;
    if (self->busy) {
        PyErr_SetString(PyExc_RuntimeError, "this reader serves another thread");
        return NULL;
    }
    read_job job = {.reader = self->reader, .frames = frames};
    self->busy = true;
    int failed = rc_py_run(object, read_work, &job);
    self->busy = false;
    if (failed) return NULL;
    int64_t shape[] = {job.audio.frames, job.audio.channels};
    return (PyObject *)rc_py_adopt(job.audio.x, 2, shape);
}

static PyObject *reader_rate(PyObject *object, void *Py_UNUSED(closure))
{
    return PyLong_FromLong(rc_reader_rate(((reader_object *)object)->reader));
}

static PyObject *reader_channels(PyObject *object, void *Py_UNUSED(closure))
{
    return PyLong_FromLongLong(rc_reader_channels(((reader_object *)object)->reader));
}

PyDoc_STRVAR(reader_doc, "Decodes one sound file from beginning to end; made by SndFile.");
PyDoc_STRVAR(read_doc,
             "read($self, frames=-1, /)\n--\n\n"
             "The next frames, fewer at the end and none after it, or all that are left.\n"
             "\nReturns float32 samples of shape (frames, channels).");

static PyMethodDef reader_methods[] = {
    {"read", reader_read, METH_VARARGS, read_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef reader_get_methods[] = {
    {"rate", reader_rate, NULL, "Samples per second.", NULL},
    {"channels", reader_channels, NULL, "Channels of a frame.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot reader_slots[] = {
    {Py_tp_doc, (void *)reader_doc},
    {Py_tp_dealloc, reader_dealloc},
    {Py_tp_methods, reader_methods},
    {Py_tp_getset, reader_get_methods},
    {0, NULL},
};

PyType_Spec rc_py_reader_spec = {
    .name = "reclap._core.Reader",
    .basicsize = sizeof(reader_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = reader_slots,
};
