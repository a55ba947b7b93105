/* What the calls of a Trainer are given: clips, texts, targets. */
#include "python/py_train.h"

void rc_py_free_pairs(rc_py_pairs *a)
{
    PyArrayObject *arrays[] = {a->mel, a->longer, a->features, a->id, a->first};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) Py_XDECREF(arrays[i]);
}

/* Clips and, where the tower has several log-mels of one, which of them are longer. */
int rc_py_set_clips(PyObject *object, rc_input *in, const rc_py_pairs *a)
{
    const rc_tower_shape *shape = &((rc_py_trainer *)object)->model->model->audio.shape;
    if (rc_py_log_mels(a->mel, shape) < 0) return -1;
    in->b = rc_py_size(a->mel, 0);
    in->frames = rc_py_size(a->mel, PyArray_NDIM(a->mel) - 2);
    in->x = rc_py_data(a->mel);
    if (a->longer == NULL) return 0;
    in->longer = PyArray_DATA(a->longer);
    return rc_py_shape(a->longer, "longer", 1, &in->b);
}

/* A model with a text tower takes (ids, first), as Model.text does, one without features; of n
 * texts or, where n is negative, of any number. */
static int set_texts(rc_pairs *pairs, rc_py_pairs *a, PyObject *text, const rc_clap *m, int64_t n)
{
    if (m->text.kind == NULL) {
        int64_t shape[2] = {n, m->config.text_width};
        if (!rc_py_f32(text, &a->features) || rc_py_shape(a->features, "text", 2, shape) < 0)
            return -1;
        pairs->features = rc_py_data(a->features);
        pairs->text.b = rc_py_size(a->features, 0);
        return 0;
    }
    if (!PyTuple_Check(text)) {
        PyErr_Format(PyExc_TypeError, "text: expected (ids, first), got %.100s",
                     Py_TYPE(text)->tp_name);
        return -1;
    }
    if (!PyArg_ParseTuple(text, "O&O&:text", rc_py_i32, &a->id, rc_py_i32, &a->first)) return -1;
    int64_t ends = n < 0 ? -1 : n + 1;
    if (rc_py_check_first(a->id, a->first) < 0 || rc_py_shape(a->first, "first", 1, &ends) < 0)
        return -1;
    pairs->text.b = rc_py_size(a->first, 0) - 1;
    pairs->text.id = PyArray_DATA(a->id);
    pairs->text.first = PyArray_DATA(a->first);
    return 0;
}

/* With `owned` texts say which clips they belong to, else text i belongs to clip i. */
int rc_py_set_pairs(PyObject *object, rc_pairs *pairs, rc_py_pairs *a, PyObject *text, bool owned,
                    long long clip, long long caption)
{
    const rc_clap *m = ((rc_py_trainer *)object)->model->model;
    *pairs = (rc_pairs){.clip = clip, .caption = caption};
    if (rc_py_set_clips(object, &pairs->audio, a) < 0) return -1;
    return set_texts(pairs, a, text, m, owned ? -1 : pairs->audio.b);
}

void rc_py_free_targets(rc_py_targets *a)
{
    Py_XDECREF(a->owner);
    Py_XDECREF(a->role);
    Py_XDECREF(a->audio);
    Py_XDECREF(a->text);
}

/* Embeddings of a teacher: a pair of arrays, or None; an empty pair: losses go without. */
int rc_py_set_teacher(rc_py_targets *a, PyObject *teacher)
{
    if (teacher == NULL || teacher == Py_None) return 0;
    if (!PyTuple_Check(teacher)) {
        PyErr_SetString(PyExc_TypeError, "teacher: expected a pair of arrays (audio, text)");
        return -1;
    }
    a->without_teacher = PyTuple_GET_SIZE(teacher) == 0;
    if (a->without_teacher) return 0;
    return PyArg_ParseTuple(teacher, "O&O&:teacher", rc_py_f32, &a->audio, rc_py_f32, &a->text)
               ? 0
               : -1;
}

int rc_py_set_targets(PyObject *object, rc_targets *targets, const rc_py_targets *a, int64_t na,
                      int64_t nt)
{
    int64_t width = rc_trainer_teacher(((rc_py_trainer *)object)->trainer);
    int64_t audio[2] = {na, width}, text[2] = {nt, width};
    if ((a->owner != NULL && rc_py_shape(a->owner, "owner", 1, &nt) < 0) ||
        (a->role != NULL && rc_py_shape(a->role, "role", 1, &nt) < 0) ||
        (a->audio != NULL && rc_py_shape(a->audio, "teacher audio", 2, audio) < 0) ||
        (a->text != NULL && rc_py_shape(a->text, "teacher text", 2, text) < 0))
        return -1;
    *targets = (rc_targets){.owner = a->owner == NULL ? NULL : PyArray_DATA(a->owner),
                            .role = a->role == NULL ? NULL : PyArray_DATA(a->role),
                            .teacher_audio = rc_py_data(a->audio),
                            .teacher_text = rc_py_data(a->text),
                            .without_teacher = a->without_teacher};
    return 0;
}
