/* fusion: attentional feature fusion (Dai et al. 2021) of a clip's pictures, a part of the patch
 * embedding that knows nothing of the tower around it. Forward only. */
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
    rc_pair conv;    /* of the local pictures, its patches three times as wide */
    int64_t side, c; /* of the grid; channels */
    int64_t few;     /* channels between squeezing and widening */
    int64_t across;  /* patches in a row of one local picture */
    int64_t area;    /* pixels of such a patch */
    int64_t picture; /* floats of one stretched picture */
    int32_t *from;   /* (side across, area) */
    float eps;
} rc_fusion;

/* Pictures besides that of the whole clip: front, middle and back. */
enum { RC_LOCALS = RC_VIEWS - 1 };

rc_status rc_fusion_check(const rc_htsat_config *c);
rc_status rc_fusion_open(rc_fusion *f, const rc_htsat_config *c, rc_params *p);
void rc_fusion_close(rc_fusion *f);

/* Products of a call, looked up before its parallel region. */
typedef struct {
    const rc_fusion *f;
    const rc_params *p;
    rc_linear conv, local[2], global[2];
} rc_fusion_run;

rc_status rc_fusion_get(rc_fusion_run *out, const rc_fusion *f, rc_dnn *dnn, const rc_params *p);

/* Floats of scratch per worker. */
int64_t rc_fusion_scratch(const rc_fusion *f);

/* g (side^2, c), the patches of a clip's whole picture, is fused with those of its local pictures,
 * wide (RC_LOCALS, picture), which are normed and stretched. */
void rc_fusion_clip(const rc_fusion_run *job, float *g, const float *wide, int worker,
                    float *scratch);

#endif
