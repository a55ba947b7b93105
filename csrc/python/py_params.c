/* The parameters of a Model: their table, the arrays that hold them, packing. */
#include "python/py_model.h"

int rc_py_model_ready(rc_py_model *self)
{
    if (self->bound != NULL) return 0;
    PyErr_SetString(PyExc_RuntimeError, "this model has no parameters bound");
    return -1;
}

PyObject *rc_py_model_parameters(PyObject *object, PyObject *Py_UNUSED(none))
{
    const rc_params *p = &((rc_py_model *)object)->model->params;
    PyObject *list = PyList_New(0);
    for (int64_t i = 0; list != NULL && i < p->count; i++) {
        const rc_param *item = &p->item[i];
        PyObject *shape = PyTuple_New(item->rank);
        for (int k = 0; shape != NULL && k < item->rank; k++)
            PyTuple_SET_ITEM(shape, k, PyLong_FromLongLong(item->size[k]));
        PyObject *row =
            shape == NULL ? NULL : Py_BuildValue("(sNi)", item->name, shape, item->kind);
        if (row == NULL || PyList_Append(list, row) < 0) Py_CLEAR(list);
        Py_XDECREF(row);
    }
    return list;
}

typedef struct {
    rc_clap *model;
    float *out;
    int64_t from, to;
    rc_type type;
} params_job;

/* Of a model that is claimed. */
static rc_status pack_work(void *arg)
{
    const params_job *j = arg;
    return rc_clap_pack(j->model, j->from, j->to, j->type);
}

static rc_status read_work(void *arg)
{
    const params_job *j = arg;
    return rc_clap_read(j->out, j->model, j->from);
}

/* Lay out the linear weights among parameters from..to-1 and let go of their arrays. */
static int pack_some(rc_py_model *self, PyObject *bound, int64_t from, int64_t to, rc_type type)
{
    params_job job = {.model = self->model, .from = from, .to = to, .type = type};
    if (rc_py_run((PyObject *)self, pack_work, &job) < 0) return -1;
    for (int64_t i = from; i < to; i++)
        if (self->model->params.item[i].packed != NULL &&
            PyList_SetItem(bound, i, Py_NewRef(Py_None)) < 0)
            return -1;
    return 0;
}

typedef struct {
    const rc_param *item;
    const float *x;
} check_job;

static rc_status check_work(void *arg)
{
    const check_job *j = arg;
    return rc_param_check(j->item, j->x);
}

/* Point the next parameter at an array, which `bound` takes. */
static int bind_one(PyObject *self, rc_params *p, PyObject *bound, PyObject *object)
{
    int64_t i = PyList_GET_SIZE(bound);
    if (i == p->count) {
        PyErr_Format(PyExc_ValueError, "bind: expected %lld arrays, got more", (long long)i);
        return -1;
    }
    rc_param *item = &p->item[i];
    PyArrayObject *array = (PyArrayObject *)object;
    if (!PyArray_Check(object) || PyArray_TYPE(array) != NPY_FLOAT32 ||
        !PyArray_IS_C_CONTIGUOUS(array) || !PyArray_ISALIGNED(array)) {
        PyErr_Format(PyExc_TypeError, "bind: %s: expected contiguous float32", item->name);
        return -1;
    }
    if (rc_py_shape(array, item->name, item->rank, item->size) < 0) return -1;
    check_job check = {item, PyArray_DATA(array)};
    if (rc_py_run(self, check_work, &check) < 0) return -1;
    item->x = PyArray_DATA(array);
    rc_params_moved(p);
    return PyList_Append(bound, object);
}

/* Bind, and pack where asked, one array after the other, so that `arrays` may make each when it is
 * asked for it. */
static int bind_all(rc_py_model *self, PyObject *bound, PyObject *arrays, int pack, rc_type type)
{
    rc_params *p = &self->model->params;
    PyObject *iterator = PyObject_GetIter(arrays), *array;
    if (iterator == NULL) return -1;
    while ((array = PyIter_Next(iterator)) != NULL) {
        int status = bind_one((PyObject *)self, p, bound, array);
        Py_DECREF(array);
        int64_t n = PyList_GET_SIZE(bound);
        if (status == 0 && pack) status = pack_some(self, bound, n - 1, n, type);
        if (status < 0) break;
    }
    Py_DECREF(iterator);
    if (!PyErr_Occurred() && PyList_GET_SIZE(bound) < p->count)
        PyErr_Format(PyExc_ValueError, "bind: expected %lld arrays, got %zd", (long long)p->count,
                     PyList_GET_SIZE(bound));
    return PyErr_Occurred() ? -1 : 0;
}

static void unbind(rc_params *p)
{
    for (int64_t i = 0; i < p->count; i++) {
        rc_param_unpack(&p->item[i]);
        p->item[i].x = NULL;
    }
    rc_params_moved(p);
}

/* -1 with an exception; what is bound and packed then goes. */
static int bind_claimed(rc_py_model *self, PyObject *arrays, int pack, rc_type type)
{
    if (self->bound != NULL) {
        PyErr_SetString(PyExc_ValueError, "bind: this model has its parameters already");
        return -1;
    }
    PyObject *bound = PyList_New(0);
    if (bound == NULL) return -1;
    if (bind_all(self, bound, arrays, pack, type) < 0) {
        unbind(&self->model->params);
        Py_DECREF(bound);
        return -1;
    }
    self->bound = bound;
    return 0;
}

/* `arrays` may be a generator, which may do anything meanwhile: to this model, only be refused. */
PyObject *rc_py_model_bind(PyObject *object, PyObject *args, PyObject *kw)
{
    static char *names[] = {"arrays", "pack", "dtype", NULL};
    rc_py_model *self = (rc_py_model *)object;
    PyObject *arrays;
    int pack = 0;
    rc_type type = RC_F32;
    if (!PyArg_ParseTupleAndKeywords(args, kw, "O|$pO&:bind", names, &arrays, &pack, rc_py_type,
                                     &type))
        return NULL;
    rc_status status = rc_clap_claim(self->model, "bind");
    if (status != RC_OK) {
        rc_py_raise(object, status);
        return NULL;
    }
    int failed = bind_claimed(self, arrays, pack, type);
    rc_clap_release(self->model);
    if (failed) return NULL;
    Py_RETURN_NONE;
}

PyObject *rc_py_model_pack(PyObject *object, PyObject *args, PyObject *kw)
{
    static char *names[] = {"dtype", NULL};
    rc_py_model *self = (rc_py_model *)object;
    rc_type type = RC_F32;
    if (!PyArg_ParseTupleAndKeywords(args, kw, "|O&:pack", names, rc_py_type, &type) ||
        rc_py_model_ready(self) < 0)
        return NULL;
    rc_status status = rc_clap_claim(self->model, "pack");
    if (status != RC_OK) {
        rc_py_raise(object, status);
        return NULL;
    }
    int failed = pack_some(self, self->bound, 0, self->model->params.count, type);
    rc_clap_release(self->model);
    if (failed) return NULL;
    Py_RETURN_NONE;
}

PyObject *rc_py_model_linear(PyObject *object, PyObject *Py_UNUSED(none))
{
    const rc_params *p = &((rc_py_model *)object)->model->params;
    PyObject *list = PyList_New(0);
    for (int64_t i = 0; list != NULL && i < p->count; i++) {
        if (!rc_param_is_linear(&p->item[i])) continue;
        PyObject *place = PyLong_FromLongLong(i);
        if (place == NULL || PyList_Append(list, place) < 0) Py_CLEAR(list);
        Py_XDECREF(place);
    }
    return list;
}

PyObject *rc_py_model_adapt(PyObject *object, PyObject *args)
{
    rc_clap *m = ((rc_py_model *)object)->model;
    long long place, rank;
    double alpha;
    if (!PyArg_ParseTuple(args, "LLd:adapt", &place, &rank, &alpha)) return NULL;
    rc_status status = rc_clap_claim(m, "adapt");
    if (status == RC_OK) {
        status = rc_clap_adapt(m, place, rank, alpha);
        rc_clap_release(m);
    }
    if (status != RC_OK) {
        rc_py_raise(object, status);
        return NULL;
    }
    Py_RETURN_NONE;
}

PyObject *rc_py_model_read(PyObject *object, PyObject *arg)
{
    rc_py_model *self = (rc_py_model *)object;
    const rc_params *p = &self->model->params;
    params_job job = {.model = self->model, .from = PyLong_AsLongLong(arg)};
    if (PyErr_Occurred() || rc_py_model_ready(self) < 0) return NULL;
    if (job.from < 0 || job.from >= p->count) {
        PyErr_Format(PyExc_IndexError, "read: expected 0 to %lld, got %lld",
                     (long long)p->count - 1, (long long)job.from);
        return NULL;
    }
    PyArrayObject *out = rc_py_new(p->item[job.from].rank, p->item[job.from].size, NPY_FLOAT32);
    if (out == NULL) return NULL;
    job.out = rc_py_data(out);
    if (rc_py_run(object, read_work, &job) < 0) Py_CLEAR(out);
    return (PyObject *)out;
}
