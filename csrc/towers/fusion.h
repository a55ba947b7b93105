/* fusion: attentional feature fusion (Dai et al. 2021) of a clip's log-mels, a part of the patch
 * embedding that knows nothing of the tower around it. Training stands in fusion_train.h. */
#ifndef RC_FUSION_H
#define RC_FUSION_H

#include "layers/linear.h"
#include "towers/htsat.h"

/* One branch of the attention: squeeze to few channels, widen again. */
typedef struct {
    rc_pair squeeze, widen;
    rc_batch_norm squeeze_norm, widen_norm;
} rc_fusion_branch;

typedef struct {
    rc_fusion_branch local, global;
    rc_pair conv;     /* of the local log-mels, its patches three times as wide */
    int64_t side, c;  /* of the grid; channels */
    int64_t squeezed; /* channels between squeezing and widening */
    int64_t across;   /* patches in a row of one local log-mel */
    int64_t area;     /* pixels of such a patch */
    int64_t floats;   /* of one stretched log-mel */
    int32_t *from;    /* (side across, area) */
    float eps;
} rc_fusion;

/* Log-mels besides that of the whole clip: front, middle and back. */
enum { RC_LOCALS = RC_VIEWS - 1 };

rc_status rc_fusion_check(const rc_htsat_config *c);
rc_status rc_fusion_open(rc_fusion *f, const rc_htsat_config *c, rc_params *p);
void rc_fusion_close(rc_fusion *f);

/* Scratch of a worker is so many floats; the others lie in it: local patches (side^2, c); patches
 * of one row of all local log-mels; both added (side^2, c); squeezed (side^2, squeezed); (c)
 * pooled, and what it adds. */
typedef struct {
    const rc_fusion *f;
    const rc_params *p;
    rc_linear conv, branch_local[2], branch_global[2];
    int64_t floats, local, pixels, both, squeezed, pooled, shift;
} rc_fusion_plan;

rc_status rc_fusion_plan_make(rc_fusion_plan *k, rc_plan *plan, const rc_fusion *f,
                              const rc_params *p);

/* Of one row of patches: the pixels of a row of the grid of all local log-mels (RC_LOCALS, floats);
 * g and l, weighted with w (n): g = 2 g w + 2 l (1 - w). */
void rc_fusion_gather(const rc_fusion *f, float *pixels, const float *mels, int64_t row);
void rc_fusion_mix(float *g, const float *l, const float *w, int64_t n);

/* g (side^2, c), the patches of a clip's whole log-mel, is fused with those of its local ones
 * (RC_LOCALS, floats), which are normed and stretched. */
void rc_fusion_clip(const rc_fusion_plan *k, float *g, const float *mels, int worker,
                    float *scratch);

#endif
