/* Scores of labels for which several prompts stand: the rules that make one score of many cosines.
 *
 * Each rule gives every prompt a weight, and the score of a label is the weighted sum of the
 * cosines of its prompts (of RC_LOGSUMEXP the weights say where the score leans, no more). Rules
 * that weigh *sets* take the first prompt of every label as one set, the second ones as another,
 * and so on; a label with fewer prompts starts again from its first. Formulas: docs/prompts.md. */
#include "model.h"

#include <math.h>
#include <string.h>

enum { ROWS = 64, STEPS = 10 };
static const double STEP = 0.5;

typedef struct {
    const rc_combination *c;
    rc_product *full, *tail;
    int64_t sets;    /* most prompts of a label */
    double *gram;    /* inner products of each label's prompts, (m, m) label after label */
    double *shared;  /* (sets), log weights of RC_ENTROPY_BATCH */
    double *partial; /* (chunks, sets), its gradient summed over the rows of a chunk */
    double *scratch; /* `room` doubles for each worker */
    int64_t room;
} combine_job;

typedef struct {
    double *weight, *label;              /* (prompts), (labels) */
    double *set, *gradient, *log_weight; /* (sets) */
    float *cosine;                       /* (ROWS, prompts) */
} scratch;

static scratch scratch_of(const combine_job *job, int worker)
{
    double *at = job->scratch + worker * job->room;
    scratch s = {.weight = at};
    s.label = s.weight + job->c->prompts;
    s.set = s.label + job->c->labels;
    s.gradient = s.set + job->sets;
    s.log_weight = s.gradient + job->sets;
    s.cosine = (float *)(s.log_weight + job->sets);
    return s;
}

/* x = softmax(x); returns its entropy in nats. */
static double softmax(double *x, int64_t n)
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
static void fold(const combine_job *job, double *weight, const double *set)
{
    const int32_t *first = job->c->first;
    memset(weight, 0, (size_t)job->c->prompts * sizeof *weight);
    for (int64_t i = 0; i < job->c->labels; i++)
        for (int64_t j = 0, m = first[i + 1] - first[i]; j < job->sets; j++)
            weight[first[i] + j % m] += set[j];
}

static double weighted(const combine_job *job, const double *weight, const float *cosine, int64_t i)
{
    double sum = 0;
    for (int64_t p = job->c->first[i]; p < job->c->first[i + 1]; p++) sum += weight[p] * cosine[p];
    return sum;
}

/* Divide each label's weights by the length of its weighted sum of embeddings, so that the sum of
 * weighted cosines becomes the cosine with that vector. A sum of no length scores 0. */
static void normalise(const combine_job *job, double *weight)
{
    const double *gram = job->gram;
    for (int64_t i = 0; i < job->c->labels; i++) {
        int64_t m = job->c->first[i + 1] - job->c->first[i];
        double *w = weight + job->c->first[i], square = 0;
        for (int64_t a = 0; a < m; a++)
            for (int64_t b = 0; b < m; b++) square += w[a] * w[b] * gram[a * m + b];
        for (int64_t a = 0; a < m; a++) w[a] *= square > 1e-24 ? 1 / sqrt(square) : 0;
        gram += m * m;
    }
}

static void mean_weights(const combine_job *job, double *weight)
{
    const int32_t *first = job->c->first;
    for (int64_t i = 0; i < job->c->labels; i++)
        for (int64_t p = first[i]; p < first[i + 1]; p++)
            weight[p] = 1.0 / (first[i + 1] - first[i]);
}

static void max_weights(const combine_job *job, double *weight, const float *cosine)
{
    const int32_t *first = job->c->first;
    for (int64_t i = 0; i < job->c->labels; i++) {
        int64_t best = first[i];
        for (int64_t p = first[i]; p < first[i + 1]; p++) {
            if (cosine[p] > cosine[best]) best = p;
            weight[p] = 0;
        }
        weight[best] = 1;
    }
}

static void softmax_weights(const combine_job *job, double *weight, const float *cosine)
{
    const int32_t *first = job->c->first;
    for (int64_t p = 0; p < job->c->prompts; p++) weight[p] = job->c->scale * cosine[p];
    for (int64_t i = 0; i < job->c->labels; i++)
        softmax(weight + first[i], first[i + 1] - first[i]);
}

/* Sets weighted by certainty: in proportion to exp(-entropy of what the set alone would say). */
static void relevance_weights(const combine_job *job, scratch *s, const float *cosine)
{
    const int32_t *first = job->c->first;
    for (int64_t j = 0; j < job->sets; j++) {
        for (int64_t i = 0; i < job->c->labels; i++)
            s->label[i] = job->c->scale * cosine[first[i] + j % (first[i + 1] - first[i])];
        s->set[j] = -softmax(s->label, job->c->labels);
    }
    softmax(s->set, job->sets);
    fold(job, s->weight, s->set);
    normalise(job, s->weight);
}

/* Leave in s->weight the prompts' weights that softmax(log_weight) over the sets gives. */
static void set_weights(const combine_job *job, scratch *s, const double *log_weight)
{
    memcpy(s->set, log_weight, (size_t)job->sets * sizeof *s->set);
    softmax(s->set, job->sets);
    fold(job, s->weight, s->set);
}

/* Add to `gradient` the derivative, by the weights of the sets, of the entropy of one row's
 * probabilities of the labels: dH/dz = -p (log p + H), z the logits. */
static void add_gradient(const combine_job *job, scratch *s, double *gradient,
                         const double *log_weight, const float *cosine)
{
    const int32_t *first = job->c->first;
    set_weights(job, s, log_weight);
    for (int64_t i = 0; i < job->c->labels; i++)
        s->label[i] = job->c->scale * weighted(job, s->weight, cosine, i);
    double entropy = softmax(s->label, job->c->labels);
    for (int64_t i = 0; i < job->c->labels; i++) {
        double p = s->label[i], slope = p > 0 ? -p * (log(p) + entropy) * job->c->scale : 0;
        for (int64_t j = 0, m = first[i + 1] - first[i]; j < job->sets; j++)
            gradient[j] += slope * cosine[first[i] + j % m];
    }
}

/* A step of mirror descent on entropy + sum of w log w, and a fresh gradient for the next. */
static void descend(double *log_weight, double *gradient, double rows, int64_t sets)
{
    for (int64_t j = 0; j < sets; j++) {
        log_weight[j] = (1 - STEP) * log_weight[j] - STEP * gradient[j] / rows;
        gradient[j] = 0;
    }
}

static void entropy_weights(const combine_job *job, scratch *s, const float *cosine)
{
    memset(s->log_weight, 0, (size_t)job->sets * sizeof *s->log_weight);
    memset(s->gradient, 0, (size_t)job->sets * sizeof *s->gradient);
    for (int step = 0; step < STEPS; step++) {
        add_gradient(job, s, s->gradient, s->log_weight, cosine);
        descend(s->log_weight, s->gradient, 1, job->sets);
    }
    set_weights(job, s, s->log_weight);
}

/* ---- One row --------------------------------------------------------------------------------- */

static void weigh(const combine_job *job, scratch *s, const float *cosine)
{
    switch (job->c->rule) {
    case RC_MEAN_EMBEDDING:
        mean_weights(job, s->weight);
        normalise(job, s->weight);
        break;
    case RC_MEAN_LOGIT:
        mean_weights(job, s->weight);
        break;
    case RC_MAX:
        max_weights(job, s->weight, cosine);
        break;
    case RC_LOGSUMEXP:
        softmax_weights(job, s->weight, cosine);
        break;
    case RC_ENTROPY:
        entropy_weights(job, s, cosine);
        break;
    case RC_ENTROPY_BATCH:
        set_weights(job, s, job->shared);
        break;
    case RC_RELEVANCE:
        relevance_weights(job, s, cosine);
        break;
    }
}

/* log(mean(exp(scale cosine))) / scale: between the mean and the largest of the cosines. */
static double soft_maximum(const combine_job *job, const float *cosine, int64_t i)
{
    int64_t from = job->c->first[i], to = job->c->first[i + 1];
    double top = cosine[from], sum = 0;
    for (int64_t p = from; p < to; p++) top = cosine[p] > top ? cosine[p] : top;
    for (int64_t p = from; p < to; p++) sum += exp(job->c->scale * (cosine[p] - top));
    return top + log(sum / (double)(to - from)) / job->c->scale;
}

static void combine_row(const combine_job *job, scratch *s, int64_t row, const float *cosine)
{
    const rc_combination *c = job->c;
    float *score = c->score + row * c->labels;
    weigh(job, s, cosine);
    for (int64_t i = 0; i < c->labels; i++)
        score[i] = (float)(c->rule == RC_LOGSUMEXP ? soft_maximum(job, cosine, i)
                                                   : weighted(job, s->weight, cosine, i));
    rc_top_k(c->index + row * c->k, c->best + row * c->k, score, c->labels, c->k);
    if (c->weight == NULL) return;
    for (int64_t p = 0; p < c->prompts; p++) c->weight[row * c->prompts + p] = (float)s->weight[p];
}

/* ---- All rows -------------------------------------------------------------------------------- */

static int64_t rows_of(const combine_job *job, int64_t chunk)
{
    return rc_min(ROWS, job->c->n - chunk * ROWS);
}

/* Cosines of a chunk of rows, in their place in c->cosine or in the worker's scratch. */
static float *cosines(const combine_job *job, scratch *s, int64_t chunk, int worker)
{
    const rc_combination *c = job->c;
    float *out = c->cosine != NULL ? c->cosine + chunk * ROWS * c->prompts : s->cosine;
    bool full = rows_of(job, chunk) == rc_min(ROWS, c->n);
    rc_product_run(full ? job->full : job->tail, worker, out, c->x + chunk * ROWS * c->width,
                   c->prompt, NULL);
    return out;
}

static void combine_chunk(void *arg, int64_t chunk, int worker)
{
    const combine_job *job = arg;
    scratch s = scratch_of(job, worker);
    const float *cosine = cosines(job, &s, chunk, worker);
    for (int64_t i = 0; i < rows_of(job, chunk); i++)
        combine_row(job, &s, chunk * ROWS + i, cosine + i * job->c->prompts);
}

static void cosine_chunk(void *arg, int64_t chunk, int worker)
{
    scratch s = scratch_of(arg, worker);
    cosines(arg, &s, chunk, worker);
}

static void gradient_chunk(void *arg, int64_t chunk, int worker)
{
    const combine_job *job = arg;
    scratch s = scratch_of(job, worker);
    double *sum = job->partial + chunk * job->sets;
    memset(sum, 0, (size_t)job->sets * sizeof *sum);
    for (int64_t i = 0; i < rows_of(job, chunk); i++)
        add_gradient(job, &s, sum, job->shared,
                     job->c->cosine + (chunk * ROWS + i) * job->c->prompts);
}

/* Find one set of weights for all rows; partial sums by chunk, so that threads change nothing. */
static void share_weights(combine_job *job, rc_pool *pool, int64_t chunks)
{
    scratch s = scratch_of(job, 0);
    rc_parallel(pool, chunks, cosine_chunk, job);
    memset(job->shared, 0, (size_t)job->sets * sizeof *job->shared);
    for (int step = 0; step < STEPS; step++) {
        rc_parallel(pool, chunks, gradient_chunk, job);
        memset(s.gradient, 0, (size_t)job->sets * sizeof *s.gradient);
        for (int64_t k = 0; k < chunks; k++)
            for (int64_t j = 0; j < job->sets; j++)
                s.gradient[j] += job->partial[k * job->sets + j];
        descend(job->shared, s.gradient, (double)job->c->n, job->sets);
    }
}

static bool uses_lengths(const rc_combination *c)
{
    return c->rule == RC_MEAN_EMBEDDING || c->rule == RC_RELEVANCE;
}

static void inner_products(const combine_job *job)
{
    const rc_combination *c = job->c;
    double *gram = job->gram;
    for (int64_t i = 0; i < c->labels; i++)
        for (int64_t a = c->first[i]; a < c->first[i + 1]; a++)
            for (int64_t b = c->first[i]; b < c->first[i + 1]; b++) {
                double sum = 0;
                for (int64_t j = 0; j < c->width; j++)
                    sum += (double)c->prompt[a * c->width + j] * c->prompt[b * c->width + j];
                *gram++ = sum;
            }
}

/* Lay out gram, shared, partial and scratch in the context's arena. */
static rc_status lay_out(combine_job *job, rc_context *context, int64_t chunks)
{
    const rc_combination *c = job->c;
    int64_t gram = 0, partial, working, bytes;
    for (int64_t i = 0; i < c->labels; i++) {
        int64_t m = c->first[i + 1] - c->first[i];
        gram += uses_lengths(c) ? m * m : 0; /* in all at most the square of an int32 */
        job->sets = rc_max(job->sets, m);
    }
    RC_TRY(rc_mul(&partial, chunks, job->sets));
    RC_TRY(rc_mul(&job->room, c->prompts, ROWS / 2 + 1));
    job->room += c->labels + 3 * job->sets;
    RC_TRY(rc_mul(&working, job->room, rc_dnn_threads(context->dnn)));
    RC_TRY(rc_mul(&bytes, gram + job->sets + partial + working, (int64_t)sizeof(double)));
    RC_TRY(rc_arena_reserve(&context->shared, bytes));
    job->gram = (double *)context->shared.base;
    job->shared = job->gram + gram;
    job->partial = job->shared + job->sets;
    job->scratch = job->partial + partial;
    return RC_OK;
}

rc_status rc_combine(rc_context *context, const rc_combination *c)
{
    combine_job job = {.c = c};
    int64_t chunks = (c->n + ROWS - 1) / ROWS;
    rc_product_shape s = {.n = c->prompts,
                          .k = c->width,
                          .lda = c->width,
                          .ldb = c->width,
                          .ldc = c->prompts,
                          .tb = 1};
    s.m = rc_min(c->n, ROWS);
    RC_TRY(rc_product_get(context->dnn, &job.full, s, NULL));
    s.m = c->n % ROWS;
    RC_TRY(rc_product_get(context->dnn, &job.tail, s, NULL));
    RC_TRY(lay_out(&job, context, chunks));
    if (uses_lengths(c)) inner_products(&job);
    if (c->rule == RC_ENTROPY_BATCH) share_weights(&job, rc_dnn_pool(context->dnn), chunks);
    rc_parallel(rc_dnn_pool(context->dnn), chunks, combine_chunk, &job);
    return rc_dnn_check(context->dnn);
}
