/* htsat: HTS-AT, the audio tower that is trained. */
#ifndef RC_HTSAT_H
#define RC_HTSAT_H

#include "towers/tower.h"

/* HTS-AT (Chen et al. 2022) as LAION-CLAP uses it; names and defaults as in its configuration. */
typedef struct {
    int64_t mels, spec_size, patch, embed, window;
    double mlp_ratio; /* hidden width: the whole part of mlp_ratio times a stage's width */
    int64_t activation;
    int64_t stages, depths[RC_STAGES_MAX], stages_with_heads, heads[RC_STAGES_MAX];
    bool fusion;                      /* four log-mels a clip, fused in the patch embedding */
    int64_t fusion_ratio;             /* its attention has embed / fusion_ratio channels inside */
    bool qkv_bias, patch_norm;        /* whether there are these parameters */
    double drop_path, dropout;        /* training only */
    int64_t time_stripes, time_width; /* SpecAugment, training only */
    int64_t freq_stripes, freq_width;
    double bn_momentum, eps, block_eps; /* of all norms, of those inside blocks */
} rc_htsat_config;

/* Log-mels of a clip in a tower with fusion: the whole clip, and its front, middle and back. */
enum { RC_VIEWS = 4 };

extern const rc_tower_kind rc_htsat_kind;

#endif
