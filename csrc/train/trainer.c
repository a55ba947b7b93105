/* One training step: forward, loss, backward, clipping, AdamW.
 *
 * Values, gradients and the two moments are four flat buffers of equal layout, so that the
 * optimizer, the gradient norm and a checkpoint are each one loop. */
#include "train/trainer.h"

#include "kernels/optim.h"
#include "train/loss.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BUFFERS = 4, PIECE = 65536, LINE = 16 };

struct rc_trainer {
    rc_clap *model; /* the caller's; its parameters point into our buffers */
    rc_context *context;
    void *tape;             /* of the audio tower */
    float *buffer[BUFFERS]; /* values, gradients, first moment, second moment */
    int64_t *offset;
    int64_t size;
    rc_arena arena; /* heads, loss */
    rc_guard guard;
};

static rc_status open_trainer(rc_trainer *t, int threads)
{
    rc_params *p = &t->model->params;
    RC_TRY(rc_context_new(&t->context, threads));
    RC_TRY(t->model->audio.kind->new_tape(&t->tape, t->model->audio.tower));
    t->offset = calloc((size_t)p->count, sizeof *t->offset);
    if (t->offset == NULL) return rc_fail(RC_ENOMEM, "out of memory: trainer");
    for (int64_t i = 0; i < p->count; i++) {
        t->offset[i] = t->size;
        t->size += (p->item[i].count + LINE - 1) / LINE * LINE;
    }
    for (int k = 0; k < BUFFERS; k++)
        RC_TRY(rc_alloc((void **)&t->buffer[k], t->size * (int64_t)sizeof(float)));
    for (int64_t i = 0; i < p->count; i++)
        RC_TRY(rc_param_read(t->buffer[0] + t->offset[i], t->context->dnn, &p->item[i]));
    for (int64_t i = 0; i < p->count; i++) { /* nothing fails from here on */
        rc_param *item = &p->item[i];
        item->x = t->buffer[0] + t->offset[i];
        item->dx = t->buffer[1] + t->offset[i];
        rc_param_unpack(item); /* would keep the values of before the first step */
    }
    return RC_OK;
}

static rc_status check_model(const rc_clap *m)
{
    if (m->audio.kind == NULL || m->config.text_width < 1 || m->text != NULL)
        return rc_fail(RC_EINVAL, "trainer: needs an audio tower and text features, no text tower");
    RC_TRY(rc_audio_check_training(m->audio.kind, &m->audio.shape));
    if (m->params.item[0].dx != NULL)
        return rc_fail(RC_EINVAL, "trainer: this model already has one");
    return RC_OK;
}

static rc_status new_trainer(rc_trainer **out, rc_clap *m, int threads)
{
    RC_TRY(check_model(m));
    rc_trainer *t = calloc(1, sizeof *t);
    if (t == NULL) return rc_fail(RC_ENOMEM, "out of memory: trainer");
    t->model = m;
    rc_status status = open_trainer(t, threads);
    if (status != RC_OK) {
        rc_trainer_free(t);
        return status;
    }
    *out = t;
    return RC_OK;
}

rc_status rc_trainer_new(rc_trainer **out, rc_clap *m, int threads)
{
    *out = NULL;
    RC_TRY(rc_clap_claim(m, "trainer"));
    rc_status status = new_trainer(out, m, threads);
    rc_clap_release(m);
    return status;
}

void rc_trainer_free(rc_trainer *t)
{
    if (t == NULL) return;
    rc_context_free(t->context);
    t->model->audio.kind->free_tape(t->tape);
    for (int k = 0; k < BUFFERS; k++) rc_free(t->buffer[k]);
    free(t->offset);
    rc_arena_free(&t->arena);
    free(t);
}

float *rc_trainer_leave_values(rc_trainer *t)
{
    float *values = t->buffer[0];
    for (int64_t i = 0; i < t->model->params.count; i++) t->model->params.item[i].dx = NULL;
    t->buffer[0] = NULL;
    return values;
}

float *rc_trainer_buffer(rc_trainer *t, int which)
{
    return t->buffer[which];
}
int64_t rc_trainer_offset(const rc_trainer *t, int64_t param)
{
    return t->offset[param];
}

/* ---- Gradients ------------------------------------------------------------------------------- */

typedef struct {
    rc_head_tape audio, text;
    rc_contrastive loss;
    float *features, *dfeatures, *da, *dt;
} step_buffers;

static void take_step(step_buffers *s, rc_arena *arena, const rc_clap *m, int64_t b, int threads)
{
    int64_t width = m->audio.shape.width, dim = m->config.dim;
    s->features = rc_take(arena, b * width);
    s->dfeatures = rc_take(arena, b * width);
    rc_head_tape_take(&s->audio, arena, &m->audio_head, b);
    rc_head_tape_take(&s->text, arena, &m->text_head, b);
    s->da = rc_take(arena, b * dim);
    s->dt = rc_take(arena, b * dim);
    rc_contrastive_take(&s->loss, arena, b, threads);
}

static rc_status backward(rc_trainer *t, step_buffers *s, const float *text, int64_t b)
{
    rc_clap *m = t->model;
    rc_dnn *dnn = t->context->dnn;
    rc_param *scale = &m->params.item[m->logit_scale];
    RC_TRY(rc_contrastive_backward(s->da, s->dt, scale->dx, &s->loss, dnn, s->audio.y, s->text.y,
                                   scale->x[0], b, m->config.dim));
    RC_TRY(rc_head_backward(&m->text_head, &m->params, dnn, NULL, s->dt, &s->text, text, b));
    RC_TRY(rc_head_backward(&m->audio_head, &m->params, dnn, s->dfeatures, s->da, &s->audio,
                            s->features, b));
    return m->audio.kind->backward(m->audio.tower, &m->params, t->context, s->dfeatures, t->tape);
}

static rc_status gradients(rc_trainer *t, double *loss, const float *mel, const float *text,
                           int64_t b, int64_t frames, const rc_step *how)
{
    rc_clap *m = t->model;
    rc_dnn *dnn = t->context->dnn;
    rc_arena counting = {0};
    step_buffers s;
    take_step(&s, &counting, m, b, rc_dnn_threads(dnn));
    RC_TRY(rc_arena_reserve(&t->arena, counting.peak));
    take_step(&s, &t->arena, m, b, rc_dnn_threads(dnn));
    memset(t->buffer[1], 0, (size_t)t->size * sizeof(float));
    rc_draw draw = {.seed = how->seed, .step = how->step};
    rc_log_mels in = {.x = mel, .b = b, .frames = frames};
    RC_TRY(m->audio.kind->forward(m->audio.tower, &m->params, t->context, s.features, &in, t->tape,
                                  draw));
    RC_TRY(rc_head_forward(&m->audio_head, &m->params, dnn, &s.audio, s.features, b));
    RC_TRY(rc_head_forward(&m->text_head, &m->params, dnn, &s.text, text, b));
    RC_TRY(rc_contrastive_forward(loss, &s.loss, dnn, s.audio.y, s.text.y,
                                  m->params.item[m->logit_scale].x[0], b, m->config.dim));
    return backward(t, &s, text, b);
}

typedef struct {
    const float *x;
    double *partial;
    int64_t size;
} norm_job;

static void norm_piece(void *arg, int64_t i, int worker)
{
    (void)worker;
    const norm_job *job = arg;
    job->partial[i] = rc_sum_squares(job->x + i * PIECE, rc_min(PIECE, job->size - i * PIECE));
}

/* In fixed pieces, so that the sum does not depend on the number of threads. */
static rc_status gradient_norm(rc_trainer *t, double *norm)
{
    int64_t pieces = (t->size + PIECE - 1) / PIECE;
    norm_job job = {.x = t->buffer[1], .size = t->size};
    RC_TRY(rc_alloc((void **)&job.partial, pieces * (int64_t)sizeof(double)));
    rc_parallel(rc_dnn_pool(t->context->dnn), pieces, norm_piece, &job);
    double sum = 0;
    for (int64_t i = 0; i < pieces; i++) sum += job.partial[i];
    rc_free(job.partial);
    *norm = sqrt(sum);
    return RC_OK;
}

static rc_status checked_gradients(rc_trainer *t, rc_step_result *result, const float *mel,
                                   const float *text, int64_t b, int64_t frames, const rc_step *how)
{
    int64_t most = t->model->audio.shape.most;
    if (b < 1 || frames < 1 || frames > most)
        return rc_fail(RC_EINVAL,
                       "mel: expected at least 1 clip of 1 to %lld frames, got %lld of %lld",
                       (long long)most, (long long)b, (long long)frames);
    RC_TRY(rc_check_batch("clips", b));
    RC_TRY(gradients(t, &result->loss, mel, text, b, frames, how));
    result->logit_scale = t->model->params.item[t->model->logit_scale].x[0];
    RC_TRY(gradient_norm(t, &result->grad_norm));
    return rc_dnn_check(t->context->dnn);
}

static rc_status enter(rc_trainer *t)
{
    rc_entry entry = rc_guard_write(&t->guard);
    if (entry == RC_ENTRY_BUSY) return rc_fail(RC_EBUSY, "this trainer serves another thread");
    if (entry == RC_ENTRY_TORN)
        return rc_fail(RC_EBUSY, "the process was forked while this trainer was at work");
    rc_dnn_trim(t->context->dnn);
    return RC_OK;
}

rc_status rc_trainer_gradients(rc_trainer *t, rc_step_result *result, const float *mel,
                               const float *text, int64_t b, int64_t frames, const rc_step *how)
{
    RC_TRY(enter(t));
    rc_status status = rc_clap_enter(t->model);
    if (status == RC_OK) {
        status = checked_gradients(t, result, mel, text, b, frames, how);
        rc_clap_leave(t->model);
    }
    rc_guard_write_end(&t->guard);
    return status;
}

/* ---- Update ---------------------------------------------------------------------------------- */

typedef struct {
    rc_trainer *t;
    rc_adamw how;
    float decay;
} update_job;

/* The parameter that the value at a place of the buffers belongs to, or that it pads. */
static int64_t param_at(const rc_trainer *t, int64_t at)
{
    int64_t low = 0, high = t->model->params.count;
    while (high - low > 1) {
        int64_t middle = low + (high - low) / 2;
        if (t->offset[middle] <= at)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* Values from..to-1 of the buffers, as far as they are the parameter's. */
static void update_part(const update_job *job, int64_t param, int64_t from, int64_t to)
{
    const rc_trainer *t = job->t;
    const rc_param *p = &t->model->params.item[param];
    int64_t at = rc_max(from, t->offset[param]);
    int64_t n = rc_min(to, t->offset[param] + p->count) - at;
    if (p->kind == RC_BUFFER || n < 1) return;
    rc_adamw how = job->how;
    how.weight_decay = p->kind == RC_WEIGHT ? job->decay : 0;
    rc_adamw_step(t->buffer[0] + at, t->buffer[2] + at, t->buffer[3] + at, t->buffer[1] + at, n,
                  &how);
}

/* Pieces, not parameters: a table of tokens would keep one thread busy when the others are done. */
static void update_piece(void *arg, int64_t index, int worker)
{
    (void)worker;
    const update_job *job = arg;
    const rc_trainer *t = job->t;
    int64_t from = index * PIECE, to = rc_min(from + PIECE, t->size);
    for (int64_t i = param_at(t, from); i < t->model->params.count && t->offset[i] < to; i++)
        update_part(job, i, from, to);
}

/* The temperature stays in [0, ln 100] (LAION: training/train.py). */
static void clamp_scale(rc_trainer *t)
{
    float *s = t->model->params.item[t->model->logit_scale].x;
    *s = fminf(fmaxf(*s, 0), 4.6051702f);
}

static rc_status check_step(const rc_step *how)
{
    const struct {
        const char *name;
        double value, least, most;
    } numbers[] = {
        {"lr", how->lr, 0, 1e30},
        {"beta1", how->beta1, 0, 0.9999999},
        {"beta2", how->beta2, 0, 0.9999999},
        {"eps", how->eps, 1e-30, 1},
        {"weight_decay", how->weight_decay, 0, 1e3},
        {"clip", how->clip, 0, INFINITY},
        {"step", (double)how->step, 0, 1e15},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (!(numbers[i].value >= numbers[i].least && numbers[i].value <= numbers[i].most))
            return rc_fail(RC_EINVAL, "%s: expected %g to %g, got %g", numbers[i].name,
                           numbers[i].least, numbers[i].most, numbers[i].value);
    return RC_OK;
}

static rc_status step(rc_trainer *t, rc_step_result *result, const float *mel, const float *text,
                      int64_t b, int64_t frames, const rc_step *how)
{
    RC_TRY(check_step(how));
    RC_TRY(checked_gradients(t, result, mel, text, b, frames, how));
    if (!isfinite(result->grad_norm) || !isfinite(result->loss))
        return rc_fail(RC_EINVAL,
                       "step %llu: loss %g and gradient norm %g are not finite; no update",
                       (unsigned long long)how->step, result->loss, result->grad_norm);
    double clip =
        how->clip > 0 && result->grad_norm > how->clip ? how->clip / (result->grad_norm + 1e-6) : 1;
    update_job job = {.t = t, .decay = (float)how->weight_decay};
    job.how = (rc_adamw){.lr = (float)how->lr,
                         .beta1 = (float)how->beta1,
                         .beta2 = (float)how->beta2,
                         .eps = (float)how->eps,
                         .step = (int64_t)how->step + 1,
                         .grad_scale = (float)clip};
    rc_watch *watch = rc_watch_set(NULL); /* half an update would be worse than a late end */
    rc_parallel(rc_dnn_pool(t->context->dnn), (t->size + PIECE - 1) / PIECE, update_piece, &job);
    rc_watch_set(watch);
    clamp_scale(t);
    t->model->audio.kind->commit(t->model->audio.tower, &t->model->params, t->tape);
    return RC_OK;
}

rc_status rc_trainer_step(rc_trainer *t, rc_step_result *result, const float *mel,
                          const float *text, int64_t b, int64_t frames, const rc_step *how)
{
    RC_TRY(enter(t));
    rc_status status = rc_clap_claim(t->model, "step");
    if (status == RC_OK) {
        status = step(t, result, mel, text, b, frames, how);
        rc_clap_release(t->model);
    }
    rc_guard_write_end(&t->guard);
    return status;
}
