/* head: projection into the joint space, then unit length.
 *
 * RC_HEAD_MLP is LAION's audio_projection and text_projection: W2 relu(W1 x + b1) + b2. RC_HEAD_MS
 * is MS-CLAP's Projection (msclap: models/clap.py): with e1 = W1 x and e2 = W2 gelu(e1), layer norm
 * of e1 + e2. Its dropout of a half on e2, in training only, is left out. */
#ifndef RC_HEAD_H
#define RC_HEAD_H

#include "layers/linear.h"

typedef enum { RC_HEAD_NONE, RC_HEAD_LINEAR, RC_HEAD_MLP, RC_HEAD_MS } rc_head_kind;

typedef struct {
    rc_head_kind kind;
    int64_t in, out;
    rc_pair first, second; /* RC_HEAD_LINEAR uses only the first */
    rc_pair norm;          /* of RC_HEAD_MS */
} rc_head;

void rc_head_declare(rc_head *h, rc_params *p, rc_head_kind kind, int64_t in, int64_t out,
                     const char *name);

/* The rows of a call, in scratch: around the activation, before and after L2, what RC_HEAD_MS's
 * layer norm reads; and gradients. */
typedef struct {
    const rc_head *h;
    const rc_params *p;
    rc_grid grid;
    bool train;
    rc_linear first, second;
    rc_linear_back dfirst, dsecond;
    int64_t hidden, active, raw, y, length, sum, mean, rstd;
    int64_t dhidden, draw, dsum;
} rc_head_plan;

rc_status rc_head_plan_make(rc_head_plan *k, rc_plan *plan, const rc_head *h, const rc_params *p,
                            int64_t n, bool train);

/* x (n, in) -> (n, out), unit rows, which are returned and stay in scratch. */
const float *rc_head_forward(const rc_head_plan *k, const rc_run *run, const float *x);

/* dx (n, in) is overwritten or, where nothing below learns, NULL. */
void rc_head_backward(const rc_head_plan *k, const rc_run *run, float *dx, const float *dy,
                      const float *x);

#endif
