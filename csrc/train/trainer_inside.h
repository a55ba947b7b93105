/* trainer_inside: a trainer and a step at work, which the files of train/ share. */
#ifndef RC_TRAINER_INSIDE_H
#define RC_TRAINER_INSIDE_H

#include "train/calls.h"

enum {
    RC_TRAINER_BUFFERS = 4,
    RC_TRAINER_PIECE = 65536
}; /* values of a piece that threads share */

/* How far the gradients of a step have come; those of a call that failed are nothing. */
typedef enum { RC_GRADIENTS_NONE, RC_GRADIENTS_BEGUN, RC_GRADIENTS_THERE } rc_gradients;

/* One side of a step: a tower, or none where features are given; its head. */
typedef struct {
    const rc_tower *tower;
    bool learns; /* the tower, or some of it */
    const void *body;
    rc_head_plan head;
    int64_t features, dfeatures;
} rc_step_side;

/* The audio tower's scratch comes before the text tower's. What the audio tower needs only while it
 * works lies where the text tower keeps its tape: texts go forward last and back first. So the
 * statistics on the audio tower's tape are there when a step is taken. */
typedef struct {
    rc_step_side audio, text;
    rc_losses losses;
    int64_t da, dt;
} rc_step_plan;

struct rc_trainer {
    rc_clap *model; /* the caller's; its parameters point into our buffers */
    rc_context *context;
    rc_type type;                 /* of products */
    const rc_step_plan *embedded; /* of the pairs that were embedded last, or NULL */
    rc_gradients gradients;
    float *buffer[RC_TRAINER_BUFFERS]; /* values, gradients, first moment, second moment */
    int64_t *offset;                   /* of each parameter */
    int64_t *order;                    /* parameters as they lie: those that learn first */
    int64_t learning;                  /* so many */
    float *rate, *decay;
    int64_t size, learned; /* of all values; of those that learn, which the other buffers hold */
    rc_moments whole;      /* of the log-mels of a batch in pieces; none: 0 */
    bool checkpointing;
    rc_loss_term term[RC_LOSSES_MAX];
    int terms;
    int64_t teacher; /* width of its embeddings */
    float teacher_log_scale;
    rc_guard guard;
};

typedef struct {
    rc_trainer *t;
    const rc_step_plan *k;
    rc_run run;
    const rc_pairs *pairs;
    bool piece; /* of a batch, without a loss of its own */
} rc_step_job;

/* step.c. For some pairs at a time, none where only a loss is wanted; na clips and nt texts in the
 * loss, none where it is not wanted. */
rc_status rc_step_open(rc_step_job *job, rc_trainer *t, const rc_pairs *pairs, int64_t na,
                       int64_t nt, const rc_step *how);
rc_status rc_step_measure(rc_trainer *t, int64_t *floats, const rc_call_size *size);
void rc_step_embed(rc_step_job *job, const float **audio, const float **text); /* unit rows */
double rc_step_loss(rc_step_job *job, float *daudio, float *dtext, const rc_loss_in *in,
                    const rc_share *share);
void rc_step_backward(rc_step_job *job, const float *daudio, const float *dtext);
void rc_step_commit(const rc_step_plan *k, const rc_run *run); /* statistics of the batch */

/* update.c */
rc_status rc_update_check(const rc_step *how);
rc_status rc_update_norm(rc_trainer *t, double *norm); /* of all gradients */
/* New values of weights in the type of products: of those that learn, or of all. */
void rc_update_lower(rc_trainer *t, bool all);
void rc_update(rc_trainer *t, double grad_norm, const rc_step *how);

#endif
