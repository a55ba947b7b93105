/* fusion_train: feature fusion in training, both ways.
 *
 * Its batch norms see the longer clips of a call, as LAION's do, whose other clips pass by it.
 * These clips lie on the tape one after the other: each has a slot. */
#ifndef RC_FUSION_TRAIN_H
#define RC_FUSION_TRAIN_H

#include "layers/batch_norm.h"
#include "towers/fusion.h"

/* One branch, over n rows a clip: its products, a chunk of which is a clip, and its norms. On the
 * tape: inputs of both norms. For backward: gradients of these; the input of the second layer. */
typedef struct {
    int64_t n;
    rc_linear squeeze, widen;
    rc_linear_back dsqueeze, dwiden;
    rc_batch_norm_plan squeeze_norm, widen_norm;
    int64_t squeezed, widened;
    int64_t dsqueezed, dwidened, active;
} rc_fusion_branch_plan;

/* Numbers without another word are offsets in scratch. On the tape: pixels of the local patches
 * (side^2, area), patches of the local and of the whole log-mels (side^2, c), and the mean of their
 * sum (c). For backward: gradients of the local patches, sums of both. */
typedef struct {
    const rc_fusion *f;
    const rc_params *p;
    int64_t b;
    rc_linear conv;
    rc_linear_back dconv;
    rc_fusion_branch_plan local, global;
    int64_t pixels, patches, whole, pooled;
    int64_t dpatches, both;
    rc_shares worker;
} rc_fusion_train;

/* The tape of b clips; then what may be taken again. */
rc_status rc_fusion_train_tape(rc_fusion_train *k, rc_plan *plan, const rc_fusion *f,
                               const rc_params *p, int64_t b);
void rc_fusion_train_scratch(rc_fusion_train *k, rc_plan *plan);

/* Before forward, for the clip of each slot: g (side^2, c) are the patches of its whole log-mel,
 * `mels` its local ones (RC_LOCALS, floats), normed and stretched. */
void rc_fusion_train_clip(const rc_fusion_train *k, const rc_run *run, const float *g,
                          const float *mels, int64_t slot, int worker);

/* The slot of a clip that is longer, or of all clips how many have one. */
int64_t rc_fusion_slot(const bool *longer, int64_t clip);

/* y (b, side^2, c), the patches of the whole log-mels, become the fused ones. */
void rc_fusion_train_forward(const rc_fusion_train *k, const rc_run *run, float *y,
                             const bool *longer);

/* From the gradient of the fused patches to that of the whole ones, in place. */
void rc_fusion_train_backward(const rc_fusion_train *k, const rc_run *run, float *dy,
                              const bool *longer);

/* Afterwards, of a slot: the gradient of its local log-mels. */
void rc_fusion_train_locals(const rc_fusion_train *k, const rc_run *run, float *dmels, int64_t slot,
                            int worker);

void rc_fusion_train_commit(const rc_fusion_train *k, const rc_run *run, double momentum);

#endif
