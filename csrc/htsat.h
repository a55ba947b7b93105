/* htsat: the inside of the audio tower, shared by htsat.c (shape) and htsat_run.c (computation). */
#ifndef RC_HTSAT_H
#define RC_HTSAT_H

#include <stdio.h>

#include "swin.h"

/* One resolution: blocks, then patch merging (not after the last stage). */
typedef struct {
    int64_t side, tokens, c, depth, window, shift;
    int32_t *order[2]; /* grid position of each row, unshifted and shifted windows */
    int32_t *from[4];  /* where rows come from: grid to unshifted, unshifted to shifted, shifted to
                          unshifted, last block to patch merging */
    float *mask;       /* of shifted windows */
    rc_swin *block;
    rc_pair merge_norm, merge;
} rc_htsat_stage;

struct rc_htsat {
    rc_htsat_config config;
    int64_t blocks; /* of all stages */
    rc_pair bn, patch, patch_norm, norm;
    int64_t bn_mean, bn_var;
    int32_t *patch_from; /* (spec_size^2) */
    rc_htsat_stage stage[RC_STAGES_MAX];
};

#endif
