/* block: one block of windowed attention, the repeated part of the audio tower.
 *
 * The residual stream lies in window order, clip after clip. A block gathers its input from the
 * order of the block before it, so that shifting windows costs no pass of its own, and then every
 * chunk of whole windows runs through the block on one worker. */
#ifndef RC_BLOCK_H
#define RC_BLOCK_H

#include "base/rng.h"
#include "kernels/act.h"
#include "layers/params.h"

typedef struct {
    rc_pair norm1, qkv, proj, norm2, fc1, fc2;
    int64_t relpos;        /* index of the bias table */
    int64_t c, heads, mlp; /* width, heads, hidden width */
    int64_t window;        /* side; window^2 rows make one */
    int64_t tokens;        /* rows of one clip */
    const int32_t *from;   /* (tokens) where in the previous order each row lies */
    const float *mask;     /* (RC_WINDOW_KINDS - 1, window^2, window^2) or NULL */
    int64_t across;        /* windows in a row of the grid */
    float eps, drop_path, dropout;
    const rc_act *act; /* of the MLP */
    uint64_t site;     /* first of the four places where this block draws */
} rc_swin;

/* What forward keeps for backward, rows in this block's order. */
typedef struct {
    float *x, *mean1, *rstd1;   /* input of the first branch and its statistics */
    float *qkv, *o;             /* before and after attention */
    float *mid, *mean2, *rstd2; /* input of the second branch */
    float *hidden;              /* before the activation */
} rc_swin_tape;

/* Take the tape's memory for `rows` rows. */
void rc_swin_tape_take(rc_swin_tape *tape, rc_arena *arena, const rc_swin *s, int64_t rows);

/* y, x (b tokens, c), y in this block's order, x in the previous one. Scratch comes from `arena`,
 * which may be counting (then nothing runs). With a tape: train mode. */
rc_status rc_swin_forward(const rc_swin *s, const rc_params *p, rc_dnn *dnn, float *y,
                          const float *x, int64_t b, rc_swin_tape *tape, rc_draw draw,
                          rc_arena *arena);

/* dx in the previous order, dy in this block's. */
rc_status rc_swin_backward(const rc_swin *s, const rc_params *p, rc_dnn *dnn, float *dx,
                           const float *dy, int64_t b, const rc_swin_tape *tape, rc_draw draw,
                           rc_arena *arena);

#endif
