/* One update: clipping, AdamW, the bounds of the temperature, running statistics. */
#include "train/trainer_inside.h"

#include "kernels/optim.h"
#include "layers/low.h"

#include <math.h>

enum { PIECE = RC_TRAINER_PIECE };

/* ---- The norm of all gradients --------------------------------------------------------------- */

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
rc_status rc_update_norm(rc_trainer *t, double *norm)
{
    int64_t pieces = (t->learned + PIECE - 1) / PIECE;
    norm_job job = {.x = t->buffer[1], .size = t->learned};
    RC_TRY(rc_alloc((void **)&job.partial, pieces * (int64_t)sizeof(double)));
    rc_parallel(rc_dnn_pool(t->context->dnn), pieces, norm_piece, &job);
    double sum = 0;
    for (int64_t i = 0; i < pieces; i++) sum += job.partial[i];
    rc_free(job.partial);
    *norm = sqrt(sum);
    return RC_OK;
}

/* ---- Update ---------------------------------------------------------------------------------- */

typedef struct {
    rc_trainer *t;
    rc_adamw how;
    float decay;
} update_job;

/* The place in the order of the parameter that the value at an index of the buffers belongs to, or
 * that it pads. */
static int64_t place_at(const rc_trainer *t, int64_t at)
{
    int64_t low = 0, high = t->learning;
    while (high - low > 1) {
        int64_t middle = low + (high - low) / 2;
        if (t->offset[t->order[middle]] <= at)
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
    how.lr *= t->rate[param];
    how.weight_decay = p->kind == RC_WEIGHT ? job->decay * t->decay[param] : 0;
    rc_adamw_step(t->buffer[0] + at, t->buffer[2] + at, t->buffer[3] + at, t->buffer[1] + at, n,
                  &how);
}

/* Pieces, not parameters: a table of tokens would keep one thread busy when the others are done. */
static void update_piece(void *arg, int64_t index, int worker)
{
    (void)worker;
    const update_job *job = arg;
    const rc_trainer *t = job->t;
    int64_t from = index * PIECE, to = rc_min(from + PIECE, t->learned);
    for (int64_t i = place_at(t, from); i < t->learning && t->offset[t->order[i]] < to; i++)
        update_part(job, t->order[i], from, to);
}

/* The temperature stays in [0, ln 100] (LAION: training/train.py). */
static void clamp_scale(rc_trainer *t)
{
    if (t->rate[t->model->logit_scale] == 0) return;
    float *s = t->model->params.item[t->model->logit_scale].x;
    *s = fminf(fmaxf(*s, 0), 4.6051702f);
}

/* ---- Weights in the type of products --------------------------------------------------------- */

typedef struct {
    rc_trainer *t;
    bool all;
} lower_job;

static void lower_one(void *arg, int64_t index, int worker)
{
    const lower_job *job = arg;
    rc_param *p = &job->t->model->params.item[index];
    if (job->all || p->dx != NULL) rc_param_lower_again(p, job->t->context->dnn, worker);
}

void rc_update_lower(rc_trainer *t, bool all)
{
    lower_job job = {t, all};
    if (t->type == RC_F32) return;
    rc_parallel(rc_dnn_pool(t->context->dnn), t->model->params.count, lower_one, &job);
}

rc_status rc_update_check(const rc_step *how)
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

void rc_update(rc_trainer *t, double grad_norm, const rc_step *how)
{
    double clip = how->clip > 0 && grad_norm > how->clip ? how->clip / (grad_norm + 1e-6) : 1;
    update_job job = {.t = t, .decay = (float)how->weight_decay};
    job.how = (rc_adamw){.lr = (float)how->lr,
                         .beta1 = (float)how->beta1,
                         .beta2 = (float)how->beta2,
                         .eps = (float)how->eps,
                         .step = (int64_t)how->step + 1,
                         .grad_scale = (float)clip,
                         .coupled = how->coupled};
    rc_watch *watch = rc_watch_set(NULL); /* half an update would be worse than a late end */
    rc_parallel(rc_dnn_pool(t->context->dnn), (t->learned + PIECE - 1) / PIECE, update_piece, &job);
    rc_update_lower(t, false);
    rc_watch_set(watch);
    clamp_scale(t);
    rc_run run = rc_context_run(t->context, (rc_draw){0});
    rc_step_commit(t->embedded, &run);
    t->gradients = RC_GRADIENTS_NONE;
    t->embedded = NULL;
    t->whole.n = 0;
}
