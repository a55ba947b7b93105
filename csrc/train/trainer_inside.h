/* trainer_inside: a trainer and a step at work, which the files of train/ share. */
#ifndef RC_TRAINER_INSIDE_H
#define RC_TRAINER_INSIDE_H

#include "train/loss.h"
#include "train/trainer.h"

enum {
    RC_TRAINER_BUFFERS = 4,
    RC_TRAINER_PIECE = 65536
}; /* values of a piece that threads share */

/* How far the gradients of a step have come; those of a call that failed are nothing. */
typedef enum { RC_GRADIENTS_NONE, RC_GRADIENTS_BEGUN, RC_GRADIENTS_THERE } rc_gradients;

struct rc_trainer {
    rc_clap *model; /* the caller's; its parameters point into our buffers */
    rc_context *context;
    const void *embedded; /* the plan of the pairs that were embedded last, or NULL */
    rc_gradients gradients;
    float *buffer[RC_TRAINER_BUFFERS]; /* values, gradients, first moment, second moment */
    int64_t *offset;
    int64_t size;
    rc_guard guard;
};

/* The audio tower's scratch comes last: what it keeps for backward, its backward may lie over. */
typedef struct {
    rc_head_plan audio, text;
    rc_contrastive loss;
    const void *tower;
    int64_t features, dfeatures, da, dt;
} rc_step_plan;

typedef struct {
    rc_trainer *t;
    const rc_step_plan *k;
    rc_run run;
    rc_input in;
    const float *text;
} rc_step_job;

/* step.c. For so many pairs at a time, none where only a loss is wanted, and n in the loss. */
rc_status rc_step_open(rc_step_job *job, rc_trainer *t, const rc_pairs *pairs, int64_t n,
                       const rc_step *how);
void rc_step_embed(rc_step_job *job, const float **audio, const float **text); /* unit rows */
double rc_step_loss(rc_step_job *job, float *daudio, float *dtext, const float *audio,
                    const float *text);
void rc_step_backward(rc_step_job *job, const float *daudio, const float *dtext);

/* update.c */
rc_status rc_update_check(const rc_step *how);
rc_status rc_update_norm(rc_trainer *t, double *norm); /* of all gradients */
void rc_update(rc_trainer *t, double grad_norm, const rc_step *how);

#endif
