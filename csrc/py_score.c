/* Class vectors, scores, and the rules that combine prompts. */
#include "py_model.h"

#include <math.h>

/* first must rise strictly from 0 to the number of prompts: every label has some. */
static int check_groups(PyArrayObject *first, int64_t prompts)
{
    if (rc_py_rank(first, 1, "first") < 0) return -1;
    const int32_t *f = PyArray_DATA(first);
    int64_t n = rc_py_size(first, 0);
    bool good = n >= 2 && f[0] == 0 && f[n - 1] == prompts;
    for (int64_t i = 1; good && i < n; i++) good = f[i] > f[i - 1];
    if (!good)
        PyErr_SetString(PyExc_ValueError, "first: must rise strictly from 0 to the number of rows");
    return good ? 0 : -1;
}

static int check_columns(PyArrayObject *x)
{
    if (rc_py_size(x, 1) > 0) return 0;
    PyErr_SetString(PyExc_ValueError, "x: the embeddings have no columns");
    return -1;
}

static int check_k(int64_t k, int64_t labels)
{
    if (k >= 1 && k <= labels) return 0;
    PyErr_Format(PyExc_ValueError, "top_k: expected 1 to %lld, got %lld", (long long)labels,
                 (long long)k);
    return -1;
}

static PyObject *class_vectors(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyArrayObject *x = NULL, *first = NULL, *y = NULL;
    if (!PyArg_ParseTuple(args, "O&O&:class_vectors", rc_py_f32, &x, rc_py_i32, &first)) goto done;
    if (rc_py_rank(x, 2, "prompts") < 0 || check_groups(first, rc_py_size(x, 0)) < 0) goto done;
    int64_t shape[2] = {rc_py_size(first, 0) - 1, rc_py_size(x, 1)};
    if ((y = rc_py_new(2, shape, NPY_FLOAT32)) != NULL)
        rc_class_vectors(rc_py_data(y), rc_py_data(x), PyArray_DATA(first), shape[0], shape[1]);
done:
    Py_XDECREF(x);
    Py_XDECREF(first);
    return (PyObject *)y;
}

typedef struct {
    rc_context *context;
    const float *x, *classes;
    float *score, *best;
    int32_t *index;
    int64_t n, labels, c, k;
} score_job;

static rc_status score_work(void *arg)
{
    score_job *j = arg;
    RC_TRY(rc_context_enter(j->context));
    rc_status status = j->n == 0 ? RC_OK
                                 : rc_scores_topk(j->context, j->score, j->index, j->best, j->x,
                                                  j->classes, j->n, j->labels, j->c, j->k);
    rc_context_leave(j->context);
    return status;
}

static PyObject *scores(PyObject *module, PyObject *args, PyObject *kw)
{
    static char *names[] = {"context", "x", "classes", "k", "all", NULL};
    rc_py_context *context;
    PyArrayObject *x = NULL, *classes = NULL, *all = NULL, *best = NULL, *index = NULL;
    PyObject *result = NULL;
    long long k;
    int want_all = 1;
    if (!PyArg_ParseTupleAndKeywords(args, kw, "O!O&O&L|p:scores", names,
                                     rc_py_state(module)->context_type, &context, rc_py_f32, &x,
                                     rc_py_f32, &classes, &k, &want_all))
        goto done;
    if (rc_py_rank(x, 2, "x") < 0) goto done;
    int64_t shape[2] = {-1, rc_py_size(x, 1)};
    if (rc_py_shape(classes, "classes", 2, shape) < 0) goto done;
    int64_t n = rc_py_size(x, 0), labels = rc_py_size(classes, 0);
    if (check_columns(x) < 0 || check_k(k, labels) < 0) goto done;
    int64_t all_shape[2] = {n, labels}, top_shape[2] = {n, k};
    if (want_all && (all = rc_py_new(2, all_shape, NPY_FLOAT32)) == NULL) goto done;
    best = rc_py_new(2, top_shape, NPY_FLOAT32);
    index = rc_py_new(2, top_shape, NPY_INT32);
    if (best == NULL || index == NULL) goto done;
    score_job job = {context->context,
                     rc_py_data(x),
                     rc_py_data(classes),
                     rc_py_data(all),
                     rc_py_data(best),
                     PyArray_DATA(index),
                     n,
                     labels,
                     shape[1],
                     k};
    if (rc_py_run(module, score_work, &job) == 0)
        result = PyTuple_Pack(3, all == NULL ? Py_None : (PyObject *)all, best, index);
done:
    Py_XDECREF(x);
    Py_XDECREF(classes);
    Py_XDECREF(all);
    Py_XDECREF(best);
    Py_XDECREF(index);
    return result;
}

/* ---- Combining ------------------------------------------------------------------------------- */

typedef struct {
    rc_context *context;
    rc_combination c;
} combine_job;

static rc_status combine_work(void *arg)
{
    combine_job *j = arg;
    RC_TRY(rc_context_enter(j->context));
    rc_status status = j->c.n == 0 ? RC_OK : rc_combine(j->context, &j->c);
    rc_context_leave(j->context);
    return status;
}

/* Take sizes from the arrays; -1 with ValueError where they do not fit each other. */
static int check_combination(rc_combination *c, PyArrayObject *x, PyArrayObject *prompts,
                             PyArrayObject *first)
{
    if (rc_py_rank(x, 2, "x") < 0 || check_columns(x) < 0) return -1;
    int64_t shape[2] = {-1, c->width = rc_py_size(x, 1)};
    if (rc_py_shape(prompts, "prompts", 2, shape) < 0) return -1;
    c->n = rc_py_size(x, 0);
    c->prompts = rc_py_size(prompts, 0);
    if (check_groups(first, c->prompts) < 0) return -1;
    c->labels = rc_py_size(first, 0) - 1;
    if (check_k(c->k, c->labels) < 0) return -1;
    if ((unsigned)c->rule < RC_RULES && c->scale > 0 && c->scale < HUGE_VAL) return 0;
    PyErr_Format(PyExc_ValueError, "combine: no rule %d, or scale not above 0 and finite",
                 (int)c->rule);
    return -1;
}

/* score, best, index, cosine, weight; the last two NULL unless wanted. */
static int new_results(PyArrayObject **out, rc_combination *c, bool explain)
{
    int64_t all[2] = {c->n, c->labels}, top[2] = {c->n, c->k}, each[2] = {c->n, c->prompts};
    if ((out[0] = rc_py_new(2, all, NPY_FLOAT32)) == NULL) return -1;
    if ((out[1] = rc_py_new(2, top, NPY_FLOAT32)) == NULL) return -1;
    if ((out[2] = rc_py_new(2, top, NPY_INT32)) == NULL) return -1;
    if ((explain || c->rule == RC_ENTROPY_BATCH) &&
        (out[3] = rc_py_new(2, each, NPY_FLOAT32)) == NULL)
        return -1;
    if (explain && (out[4] = rc_py_new(2, each, NPY_FLOAT32)) == NULL) return -1;
    c->score = rc_py_data(out[0]);
    c->best = rc_py_data(out[1]);
    c->index = PyArray_DATA(out[2]);
    c->cosine = rc_py_data(out[3]);
    c->weight = rc_py_data(out[4]);
    return 0;
}

static PyObject *combine(PyObject *module, PyObject *args, PyObject *kw)
{
    static char *names[] = {"context", "x", "prompts", "first", "rule",
                            "scale",   "k", "explain", NULL};
    rc_py_context *context;
    PyArrayObject *x = NULL, *prompts = NULL, *first = NULL, *out[5] = {NULL};
    PyObject *result = NULL;
    int rule, explain = 0;
    long long k;
    combine_job job = {0};
    if (!PyArg_ParseTupleAndKeywords(args, kw, "O!O&O&O&idL|p:combine", names,
                                     rc_py_state(module)->context_type, &context, rc_py_f32, &x,
                                     rc_py_f32, &prompts, rc_py_i32, &first, &rule, &job.c.scale,
                                     &k, &explain))
        goto done;
    job.context = context->context;
    job.c.rule = (rc_rule)rule;
    job.c.k = k;
    if (check_combination(&job.c, x, prompts, first) < 0) goto done;
    job.c.x = rc_py_data(x);
    job.c.prompt = rc_py_data(prompts);
    job.c.first = PyArray_DATA(first);
    if (new_results(out, &job.c, explain) < 0 || rc_py_run(module, combine_work, &job) < 0)
        goto done;
    result = explain ? PyTuple_Pack(5, out[0], out[1], out[2], out[3], out[4])
                     : PyTuple_Pack(3, out[0], out[1], out[2]);
done:
    Py_XDECREF(x);
    Py_XDECREF(prompts);
    Py_XDECREF(first);
    for (int i = 0; i < 5; i++) Py_XDECREF(out[i]);
    return result;
}

PyMethodDef rc_py_score_methods[] = {
    {"class_vectors", class_vectors, METH_VARARGS,
     "class_vectors(prompts, first): normalised mean of each label's normalised prompts."},
    {"scores", (PyCFunction)(void (*)(void))scores, METH_VARARGS | METH_KEYWORDS,
     "scores(context, x, classes, k, all=True): (all scores or None, k best, their indices)."},
    {"combine", (PyCFunction)(void (*)(void))combine, METH_VARARGS | METH_KEYWORDS,
     "combine(context, x, prompts, first, rule, scale, k, explain=False): scores by a rule, k "
     "best, their indices; to explain, also cosines with and weights of each prompt."},
    {NULL, NULL, 0, NULL},
};
