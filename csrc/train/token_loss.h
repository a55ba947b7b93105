/* token_loss: contrastive loss by late interaction, tokens of clips against tokens of texts.
 *
 * Each token finds its closest token on the other side; the mean of these cosines over the tokens
 * of a clip is the clip's similarity to a text, that over the tokens of a text the text's to a clip
 * (FILIP, Yao et al. 2021, equations 4 and 5). The loss is symmetric InfoNCE, to texts by the
 * first, to clips by the second. Neither all logits nor all similarities are ever held. */
#ifndef RC_TOKEN_LOSS_H
#define RC_TOKEN_LOSS_H

#include "layers/plan.h"

/* n pairs; tokens of a clip and of a text, padding included; their width. All at least 1. */
typedef struct {
    int64_t n, clip_tokens, text_tokens, c;
} rc_token_size;

/* a (n, clip_tokens, c), t (n, text_tokens, c) have unit rows. The first count_a (n), count_t (n)
 * tokens of each count; padding behind them may hold any finite numbers. */
typedef struct {
    rc_token_size size;
    const float *a, *t;
    const int32_t *count_a, *count_t;
    float log_scale;
} rc_token_in;

/* RC_EINVAL for sizes below 1 and counts that do not fit. */
rc_status rc_token_loss_check(const rc_token_in *in);

rc_status rc_token_loss_plan(void **body, rc_plan *plan, const rc_token_size *size);

/* The loss; keeps in scratch what backward needs. */
double rc_token_loss_forward(const void *body, const rc_run *run, const rc_token_in *in);

/* da, dt as a, t, overwritten, 0 of padding; dscale, of log_scale, is added to, or NULL. */
void rc_token_loss_backward(const void *body, const rc_run *run, float *da, float *dt,
                            float *dscale, const rc_token_in *in);

#endif
