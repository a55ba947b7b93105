/* trainer: one training step.
 *
 * An rc_trainer owns values, gradients, moments and the activations of one step. */
#ifndef RC_TRAINER_H
#define RC_TRAINER_H

#include "towers/clap.h"

typedef struct rc_trainer rc_trainer;

typedef struct {
    double lr, beta1, beta2, eps, weight_decay, clip; /* clip 0: none */
    uint64_t seed, step;                              /* step counts from 0 */
} rc_step;

typedef struct {
    double loss, grad_norm, logit_scale;
} rc_step_result;

/* Claims the model while it is made. */
rc_status rc_trainer_new(rc_trainer **out, rc_clap *m, int threads);
void rc_trainer_free(rc_trainer *t);

/* Before rc_trainer_free: the values, which the model's parameters point into, become the caller's
 * (rc_free), and the model is as before the trainer but for them. */
float *rc_trainer_leave_values(rc_trainer *t);

/* Flat buffers of equal layout: values, gradients, first and second moment. */
float *rc_trainer_buffer(rc_trainer *t, int which);
int64_t rc_trainer_offset(const rc_trainer *t, int64_t param);

/* Loss and gradients of one batch: mel (b, frames, mels), text features (b, text_width). Nothing
 * but the gradients changes. */
rc_status rc_trainer_gradients(rc_trainer *t, rc_step_result *result, const float *mel,
                               const float *text, int64_t b, int64_t frames, const rc_step *how);

/* The same, then clipping, AdamW and running statistics; claims the model meanwhile. RC_EINVAL, and
 * nothing changes, where loss or gradients are not finite. */
rc_status rc_trainer_step(rc_trainer *t, rc_step_result *result, const float *mel,
                          const float *text, int64_t b, int64_t frames, const rc_step *how);

#endif
