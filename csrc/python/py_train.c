/* Methods of Trainer that work. */
#include "python/py_train.h"

typedef struct {
    rc_trainer *trainer;
    rc_step how;
    rc_step_result result;
    rc_pairs pairs;
    rc_targets targets;
    float *audio, *text; /* embeddings, or gradients to them */
    const float *from_audio, *from_text;
    int64_t na, nt;
    rc_share share;
    int first;
    rc_call_size size;
    int64_t scratch, buffers;
} step_job;

static rc_status step_work(void *arg)
{
    step_job *j = arg;
    return rc_trainer_step(j->trainer, &j->result, &j->pairs, &j->targets, &j->how);
}

static rc_status gradients_work(void *arg)
{
    step_job *j = arg;
    return rc_trainer_gradients(j->trainer, &j->result, &j->pairs, &j->targets, &j->how);
}

static rc_status embed_work(void *arg)
{
    step_job *j = arg;
    return rc_trainer_embed(j->trainer, j->audio, j->text, &j->pairs, &j->how);
}

static rc_status loss_work(void *arg)
{
    step_job *j = arg;
    return rc_trainer_loss(j->trainer, &j->result.loss, j->audio, j->text, j->from_audio, j->na,
                           j->from_text, j->nt, &j->targets, &j->share);
}

static rc_status backward_work(void *arg)
{
    step_job *j = arg;
    return rc_trainer_backward(j->trainer, j->from_audio, j->from_text, &j->pairs, &j->how);
}

static rc_status update_work(void *arg)
{
    step_job *j = arg;
    return rc_trainer_update(j->trainer, &j->result, &j->how);
}

static rc_status moments_work(void *arg)
{
    step_job *j = arg;
    return rc_trainer_moments(j->trainer, &j->pairs.audio, j->first);
}

static rc_status measure_work(void *arg)
{
    step_job *j = arg;
    return rc_trainer_measure(j->trainer, &j->scratch, &j->buffers, &j->size);
}

static step_job new_job(PyObject *object)
{
    return (step_job){.trainer = ((rc_py_trainer *)object)->trainer,
                      .share = {.factor = 1},
                      .how = {.lr = 1e-3, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8}};
}

static PyObject *run_step(PyObject *object, PyObject *args, PyObject *kw, rc_work *work)
{
    static char *names[] = {"mel",   "text", "seed",         "step", "lr",      "beta1",
                            "beta2", "eps",  "weight_decay", "clip", "coupled", "longer",
                            "owner", "role", "teacher",      NULL};
    step_job job = new_job(object);
    rc_step *h = &job.how;
    rc_py_pairs a = {0};
    rc_py_targets t = {0};
    PyObject *result = NULL, *text, *teacher = NULL;
    if (PyArg_ParseTupleAndKeywords(args, kw, "O&OO&O&|ddddddpO&O&O&O:step", names, rc_py_f32,
                                    &a.mel, &text, rc_py_u64, &h->seed, rc_py_u64, &h->step, &h->lr,
                                    &h->beta1, &h->beta2, &h->eps, &h->weight_decay, &h->clip,
                                    &h->coupled, rc_py_bool_or_none, &a.longer, rc_py_i32_or_none,
                                    &t.owner, rc_py_i32_or_none, &t.role, &teacher) &&
        rc_py_set_teacher(&t, teacher) == 0 &&
        rc_py_set_pairs(object, &job.pairs, &a, text, t.owner != NULL, 0, 0) == 0 &&
        rc_py_set_targets(object, &job.targets, &t, job.pairs.audio.b, job.pairs.text.b) == 0 &&
        rc_py_run(object, work, &job) == 0)
        result = Py_BuildValue("{sdsdsd}", "loss", job.result.loss, "grad_norm",
                               job.result.grad_norm, "logit_scale", job.result.logit_scale);
    rc_py_free_pairs(&a);
    rc_py_free_targets(&t);
    return result;
}

PyObject *rc_py_trainer_step(PyObject *self, PyObject *args, PyObject *kw)
{
    return run_step(self, args, kw, step_work);
}

PyObject *rc_py_trainer_gradients(PyObject *self, PyObject *args, PyObject *kw)
{
    return run_step(self, args, kw, gradients_work);
}

/* ---- A step in calls of its own -------------------------------------------------------------- */

/* Two new arrays (na, dim) and (nt, dim), whose memory the job fills. */
static PyObject *new_pair(PyObject *object, step_job *job, int64_t na, int64_t nt)
{
    int64_t dim = ((rc_py_trainer *)object)->model->model->config.dim;
    int64_t clips[2] = {na, dim}, texts[2] = {nt, dim};
    PyArrayObject *audio = rc_py_new(2, clips, NPY_FLOAT32);
    PyArrayObject *text = rc_py_new(2, texts, NPY_FLOAT32);
    PyObject *pair = audio == NULL || text == NULL ? NULL : PyTuple_Pack(2, audio, text);
    if (pair != NULL) {
        job->audio = rc_py_data(audio);
        job->text = rc_py_data(text);
    }
    Py_XDECREF(audio);
    Py_XDECREF(text);
    return pair;
}

/* What loss and backward are given: (na, dim) of audio, (nt, dim) of text; of any number where that
 * is negative. */
static int set_embeddings(PyObject *object, step_job *job, PyArrayObject *audio,
                          PyArrayObject *text, int64_t na, int64_t nt)
{
    int64_t dim = ((rc_py_trainer *)object)->model->model->config.dim;
    int64_t clips[2] = {na, dim}, texts[2] = {nt, dim};
    if (rc_py_shape(audio, "audio", 2, clips) < 0 || rc_py_shape(text, "text", 2, texts) < 0)
        return -1;
    job->na = rc_py_size(audio, 0);
    job->nt = rc_py_size(text, 0);
    job->from_audio = rc_py_data(audio);
    job->from_text = rc_py_data(text);
    return 0;
}

PyObject *rc_py_trainer_moments(PyObject *object, PyObject *args, PyObject *kw)
{
    static char *names[] = {"mel", "longer", "first", NULL};
    step_job job = new_job(object);
    rc_py_pairs a = {0};
    bool done = PyArg_ParseTupleAndKeywords(args, kw, "O&|O&p:moments", names, rc_py_f32, &a.mel,
                                            rc_py_bool_or_none, &a.longer, &job.first) &&
                rc_py_set_clips(object, &job.pairs.audio, &a) == 0 &&
                rc_py_run(object, moments_work, &job) == 0;
    rc_py_free_pairs(&a);
    if (!done) return NULL;
    Py_RETURN_NONE;
}

PyObject *rc_py_trainer_embed(PyObject *object, PyObject *args, PyObject *kw)
{
    static char *names[] = {"mel", "text", "seed", "step", "clip", "longer", "caption", NULL};
    step_job job = new_job(object);
    rc_py_pairs a = {0};
    PyObject *pair = NULL, *text;
    long long clip = 0, caption = -1;
    if (PyArg_ParseTupleAndKeywords(args, kw, "O&OO&O&|LO&L:embed", names, rc_py_f32, &a.mel, &text,
                                    rc_py_u64, &job.how.seed, rc_py_u64, &job.how.step, &clip,
                                    rc_py_bool_or_none, &a.longer, &caption) &&
        rc_py_set_pairs(object, &job.pairs, &a, text, caption >= 0, clip,
                        caption < 0 ? clip : caption) == 0 &&
        (pair = new_pair(object, &job, job.pairs.audio.b, job.pairs.text.b)) != NULL &&
        rc_py_run(object, embed_work, &job) < 0)
        Py_CLEAR(pair);
    rc_py_free_pairs(&a);
    return pair;
}

PyObject *rc_py_trainer_loss(PyObject *object, PyObject *args, PyObject *kw)
{
    static char *names[] = {"audio", "text", "owner", "role", "teacher", "factor", "more", NULL};
    step_job job = new_job(object);
    int more = 0;
    PyArrayObject *audio = NULL, *text = NULL;
    rc_py_targets t = {0};
    PyObject *pair = NULL, *result = NULL, *teacher = NULL;
    if (PyArg_ParseTupleAndKeywords(args, kw, "O&O&|O&O&Ofp:loss", names, rc_py_f32, &audio,
                                    rc_py_f32, &text, rc_py_i32_or_none, &t.owner,
                                    rc_py_i32_or_none, &t.role, &teacher, &job.share.factor,
                                    &more) &&
        rc_py_set_teacher(&t, teacher) == 0 &&
        set_embeddings(object, &job, audio, text, -1, -1) == 0 &&
        rc_py_set_targets(object, &job.targets, &t, job.na, job.nt) == 0 &&
        (pair = new_pair(object, &job, job.na, job.nt)) != NULL &&
        (job.share.more = more, rc_py_run(object, loss_work, &job)) == 0)
        result = Py_BuildValue("(dOO)", job.result.loss, PyTuple_GET_ITEM(pair, 0),
                               PyTuple_GET_ITEM(pair, 1));
    Py_XDECREF(pair);
    Py_XDECREF(audio);
    Py_XDECREF(text);
    rc_py_free_targets(&t);
    return result;
}

PyObject *rc_py_trainer_backward(PyObject *object, PyObject *args, PyObject *kw)
{
    static char *names[] = {"daudio", "dtext", "mel",    "text",    "seed",
                            "step",   "clip",  "longer", "caption", NULL};
    step_job job = new_job(object);
    PyArrayObject *daudio = NULL, *dtext = NULL;
    rc_py_pairs a = {0};
    PyObject *text;
    long long clip = 0, caption = -1;
    bool done =
        PyArg_ParseTupleAndKeywords(args, kw, "O&O&O&OO&O&|LO&L:backward", names, rc_py_f32,
                                    &daudio, rc_py_f32, &dtext, rc_py_f32, &a.mel, &text, rc_py_u64,
                                    &job.how.seed, rc_py_u64, &job.how.step, &clip,
                                    rc_py_bool_or_none, &a.longer, &caption) &&
        rc_py_set_pairs(object, &job.pairs, &a, text, caption >= 0, clip,
                        caption < 0 ? clip : caption) == 0 &&
        set_embeddings(object, &job, daudio, dtext, job.pairs.audio.b, job.pairs.text.b) == 0 &&
        rc_py_run(object, backward_work, &job) == 0;
    Py_XDECREF(daudio);
    Py_XDECREF(dtext);
    rc_py_free_pairs(&a);
    if (!done) return NULL;
    Py_RETURN_NONE;
}

/* ---- Memory ---------------------------------------------------------------------------------- */

PyObject *rc_py_trainer_measure(PyObject *object, PyObject *args, PyObject *kw)
{
    static char *names[] = {"clips", "frames", "texts", "tokens", "longest", "na", "nt", NULL};
    step_job job = new_job(object);
    long long n[7];
    if (!PyArg_ParseTupleAndKeywords(args, kw, "LLLLLLL:measure", names, &n[0], &n[1], &n[2], &n[3],
                                     &n[4], &n[5], &n[6]))
        return NULL;
    job.size = (rc_call_size){n[0], n[1], n[2], n[3], n[4], n[5], n[6]};
    if (rc_py_run(object, measure_work, &job) < 0) return NULL;
    return Py_BuildValue("(LL)", (long long)job.scratch, (long long)job.buffers);
}

PyObject *rc_py_trainer_update(PyObject *object, PyObject *args, PyObject *kw)
{
    static char *names[] = {"step",         "lr",   "beta1",   "beta2", "eps",
                            "weight_decay", "clip", "coupled", NULL};
    step_job job = new_job(object);
    rc_step *h = &job.how;
    if (!PyArg_ParseTupleAndKeywords(args, kw, "O&|ddddddp:update", names, rc_py_u64, &h->step,
                                     &h->lr, &h->beta1, &h->beta2, &h->eps, &h->weight_decay,
                                     &h->clip, &h->coupled) ||
        rc_py_run(object, update_work, &job) < 0)
        return NULL;
    return Py_BuildValue("{sdsd}", "grad_norm", job.result.grad_norm, "logit_scale",
                         job.result.logit_scale);
}

static rc_status refresh_work(void *arg)
{
    return rc_trainer_refresh(arg);
}

PyObject *rc_py_trainer_refresh(PyObject *object, PyObject *Py_UNUSED(none))
{
    if (rc_py_run(object, refresh_work, ((rc_py_trainer *)object)->trainer) < 0) return NULL;
    Py_RETURN_NONE;
}
