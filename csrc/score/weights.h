/* weights: what prompts weigh in the scores of their labels.
 *
 * Rules that weigh *sets* take the first prompt of every label as one set, the second ones as
 * another, and so on; a label with fewer prompts starts again from its first. Formulas:
 * docs/prompts.md. */
#ifndef RC_WEIGHTS_H
#define RC_WEIGHTS_H

#include "score/combine.h"

typedef struct {
    const rc_combination *c;
    int64_t sets; /* most prompts of a label */
    double *gram; /* inner products of each label's prompts, (m, m) label after label */
} rc_weights;

typedef struct {
    double *weight, *label;              /* (prompts), (labels) */
    double *set, *gradient, *log_weight; /* (sets) */
} rc_weights_scratch;

enum { RC_WEIGHTS_STEPS = 10 }; /* of mirror descent */

/* x = softmax(x); returns its entropy in nats. */
double rc_weights_softmax(double *x, int64_t n);

/* Fill `gram`. */
void rc_weights_gram(const rc_weights *w);

/* The same weight for all prompts of a label. */
void rc_weights_mean(const rc_weights *w, double *weight);

/* Divide each label's weights by the length of its weighted sum of embeddings, so that the sum of
 * weighted cosines becomes the cosine with that vector. A sum of no length scores 0. */
void rc_weights_normalise(const rc_weights *w, double *weight);

/* Leave in s->weight the weights of one row, given its cosines with all prompts: RC_RELEVANCE,
 * RC_ENTROPY. */
void rc_weights_relevance(const rc_weights *w, rc_weights_scratch *s, const float *cosine);
void rc_weights_entropy(const rc_weights *w, rc_weights_scratch *s, const float *cosine);

/* Leave in s->weight the prompts' weights that softmax(log_weight) over the sets gives. */
void rc_weights_of_sets(const rc_weights *w, rc_weights_scratch *s, const double *log_weight);

/* Add to `gradient` the derivative, by the weights of the sets, of the entropy of one row's
 * probabilities of the labels. */
void rc_weights_gradient(const rc_weights *w, rc_weights_scratch *s, double *gradient,
                         const double *log_weight, const float *cosine);

/* A step of mirror descent on entropy + sum of w log w. */
void rc_weights_descend(double *log_weight, const double *gradient, double rows, int64_t sets);

static inline double rc_weighted(const double *weight, const float *cosine, int64_t m)
{
    double sum = 0;
    for (int64_t p = 0; p < m; p++) sum += weight[p] * cosine[p];
    return sum;
}

#endif
