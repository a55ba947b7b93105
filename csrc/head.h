/* head: projection into the joint space (LAION: audio_projection, text_projection), then unit
 * length. */
#ifndef RC_HEAD_H
#define RC_HEAD_H

#include "model.h"

/* Rows of one call: forward fills the first line, backward the second. */
typedef struct {
    float *hidden, *active, *raw, *y, *length; /* before and after ReLU, before and after L2 */
    float *dhidden, *draw;
} rc_head_tape;

void rc_head_declare(rc_head *h, rc_params *p, rc_head_kind kind, int64_t in, int64_t out,
                     const char *name);
void rc_head_tape_take(rc_head_tape *k, rc_arena *arena, const rc_head *h, int64_t n);

/* x (n, in) -> k->y (n, out), unit rows. */
rc_status rc_head_forward(const rc_head *h, const rc_params *p, rc_dnn *dnn, const rc_head_tape *k,
                          const float *x, int64_t n);

/* dx (n, in) is overwritten or, where nothing below learns, NULL. */
rc_status rc_head_backward(const rc_head *h, const rc_params *p, rc_dnn *dnn, float *dx,
                           const float *dy, const rc_head_tape *k, const float *x, int64_t n);

#endif
