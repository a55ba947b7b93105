/* head: projection into the joint space, then unit length.
 *
 * RC_HEAD_MLP is LAION's audio_projection and text_projection: W2 relu(W1 x + b1) + b2. RC_HEAD_MS
 * is MS-CLAP's Projection (msclap: models/clap.py): with e1 = W1 x and e2 = W2 gelu(e1), layer norm
 * of e1 + e2. Its dropout of a half on e2, in training only, is left out. */
#ifndef RC_HEAD_H
#define RC_HEAD_H

#include "layers/params.h"

typedef enum { RC_HEAD_NONE, RC_HEAD_LINEAR, RC_HEAD_MLP, RC_HEAD_MS } rc_head_kind;

typedef struct {
    rc_head_kind kind;
    int64_t in, out;
    rc_pair first, second; /* RC_HEAD_LINEAR uses only the first */
    rc_pair norm;          /* of RC_HEAD_MS */
} rc_head;

/* Rows of one call: forward fills the first lines, backward the last. */
typedef struct {
    float *hidden, *active, *raw, *y, *length; /* around the activation, before and after L2 */
    float *sum, *mean, *rstd;                  /* what RC_HEAD_MS's layer norm reads */
    float *dhidden, *draw, *dsum;
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
