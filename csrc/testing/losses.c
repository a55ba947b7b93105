/* The losses as plain functions. */
#include "testing/testing.h"

#include "layers/context.h"
#include "train/loss.h"
#include "train/token_loss.h"

typedef struct {
    rc_loss_term term[RC_LOSSES_MAX];
    int count, threads;
    rc_loss_size size;
    rc_loss_in in;
    rc_loss_out out;
    float dscale, dbias;
    double loss;
} loss_job;

static rc_status make_plan(void **body, rc_plan *plan, const rc_plan_key *key, const void *arg)
{
    (void)key;
    const loss_job *j = arg;
    RC_TRY(rc_plan_alloc(plan, body, sizeof(rc_losses)));
    return rc_losses_plan(*body, plan, j->term, j->count, &j->size);
}

static rc_status loss_run(void *job, rc_context *c)
{
    loss_job *j = job;
    const void *k;
    rc_plan_key key = {0};
    RC_TRY(rc_losses_check(j->term, j->count, &j->size, &j->in));
    RC_TRY(rc_context_plan(c, &k, &key, make_plan, j));
    rc_run run = rc_context_run(c, (rc_draw){0});
    j->loss = rc_losses_forward(k, &run, &j->in);
    rc_losses_backward(k, &run, &j->out, &j->in);
    return rc_dnn_check(c->dnn);
}

/* In a context of its own. */
static rc_status in_context(int threads, rc_status (*run)(void *job, rc_context *c), void *job)
{
    rc_context *c;
    RC_TRY(rc_context_new(&c, threads, RC_F32));
    rc_status status = run(job, c);
    rc_context_free(c);
    return status;
}

static rc_status loss_work(void *job)
{
    return in_context(((loss_job *)job)->threads, loss_run, job);
}

/* Everything that a call holds references to. */
typedef struct {
    PyArrayObject *a, *t, *owner, *role, *teacher_a, *teacher_t, *da, *dt;
} loss_arrays;

static void release(loss_arrays *x)
{
    PyArrayObject *all[] = {x->a,         x->t,         x->owner, x->role,
                            x->teacher_a, x->teacher_t, x->da,    x->dt};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) Py_XDECREF(all[i]);
}

static int check_teacher(loss_job *job, const loss_arrays *x)
{
    if (x->teacher_a == NULL || x->teacher_t == NULL) return 0;
    if (rc_py_rank(x->teacher_a, 2, "teacher_a") < 0) return -1;
    int64_t width = job->size.teacher = rc_py_size(x->teacher_a, 1);
    if (rc_py_shape(x->teacher_a, "teacher_a", 2, (int64_t[]){job->size.na, width}) < 0) return -1;
    return rc_py_shape(x->teacher_t, "teacher_t", 2, (int64_t[]){job->size.nt, width});
}

static int check_arrays(loss_job *job, const loss_arrays *x)
{
    rc_loss_size *size = &job->size;
    if (rc_py_rank(x->a, 2, "a") < 0 || rc_py_rank(x->t, 2, "t") < 0) return -1;
    *size = (rc_loss_size){rc_py_size(x->a, 0), rc_py_size(x->t, 0), rc_py_size(x->a, 1), 0};
    if (x->owner == NULL) size->nt = size->na;
    if (rc_py_shape(x->t, "t", 2, (int64_t[]){size->nt, size->c}) < 0) return -1;
    if (x->owner != NULL && rc_py_shape(x->owner, "owner", 1, &size->nt) < 0) return -1;
    if (x->role != NULL && rc_py_shape(x->role, "role", 1, &size->nt) < 0) return -1;
    if (check_teacher(job, x) < 0) return -1;
    if (size->c >= 1) return 0;
    PyErr_SetString(PyExc_ValueError, "loss: the embeddings have no columns");
    return -1;
}

/* Loss and gradients of arrays; -1 with an exception set. */
static int run_loss(PyObject *module, loss_job *job, loss_arrays *x)
{
    if (check_arrays(job, x) < 0) return -1;
    x->da = NEW(2, job->size.na, job->size.c);
    x->dt = NEW(2, job->size.nt, job->size.c);
    if (x->da == NULL || x->dt == NULL) return -1;
    job->in.na = job->size.na;
    job->in.nt = job->size.nt;
    job->in.a = rc_py_data(x->a);
    job->in.t = rc_py_data(x->t);
    job->in.owner = x->owner == NULL ? NULL : PyArray_DATA(x->owner);
    job->in.role = x->role == NULL ? NULL : PyArray_DATA(x->role);
    job->in.teacher_a = rc_py_data(x->teacher_a);
    job->in.teacher_t = rc_py_data(x->teacher_t);
    job->out = (rc_loss_out){rc_py_data(x->da), rc_py_data(x->dt), &job->dscale, &job->dbias};
    return rc_py_run(module, loss_work, job);
}

/* contrastive(a, t, log_scale, threads=1): (loss, da, dt, dscale) */
static PyObject *contrastive(PyObject *module, PyObject *args)
{
    loss_job job = {.term = {{RC_LOSS_CONTRASTIVE, 1}}, .count = 1, .threads = 1};
    loss_arrays x = {0};
    PyObject *result = NULL;
    if (PyArg_ParseTuple(args, "O&O&f|i:contrastive", rc_py_f32, &x.a, rc_py_f32, &x.t,
                         &job.in.log_scale, &job.threads) &&
        run_loss(module, &job, &x) == 0)
        result = Py_BuildValue("(dOOf)", job.loss, x.da, x.dt, job.dscale);
    release(&x);
    return result;
}

static int kind_of(const char *name, int64_t *kind)
{
    for (*kind = 0; rc_loss_kind_of(*kind) != NULL; ++*kind)
        if (strcmp(rc_loss_kind_of(*kind)->name, name) == 0) return 0;
    PyErr_Format(PyExc_ValueError, "terms: unknown loss %s", name);
    return -1;
}

/* A list of (name, weight). */
static int parse_terms(PyObject *list, loss_job *job)
{
    job->count = (int)PyList_GET_SIZE(list);
    for (int i = 0; i < job->count && i < RC_LOSSES_MAX; i++) {
        const char *name;
        PyObject *pair = PyList_GET_ITEM(list, i);
        if (!PyTuple_Check(pair)) {
            PyErr_SetString(PyExc_TypeError, "terms: expected pairs of name and weight");
            return -1;
        }
        if (!PyArg_ParseTuple(pair, "sf:terms", &name, &job->term[i].weight)) return -1;
        if (kind_of(name, &job->term[i].kind) < 0) return -1;
    }
    return 0;
}

/* losses(terms, a, t, log_scale, bias=0, owner=None, role=None, teacher_a=None, teacher_t=None,
 * teacher_log_scale=0, threads=1): (loss, da, dt, dscale, dbias) */
static PyObject *losses(PyObject *module, PyObject *args, PyObject *kw)
{
    static char *names[] = {"terms",   "a",    "t",         "log_scale", "bias",
                            "owner",   "role", "teacher_a", "teacher_t", "teacher_log_scale",
                            "threads", NULL};
    loss_job job = {.threads = 1};
    loss_arrays x = {0};
    PyObject *terms, *result = NULL;
    if (PyArg_ParseTupleAndKeywords(args, kw, "O!O&O&f|fO&O&O&O&fi:losses", names, &PyList_Type,
                                    &terms, rc_py_f32, &x.a, rc_py_f32, &x.t, &job.in.log_scale,
                                    &job.in.bias, rc_py_i32_or_none, &x.owner, rc_py_i32_or_none,
                                    &x.role, rc_py_f32_or_none, &x.teacher_a, rc_py_f32_or_none,
                                    &x.teacher_t, &job.in.teacher_log_scale, &job.threads) &&
        parse_terms(terms, &job) == 0 && run_loss(module, &job, &x) == 0)
        result = Py_BuildValue("(dOOff)", job.loss, x.da, x.dt, job.dscale, job.dbias);
    release(&x);
    return result;
}

/* ---- Tokens ---------------------------------------------------------------------------------- */

typedef struct {
    rc_token_in in;
    float *da, *dt, dscale;
    double loss;
    int threads;
} token_job;

static rc_status make_token_plan(void **body, rc_plan *plan, const rc_plan_key *key,
                                 const void *arg)
{
    (void)key;
    return rc_token_loss_plan(body, plan, &((const token_job *)arg)->in.size);
}

static rc_status token_run(void *job, rc_context *c)
{
    token_job *j = job;
    const void *k;
    rc_plan_key key = {0};
    RC_TRY(rc_token_loss_check(&j->in));
    RC_TRY(rc_context_plan(c, &k, &key, make_token_plan, j));
    rc_run run = rc_context_run(c, (rc_draw){0});
    j->loss = rc_token_loss_forward(k, &run, &j->in);
    rc_token_loss_backward(k, &run, j->da, j->dt, &j->dscale, &j->in);
    return rc_dnn_check(c->dnn);
}

static rc_status token_work(void *job)
{
    return in_context(((token_job *)job)->threads, token_run, job);
}

/* a, t, their counts, da, dt; the first four are the caller's. */
static int set_tokens(token_job *job, PyArrayObject *x[6])
{
    if (rc_py_rank(x[0], 3, "a") < 0 || rc_py_rank(x[1], 3, "t") < 0) return -1;
    rc_token_size size = {rc_py_size(x[0], 0), rc_py_size(x[0], 1), rc_py_size(x[1], 1),
                          rc_py_size(x[0], 2)};
    if (rc_py_shape(x[1], "t", 3, (int64_t[]){size.n, size.text_tokens, size.c}) < 0 ||
        rc_py_shape(x[2], "count_a", 1, &size.n) < 0 ||
        rc_py_shape(x[3], "count_t", 1, &size.n) < 0)
        return -1;
    x[4] = NEW(3, size.n, size.clip_tokens, size.c);
    x[5] = NEW(3, size.n, size.text_tokens, size.c);
    if (x[4] == NULL || x[5] == NULL) return -1;
    job->in.size = size;
    job->in.a = rc_py_data(x[0]);
    job->in.t = rc_py_data(x[1]);
    job->in.count_a = PyArray_DATA(x[2]);
    job->in.count_t = PyArray_DATA(x[3]);
    job->da = rc_py_data(x[4]);
    job->dt = rc_py_data(x[5]);
    return 0;
}

/* token_loss(a (n, la, c), t (n, lt, c), count_a, count_t, log_scale, threads=1): (loss, da, dt,
 * dscale) */
static PyObject *token_loss(PyObject *module, PyObject *args)
{
    token_job job = {.threads = 1};
    PyArrayObject *x[6] = {NULL};
    PyObject *result = NULL;
    if (PyArg_ParseTuple(args, "O&O&O&O&f|i:token_loss", rc_py_f32, &x[0], rc_py_f32, &x[1],
                         rc_py_i32, &x[2], rc_py_i32, &x[3], &job.in.log_scale, &job.threads) &&
        set_tokens(&job, x) == 0 && rc_py_run(module, token_work, &job) == 0)
        result = Py_BuildValue("(dOOf)", job.loss, x[4], x[5], job.dscale);
    for (int i = 0; i < 6; i++) Py_XDECREF(x[i]);
    return result;
}

PyMethodDef rc_testing_loss_methods[] = {
    {"contrastive", contrastive, METH_VARARGS,
     "contrastive(a, t, log_scale, threads=1): (loss, da, dt, ds)."},
    {"losses", (PyCFunction)(void (*)(void))losses, METH_VARARGS | METH_KEYWORDS,
     "losses(terms, a, t, log_scale, bias=0, owner=None, role=None, teacher_a=None, "
     "teacher_t=None, teacher_log_scale=0, threads=1): (loss, da, dt, ds, dbias) of a weighted sum "
     "of losses, a list of name and weight."},
    {"token_loss", token_loss, METH_VARARGS,
     "token_loss(a, t, count_a, count_t, log_scale, threads=1): (loss, da, dt, ds) of late "
     "interaction between tokens."},
    {NULL, NULL, 0, NULL},
};
