/* Class vectors, scores, and the rules that combine prompts. */
#include "python/py_model.h"

#include "score/combine.h"
#include "score/ranks.h"
#include "score/score.h"

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

/* Take sizes from the arrays, labels being as many as prompts where there is no rule; -1 with
 * ValueError where they do not fit each other. */
static int check_combination(rc_combination *c, PyArrayObject *x, PyArrayObject *prompts,
                             const char *name, PyArrayObject *first)
{
    if (rc_py_rank(x, 2, "x") < 0 || check_columns(x) < 0) return -1;
    int64_t shape[2] = {-1, c->width = rc_py_size(x, 1)};
    if (rc_py_shape(prompts, name, 2, shape) < 0) return -1;
    c->n = rc_py_size(x, 0);
    c->labels = c->prompts = rc_py_size(prompts, 0);
    if (first != NULL) {
        if (check_groups(first, c->prompts) < 0) return -1;
        c->labels = rc_py_size(first, 0) - 1;
        c->first = PyArray_DATA(first);
    }
    c->x = rc_py_data(x);
    c->prompt = rc_py_data(prompts);
    return check_k(c->k, c->labels);
}

/* best, index */
static int new_best(PyArrayObject **out, rc_combination *c)
{
    int64_t top[2] = {c->n, c->k};
    if ((out[0] = rc_py_new(2, top, NPY_FLOAT32)) == NULL) return -1;
    if ((out[1] = rc_py_new(2, top, NPY_INT32)) == NULL) return -1;
    c->best = rc_py_data(out[0]);
    c->index = PyArray_DATA(out[1]);
    return 0;
}

/* One array or, where it is not wanted, None. */
static PyObject *or_none(PyArrayObject *array)
{
    return array == NULL ? Py_None : (PyObject *)array;
}

static PyObject *scores(PyObject *module, PyObject *args, PyObject *kw)
{
    static char *names[] = {"context", "x", "classes", "k", "all", NULL};
    rc_py_context *context;
    PyArrayObject *x = NULL, *classes = NULL, *all = NULL, *best[2] = {NULL};
    PyObject *result = NULL;
    long long k;
    int want_all = 1;
    if (!PyArg_ParseTupleAndKeywords(args, kw, "O!O&O&L|p:scores", names,
                                     rc_py_state(module)->context_type, &context, rc_py_f32, &x,
                                     rc_py_f32, &classes, &k, &want_all))
        goto done;
    combine_job job = {context->context, {.rule = RC_NO_RULE, .k = k}};
    if (check_combination(&job.c, x, classes, "classes", NULL) < 0) goto done;
    int64_t shape[2] = {job.c.n, job.c.labels};
    if (want_all && (all = rc_py_new(2, shape, NPY_FLOAT32)) == NULL) goto done;
    job.c.score = rc_py_data(all);
    if (new_best(best, &job.c) < 0 || rc_py_run(module, combine_work, &job) < 0) goto done;
    result = PyTuple_Pack(3, or_none(all), best[0], best[1]);
done:
    Py_XDECREF(x);
    Py_XDECREF(classes);
    Py_XDECREF(all);
    for (int i = 0; i < 2; i++) Py_XDECREF(best[i]);
    return result;
}

/* ---- Combining ------------------------------------------------------------------------------- */

static int check_rule(const rc_combination *c)
{
    if ((unsigned)c->rule < RC_NO_RULE && c->scale > 0 && c->scale < HUGE_VAL) return 0;
    PyErr_Format(PyExc_ValueError, "combine: no rule %d, or scale not above 0 and finite",
                 (int)c->rule);
    return -1;
}

/* score, best, index, cosine, weight; the first and the last two NULL unless wanted. */
static int new_results(PyArrayObject **out, rc_combination *c, bool all, bool explain)
{
    int64_t labels[2] = {c->n, c->labels}, each[2] = {c->n, c->prompts};
    if (all && (out[0] = rc_py_new(2, labels, NPY_FLOAT32)) == NULL) return -1;
    if (new_best(out + 1, c) < 0) return -1;
    if ((explain || c->rule == RC_ENTROPY_BATCH) &&
        (out[3] = rc_py_new(2, each, NPY_FLOAT32)) == NULL)
        return -1;
    if (explain && (out[4] = rc_py_new(2, each, NPY_FLOAT32)) == NULL) return -1;
    c->score = rc_py_data(out[0]);
    c->cosine = rc_py_data(out[3]);
    c->weight = rc_py_data(out[4]);
    return 0;
}

static PyObject *combine(PyObject *module, PyObject *args, PyObject *kw)
{
    static char *names[] = {"context", "x", "prompts", "first", "rule",
                            "scale",   "k", "explain", "all",   NULL};
    rc_py_context *context;
    PyArrayObject *x = NULL, *prompts = NULL, *first = NULL, *out[5] = {NULL};
    PyObject *result = NULL;
    int rule, explain = 0, all = 1;
    long long k;
    combine_job job = {0};
    if (!PyArg_ParseTupleAndKeywords(args, kw, "O!O&O&O&idL|pp:combine", names,
                                     rc_py_state(module)->context_type, &context, rc_py_f32, &x,
                                     rc_py_f32, &prompts, rc_py_i32, &first, &rule, &job.c.scale,
                                     &k, &explain, &all))
        goto done;
    job.context = context->context;
    job.c.rule = (rc_rule)rule;
    job.c.k = k;
    if (check_combination(&job.c, x, prompts, "prompts", first) < 0 || check_rule(&job.c) < 0)
        goto done;
    if (new_results(out, &job.c, all, explain) < 0 || rc_py_run(module, combine_work, &job) < 0)
        goto done;
    result = explain ? PyTuple_Pack(5, or_none(out[0]), out[1], out[2], out[3], out[4])
                     : PyTuple_Pack(3, or_none(out[0]), out[1], out[2]);
done:
    Py_XDECREF(x);
    Py_XDECREF(prompts);
    Py_XDECREF(first);
    for (int i = 0; i < 5; i++) Py_XDECREF(out[i]);
    return result;
}

/* ---- Ranks ----------------------------------------------------------------------------------- */

typedef struct {
    rc_context *context;
    rc_ranking r;
} rank_job;

static rc_status rank_work(void *arg)
{
    rank_job *j = arg;
    RC_TRY(rc_context_enter(j->context));
    rc_status status = j->r.n == 0 ? RC_OK : rc_ranks(j->context, &j->r);
    rc_context_leave(j->context);
    return status;
}

static int check_ranking(rc_ranking *r, PyArrayObject *queries, PyArrayObject *items,
                         PyArrayObject *pair)
{
    if (rc_py_rank(queries, 2, "queries") < 0) return -1;
    int64_t shape[2] = {-1, r->width = rc_py_size(queries, 1)};
    int64_t pairs[2] = {r->n = rc_py_size(queries, 0), -1};
    if (rc_py_shape(items, "items", 2, shape) < 0 || rc_py_shape(pair, "pair", 2, pairs) < 0)
        return -1;
    r->query = rc_py_data(queries);
    r->item = rc_py_data(items);
    r->pair = PyArray_DATA(pair);
    r->items = rc_py_size(items, 0);
    r->m = rc_py_size(pair, 1);
    bool good = r->width > 0 && r->items > 0 && r->m > 0;
    for (int64_t i = 0; good && i < r->n * r->m; i++)
        good = r->pair[i] >= -1 && r->pair[i] < r->items;
    if (!good)
        PyErr_Format(PyExc_ValueError,
                     "pair: expected one column or more of places among %lld items of some width, "
                     "or -1 for none",
                     (long long)r->items);
    return good ? 0 : -1;
}

static PyObject *ranks(PyObject *module, PyObject *args)
{
    rc_py_context *context;
    PyArrayObject *queries = NULL, *items = NULL, *pair = NULL, *rank = NULL;
    if (!PyArg_ParseTuple(args, "O!O&O&O&:ranks", rc_py_state(module)->context_type, &context,
                          rc_py_f32, &queries, rc_py_f32, &items, rc_py_i32, &pair))
        goto done;
    rank_job job = {.context = context->context};
    if (check_ranking(&job.r, queries, items, pair) < 0) goto done;
    int64_t shape[2] = {job.r.n, job.r.m};
    if ((rank = rc_py_new(2, shape, NPY_INT32)) == NULL) goto done;
    job.r.rank = PyArray_DATA(rank);
    if (rc_py_run(module, rank_work, &job) < 0) Py_CLEAR(rank);
done:
    Py_XDECREF(queries);
    Py_XDECREF(items);
    Py_XDECREF(pair);
    return (PyObject *)rank;
}

PyMethodDef rc_py_score_methods[] = {
    {"class_vectors", class_vectors, METH_VARARGS,
     "class_vectors(prompts, first): normalised mean of each label's normalised prompts."},
    {"scores", (PyCFunction)(void (*)(void))scores, METH_VARARGS | METH_KEYWORDS,
     "scores(context, x, classes, k, all=True): (all scores or None, k best, their indices)."},
    {"combine", (PyCFunction)(void (*)(void))combine, METH_VARARGS | METH_KEYWORDS,
     "combine(context, x, prompts, first, rule, scale, k, explain=False, all=True): scores by a "
     "rule or None, k best, their indices; to explain, also cosines with and weights of each "
     "prompt."},
    {"ranks", ranks, METH_VARARGS,
     "ranks(context, queries, items, pair): place of each pair's item by falling product, from 1; "
     "0 for pair -1."},
    {NULL, NULL, 0, NULL},
};
