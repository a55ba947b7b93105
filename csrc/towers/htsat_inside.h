/* htsat_inside: the inside of HTS-AT: parameters and tables. */
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
    int32_t *mask_of;  /* the mask of each shifted window */
    rc_block *block;
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

int64_t rc_htsat_width(const rc_htsat *t);  /* of the features */
int64_t rc_htsat_frames(const rc_htsat *t); /* most frames of a log-mel */

/* htsat_run.c, for the row of the table; htsat_input.c: commit, moments. */
rc_status rc_htsat_plan_make(void **body, rc_plan *plan, const void *tower, const rc_params *p,
                             const rc_input_size *size, bool train);
void rc_htsat_forward(const void *body, const rc_run *run, const rc_features *out,
                      const rc_input *in);
void rc_htsat_backward(const void *body, const rc_run *run, const float *dy, const rc_input *in);
void rc_htsat_commit(const void *body, const rc_run *run);
void rc_htsat_moments(const void *tower, rc_pool *pool, rc_moments *m, const rc_input *in);

#endif
