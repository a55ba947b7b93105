/* Scores of labels for which several prompts stand: the rules that make one score of many cosines.
 *
 * Each rule gives every prompt a weight, and the score of a label is the weighted sum of the
 * cosines of its prompts (of RC_LOGSUMEXP the weights say where the score leans, no more). Rules
 * that weigh *sets* take the first prompt of every label as one set, the second ones as another,
 * and so on; a label with fewer prompts starts again from its first. Formulas: docs/prompts.md. */
#include "score/combine.h"

#include "score/score.h"
#include "score/tiles.h"

#include <math.h>
#include <string.h>

enum { STEPS = 10, LABELS = 64 };
static const double STEP = 0.5;

typedef struct {
    const rc_combination *c;
    rc_tiles tiles;
    int64_t sets;    /* most prompts of a label */
    double *gram;    /* inner products of each label's prompts, (m, m) label after label */
    double *fixed;   /* (prompts), weights of the rules that weigh all rows alike */
    double *shared;  /* (sets), log weights of RC_ENTROPY_BATCH */
    double *partial; /* (chunks, sets), its gradient summed over the rows of a chunk */
    double *scratch; /* `room` doubles for each worker */
    int64_t room;
} combine_job;

typedef struct {
    double *weight, *label;              /* (prompts), (labels) */
    double *set, *gradient, *log_weight; /* (sets) */
    float *score;                        /* (LABELS) */
} scratch;

static scratch scratch_of(const combine_job *job, int worker)
{
    double *at = job->scratch + worker * job->room;
    scratch s = {.weight = at};
    s.label = s.weight + job->c->prompts;
    s.set = s.label + job->c->labels;
    s.gradient = s.set + job->sets;
    s.log_weight = s.gradient + job->sets;
    s.score = (float *)(s.log_weight + job->sets);
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

static double weighted(const double *weight, const float *cosine, int64_t m)
{
    double sum = 0;
    for (int64_t p = 0; p < m; p++) sum += weight[p] * cosine[p];
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
        s->label[i] = job->c->scale *
                      weighted(s->weight + first[i], cosine + first[i], first[i + 1] - first[i]);
    double entropy = softmax(s->label, job->c->labels);
    for (int64_t i = 0; i < job->c->labels; i++) {
        double p = s->label[i], slope = p > 0 ? -p * (log(p) + entropy) * job->c->scale : 0;
        for (int64_t j = 0, m = first[i + 1] - first[i]; j < job->sets; j++)
            gradient[j] += slope * cosine[first[i] + j % m];
    }
}

/* A step of mirror descent on entropy + sum of w log w. */
static void descend(double *log_weight, const double *gradient, double rows, int64_t sets)
{
    for (int64_t j = 0; j < sets; j++)
        log_weight[j] = (1 - STEP) * log_weight[j] - STEP * gradient[j] / rows;
}

static void entropy_weights(const combine_job *job, scratch *s, const float *cosine)
{
    memset(s->log_weight, 0, (size_t)job->sets * sizeof *s->log_weight);
    for (int step = 0; step < STEPS; step++) {
        memset(s->gradient, 0, (size_t)job->sets * sizeof *s->gradient);
        add_gradient(job, s, s->gradient, s->log_weight, cosine);
        descend(s->log_weight, s->gradient, 1, job->sets);
    }
    set_weights(job, s, s->log_weight);
}

/* ---- One row of a tile ----------------------------------------------------------------------- */

static float largest(const float *cosine, int64_t m)
{
    float top = cosine[0];
    for (int64_t p = 1; p < m; p++) top = cosine[p] > top ? cosine[p] : top;
    return top;
}

/* log(mean(exp(scale cosine))) / scale: between the mean and the largest of the cosines, `top`. */
static double soft_maximum(const float *cosine, int64_t m, float top, double scale)
{
    double sum = 0;
    for (int64_t p = 0; p < m; p++) sum += exp(scale * ((double)cosine[p] - top));
    return top + log(sum / (double)m) / scale;
}

/* The rules by which no row depends on another and no label on another need no more than a tile. */
static bool weighs_sets(rc_rule rule)
{
    return rule == RC_ENTROPY || rule == RC_ENTROPY_BATCH || rule == RC_RELEVANCE;
}

/* Weights of all prompts for a row of cosines with all of them. */
static const double *row_weights(const combine_job *job, scratch *s, const float *cosine)
{
    switch (job->c->rule) {
    case RC_ENTROPY:
        entropy_weights(job, s, cosine);
        return s->weight;
    case RC_RELEVANCE:
        relevance_weights(job, s, cosine);
        return s->weight;
    default:
        return job->fixed;
    }
}

/* score = those of labels from..to-1; cosine begins with their first prompt. A soft maximum that
 * cannot be above `floor` is replaced by the maximum, which is not above it either. */
static void score_labels(const combine_job *job, float *score, const double *weight,
                         const float *cosine, int64_t from, int64_t to, float floor)
{
    const int32_t *first = job->c->first;
    for (int64_t i = from; i < to; i++) {
        int64_t m = first[i + 1] - first[i];
        const float *c = cosine + first[i] - first[from];
        float top;
        switch (job->c->rule) {
        case RC_MAX:
            score[i - from] = largest(c, m);
            break;
        case RC_LOGSUMEXP:
            top = largest(c, m);
            score[i - from] = top > floor ? (float)soft_maximum(c, m, top, job->c->scale) : top;
            break;
        default:
            score[i - from] = (float)weighted(weight + first[i], c, m);
        }
    }
}

/* What each prompt weighs in a label's score, for labels from..to-1. */
static void explain(const combine_job *job, scratch *s, float *out, const double *weight,
                    const float *cosine, int64_t from, int64_t to)
{
    const int32_t *first = job->c->first;
    for (int64_t i = from; i < to; i++) {
        int64_t m = first[i + 1] - first[i];
        const float *c = cosine + first[i] - first[from];
        double *w = s->weight + first[i];
        if (job->c->rule == RC_MAX) {
            memset(w, 0, (size_t)m * sizeof *w);
            int64_t best = 0;
            while (c[best] < largest(c, m)) best++;
            w[best] = 1;
        } else if (job->c->rule == RC_LOGSUMEXP) {
            for (int64_t p = 0; p < m; p++) w[p] = job->c->scale * c[p];
            softmax(w, m);
        } else {
            w = (double *)weight + first[i];
        }
        for (int64_t p = 0; p < m; p++) out[first[i] + p] = (float)w[p];
    }
}

/* Score labels from..to-1 of one row a few at a time, so that the worst of the best is known early.
 */
static void score_row(const combine_job *job, scratch *s, int64_t row, const double *weight,
                      const float *cosine, int64_t from, int64_t to)
{
    const rc_combination *c = job->c;
    float *best = c->best + row * c->k;
    for (int64_t i = from, end; i < to; i = end) {
        end = rc_min(i + LABELS, to);
        float *score = c->score != NULL ? c->score + row * c->labels + i : s->score;
        bool any = c->score != NULL || i < c->k; /* every score is wanted */
        score_labels(job, score, weight, cosine + c->first[i] - c->first[from], i, end,
                     any ? -INFINITY : best[0]);
        rc_best_add(c->index + row * c->k, best, c->k, score, i, end - i);
    }
}

/* Labels from..to-1 of one row. */
static void combine_row(const combine_job *job, scratch *s, int64_t row, const float *cosine,
                        int64_t from, int64_t to)
{
    const rc_combination *c = job->c;
    if (c->rule == RC_NO_RULE) {
        if (c->score != NULL)
            memcpy(c->score + row * c->labels + from, cosine, (size_t)(to - from) * sizeof *cosine);
        rc_best_add(c->index + row * c->k, c->best + row * c->k, c->k, cosine, from, to - from);
        return;
    }
    const double *weight = row_weights(job, s, cosine);
    score_row(job, s, row, weight, cosine, from, to);
    if (c->cosine != NULL && job->tiles.kept == NULL)
        memcpy(c->cosine + row * c->prompts + c->first[from], cosine,
               (size_t)(c->first[to] - c->first[from]) * sizeof *cosine);
    if (c->weight != NULL) explain(job, s, c->weight + row * c->prompts, weight, cosine, from, to);
}

/* ---- All rows -------------------------------------------------------------------------------- */

/* Where the prompts of label i begin. */
static int64_t first_of(const rc_combination *c, int64_t i)
{
    return c->first == NULL ? i : c->first[i];
}

/* The last label, and one more, that a tile beginning with label `from` holds. */
static int64_t last_label(const combine_job *job, int64_t from)
{
    const rc_combination *c = job->c;
    int64_t room = first_of(c, from) + job->tiles.span, to = from + 1;
    while (to < c->labels && first_of(c, to + 1) <= room) to++;
    return to;
}

static void combine_chunk(void *arg, int64_t chunk, int worker)
{
    const combine_job *job = arg;
    const rc_combination *c = job->c;
    scratch s = scratch_of(job, worker);
    for (int64_t from = 0, to; from < c->labels && !rc_stopped(); from = to) {
        to = last_label(job, from);
        rc_tile tile = rc_tile_at(&job->tiles, chunk, first_of(c, from), worker);
        if (c->rule != RC_ENTROPY_BATCH) rc_tile_run(&job->tiles, &tile, worker);
        const float *cosine = tile.at + first_of(c, from) - tile.start;
        for (int64_t i = 0; i < tile.rows; i++)
            combine_row(job, &s, tile.first + i, cosine + i * job->tiles.span, from, to);
    }
    for (int64_t first = chunk * job->tiles.rows, i = first;
         i < rc_min(first + job->tiles.rows, c->n); i++)
        rc_best_sort(c->index + i * c->k, c->best + i * c->k, c->k);
}

static void cosine_chunk(void *arg, int64_t chunk, int worker)
{
    const combine_job *job = arg;
    rc_tile tile = rc_tile_at(&job->tiles, chunk, 0, worker);
    rc_tile_run(&job->tiles, &tile, worker);
}

static void gradient_chunk(void *arg, int64_t chunk, int worker)
{
    const combine_job *job = arg;
    scratch s = scratch_of(job, worker);
    double *sum = job->partial + chunk * job->sets;
    memset(sum, 0, (size_t)job->sets * sizeof *sum);
    rc_tile tile = rc_tile_at(&job->tiles, chunk, 0, worker);
    for (int64_t i = 0; i < tile.rows; i++)
        add_gradient(job, &s, sum, job->shared, tile.at + i * job->tiles.span);
}

/* Find one set of weights for all rows; partial sums by chunk, so that threads change nothing. */
static void share_weights(combine_job *job, rc_pool *pool)
{
    int64_t chunks = rc_tiles_chunks(&job->tiles);
    scratch s = scratch_of(job, 0);
    rc_parallel(pool, chunks, cosine_chunk, job);
    memset(job->shared, 0, (size_t)job->sets * sizeof *job->shared);
    for (int step = 0; step < STEPS && !rc_stopped(); step++) {
        rc_parallel(pool, chunks, gradient_chunk, job);
        memset(s.gradient, 0, (size_t)job->sets * sizeof *s.gradient);
        for (int64_t k = 0; k < chunks; k++)
            for (int64_t j = 0; j < job->sets; j++)
                s.gradient[j] += job->partial[k * job->sets + j];
        descend(job->shared, s.gradient, (double)job->c->n, job->sets);
    }
    set_weights(job, &s, job->shared);
    memcpy(job->fixed, s.weight, (size_t)job->c->prompts * sizeof *s.weight);
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

/* Lay out gram, fixed, shared, partial and scratch in the context's arena. */
static rc_status lay_out(combine_job *job, rc_context *context)
{
    const rc_combination *c = job->c;
    int64_t gram = 0, partial, working, bytes, threads = rc_dnn_threads(context->dnn);
    for (int64_t i = 0; uses_lengths(c) && i < c->labels; i++) {
        int64_t m = c->first[i + 1] - c->first[i];
        gram += m * m; /* in all at most the square of an int32 */
    }
    RC_TRY(rc_mul(&partial, rc_tiles_chunks(&job->tiles), job->sets));
    job->room = c->prompts + c->labels + 3 * job->sets + LABELS / 2;
    int64_t tile = (rc_tiles_scratch(&job->tiles) + 1) / 2;
    RC_TRY(rc_mul(&working, job->room + tile, threads));
    RC_TRY(
        rc_mul(&bytes, gram + c->prompts + job->sets + partial + working, (int64_t)sizeof(double)));
    RC_TRY(rc_arena_reserve(&context->shared, bytes));
    job->tiles.scratch = (float *)context->shared.base;
    job->gram = (double *)context->shared.base + threads * tile;
    job->fixed = job->gram + gram;
    job->shared = job->fixed + c->prompts;
    job->partial = job->shared + job->sets;
    job->scratch = job->partial + partial;
    return RC_OK;
}

static void fill_fixed(combine_job *job, rc_pool *pool)
{
    if (uses_lengths(job->c)) inner_products(job);
    if (job->c->rule == RC_MEAN_EMBEDDING || job->c->rule == RC_MEAN_LOGIT)
        mean_weights(job, job->fixed);
    if (job->c->rule == RC_MEAN_EMBEDDING) normalise(job, job->fixed);
    if (job->c->rule == RC_ENTROPY_BATCH) share_weights(job, pool);
}

rc_status rc_combine(rc_context *context, const rc_combination *c)
{
    RC_TRY(rc_check_finite(c->x, c->n, c->width, "x"));
    RC_TRY(rc_check_finite(c->prompt, c->prompts, c->width,
                           c->rule == RC_NO_RULE ? "classes" : "prompts"));
    combine_job job = {.c = c,
                       .sets = 1,
                       .tiles = {.x = c->x,
                                 .w = c->prompt,
                                 .n = c->n,
                                 .columns = c->prompts,
                                 .width = c->width,
                                 .kept = weighs_sets(c->rule) ? c->cosine : NULL}};
    for (int64_t i = 0; i < c->labels; i++)
        job.sets = rc_max(job.sets, first_of(c, i + 1) - first_of(c, i));
    RC_TRY(rc_tiles_get(&job.tiles, context->dnn, job.sets, weighs_sets(c->rule)));
    RC_TRY(lay_out(&job, context));
    fill_fixed(&job, rc_dnn_pool(context->dnn));
    rc_parallel(rc_dnn_pool(context->dnn), rc_tiles_chunks(&job.tiles), combine_chunk, &job);
    return rc_dnn_check(context->dnn);
}
