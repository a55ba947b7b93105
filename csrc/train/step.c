/* One training step: embed, loss, backward. */
#include "train/trainer_inside.h"

#include <string.h>

/* ---- Plan ------------------------------------------------------------------------------------ */

static rc_status make_plan(void **body, rc_plan *plan, const rc_plan_key *key, const void *arg)
{
    const rc_clap *m = arg;
    const rc_params *p = &m->params;
    int64_t b = key->b, pairs = key->longest, width = m->audio.shape.width, dim = m->config.dim;
    rc_input_size size = {.b = b, .rows = key->rows};
    RC_TRY(rc_plan_alloc(plan, body, sizeof(rc_step_plan)));
    rc_step_plan *k = *body;
    k->features = rc_plan_take(plan, b * width);
    k->dfeatures = rc_plan_take(plan, b * width);
    k->da = rc_plan_take(plan, pairs * dim);
    k->dt = rc_plan_take(plan, pairs * dim);
    RC_TRY(rc_contrastive_plan(&k->loss, plan, pairs, dim));
    if (b == 0) return RC_OK;
    RC_TRY(rc_head_plan_make(&k->audio, plan, &m->audio_head, p, b, true));
    RC_TRY(rc_head_plan_make(&k->text, plan, &m->text_head, p, b, true));
    return m->audio.kind->plan((void **)&k->tower, plan, m->audio.tower, p, &size, true);
}

rc_status rc_step_open(rc_step_job *job, rc_trainer *t, const rc_pairs *pairs, int64_t n,
                       const rc_step *how)
{
    const rc_clap *m = t->model;
    rc_plan_key key = {m->params.layout, RC_CALL_TRAIN, pairs->b, pairs->frames, n};
    *job = (rc_step_job){.t = t, .text = pairs->text};
    t->embedded = NULL;
    RC_TRY(rc_context_plan(t->context, (const void **)&job->k, &key, make_plan, m));
    job->run = rc_context_run(t->context, (rc_draw){.seed = how->seed, .step = how->step});
    job->run.clip = pairs->clip;
    job->in = (rc_input){.b = pairs->b, .frames = pairs->frames, .x = pairs->mel};
    return RC_OK;
}

/* ---- Embed, loss, backward ------------------------------------------------------------------- */

static float *at(const rc_step_job *job, int64_t offset)
{
    return job->run.scratch + offset;
}

void rc_step_embed(rc_step_job *job, const float **audio, const float **text)
{
    const rc_tower *tower = &job->t->model->audio;
    rc_features out = {.y = at(job, job->k->features)};
    tower->kind->forward(job->k->tower, &job->run, &out, &job->in);
    job->t->embedded = job->k->tower;
    *audio = rc_head_forward(&job->k->audio, &job->run, out.y);
    *text = rc_head_forward(&job->k->text, &job->run, job->text);
}

double rc_step_loss(rc_step_job *job, float *daudio, float *dtext, const float *audio,
                    const float *text)
{
    rc_trainer *t = job->t;
    rc_param *scale = &t->model->params.item[t->model->logit_scale];
    memset(t->buffer[1], 0, (size_t)t->size * sizeof(float));
    double value = rc_contrastive_forward(&job->k->loss, &job->run, audio, text, scale->x[0]);
    rc_contrastive_backward(&job->k->loss, &job->run, daudio, dtext, scale->dx, audio, text,
                            scale->x[0]);
    return value;
}

void rc_step_backward(rc_step_job *job, const float *daudio, const float *dtext)
{
    const rc_step_plan *k = job->k;
    const rc_tower *tower = &job->t->model->audio;
    float *features = at(job, k->features), *dfeatures = at(job, k->dfeatures);
    rc_head_backward(&k->text, &job->run, NULL, dtext, job->text);
    rc_head_backward(&k->audio, &job->run, dfeatures, daudio, features);
    tower->kind->backward(k->tower, &job->run, dfeatures, &job->in);
}
