/* loss: symmetric contrastive loss, in tiles. */
#ifndef RC_LOSS_H
#define RC_LOSS_H

#include "product/dnn.h"

/* Symmetric InfoNCE (Radford et al. 2021; LAION: clap_module/loss.py, ClipLoss, default mode):
 * S = exp(s) a tᵀ, loss = (CE(S) + CE(Sᵀ)) / 2, row i belongs to row i. a, t (n, c) have unit rows.
 * Forward keeps what backward needs: the logarithm of each row's and column's sum (2, n). */
typedef struct {
    float *tile;     /* a piece of the logits for each worker */
    float *lse;      /* (2, n) */
    float *diagonal; /* (n) cosines of the pairs */
    float *best;     /* (blocks of rows, n) of each column: its largest cosine there */
    double *sum;     /* and the sum of its exponentials relative to that */
    double *partial; /* (n) what the scale receives from each row */
} rc_contrastive;

void rc_contrastive_take(rc_contrastive *k, rc_arena *arena, int64_t n, int threads);
rc_status rc_contrastive_forward(double *loss, const rc_contrastive *k, rc_dnn *dnn, const float *a,
                                 const float *t, float s, int64_t n, int64_t c);

/* da, dt overwritten; ds accumulates. */
rc_status rc_contrastive_backward(float *da, float *dt, float *ds, const rc_contrastive *k,
                                  rc_dnn *dnn, const float *a, const float *t, float s, int64_t n,
                                  int64_t c);

#endif
