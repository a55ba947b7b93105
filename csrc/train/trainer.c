/* A trainer: its buffers, and the calls of a step as others see them.
 *
 * Values, gradients and the two moments are four flat buffers of equal layout, so that the
 * optimizer, the gradient norm and a checkpoint are each one loop. */
#include "train/trainer.h"

#include "train/trainer_inside.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LINE = 16 };

static rc_status take_rates(rc_trainer *t, const rc_rates *rates)
{
    size_t n = (size_t)t->model->params.count;
    t->offset = calloc(n, sizeof *t->offset);
    t->order = calloc(n, sizeof *t->order);
    t->rate = calloc(n, sizeof *t->rate);
    t->decay = calloc(n, sizeof *t->decay);
    if (t->offset == NULL || t->order == NULL || t->rate == NULL || t->decay == NULL)
        return rc_fail(RC_ENOMEM, "out of memory: trainer");
    for (size_t i = 0; i < n; i++) {
        t->rate[i] = rates->rate == NULL ? 1 : rates->rate[i];
        t->decay[i] = rates->decay == NULL ? 1 : rates->decay[i];
    }
    return RC_OK;
}

/* Parameters that learn come first. */
static void lay_out(rc_trainer *t)
{
    const rc_params *p = &t->model->params;
    int64_t placed = 0;
    for (int frozen = 0; frozen < 2; frozen++) {
        for (int64_t i = 0; i < p->count; i++) {
            if ((t->rate[i] == 0) != frozen) continue;
            t->order[placed++] = i;
            t->offset[i] = t->size;
            t->size += (p->item[i].count + LINE - 1) / LINE * LINE;
        }
        if (frozen) break;
        t->learning = placed;
        t->learned = t->size;
    }
}

static rc_status open_trainer(rc_trainer *t, const rc_rates *rates, int threads)
{
    rc_params *p = &t->model->params;
    RC_TRY(rc_context_new(&t->context, threads));
    RC_TRY(take_rates(t, rates));
    lay_out(t);
    for (int k = 0; k < RC_TRAINER_BUFFERS; k++)
        RC_TRY(rc_alloc((void **)&t->buffer[k],
                        (k == 0 ? t->size : t->learned) * (int64_t)sizeof(float)));
    for (int64_t i = 0; i < p->count; i++)
        RC_TRY(rc_param_read(t->buffer[0] + t->offset[i], t->context->dnn, &p->item[i]));
    for (int64_t i = 0; i < p->count; i++) { /* nothing fails from here on */
        rc_param *item = &p->item[i];
        item->x = t->buffer[0] + t->offset[i];
        item->dx = rc_trainer_at(t, 1, i);
        rc_param_unpack(item); /* would keep the values of before the first step */
    }
    t->model->training = true;
    rc_params_moved(p);
    return RC_OK;
}

/* Whether any of parameters from..to-1 or of their adapters is to learn. */
static bool learns(const rc_params *p, const rc_rates *rates, int64_t from, int64_t to)
{
    for (int64_t i = from; i < to; i++) {
        int64_t a = p->item[i].adapter;
        if (rates->rate == NULL || rates->rate[i] > 0) return true;
        if (a != 0 && (rates->rate[a] > 0 || rates->rate[a + 1] > 0)) return true;
    }
    return false;
}

static rc_status check_rates(const rc_params *p, const rc_rates *rates)
{
    const float *lists[] = {rates->rate, rates->decay};
    for (int k = 0; k < 2; k++)
        for (int64_t i = 0; lists[k] != NULL && i < p->count; i++)
            if (!(lists[k][i] >= 0 && lists[k][i] <= 1e6f))
                return rc_fail(RC_EINVAL, "%s of %s: expected 0 to 1e6, got %g",
                               k == 0 ? "rate" : "decay", p->item[i].name, (double)lists[k][i]);
    return RC_OK;
}

static rc_status check_model(const rc_clap *m, const rc_rates *rates)
{
    const rc_tower *towers[] = {&m->audio, &m->text};
    if (m->audio.kind == NULL || m->config.text_width < 1)
        return rc_fail(RC_EINVAL, "trainer: needs an audio tower, and texts or their features");
    if (m->training) return rc_fail(RC_EINVAL, "trainer: this model already has one");
    RC_TRY(check_rates(&m->params, rates));
    for (int i = 0; i < 2; i++)
        if (learns(&m->params, rates, towers[i]->from, towers[i]->to))
            RC_TRY(rc_tower_check_training(towers[i]));
    if (learns(&m->params, rates, 0, m->params.count)) return RC_OK;
    return rc_fail(RC_EINVAL, "trainer: all parameters are frozen");
}

static rc_status new_trainer(rc_trainer **out, rc_clap *m, const rc_rates *rates, int threads)
{
    RC_TRY(check_model(m, rates));
    rc_trainer *t = calloc(1, sizeof *t);
    if (t == NULL) return rc_fail(RC_ENOMEM, "out of memory: trainer");
    t->model = m;
    rc_status status = open_trainer(t, rates, threads);
    if (status != RC_OK) {
        rc_trainer_free(t);
        return status;
    }
    *out = t;
    return RC_OK;
}

rc_status rc_trainer_new(rc_trainer **out, rc_clap *m, const rc_rates *rates, int threads)
{
    *out = NULL;
    RC_TRY(rc_clap_claim(m, "trainer"));
    rc_status status = new_trainer(out, m, rates, threads);
    rc_clap_release(m);
    return status;
}

void rc_trainer_free(rc_trainer *t)
{
    if (t == NULL) return;
    rc_context_free(t->context);
    for (int k = 0; k < RC_TRAINER_BUFFERS; k++) rc_free(t->buffer[k]);
    free(t->offset);
    free(t->order);
    free(t->rate);
    free(t->decay);
    free(t);
}

float *rc_trainer_leave_values(rc_trainer *t)
{
    float *values = t->buffer[0];
    for (int64_t i = 0; i < t->model->params.count; i++) t->model->params.item[i].dx = NULL;
    t->model->training = false;
    rc_params_moved(&t->model->params);
    t->buffer[0] = NULL;
    return values;
}

float *rc_trainer_at(rc_trainer *t, int which, int64_t param)
{
    bool there = which == 0 || t->rate[param] > 0;
    return there ? t->buffer[which] + t->offset[param] : NULL;
}

/* ---- Loss and gradients ---------------------------------------------------------------------- */

static rc_status check_pairs(const rc_trainer *t, const rc_pairs *pairs)
{
    const rc_tower_shape *s = &t->model->audio.shape;
    if (pairs->audio.b < 1 || pairs->audio.frames < s->least || pairs->audio.frames > s->most)
        return rc_fail(RC_EINVAL,
                       "mel: expected at least 1 clip of %lld to %lld frames, got %lld of %lld",
                       (long long)s->least, (long long)s->most, (long long)pairs->audio.b,
                       (long long)pairs->audio.frames);
    RC_TRY(rc_check_range("clip", pairs->clip, 0, 1 << 24));
    return rc_check_batch("clips", pairs->audio.b);
}

static rc_status checked_gradients(rc_trainer *t, rc_step_result *result, const rc_pairs *pairs,
                                   const rc_step *how)
{
    rc_step_job job;
    const float *audio, *text;
    t->gradients = RC_GRADIENTS_NONE;
    RC_TRY(check_pairs(t, pairs));
    RC_TRY(rc_step_open(&job, t, pairs, pairs->audio.b, how));
    float *da = job.run.scratch + job.k->da, *dt = job.run.scratch + job.k->dt;
    rc_step_embed(&job, &audio, &text);
    result->loss = rc_step_loss(&job, da, dt, audio, text);
    rc_step_backward(&job, da, dt);
    result->logit_scale = t->model->params.item[t->model->logit_scale].x[0];
    RC_TRY(rc_update_norm(t, &result->grad_norm));
    RC_TRY(rc_dnn_check(t->context->dnn));
    t->gradients = RC_GRADIENTS_THERE;
    return RC_OK;
}

/* ---- Who works with it ----------------------------------------------------------------------- */

static rc_status enter(rc_trainer *t)
{
    rc_entry entry = rc_guard_write(&t->guard);
    if (entry == RC_ENTRY_BUSY) return rc_fail(RC_EBUSY, "this trainer serves another thread");
    if (entry == RC_ENTRY_TORN)
        return rc_fail(RC_EBUSY, "the process was forked while this trainer was at work");
    return RC_OK;
}

/* All that a call of the trainer may be given. */
typedef struct {
    const rc_pairs *pairs;
    const rc_step *how;
    rc_step_result *result;
    double *loss;
    float *audio, *text; /* embeddings, or gradients to them */
    const float *from_audio, *from_text;
    int64_t n;
} trainer_call;

typedef rc_status trainer_work(rc_trainer *t, const trainer_call *call);

static rc_status reading(rc_trainer *t, trainer_work *work, const trainer_call *call)
{
    RC_TRY(enter(t));
    rc_status status = rc_clap_enter(t->model);
    if (status == RC_OK) {
        status = work(t, call);
        rc_clap_leave(t->model);
    }
    rc_guard_write_end(&t->guard);
    return status;
}

static rc_status changing(rc_trainer *t, trainer_work *work, const trainer_call *call)
{
    RC_TRY(enter(t));
    rc_status status = rc_clap_claim(t->model, "step");
    if (status == RC_OK) {
        status = work(t, call);
        rc_clap_release(t->model);
    }
    rc_guard_write_end(&t->guard);
    return status;
}

static rc_status gradients_work(rc_trainer *t, const trainer_call *call)
{
    return checked_gradients(t, call->result, call->pairs, call->how);
}

rc_status rc_trainer_gradients(rc_trainer *t, rc_step_result *result, const rc_pairs *pairs,
                               const rc_step *how)
{
    trainer_call call = {.result = result, .pairs = pairs, .how = how};
    return reading(t, gradients_work, &call);
}

static rc_status embed_work(rc_trainer *t, const trainer_call *call)
{
    rc_step_job job;
    const float *audio, *text;
    RC_TRY(check_pairs(t, call->pairs));
    RC_TRY(rc_step_open(&job, t, call->pairs, call->pairs->audio.b, call->how));
    rc_step_embed(&job, &audio, &text);
    size_t bytes = (size_t)(call->pairs->audio.b * t->model->config.dim) * sizeof(float);
    memcpy(call->audio, audio, bytes);
    memcpy(call->text, text, bytes);
    return rc_dnn_check(t->context->dnn);
}

rc_status rc_trainer_embed(rc_trainer *t, float *audio, float *text, const rc_pairs *pairs,
                           const rc_step *how)
{
    trainer_call call = {.audio = audio, .text = text, .pairs = pairs, .how = how};
    return reading(t, embed_work, &call);
}

static rc_status loss_work(rc_trainer *t, const trainer_call *call)
{
    rc_step_job job;
    rc_pairs none = {0};
    rc_step how = {0};
    t->gradients = RC_GRADIENTS_NONE;
    if (call->n < 1) return rc_fail(RC_EINVAL, "contrastive loss: the batch is empty");
    RC_TRY(rc_step_open(&job, t, &none, call->n, &how));
    *call->loss = rc_step_loss(&job, call->audio, call->text, call->from_audio, call->from_text);
    RC_TRY(rc_dnn_check(t->context->dnn));
    t->gradients = RC_GRADIENTS_BEGUN;
    return RC_OK;
}

rc_status rc_trainer_loss(rc_trainer *t, double *loss, float *daudio, float *dtext,
                          const float *audio, const float *text, int64_t n)
{
    trainer_call call = {.loss = loss,
                         .audio = daudio,
                         .text = dtext,
                         .from_audio = audio,
                         .from_text = text,
                         .n = n};
    return reading(t, loss_work, &call);
}

static rc_status backward_work(rc_trainer *t, const trainer_call *call)
{
    rc_step_job job;
    const float *audio, *text;
    if (t->gradients == RC_GRADIENTS_NONE)
        return rc_fail(RC_EINVAL, "backward: the gradients of a step begin with loss");
    t->gradients = RC_GRADIENTS_NONE;
    RC_TRY(check_pairs(t, call->pairs));
    RC_TRY(rc_step_open(&job, t, call->pairs, call->pairs->audio.b, call->how));
    rc_step_embed(&job, &audio, &text);
    rc_step_backward(&job, call->from_audio, call->from_text);
    RC_TRY(rc_dnn_check(t->context->dnn));
    t->gradients = RC_GRADIENTS_THERE;
    return RC_OK;
}

rc_status rc_trainer_backward(rc_trainer *t, const float *daudio, const float *dtext,
                              const rc_pairs *pairs, const rc_step *how)
{
    trainer_call call = {.from_audio = daudio, .from_text = dtext, .pairs = pairs, .how = how};
    return reading(t, backward_work, &call);
}

static rc_status step_work(rc_trainer *t, const trainer_call *call)
{
    rc_step_result *result = call->result;
    RC_TRY(rc_update_check(call->how));
    RC_TRY(checked_gradients(t, result, call->pairs, call->how));
    if (!isfinite(result->grad_norm) || !isfinite(result->loss))
        return rc_fail(RC_EINVAL,
                       "step %llu: loss %g and gradient norm %g are not finite; no update",
                       (unsigned long long)call->how->step, result->loss, result->grad_norm);
    rc_update(t, result->grad_norm, call->how);
    return RC_OK;
}

rc_status rc_trainer_step(rc_trainer *t, rc_step_result *result, const rc_pairs *pairs,
                          const rc_step *how)
{
    trainer_call call = {.result = result, .pairs = pairs, .how = how};
    return changing(t, step_work, &call);
}

static rc_status update_work(rc_trainer *t, const trainer_call *call)
{
    rc_step_result *result = call->result;
    RC_TRY(rc_update_check(call->how));
    if (t->gradients != RC_GRADIENTS_THERE || t->embedded == NULL)
        return rc_fail(RC_EINVAL, "update: needs the gradients of a step, from backward");
    RC_TRY(rc_update_norm(t, &result->grad_norm));
    RC_TRY(rc_dnn_check(t->context->dnn));
    result->logit_scale = t->model->params.item[t->model->logit_scale].x[0];
    if (!isfinite(result->grad_norm))
        return rc_fail(RC_EINVAL, "step %llu: the gradient norm %g is not finite; no update",
                       (unsigned long long)call->how->step, result->grad_norm);
    rc_update(t, result->grad_norm, call->how);
    return RC_OK;
}

rc_status rc_trainer_update(rc_trainer *t, rc_step_result *result, const rc_step *how)
{
    trainer_call call = {.result = result, .how = how};
    return changing(t, update_work, &call);
}
