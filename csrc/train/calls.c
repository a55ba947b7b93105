/* The calls of a step as others see them: what they check, who works with a trainer. */
#include "train/calls.h"

#include "layers/low.h"
#include "train/trainer_inside.h"

#include <math.h>
#include <string.h>

/* All that a call of the trainer may be given. */
typedef struct {
    const rc_pairs *pairs;
    const rc_targets *targets;
    const rc_step *how;
    rc_step_result *result;
    double *loss;
    float *audio, *text; /* embeddings, or gradients to them */
    const float *from_audio, *from_text;
    int64_t na, nt;
    const rc_share *share;
    const rc_input *clips;
    bool first;
    const rc_call_size *size;
    int64_t *scratch;
} trainer_call;

/* ---- Checks ---------------------------------------------------------------------------------- */

static rc_status check_pairs(const rc_trainer *t, const rc_pairs *pairs)
{
    const rc_tower_shape *s = &t->model->audio.shape;
    if (pairs->audio.b < 1 || pairs->audio.frames < s->least || pairs->audio.frames > s->most)
        return rc_fail(RC_EINVAL,
                       "mel: expected at least 1 clip of %lld to %lld frames, got %lld of %lld",
                       (long long)s->least, (long long)s->most, (long long)pairs->audio.b,
                       (long long)pairs->audio.frames);
    if (pairs->text.b < 1) return rc_fail(RC_EINVAL, "text: expected at least 1 text");
    RC_TRY(rc_check_range("clip", pairs->clip, 0, 1 << 24));
    RC_TRY(rc_check_range("caption", pairs->caption, 0, 1 << 24));
    RC_TRY(rc_check_batch("texts", pairs->text.b));
    return rc_check_batch("clips", pairs->audio.b);
}

static rc_loss_in loss_input(const rc_trainer *t, int64_t na, int64_t nt, const float *audio,
                             const float *text, const rc_targets *targets)
{
    const rc_clap *m = t->model;
    const rc_param *p = m->params.item;
    return (rc_loss_in){.na = na,
                        .nt = nt,
                        .a = audio,
                        .t = text,
                        .owner = targets->owner,
                        .role = targets->role,
                        .log_scale = p[m->logit_scale].x[0],
                        .bias = m->logit_bias < 0 ? 0 : p[m->logit_bias].x[0],
                        .teacher_a = targets->teacher_audio,
                        .teacher_t = targets->teacher_text,
                        .teacher_log_scale = t->teacher_log_scale,
                        .without_teacher = targets->without_teacher};
}

static rc_status check_loss(const rc_trainer *t, const rc_loss_in *in)
{
    rc_loss_size size = {in->na, in->nt, t->model->config.dim, t->teacher};
    RC_TRY(rc_losses_check(t->term, t->terms, &size, in));
    RC_TRY(rc_check_batch("clips", in->na));
    return rc_check_batch("texts", in->nt);
}

/* ---- Work ------------------------------------------------------------------------------------ */

static rc_status gradients_work(rc_trainer *t, const trainer_call *call)
{
    const rc_pairs *pairs = call->pairs;
    rc_step_result *result = call->result;
    rc_step_job job;
    int64_t na = pairs->audio.b, nt = pairs->text.b;
    rc_loss_in in = loss_input(t, na, nt, NULL, NULL, call->targets);
    t->gradients = RC_GRADIENTS_NONE;
    RC_TRY(check_pairs(t, pairs));
    RC_TRY(check_loss(t, &in));
    RC_TRY(rc_step_open(&job, t, pairs, na, nt, call->how));
    float *da = job.run.scratch + job.k->da, *dt = job.run.scratch + job.k->dt;
    rc_step_embed(&job, &in.a, &in.t);
    result->loss = rc_step_loss(&job, da, dt, &in, &(rc_share){.factor = 1});
    rc_step_backward(&job, da, dt);
    result->logit_scale = in.log_scale;
    RC_TRY(rc_update_norm(t, &result->grad_norm));
    RC_TRY(rc_dnn_check(t->context->dnn));
    t->gradients = RC_GRADIENTS_THERE;
    return RC_OK;
}

static rc_status moments_work(rc_trainer *t, const trainer_call *call)
{
    const rc_tower *tower = &t->model->audio;
    rc_input_size size;
    RC_TRY(tower->kind->measure(&size, &tower->shape, tower->tower, call->clips));
    RC_TRY(rc_check_batch("clips", call->clips->b));
    size_t bytes = (size_t)tower->shape.mels * sizeof(double);
    if (call->first || t->whole.n == 0) {
        memset(t->whole.mean, 0, bytes);
        memset(t->whole.square, 0, bytes);
        t->whole.n = 0;
    }
    if (tower->kind->moments != NULL)
        tower->kind->moments(tower->tower, rc_dnn_pool(t->context->dnn), &t->whole, call->clips);
    return RC_OK;
}

static rc_status embed_work(rc_trainer *t, const trainer_call *call)
{
    rc_step_job job;
    const float *audio, *text;
    size_t row = (size_t)t->model->config.dim * sizeof(float);
    RC_TRY(check_pairs(t, call->pairs));
    RC_TRY(rc_step_open(&job, t, call->pairs, 0, 0, call->how));
    rc_step_embed(&job, &audio, &text);
    memcpy(call->audio, audio, (size_t)call->pairs->audio.b * row);
    memcpy(call->text, text, (size_t)call->pairs->text.b * row);
    return rc_dnn_check(t->context->dnn);
}

static rc_status loss_work(rc_trainer *t, const trainer_call *call)
{
    rc_step_job job;
    rc_pairs none = {0};
    rc_step how = {0};
    rc_loss_in in =
        loss_input(t, call->na, call->nt, call->from_audio, call->from_text, call->targets);
    bool there = t->gradients == RC_GRADIENTS_THERE;
    t->gradients = RC_GRADIENTS_NONE;
    if (call->share->more && !there)
        return rc_fail(RC_EINVAL,
                       "loss: more needs the gradients of a batch before, from backward");
    if (!(fabsf(call->share->factor) <= 1e6f))
        return rc_fail(RC_EINVAL, "factor: expected -1e6 to 1e6, got %g",
                       (double)call->share->factor);
    RC_TRY(check_loss(t, &in));
    RC_TRY(rc_step_open(&job, t, &none, call->na, call->nt, &how));
    *call->loss = rc_step_loss(&job, call->audio, call->text, &in, call->share);
    RC_TRY(rc_dnn_check(t->context->dnn));
    t->gradients = RC_GRADIENTS_BEGUN;
    return RC_OK;
}

static rc_status backward_work(rc_trainer *t, const trainer_call *call)
{
    rc_step_job job;
    const float *audio, *text;
    if (t->gradients == RC_GRADIENTS_NONE)
        return rc_fail(RC_EINVAL, "backward: the gradients of a step begin with loss");
    t->gradients = RC_GRADIENTS_NONE;
    RC_TRY(check_pairs(t, call->pairs));
    RC_TRY(rc_step_open(&job, t, call->pairs, 0, 0, call->how));
    rc_step_embed(&job, &audio, &text);
    rc_step_backward(&job, call->from_audio, call->from_text);
    RC_TRY(rc_dnn_check(t->context->dnn));
    t->gradients = RC_GRADIENTS_THERE;
    return RC_OK;
}

static rc_status step_work(rc_trainer *t, const trainer_call *call)
{
    rc_step_result *result = call->result;
    RC_TRY(rc_update_check(call->how));
    RC_TRY(gradients_work(t, call));
    if (!isfinite(result->grad_norm) || !isfinite(result->loss))
        return rc_fail(RC_EINVAL,
                       "step %llu: loss %g and gradient norm %g are not finite; no update",
                       (unsigned long long)call->how->step, result->loss, result->grad_norm);
    rc_update(t, result->grad_norm, call->how);
    return RC_OK;
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

static rc_status check_size(const rc_trainer *t, const rc_call_size *s)
{
    const rc_tower *a = &t->model->audio, *x = &t->model->text;
    bool tower = x->kind != NULL && s->texts > 0;
    RC_TRY(rc_check_range("clips", s->clips, 0, RC_BATCH_MAX));
    RC_TRY(rc_check_range("texts", s->texts, s->clips > 0, RC_BATCH_MAX));
    RC_TRY(rc_check_range("frames", s->frames, s->clips > 0 ? a->shape.least : 0, a->shape.most));
    RC_TRY(rc_check_range("longest", s->longest, tower, tower ? x->shape.most : 0));
    RC_TRY(rc_check_range("tokens", s->tokens, tower ? s->texts : 0, s->texts * s->longest));
    RC_TRY(rc_check_range("na", s->na, 0, RC_BATCH_MAX));
    return rc_check_range("nt", s->nt, s->na > 0, s->na > 0 ? RC_BATCH_MAX : 0);
}

static rc_status measure_work(rc_trainer *t, const trainer_call *call)
{
    RC_TRY(check_size(t, call->size));
    return rc_step_measure(t, call->scratch, call->size);
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

rc_status rc_trainer_gradients(rc_trainer *t, rc_step_result *result, const rc_pairs *pairs,
                               const rc_targets *targets, const rc_step *how)
{
    trainer_call call = {.result = result, .pairs = pairs, .targets = targets, .how = how};
    return reading(t, gradients_work, &call);
}

rc_status rc_trainer_step(rc_trainer *t, rc_step_result *result, const rc_pairs *pairs,
                          const rc_targets *targets, const rc_step *how)
{
    trainer_call call = {.result = result, .pairs = pairs, .targets = targets, .how = how};
    return changing(t, step_work, &call);
}

rc_status rc_trainer_moments(rc_trainer *t, const rc_input *clips, bool first)
{
    trainer_call call = {.clips = clips, .first = first};
    return reading(t, moments_work, &call);
}

rc_status rc_trainer_embed(rc_trainer *t, float *audio, float *text, const rc_pairs *pairs,
                           const rc_step *how)
{
    trainer_call call = {.audio = audio, .text = text, .pairs = pairs, .how = how};
    return reading(t, embed_work, &call);
}

rc_status rc_trainer_loss(rc_trainer *t, double *loss, float *daudio, float *dtext,
                          const float *audio, int64_t na, const float *text, int64_t nt,
                          const rc_targets *targets, const rc_share *share)
{
    trainer_call call = {.loss = loss,
                         .audio = daudio,
                         .text = dtext,
                         .from_audio = audio,
                         .from_text = text,
                         .na = na,
                         .nt = nt,
                         .targets = targets,
                         .share = share};
    return reading(t, loss_work, &call);
}

rc_status rc_trainer_backward(rc_trainer *t, const float *daudio, const float *dtext,
                              const rc_pairs *pairs, const rc_step *how)
{
    trainer_call call = {.from_audio = daudio, .from_text = dtext, .pairs = pairs, .how = how};
    return reading(t, backward_work, &call);
}

rc_status rc_trainer_update(rc_trainer *t, rc_step_result *result, const rc_step *how)
{
    trainer_call call = {.result = result, .how = how};
    return changing(t, update_work, &call);
}

rc_status rc_trainer_measure(rc_trainer *t, int64_t *scratch, int64_t *buffers,
                             const rc_call_size *size)
{
    trainer_call call = {.size = size, .scratch = scratch};
    RC_TRY(reading(t, measure_work, &call));
    *buffers = (t->size + (RC_TRAINER_BUFFERS - 1) * t->learned) * (int64_t)sizeof(float);
    for (int64_t i = 0; i < t->model->params.count; i++)
        *buffers += rc_param_low_bytes(&t->model->params.item[i]);
    return rc_mul(scratch, *scratch, (int64_t)sizeof(float));
}

static rc_status refresh_work(rc_trainer *t, const trainer_call *call)
{
    (void)call;
    rc_update_lower(t, true);
    return rc_dnn_check(t->context->dnn);
}

rc_status rc_trainer_refresh(rc_trainer *t)
{
    trainer_call call = {0};
    return changing(t, refresh_work, &call);
}
