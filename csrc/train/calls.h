/* calls: the calls of a training step. */
#ifndef RC_CALLS_H
#define RC_CALLS_H

#include "train/trainer.h"

typedef struct {
    double lr, beta1, beta2, eps, weight_decay, clip; /* clip 0: none */
    int coupled;                                      /* Adam with L2 decay instead of AdamW */
    uint64_t seed, step;                              /* step counts from 0 */
} rc_step;

typedef struct {
    double loss, grad_norm, logit_scale;
} rc_step_result;

/* Clips and texts of a batch, or some of them; for a model without a text tower, features of texts
 * (text.b, text_width). `clip` and `caption` of the batch come before, so that random draws are
 * those of the whole batch. */
typedef struct {
    rc_input audio, text;
    const float *features;
    int64_t clip, caption;
} rc_pairs;

/* Which clip each text belongs to, and as what; embeddings of a teacher: see rc_loss_in. */
typedef struct {
    const int32_t *owner, *role;
    const float *teacher_audio, *teacher_text;
    bool without_teacher;
} rc_targets;

/* Loss and gradients of one batch. Nothing but the gradients changes. */
rc_status rc_trainer_gradients(rc_trainer *t, rc_step_result *result, const rc_pairs *pairs,
                               const rc_targets *targets, const rc_step *how);

/* The same, then the update; claims the model meanwhile. */
rc_status rc_trainer_step(rc_trainer *t, rc_step_result *result, const rc_pairs *pairs,
                          const rc_targets *targets, const rc_step *how);

/* ---- A step in calls of its own, for batches that come in pieces ----------------------------- */

/* Add the log-mels of some clips to what is known of their batch, or begin with them. The input
 * norms of embed and backward then have the statistics of the whole batch, until the update. */
rc_status rc_trainer_moments(rc_trainer *t, const rc_input *clips, bool first);

/* Embeddings (b, dim) of audio and text in train mode. */
rc_status rc_trainer_embed(rc_trainer *t, float *audio, float *text, const rc_pairs *pairs,
                           const rc_step *how);

/* The share of a batch in the gradients of a step, which add up where it has several batches; those
 * after the first come with `more`. */
typedef struct {
    float factor;
    bool more;
} rc_share;

/* The loss of na clips and nt texts by their embeddings, and its gradients to these, times the
 * share's factor. Here the gradients of a step begin: with those of scale and bias, else 0. */
rc_status rc_trainer_loss(rc_trainer *t, double *loss, float *daudio, float *dtext,
                          const float *audio, int64_t na, const float *text, int64_t nt,
                          const rc_targets *targets, const rc_share *share);

/* From gradients to the embeddings of some pairs, which are embedded once more, on to those of the
 * parameters, which are added to. */
rc_status rc_trainer_backward(rc_trainer *t, const float *daudio, const float *dtext,
                              const rc_pairs *pairs, const rc_step *how);

/* Clipping, AdamW, and the running statistics of the pairs that were embedded last. RC_EINVAL, and
 * nothing changes, where gradients are not finite, or not those of a whole step that is not taken
 * yet. Claims the model meanwhile. */
rc_status rc_trainer_update(rc_trainer *t, rc_step_result *result, const rc_step *how);

/* ---- Memory ---------------------------------------------------------------------------------- */

/* Clips of so many frames and texts of so many tokens together, the longest of so many, in one
 * call; clips and texts in the loss. */
typedef struct {
    int64_t clips, frames, texts, tokens, longest, na, nt;
} rc_call_size;

/* Bytes of scratch that a call of this size needs; those of the four buffers. */
rc_status rc_trainer_measure(rc_trainer *t, int64_t *scratch, int64_t *buffers,
                             const rc_call_size *size);

/* To be called where values were written from outside. */
rc_status rc_trainer_refresh(rc_trainer *t);

#endif
