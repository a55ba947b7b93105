/* cnn14_inside: the inside of Cnn14: parameters, and its training. */
#ifndef RC_CNN14_INSIDE_H
#define RC_CNN14_INSIDE_H

#include "layers/linear.h"
#include "towers/cnn14.h"

/* One convolution, c -> n channels, and its norm. */
typedef struct {
    int64_t c, n;
    rc_pair conv;
    rc_batch_norm norm;
} rc_cnn14_layer;

typedef struct {
    rc_cnn14_config config;
    rc_batch_norm bn;
    rc_cnn14_layer layer[2 * RC_STAGES_MAX];
    rc_pair fc;
} rc_cnn14;

/* Clips whose features go through the last layer at a time. */
enum { RC_CNN14_CLIPS = 8 };

static inline int64_t rc_cnn14_width(const rc_cnn14 *t)
{
    return t->config.widths[t->config.blocks - 1];
}

/* cnn14_train.c: what the row of the table does in training. */
typedef struct rc_cnn14_train rc_cnn14_train;
rc_status rc_cnn14_train_plan(rc_cnn14_train **out, rc_plan *plan, const rc_cnn14 *t,
                              const rc_params *p, const rc_input_size *size);
void rc_cnn14_train_forward(const rc_cnn14_train *k, const rc_run *run, float *y,
                            const rc_input *in);
void rc_cnn14_train_backward(const rc_cnn14_train *k, const rc_run *run, const float *dy,
                             const rc_input *in);
void rc_cnn14_train_commit(const rc_cnn14_train *k, const rc_run *run);

#endif
