/* One training step: embed, loss, backward. */
#include "train/trainer_inside.h"

#include <string.h>

/* ---- Plan ------------------------------------------------------------------------------------ */

static rc_status plan_side(rc_step_side *k, rc_plan *plan, const rc_clap *m, const rc_tower *tower,
                           const rc_head *head, int64_t b)
{
    const rc_params *p = &m->params;
    k->tower = tower;
    k->learns = rc_params_learn(p, tower->from, tower->to);
    k->features = rc_plan_take(plan, b * head->in);
    k->dfeatures = rc_plan_take(plan, b * head->in);
    return rc_head_plan_make(&k->head, plan, head, p, b, true);
}

static rc_status plan_tower(rc_step_side *k, rc_plan *plan, const rc_clap *m,
                            const rc_input_size *size)
{
    const rc_tower *t = k->tower;
    if (t->kind == NULL) return RC_OK;
    return t->kind->plan((void **)&k->body, plan, t->tower, &m->params, size, k->learns);
}

static rc_status make_plan(void **body, rc_plan *plan, const rc_plan_key *key, const void *arg)
{
    const rc_trainer *t = arg;
    const rc_clap *m = t->model;
    rc_input_size audio = {key->b, key->rows, key->longest};
    rc_input_size text = {key->other[0], key->other[1], key->other[2]};
    rc_loss_size loss = {key->other[3], key->other[4], m->config.dim, t->teacher};
    RC_TRY(rc_plan_alloc(plan, body, sizeof(rc_step_plan)));
    rc_plan_checkpoint(plan, t->checkpointing);
    rc_step_plan *k = *body;
    if (loss.na > 0) {
        k->da = rc_plan_take(plan, loss.na * loss.c);
        k->dt = rc_plan_take(plan, loss.nt * loss.c);
        RC_TRY(rc_losses_plan(&k->losses, plan, t->term, t->terms, &loss));
    }
    if (audio.b == 0) return RC_OK;
    RC_TRY(plan_side(&k->audio, plan, m, &m->audio, &m->audio_head, audio.b));
    RC_TRY(plan_side(&k->text, plan, m, &m->text, &m->text_head, text.b));
    RC_TRY(plan_tower(&k->audio, plan, m, &audio));
    return plan_tower(&k->text, plan, m, &text);
}

static rc_status measure(rc_input_size *size, const rc_tower *t, const rc_input *in)
{
    *size = (rc_input_size){.b = in->b};
    if (t->kind == NULL || in->b == 0) return RC_OK;
    return t->kind->measure(size, &t->shape, t->tower, in);
}

enum { ROWS = 64, TOKENS = 16 };

/* Texts of a batch have as many tokens as they like; by a size of its own each would need a plan,
 * so it is rounded up. */
static void round_texts(rc_input_size *size, const rc_tower *t)
{
    if (t->kind == NULL) return;
    size->rows = (size->rows + ROWS - 1) / ROWS * ROWS;
    size->longest = rc_min((size->longest + TOKENS - 1) / TOKENS * TOKENS, t->shape.most);
}

static rc_plan_key key_of(const rc_trainer *t, const rc_input_size *audio,
                          const rc_input_size *text, int64_t na, int64_t nt)
{
    rc_input_size rounded = *text;
    round_texts(&rounded, &t->model->text);
    return (rc_plan_key){t->model->params.layout,
                         RC_CALL_TRAIN,
                         audio->b,
                         audio->rows,
                         audio->longest,
                         {text->b, rounded.rows, rounded.longest, na, nt}};
}

rc_status rc_step_open(rc_step_job *job, rc_trainer *t, const rc_pairs *pairs, int64_t na,
                       int64_t nt, const rc_step *how)
{
    const rc_clap *m = t->model;
    rc_input_size audio, text;
    *job = (rc_step_job){.t = t, .pairs = pairs};
    t->embedded = NULL;
    RC_TRY(measure(&audio, &m->audio, &pairs->audio));
    RC_TRY(measure(&text, &m->text, &pairs->text));
    rc_plan_key key = key_of(t, &audio, &text, na, nt);
    job->piece = na == 0;
    RC_TRY(rc_context_plan(t->context, (const void **)&job->k, &key, make_plan, t));
    job->run = rc_context_run(t->context, (rc_draw){.seed = how->seed, .step = how->step});
    return RC_OK;
}

rc_status rc_step_measure(rc_trainer *t, int64_t *floats, const rc_call_size *size)
{
    rc_input_size audio = {.b = size->clips, .rows = size->frames};
    rc_input_size text = {size->texts, size->tokens, size->longest};
    rc_plan_key key = key_of(t, &audio, &text, size->na, size->nt);
    return rc_context_measure(t->context, floats, &key, make_plan, t);
}

/* ---- Embed, loss, backward ------------------------------------------------------------------- */

static float *at(const rc_step_job *job, int64_t offset)
{
    return job->run.scratch + offset;
}

/* What goes into the head. */
static const float *features(const rc_step_job *job, const rc_step_side *side)
{
    return side->tower->kind == NULL ? job->pairs->features : at(job, side->features);
}

/* What the towers run on: draws count clips, and texts. */
static rc_run run_of(const rc_step_job *job, const rc_step_side *side)
{
    rc_run run = job->run;
    run.clip = side == &job->k->audio ? job->pairs->clip : job->pairs->caption;
    return run;
}

/* What they take: pieces of a batch know of the whole. */
static rc_input input_of(const rc_step_job *job, const rc_step_side *side)
{
    if (side == &job->k->text) return job->pairs->text;
    rc_input in = job->pairs->audio;
    if (job->piece && job->t->whole.n > 0) in.whole = &job->t->whole;
    return in;
}

static const float *embed(const rc_step_job *job, const rc_step_side *side)
{
    rc_features out = {.y = at(job, side->features)};
    const rc_tower_kind *kind = side->tower->kind;
    rc_run run = run_of(job, side);
    rc_input in = input_of(job, side);
    if (kind != NULL) kind->forward(side->body, &run, &out, &in);
    return rc_head_forward(&side->head, &run, features(job, side));
}

void rc_step_embed(rc_step_job *job, const float **audio, const float **text)
{
    *audio = embed(job, &job->k->audio);
    *text = embed(job, &job->k->text);
    job->t->embedded = job->k;
}

/* Adds to a gradient, if there is one. */
static void add(const rc_clap *m, int64_t param, float value)
{
    if (param >= 0 && m->params.item[param].dx != NULL) *m->params.item[param].dx += value;
}

static void scale(float *x, int64_t n, float factor)
{
    for (int64_t i = 0; factor != 1 && i < n; i++) x[i] *= factor;
}

double rc_step_loss(rc_step_job *job, float *daudio, float *dtext, const rc_loss_in *in,
                    const rc_share *share)
{
    rc_trainer *t = job->t;
    const rc_clap *m = t->model;
    float dscale = 0, dbias = 0;
    rc_loss_out out = {daudio, dtext, &dscale, &dbias};
    if (!share->more) memset(t->buffer[1], 0, (size_t)t->learned * sizeof(float));
    double value = rc_losses_forward(&job->k->losses, &job->run, in);
    rc_losses_backward(&job->k->losses, &job->run, &out, in);
    scale(daudio, in->na * m->config.dim, share->factor);
    scale(dtext, in->nt * m->config.dim, share->factor);
    add(m, m->logit_scale, dscale * share->factor);
    add(m, m->logit_bias, dbias * share->factor);
    return value;
}

static void backward(const rc_step_job *job, const rc_step_side *side, const float *dy)
{
    float *dfeatures = side->learns ? at(job, side->dfeatures) : NULL;
    rc_run run = run_of(job, side);
    rc_input in = input_of(job, side);
    rc_head_backward(&side->head, &run, dfeatures, dy, features(job, side));
    if (side->learns) side->tower->kind->backward(side->body, &run, dfeatures, &in);
}

void rc_step_backward(rc_step_job *job, const float *daudio, const float *dtext)
{
    backward(job, &job->k->text, dtext);
    backward(job, &job->k->audio, daudio);
}

void rc_step_commit(const rc_step_plan *k, const rc_run *run)
{
    const rc_step_side *sides[] = {&k->audio, &k->text};
    for (int i = 0; i < 2; i++)
        if (sides[i]->learns && sides[i]->tower->kind->commit != NULL)
            sides[i]->tower->kind->commit(sides[i]->body, run);
}
