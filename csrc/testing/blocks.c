/* A transformer block as a plain function, both ways, with all of its options. */
#include "testing/testing.h"

#include "layers/block.h"
#include "layers/context.h"

typedef struct {
    rc_block block;
    rc_params params;
    rc_span *span;
    const float *x, *bias, *mask, *dy;
    float *y, *dx, *dbias;
    int64_t n, rows, t; /* sequences, rows of all, of the longest */
    int threads;
} block_job;

/* ---- The block ------------------------------------------------------------------------------- */

static void declare(block_job *job, bool rms)
{
    rc_block *b = &job->block;
    rc_params *p = &job->params;
    int64_t inner = rc_block_inner(b);
    rc_pair (*declare_norm)(rc_params *, int64_t, const char *, const char *) =
        rms ? rc_declare_rms_norm : rc_declare_norm;
    b->norm1 = declare_norm(p, b->c, "", "norm1");
    b->qkv = rc_declare_linear(p, 3 * inner, b->c, true, "", "qkv");
    b->proj = rc_declare_linear(p, b->c, inner, true, "", "proj");
    b->norm2 = declare_norm(p, b->c, "", "norm2");
    b->fc1 = rc_declare_linear(p, b->mlp, b->c, true, "", "fc1");
    if (b->gated) b->gate = rc_declare_linear(p, b->mlp, b->c, true, "", "gate");
    b->fc2 = rc_declare_linear(p, b->c, b->mlp, true, "", "fc2");
}

static rc_status make_plan(void **body, rc_plan *plan, const rc_plan_key *key, const void *arg)
{
    const block_job *job = arg;
    int64_t total = (job->rows + 15) / 16 * 16; /* rounded, as texts are */
    rc_grid grid = rc_grid_rows(total, 16);
    rc_block_rows rows = {grid, grid, grid, .n = job->n, .t = job->t, .clip = job->t};
    return rc_block_plan_make((rc_block_plan **)body, plan, &job->block, &job->params, &rows,
                              key->call != 0);
}

static rc_status run_block(block_job *job, rc_context *c, float *stream)
{
    const void *k;
    bool train = job->dy != NULL;
    size_t bytes = (size_t)(job->rows * job->block.c) * sizeof(float);
    rc_plan_key key = {.call = train};
    rc_sequences s = {.span = job->span,
                      .bias = job->bias,
                      .dbias = job->dbias,
                      .mask = job->mask,
                      .real = job->rows};
    RC_TRY(rc_context_plan(c, &k, &key, make_plan, job));
    rc_run run = rc_context_run(c, (rc_draw){0});
    memcpy(stream, job->x, bytes);
    rc_block_forward(k, &run, stream, stream, &s);
    if (train) {
        memcpy(stream, job->dy, bytes);
        memset(stream + job->rows * job->block.c, 0, 15 * (size_t)job->block.c * sizeof(float));
        rc_block_backward(k, &run, stream, stream, &s);
    }
    memcpy(train ? job->dx : job->y, stream, bytes);
    return rc_dnn_check(c->dnn);
}

static rc_status block_work(void *arg)
{
    block_job *job = arg;
    rc_context *c;
    float *stream = NULL;
    RC_TRY(rc_context_new(&c, job->threads, RC_F32));
    rc_status status = rc_alloc((void **)&stream, (job->rows + 15) * job->block.c * 4);
    if (status == RC_OK) status = run_block(job, c, stream);
    rc_free(stream);
    rc_context_free(c);
    return status;
}

/* ---- The binding ----------------------------------------------------------------------------- */

/* Values, and with `gradients` memory for theirs, from lists of arrays in the order of declaration.
 */
static int bind_values(block_job *job, PyObject *values, PyObject *gradients)
{
    rc_params *p = &job->params;
    for (int64_t i = 0; i < p->count; i++) {
        PyArrayObject *x = (PyArrayObject *)PyList_GetItem(values, (Py_ssize_t)i); /* borrowed */
        if (x == NULL || rc_py_shape(x, p->item[i].name, p->item[i].rank, p->item[i].size) < 0)
            return -1;
        p->item[i].x = rc_py_data(x);
        if (gradients == NULL) continue;
        PyArrayObject *dx = rc_testing_zeros(p->item[i].rank, p->item[i].size);
        if (dx == NULL || PyList_Append(gradients, (PyObject *)dx) < 0) {
            Py_XDECREF(dx);
            return -1;
        }
        p->item[i].dx = rc_py_data(dx);
        Py_DECREF(dx); /* the list's */
    }
    return 0;
}

static int set_spans(block_job *job, PyArrayObject *first)
{
    if (rc_py_rank(first, 1, "first") < 0) return -1;
    const int32_t *f = PyArray_DATA(first);
    job->n = rc_py_size(first, 0) - 1;
    job->span = PyMem_Calloc((size_t)rc_max(job->n, 1), sizeof *job->span);
    if (job->span == NULL || job->n < 1 || f[job->n] != job->rows) {
        PyErr_SetString(PyExc_ValueError, "first: must rise from 0 to the rows of x");
        return -1;
    }
    for (int64_t i = 0; i < job->n; i++) {
        job->span[i] = (rc_span){f[i], f[i + 1] - f[i], f[i], f[i + 1] - f[i], 0};
        job->t = rc_max(job->t, job->span[i].rows);
    }
    return 0;
}

static PyObject *run(PyObject *module, block_job *job, PyObject *values, const int64_t *shape,
                     bool rms)
{
    int64_t table[3] = {job->block.heads, job->t, job->t};
    bool train = job->dy != NULL;
    PyObject *gradients = train ? PyList_New(0) : NULL, *result = NULL;
    PyArrayObject *y = rc_py_new(2, shape, NPY_FLOAT32), *dbias = NULL;
    if (y == NULL || (train && gradients == NULL)) goto done;
    if (train && job->bias != NULL && (dbias = rc_testing_zeros(3, table)) == NULL) goto done;
    declare(job, rms);
    if (job->params.status != RC_OK || bind_values(job, values, gradients) < 0) goto done;
    job->y = job->dx = rc_py_data(y);
    job->dbias = dbias == NULL ? NULL : rc_py_data(dbias);
    if (rc_py_run(module, block_work, job) < 0) goto done;
    result = train ? Py_BuildValue("(OOO)", y, gradients, dbias ? (PyObject *)dbias : Py_None)
                   : Py_NewRef((PyObject *)y);
done:
    Py_XDECREF(y);
    Py_XDECREF(dbias);
    Py_XDECREF(gradients);
    rc_params_free(&job->params);
    return result;
}

/* block(x (rows, c), first, values, heads, d, mlp, rms, post, gated, act, eps, bias, mask, dy,
 * threads): y, or with dy (dx, gradients of the values, dbias) */
static PyObject *block(PyObject *module, PyObject *args)
{
    PyArrayObject *x = NULL, *first = NULL, *bias = NULL, *mask = NULL, *dy = NULL;
    PyObject *values, *result = NULL;
    int rms, post, gated, act;
    long long heads, d, mlp;
    block_job job = {.threads = 1};
    if (!PyArg_ParseTuple(args, "O&O&O!LLLpppifO&O&O&i:block", rc_py_f32, &x, rc_py_i32, &first,
                          &PyList_Type, &values, &heads, &d, &mlp, &rms, &post, &gated, &act,
                          &job.block.eps, rc_py_f32_or_none, &bias, rc_py_f32_or_none, &mask,
                          rc_py_f32_or_none, &dy, &job.threads))
        goto done;
    if (rc_py_rank(x, 2, "x") < 0) goto done;
    int64_t shape[2] = {job.rows = rc_py_size(x, 0), rc_py_size(x, 1)};
    if (dy != NULL && rc_py_shape(dy, "dy", 2, shape) < 0) goto done;
    if (set_spans(&job, first) < 0) goto done;
    job.x = rc_py_data(x);
    job.bias = bias == NULL ? NULL : rc_py_data(bias);
    job.mask = mask == NULL ? NULL : rc_py_data(mask);
    job.dy = dy == NULL ? NULL : rc_py_data(dy);
    job.block.c = shape[1];
    job.block.heads = heads;
    job.block.d = d;
    job.block.mlp = mlp;
    job.block.post = post;
    job.block.gated = gated;
    job.block.act = rc_act_of(act);
    job.block.scale = 1;
    result = run(module, &job, values, shape, rms);
done:
    PyMem_Free(job.span);
    Py_XDECREF(x);
    Py_XDECREF(first);
    Py_XDECREF(bias);
    Py_XDECREF(mask);
    Py_XDECREF(dy);
    return result;
}

PyMethodDef rc_testing_block_methods[] = {
    ENTRY(block, "block(x, first, values, heads, d, mlp, rms, post, gated, act, eps, bias, mask, "
                 "dy, threads): y, or with dy (dx, dvalues, dbias)."),
    {NULL, NULL, 0, NULL},
};
