/* trainer: values, gradients and moments of a model in training, and the activations of one step;
 * its calls stand in calls.h. */
#ifndef RC_TRAINER_H
#define RC_TRAINER_H

#include "towers/clap.h"
#include "train/loss.h"

typedef struct rc_trainer rc_trainer;

/* By parameter: factors of the learning rate, 0 where it is frozen, and of the weight decay. NULL:
 * 1 for all. A tower all of which is frozen, with its adapters, runs as at inference: no draws,
 * running statistics. A batch norm whose statistics are frozen works with these. The loss is a
 * weighted sum; none: the contrastive one. A teacher has embeddings so wide, 0 without. `type`,
 * RC_F32 or RC_BF16, is that of both factors of the products of towers; all else is float32. */
typedef struct {
    const float *rate, *decay;
    rc_loss_term term[RC_LOSSES_MAX];
    int terms;
    int64_t teacher;
    float teacher_log_scale;
    rc_type type;
    bool checkpointing; /* see rc_plan_checkpoint */
} rc_trainer_config;

/* Claims the model while it is made. */
rc_status rc_trainer_new(rc_trainer **out, rc_clap *m, const rc_trainer_config *config,
                         int threads);
void rc_trainer_free(rc_trainer *t);

/* Before rc_trainer_free: the values, which the model's parameters point into, become the caller's
 * (rc_free), and the model is as before the trainer but for them. */
float *rc_trainer_leave_values(rc_trainer *t);

int64_t rc_trainer_teacher(const rc_trainer *t); /* width of its embeddings; 0: none */

/* Where a parameter lies in a flat buffer: values (0), gradients (1), first (2) and second (3)
 * moment. Of a frozen one there are values only, else NULL. */
float *rc_trainer_at(rc_trainer *t, int which, int64_t param);

#endif
