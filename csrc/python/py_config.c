/* Configurations of towers from dictionaries, by the settings that a tower's row names. */
#include "python/py_model.h"

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

int rc_py_tower_config(PyObject *d, const char *name, const rc_tower_kind *(*find)(int64_t),
                       const rc_tower_kind **kind, void **config)
{
    int64_t number;
    *config = NULL;
    if (d == Py_None) return 0;
    if (get_int(d, "kind", &number) < 0) return -1;
    *kind = find(number);
    if (*kind == NULL) {
        PyErr_Format(PyExc_ValueError, "configuration: unknown kind %lld of %s tower",
                     (long long)number, name);
        return -1;
    }
    *config = PyMem_Calloc(1, (*kind)->config_size);
    if (*config == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (const rc_setting *s = (*kind)->settings; s->name != NULL; s++)
        if (get_setting(d, s, *config) < 0) return -1;
    return 0;
}
