/* trainer: one training step.
 *
 * An rc_trainer owns values, gradients, moments and the activations of one step. */
#ifndef RC_TRAINER_H
#define RC_TRAINER_H

#include "towers/clap.h"

typedef struct rc_trainer rc_trainer;

typedef struct {
    double lr, beta1, beta2, eps, weight_decay, clip; /* clip 0: none */
    int coupled;                                      /* Adam with L2 decay instead of AdamW */
    uint64_t seed, step;                              /* step counts from 0 */
} rc_step;

typedef struct {
    double loss, grad_norm, logit_scale;
} rc_step_result;

/* By parameter: factors of the learning rate, 0 where it is frozen, and of the weight decay. NULL:
 * 1 for all. A tower all of which is frozen, with its adapters, runs as at inference: no draws,
 * running statistics. A batch norm whose statistics are frozen works with these. */
typedef struct {
    const float *rate, *decay;
} rc_rates;

/* Claims the model while it is made. */
rc_status rc_trainer_new(rc_trainer **out, rc_clap *m, const rc_rates *rates, int threads);
void rc_trainer_free(rc_trainer *t);

/* Before rc_trainer_free: the values, which the model's parameters point into, become the caller's
 * (rc_free), and the model is as before the trainer but for them. */
float *rc_trainer_leave_values(rc_trainer *t);

/* Where a parameter lies in a flat buffer: values (0), gradients (1), first (2) and second (3)
 * moment. Of a frozen one there are values only, else NULL. */
float *rc_trainer_at(rc_trainer *t, int which, int64_t param);

/* Pairs of a batch, or some of them: clips, and as many texts or, for a model without a text tower,
 * features of texts (b, text_width). `clip` of the batch come before, so that random draws are
 * those of the whole batch. */
typedef struct {
    rc_input audio, text;
    const float *features;
    int64_t clip;
} rc_pairs;

/* Loss and gradients of one batch. Nothing but the gradients changes. */
rc_status rc_trainer_gradients(rc_trainer *t, rc_step_result *result, const rc_pairs *pairs,
                               const rc_step *how);

/* The same, then the update; claims the model meanwhile. */
rc_status rc_trainer_step(rc_trainer *t, rc_step_result *result, const rc_pairs *pairs,
                          const rc_step *how);

/* ---- A step in calls of its own, for batches that come in pieces ----------------------------- */

/* Embeddings (b, dim) of audio and text in train mode. */
rc_status rc_trainer_embed(rc_trainer *t, float *audio, float *text, const rc_pairs *pairs,
                           const rc_step *how);

/* The loss of n pairs of embeddings and its gradients to them. Here the gradients of a step begin:
 * with that of the scale, else 0. */
rc_status rc_trainer_loss(rc_trainer *t, double *loss, float *daudio, float *dtext,
                          const float *audio, const float *text, int64_t n);

/* From gradients to the embeddings of some pairs, which are embedded once more, on to those of the
 * parameters, which are added to. */
rc_status rc_trainer_backward(rc_trainer *t, const float *daudio, const float *dtext,
                              const rc_pairs *pairs, const rc_step *how);

/* Clipping, AdamW, and the running statistics of the pairs that were embedded last. RC_EINVAL, and
 * nothing changes, where gradients are not finite, or not those of a whole step that is not taken
 * yet. Claims the model meanwhile. */
rc_status rc_trainer_update(rc_trainer *t, rc_step_result *result, const rc_step *how);

#endif
