#include "score/weights.h"

#include <math.h>
#include <string.h>

static const double STEP = 0.5;

double rc_weights_softmax(double *x, int64_t n)
{
    double top = x[0], sum = 0, mean = 0;
    for (int64_t i = 1; i < n; i++) top = x[i] > top ? x[i] : top;
    for (int64_t i = 0; i < n; i++) {
        double e = exp(x[i] - top);
        mean += e * (x[i] - top);
        sum += e;
        x[i] = e;
    }
    for (int64_t i = 0; i < n; i++) x[i] /= sum;
    return log(sum) - mean / sum;
}

/* Weights of sets as weights of prompts. */
static void fold(const rc_weights *w, double *weight, const double *set)
{
    const int32_t *first = w->c->first;
    memset(weight, 0, (size_t)w->c->prompts * sizeof *weight);
    for (int64_t i = 0; i < w->c->labels; i++)
        for (int64_t j = 0, m = first[i + 1] - first[i]; j < w->sets; j++)
            weight[first[i] + j % m] += set[j];
}

void rc_weights_normalise(const rc_weights *w, double *weight)
{
    const double *gram = w->gram;
    for (int64_t i = 0; i < w->c->labels; i++) {
        int64_t m = w->c->first[i + 1] - w->c->first[i];
        double *of = weight + w->c->first[i], square = 0;
        for (int64_t a = 0; a < m; a++)
            for (int64_t b = 0; b < m; b++) square += of[a] * of[b] * gram[a * m + b];
        for (int64_t a = 0; a < m; a++) of[a] *= square > 1e-24 ? 1 / sqrt(square) : 0;
        gram += m * m;
    }
}

void rc_weights_mean(const rc_weights *w, double *weight)
{
    const int32_t *first = w->c->first;
    for (int64_t i = 0; i < w->c->labels; i++)
        for (int64_t p = first[i]; p < first[i + 1]; p++)
            weight[p] = 1.0 / (first[i + 1] - first[i]);
}

/* Sets weighted by certainty: in proportion to exp(-entropy of what the set alone would say). */
void rc_weights_relevance(const rc_weights *w, rc_weights_scratch *s, const float *cosine)
{
    const int32_t *first = w->c->first;
    for (int64_t j = 0; j < w->sets; j++) {
        for (int64_t i = 0; i < w->c->labels; i++)
            s->label[i] = w->c->scale * cosine[first[i] + j % (first[i + 1] - first[i])];
        s->set[j] = -rc_weights_softmax(s->label, w->c->labels);
    }
    rc_weights_softmax(s->set, w->sets);
    fold(w, s->weight, s->set);
    rc_weights_normalise(w, s->weight);
}

void rc_weights_of_sets(const rc_weights *w, rc_weights_scratch *s, const double *log_weight)
{
    memcpy(s->set, log_weight, (size_t)w->sets * sizeof *s->set);
    rc_weights_softmax(s->set, w->sets);
    fold(w, s->weight, s->set);
}

/* dH/dz = -p (log p + H), H the entropy, z the logits. */
void rc_weights_gradient(const rc_weights *w, rc_weights_scratch *s, double *gradient,
                         const double *log_weight, const float *cosine)
{
    const int32_t *first = w->c->first;
    rc_weights_of_sets(w, s, log_weight);
    for (int64_t i = 0; i < w->c->labels; i++)
        s->label[i] = w->c->scale *
                      rc_weighted(s->weight + first[i], cosine + first[i], first[i + 1] - first[i]);
    double entropy = rc_weights_softmax(s->label, w->c->labels);
    for (int64_t i = 0; i < w->c->labels; i++) {
        double p = s->label[i], slope = p > 0 ? -p * (log(p) + entropy) * w->c->scale : 0;
        for (int64_t j = 0, m = first[i + 1] - first[i]; j < w->sets; j++)
            gradient[j] += slope * cosine[first[i] + j % m];
    }
}

void rc_weights_descend(double *log_weight, const double *gradient, double rows, int64_t sets)
{
    for (int64_t j = 0; j < sets; j++)
        log_weight[j] = (1 - STEP) * log_weight[j] - STEP * gradient[j] / rows;
}

void rc_weights_entropy(const rc_weights *w, rc_weights_scratch *s, const float *cosine)
{
    memset(s->log_weight, 0, (size_t)w->sets * sizeof *s->log_weight);
    for (int step = 0; step < RC_WEIGHTS_STEPS; step++) {
        memset(s->gradient, 0, (size_t)w->sets * sizeof *s->gradient);
        rc_weights_gradient(w, s, s->gradient, s->log_weight, cosine);
        rc_weights_descend(s->log_weight, s->gradient, 1, w->sets);
    }
    rc_weights_of_sets(w, s, s->log_weight);
}

void rc_weights_gram(const rc_weights *w)
{
    const rc_combination *c = w->c;
    double *gram = w->gram;
    for (int64_t i = 0; i < c->labels; i++)
        for (int64_t a = c->first[i]; a < c->first[i + 1]; a++)
            for (int64_t b = c->first[i]; b < c->first[i + 1]; b++) {
                double sum = 0;
                for (int64_t j = 0; j < c->width; j++)
                    sum += (double)c->prompt[a * c->width + j] * c->prompt[b * c->width + j];
                *gram++ = sum;
            }
}
