/* htsat: HTS-AT, the audio tower that is trained. */
#ifndef RC_HTSAT_H
#define RC_HTSAT_H

#include "base/rng.h"
#include "layers/context.h"
#include "layers/params.h"

/* HTS-AT (Chen et al. 2022) as LAION-CLAP uses it; names and defaults as in its configuration. */
typedef struct {
    int64_t mels, spec_size, patch, embed, window;
    double mlp_ratio; /* hidden width: the whole part of mlp_ratio times a stage's width */
    int64_t activation;
    int64_t stages, depths[RC_STAGES_MAX], heads[RC_STAGES_MAX];
    bool fusion;                      /* four pictures a clip, fused in the patch embedding */
    int64_t fusion_ratio;             /* its attention has embed / fusion_ratio channels inside */
    bool qkv_bias, patch_norm;        /* whether there are these parameters */
    double drop_path, dropout;        /* training only */
    int64_t time_stripes, time_width; /* SpecAugment, training only */
    int64_t freq_stripes, freq_width;
    double bn_momentum, eps, block_eps; /* of all norms, of those inside blocks */
} rc_htsat_config;

/* Pictures of a clip in a tower with fusion: the whole clip, and its front, middle and back. */
enum { RC_VIEWS = 4 };

typedef struct rc_htsat rc_htsat; /* indices of the parameters and the gather tables */

rc_status rc_htsat_check(const rc_htsat_config *c);
rc_status rc_htsat_new(rc_htsat **out, const rc_htsat_config *c, rc_params *p);
void rc_htsat_free(rc_htsat *t);
int64_t rc_htsat_width(const rc_htsat *t);  /* of the embedding */
int64_t rc_htsat_frames(const rc_htsat *t); /* most spectrogram frames accepted */

/* What a training forward keeps; NULL at inference. */
typedef struct rc_htsat_tape rc_htsat_tape;

rc_status rc_htsat_tape_new(rc_htsat_tape **out, const rc_htsat *t);
void rc_htsat_tape_free(rc_htsat_tape *tape);

/* y (b, width). With a tape: train mode, draws at (seed, step), the batch's statistics kept; not
 * for towers with fusion. Without fusion longer is NULL. */
rc_status rc_htsat_forward(const rc_htsat *t, const rc_params *p, rc_context *c, float *y,
                           const float *mel, const bool *longer, int64_t b, int64_t frames,
                           rc_htsat_tape *tape, rc_draw draw);
rc_status rc_htsat_backward(const rc_htsat *t, const rc_params *p, rc_context *c, const float *dy,
                            rc_htsat_tape *tape);

/* Mix the statistics of the tape's batch into the running ones. */
void rc_htsat_update_statistics(const rc_htsat *t, const rc_params *p, const rc_htsat_tape *tape);

#endif
