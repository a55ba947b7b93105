/* A trainer: its buffers.
 *
 * Values, gradients and the two moments are four flat buffers of equal layout, so that the
 * optimizer, the gradient norm and a checkpoint are each one loop. */
#include "train/trainer.h"

#include "layers/low.h"
#include "train/trainer_inside.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LINE = 16 };

static rc_status take_rates(rc_trainer *t, const rc_trainer_config *config)
{
    size_t n = (size_t)t->model->params.count;
    t->offset = calloc(n, sizeof *t->offset);
    t->order = calloc(n, sizeof *t->order);
    t->rate = calloc(n, sizeof *t->rate);
    t->decay = calloc(n, sizeof *t->decay);
    size_t mels = (size_t)t->model->audio.shape.mels;
    t->whole.mean = calloc(mels, sizeof *t->whole.mean);
    t->whole.square = calloc(mels, sizeof *t->whole.square);
    if (t->offset == NULL || t->order == NULL || t->rate == NULL || t->decay == NULL ||
        t->whole.mean == NULL || t->whole.square == NULL)
        return rc_fail(RC_ENOMEM, "out of memory: trainer");
    for (size_t i = 0; i < n; i++) {
        t->rate[i] = config->rate == NULL ? 1 : config->rate[i];
        t->decay[i] = config->decay == NULL ? 1 : config->decay[i];
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

/* Whether any of parameters from..to-1 or of their adapters is to learn. */
static bool learns(const rc_params *p, const rc_trainer_config *config, int64_t from, int64_t to)
{
    for (int64_t i = from; i < to; i++) {
        int64_t a = p->item[i].adapter;
        if (config->rate == NULL || config->rate[i] > 0) return true;
        if (a != 0 && (config->rate[a] > 0 || config->rate[a + 1] > 0)) return true;
    }
    return false;
}

/* Weights in the type of products; the way back needs those of towers that learn. */
static rc_status lower_all(rc_trainer *t, const rc_trainer_config *config)
{
    const rc_tower *towers[] = {&t->model->audio, &t->model->text};
    rc_params *p = &t->model->params;
    for (int k = 0; k < 2; k++) {
        int64_t from = towers[k]->from, to = towers[k]->to;
        bool back = learns(p, config, from, to);
        for (int64_t i = from; i < to; i++)
            RC_TRY(rc_param_lower(&p->item[i], t->context->dnn, rc_trainer_at(t, 0, i), back));
    }
    return RC_OK;
}

static void raise_all(rc_clap *m)
{
    for (int64_t i = 0; i < m->params.count; i++) rc_param_raise(&m->params.item[i]);
}

static rc_status open_trainer(rc_trainer *t, const rc_trainer_config *config, int threads)
{
    rc_params *p = &t->model->params;
    t->type = config->type;
    t->checkpointing = config->checkpointing;
    RC_TRY(rc_context_new(&t->context, threads, t->type));
    RC_TRY(take_rates(t, config));
    lay_out(t);
    for (int k = 0; k < RC_TRAINER_BUFFERS; k++)
        RC_TRY(rc_alloc((void **)&t->buffer[k],
                        (k == 0 ? t->size : t->learned) * (int64_t)sizeof(float)));
    for (int64_t i = 0; i < p->count; i++)
        RC_TRY(rc_param_read(t->buffer[0] + t->offset[i], t->context->dnn, &p->item[i]));
    if (t->type != RC_F32) RC_TRY(lower_all(t, config));
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

static rc_status check_rates(const rc_params *p, const rc_trainer_config *config)
{
    const float *lists[] = {config->rate, config->decay};
    for (int k = 0; k < 2; k++)
        for (int64_t i = 0; lists[k] != NULL && i < p->count; i++)
            if (!(lists[k][i] >= 0 && lists[k][i] <= 1e6f))
                return rc_fail(RC_EINVAL, "%s of %s: expected 0 to 1e6, got %g",
                               k == 0 ? "rate" : "decay", p->item[i].name, (double)lists[k][i]);
    return RC_OK;
}

static rc_status check_losses(const rc_trainer_config *c)
{
    if (c->terms < 0 || c->terms > RC_LOSSES_MAX)
        return rc_fail(RC_EINVAL, "losses: expected 1 to %d, got %d", RC_LOSSES_MAX, c->terms);
    for (int i = 0; i < c->terms; i++) {
        if (rc_loss_kind_of(c->term[i].kind) == NULL)
            return rc_fail(RC_EINVAL, "losses: there is no kind %lld", (long long)c->term[i].kind);
        if (!(c->term[i].weight > 0 && c->term[i].weight <= 1e6f))
            return rc_fail(RC_EINVAL, "losses: expected weights up to 1e6, got %g",
                           (double)c->term[i].weight);
    }
    if (!(fabsf(c->teacher_log_scale) <= 20))
        return rc_fail(RC_EINVAL, "teacher_log_scale: expected -20 to 20, got %g",
                       (double)c->teacher_log_scale);
    return rc_check_range("teacher", c->teacher, 0, 16384);
}

static rc_status check_model(const rc_clap *m, const rc_trainer_config *config)
{
    const rc_tower *towers[] = {&m->audio, &m->text};
    if (m->audio.kind == NULL || m->config.text_width < 1)
        return rc_fail(RC_EINVAL, "trainer: needs an audio tower, and texts or their features");
    if (m->training) return rc_fail(RC_EINVAL, "trainer: this model already has one");
    RC_TRY(check_rates(&m->params, config));
    RC_TRY(check_losses(config));
    for (int i = 0; i < 2; i++)
        if (learns(&m->params, config, towers[i]->from, towers[i]->to))
            RC_TRY(rc_tower_check_training(towers[i]));
    if (learns(&m->params, config, 0, m->params.count)) return RC_OK;
    return rc_fail(RC_EINVAL, "trainer: all parameters are frozen");
}

static void take_losses(rc_trainer *t, const rc_trainer_config *config)
{
    t->terms = config->terms;
    memcpy(t->term, config->term, sizeof t->term);
    t->teacher = config->teacher;
    t->teacher_log_scale = config->teacher_log_scale;
    if (t->terms > 0) return;
    t->terms = 1;
    t->term[0] = (rc_loss_term){RC_LOSS_CONTRASTIVE, 1};
}

static rc_status new_trainer(rc_trainer **out, rc_clap *m, const rc_trainer_config *config,
                             int threads)
{
    if (config->type != RC_F32 && config->type != RC_BF16)
        return rc_fail(RC_EINVAL, "trainer: dtype: expected float32 or bfloat16");
    RC_TRY(check_model(m, config));
    rc_trainer *t = calloc(1, sizeof *t);
    if (t == NULL) return rc_fail(RC_ENOMEM, "out of memory: trainer");
    t->model = m;
    take_losses(t, config);
    rc_status status = open_trainer(t, config, threads);
    if (status != RC_OK) {
        raise_all(m);
        rc_trainer_free(t);
        return status;
    }
    *out = t;
    return RC_OK;
}

rc_status rc_trainer_new(rc_trainer **out, rc_clap *m, const rc_trainer_config *config, int threads)
{
    *out = NULL;
    RC_TRY(rc_clap_claim(m, "trainer"));
    rc_status status = new_trainer(out, m, config, threads);
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
    free(t->whole.mean);
    free(t->whole.square);
    free(t);
}

float *rc_trainer_leave_values(rc_trainer *t)
{
    float *values = t->buffer[0];
    for (int64_t i = 0; i < t->model->params.count; i++) t->model->params.item[i].dx = NULL;
    raise_all(t->model);
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

int64_t rc_trainer_teacher(const rc_trainer *t)
{
    return t->teacher;
}
