/* One training step: embed, loss, backward. */
#include "train/trainer_inside.h"

#include <string.h>

/* What a goal without terms has. */
static const rc_loss_term CONTRASTIVE[] = {{RC_LOSS_CONTRASTIVE, 1}};

static const rc_loss_term *terms_of(const rc_goal *goal)
{
    return goal->terms == 0 ? CONTRASTIVE : goal->term;
}

static int count_terms(const rc_goal *goal)
{
    return goal->terms == 0 ? 1 : goal->terms;
}

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

/* The kinds of a goal's terms as one number, and back. */
static int64_t code_of(const rc_goal *goal)
{
    int64_t code = 0;
    for (int i = count_terms(goal) - 1; i >= 0; i--) code = code * 8 + terms_of(goal)[i].kind + 1;
    return code;
}

static rc_status plan_losses(rc_step_plan *k, rc_plan *plan, const rc_loss_size *size, int64_t code)
{
    rc_loss_term term[RC_LOSSES_MAX];
    int count = 0;
    for (; code > 0; code /= 8) term[count++] = (rc_loss_term){code % 8 - 1, 1};
    k->da = rc_plan_take(plan, size->na * size->c);
    k->dt = rc_plan_take(plan, size->nt * size->c);
    return rc_losses_plan(&k->losses, plan, term, count, size);
}

static rc_status make_plan(void **body, rc_plan *plan, const rc_plan_key *key, const void *arg)
{
    const rc_clap *m = arg;
    const int64_t *other = key->other;
    rc_input_size audio = {key->b, key->rows, key->longest}, text = {other[0], other[1], other[2]};
    rc_loss_size loss = {other[3], other[4], m->config.dim, other[5]};
    RC_TRY(rc_plan_alloc(plan, body, sizeof(rc_step_plan)));
    rc_step_plan *k = *body;
    if (loss.na > 0) RC_TRY(plan_losses(k, plan, &loss, other[6]));
    if (audio.b == 0) return RC_OK;
    RC_TRY(plan_side(&k->audio, plan, m, &m->audio, &m->audio_head, audio.b));
    RC_TRY(plan_side(&k->text, plan, m, &m->text, &m->text_head, text.b));
    RC_TRY(plan_tower(&k->text, plan, m, &text));
    return plan_tower(&k->audio, plan, m, &audio);
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

static rc_status check_goal(const rc_goal *goal, const rc_loss_size *size)
{
    rc_loss_in in = {.na = size->na, .nt = size->nt, .owner = goal->owner, .role = goal->role};
    in.teacher_a = goal->teacher_a;
    in.teacher_t = goal->teacher_t;
    return rc_losses_check(terms_of(goal), count_terms(goal), size, &in);
}

rc_status rc_step_open(rc_step_job *job, rc_trainer *t, const rc_pairs *pairs, int64_t na,
                       int64_t nt, const rc_step *how)
{
    const rc_clap *m = t->model;
    const rc_goal *goal = &pairs->goal;
    rc_input_size audio, text;
    rc_loss_size loss = {na, nt, m->config.dim, goal->teacher};
    *job = (rc_step_job){.t = t, .pairs = pairs};
    t->embedded = NULL;
    if (na > 0) RC_TRY(check_goal(goal, &loss));
    RC_TRY(measure(&audio, &m->audio, &pairs->audio));
    RC_TRY(measure(&text, &m->text, &pairs->text));
    round_texts(&text, &m->text);
    rc_plan_key key = {
        m->params.layout,
        RC_CALL_TRAIN,
        audio.b,
        audio.rows,
        audio.longest,
        {text.b, text.rows, text.longest, na, nt, goal->teacher, na > 0 ? code_of(goal) : 0}};
    RC_TRY(rc_context_plan(t->context, (const void **)&job->k, &key, make_plan, m));
    job->run = rc_context_run(t->context, (rc_draw){.seed = how->seed, .step = how->step});
    return RC_OK;
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

/* Draws count clips and texts from the beginning of the batch. */
static rc_run run_of(const rc_step_job *job, const rc_step_side *side)
{
    rc_run run = job->run;
    run.clip = side == &job->k->audio ? job->pairs->clips_before : job->pairs->texts_before;
    return run;
}

static const float *embed(const rc_step_job *job, const rc_step_side *side, const rc_input *in)
{
    rc_run run = run_of(job, side);
    rc_features out = {.y = at(job, side->features)};
    const rc_tower_kind *kind = side->tower->kind;
    if (kind != NULL) kind->forward(side->body, &run, &out, in);
    return rc_head_forward(&side->head, &run, features(job, side));
}

void rc_step_embed(rc_step_job *job, const float **audio, const float **text)
{
    *text = embed(job, &job->k->text, &job->pairs->text);
    *audio = embed(job, &job->k->audio, &job->pairs->audio);
    job->t->embedded = job->k;
}

static float *gradient_of(const rc_trainer *t, int64_t param)
{
    return param < 0 ? NULL : t->model->params.item[param].dx;
}

double rc_step_loss(rc_step_job *job, float *daudio, float *dtext, const float *audio,
                    const float *text)
{
    rc_trainer *t = job->t;
    const rc_clap *m = t->model;
    const rc_goal *goal = &job->pairs->goal;
    const rc_losses *k = &job->k->losses;
    rc_loss_in in = {.na = k->size.na, .nt = k->size.nt, .a = audio, .t = text};
    in.owner = goal->owner;
    in.role = goal->role;
    in.log_scale = m->params.item[m->logit_scale].x[0];
    in.bias = m->logit_bias < 0 ? 0 : m->params.item[m->logit_bias].x[0];
    in.teacher_a = goal->teacher_a;
    in.teacher_t = goal->teacher_t;
    in.teacher_log_scale = goal->teacher_log_scale;
    rc_loss_out out = {daudio, dtext, gradient_of(t, m->logit_scale),
                       gradient_of(t, m->logit_bias)};
    memset(t->buffer[1], 0, (size_t)t->learned * sizeof(float));
    double value = rc_losses_forward(k, &job->run, terms_of(goal), &in);
    rc_losses_backward(k, &job->run, terms_of(goal), &out, &in);
    return value;
}

static void backward(const rc_step_job *job, const rc_step_side *side, const float *dy,
                     const rc_input *in)
{
    float *dfeatures = side->learns ? at(job, side->dfeatures) : NULL;
    rc_run run = run_of(job, side);
    rc_head_backward(&side->head, &run, dfeatures, dy, features(job, side));
    if (side->learns) side->tower->kind->backward(side->body, &run, dfeatures, in);
}

void rc_step_backward(rc_step_job *job, const float *daudio, const float *dtext)
{
    backward(job, &job->k->audio, daudio, &job->pairs->audio);
    backward(job, &job->k->text, dtext, &job->pairs->text);
}

void rc_step_commit(const rc_step_plan *k, const rc_run *run)
{
    const rc_step_side *sides[] = {&k->audio, &k->text};
    for (int i = 0; i < 2; i++)
        if (sides[i]->learns && sides[i]->tower->kind->commit != NULL)
            sides[i]->tower->kind->commit(sides[i]->body, run);
}
