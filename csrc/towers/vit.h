/* vit: a plain vision transformer over patches of log-mels. */
#ifndef RC_VIT_H
#define RC_VIT_H

#include "towers/tower.h"

enum { RC_VIT_CLS, RC_VIT_MEAN }; /* what stands for a clip */

/* Patches, a CLS token, learned positions, pre-norm blocks, a final norm (Dosovitskiy et al. 2021,
 * arXiv 2010.11929); tokens of a clip are time-major. */
typedef struct {
    int64_t mels, channels, frames; /* of a log-mel; the most frames */
    int64_t patch_time, patch_mel;  /* sides of a patch, and its strides */
    int64_t width, depth, heads, mlp;
    int64_t activation, pool;
    double drop_path, dropout, eps;
} rc_vit_config;

extern const rc_tower_kind rc_vit_kind;

#endif
