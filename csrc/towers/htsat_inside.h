/* htsat_inside: the inside of the audio tower, parameters, tables, tape. */
#ifndef RC_HTSAT_INSIDE_H
#define RC_HTSAT_INSIDE_H

#include "layers/block.h"
#include "towers/fusion.h"
#include "towers/htsat.h"

/* One resolution: blocks, then patch merging (not after the last stage). */
typedef struct {
    int64_t side, tokens, c, depth, window, shift;
    int32_t *order[2]; /* grid position of each row, unshifted and shifted windows */
    int32_t *from[4];  /* where rows come from: grid to unshifted, unshifted to shifted, shifted to
                          unshifted, last block to patch merging */
    rc_swin *block;
    rc_pair merge_norm, merge;
} rc_htsat_stage;

typedef struct {
    rc_htsat_config config;
    int64_t blocks; /* of all stages */
    rc_fusion fusion;
    rc_batch_norm bn;
    rc_pair patch, patch_norm, norm;
    int32_t *patch_from; /* (spec_size^2) */
    float *mask;         /* of shifted windows, in all stages that have some */
    rc_htsat_stage stage[RC_STAGES_MAX];
} rc_htsat;

int64_t rc_htsat_width(const rc_htsat *t);  /* of the embedding */
int64_t rc_htsat_frames(const rc_htsat *t); /* most frames of a log-mel */

/* ---- Tape ------------------------------------------------------------------------------------ */

/* What patch merging keeps: the four rows side by side and their statistics. */
typedef struct {
    float *x, *mean, *rstd;
} rc_merge_tape;

typedef struct {
    rc_arena arena;
    const float *mel; /* the caller's, must live until backward */
    int64_t b, frames;
    rc_draw draw;
    float *bn_mean, *bn_var;    /* of this batch */
    float *pixels;              /* (b tokens, patch^2) */
    float *embed, *mean, *rstd; /* (b tokens, embed) before the patch norm, if there is one */
    rc_swin_tape *block;        /* all blocks in order */
    rc_merge_tape merge[RC_STAGES_MAX];
    float *last, *last_mean, *last_rstd; /* input of the final norm */
} rc_htsat_tape;

/* htsat_run.c: of the row of the table. */
rc_status rc_htsat_forward(const void *tower, const rc_params *p, rc_context *c, float *y,
                           const rc_log_mels *in, void *tape, rc_draw draw);
rc_status rc_htsat_new_tape(void **out, const void *tower);
void rc_htsat_free_tape(void *tape);
rc_status rc_htsat_backward(const void *tower, const rc_params *p, rc_context *c, const float *dy,
                            void *tape);
void rc_htsat_commit(const void *tower, const rc_params *p, const void *tape);

#endif
