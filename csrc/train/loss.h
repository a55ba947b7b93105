/* loss: symmetric contrastive loss, in tiles. */
#ifndef RC_LOSS_H
#define RC_LOSS_H

#include "layers/plan.h"

/* Symmetric InfoNCE (Radford et al. 2021; LAION: clap_module/loss.py, ClipLoss, default mode):
 * S = exp(s) a tᵀ, loss = (CE(S) + CE(Sᵀ)) / 2, row i belongs to row i. a, t (n, c) have unit rows.
 * Forward keeps what backward needs: the logarithm of each row's and column's sum. Numbers are
 * offsets in scratch. */
typedef struct {
    int64_t n, c, full, blocks; /* pairs, width; rows and columns of a tile, tiles of a row */
    rc_shares tile;             /* a piece of the logits for each worker */
    int64_t lse;                /* (2, n) */
    int64_t diagonal;           /* (n) cosines of the pairs */
    int64_t best;               /* (blocks, n) of each column: its largest cosine in some rows */
    int64_t sum;                /* and the sum of its exponentials relative to that, in double */
    int64_t partial;            /* (n) what the scale receives from each row, in double */
    /* by whether the tile's rows, then its columns are the last ones; then by adding or not */
    rc_product *logits[2][2], *for_a[2][2][2], *for_t[2][2][2];
} rc_contrastive;

/* n of at least 1. */
rc_status rc_contrastive_plan(rc_contrastive *k, rc_plan *plan, int64_t n, int64_t c);

/* The loss. */
double rc_contrastive_forward(const rc_contrastive *k, const rc_run *run, const float *a,
                              const float *t, float s);

/* da, dt overwritten; ds accumulates. */
void rc_contrastive_backward(const rc_contrastive *k, const rc_run *run, float *da, float *dt,
                             float *ds, const float *a, const float *t, float s);

#endif
