/* combine: scores of labels, with one or several prompts by a rule, and the best of each row. */
#ifndef RC_COMBINE_H
#define RC_COMBINE_H

#include "layers/context.h"

/* The rules count in the order of the names in reclap/prompts/combine.py. */
typedef enum {
    RC_MEAN_EMBEDDING,
    RC_MEAN_LOGIT,
    RC_MAX,
    RC_LOGSUMEXP,
    RC_ENTROPY,
    RC_ENTROPY_BATCH, /* the only rule by which rows depend on each other */
    RC_RELEVANCE,
    RC_NO_RULE, /* one embedding a label, whose cosine is the score */
} rc_rule;

typedef struct {
    rc_rule rule;
    double scale;         /* from cosines to logits, above 0 */
    const float *x;       /* (n, width), unit rows */
    const float *prompt;  /* (prompts, width), unit rows, label after label */
    const int32_t *first; /* (labels + 1), where each label's prompts begin; all have some. NULL
                           * with RC_NO_RULE */
    float *score;         /* (n, labels), in the scale of cosines, or NULL */
    float *best;          /* (n, k), the best of each row, best first */
    int32_t *index;       /* (n, k), their labels */
    float *cosine;        /* (n, prompts), or NULL; RC_ENTROPY_BATCH needs it */
    float *weight;        /* (n, prompts), of each prompt in its label's score, or NULL */
    int64_t n, labels, prompts, width, k;
} rc_combination;

/* RC_EINVAL where x or prompt holds a value that is not finite. */
rc_status rc_combine(rc_context *c, const rc_combination *job);

#endif
