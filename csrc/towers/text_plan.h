/* text_plan: plan and call of the text tower, which text_run.c and text_back.c share. */
#ifndef RC_TEXT_PLAN_H
#define RC_TEXT_PLAN_H

#include "towers/text_inside.h"

/* What forward keeps for backward: rows before the norm of the embedding, statistics of this and of
 * the final norm, whose rows stay in the stream; positions of rows; the output of a pooler. What
 * backward computes: gradients of the stream, of the outputs of both norms, of the pooler's output
 * before tanh and of its input, of the biases that layers share. */
typedef struct {
    int64_t embed, embed_mean, embed_rstd, mean, rstd, position, y;
    int64_t dx, da, dembed, ddense, dpooled, dbias;
} rc_text_tape;

/* Numbers without another word are offsets in scratch. */
typedef struct {
    const rc_text *t;
    const rc_params *p;
    bool train;
    int64_t n, tokens, longest; /* texts; at most rows of tokens; of a text, with padding */
    rc_block_rows rows, last;   /* of all layers but the last one, of that */
    rc_block_plan **layer;
    int64_t x, spans, kept, place, bias, mask, pooled;
    rc_shares normed;
    rc_grid texts;
    rc_linear pooler;
    rc_linear_back pooler_back;
    rc_text_tape tape;
} rc_text_plan;

typedef struct {
    const rc_text_plan *k;
    const rc_run *run;
    const rc_features *out;
    const float *dy, *dpooled;
    const int32_t *id, *first;
    float *x, *pooled;
} rc_text_call;

static inline float *rc_text_at(const rc_text_call *job, int64_t offset)
{
    return job->run->scratch + offset;
}

static inline bool rc_text_padded(const rc_text_plan *k)
{
    return k->t->config.pool == RC_POOL_MEAN_PADDED;
}

/* Whether one row of a sequence stands for it. */
static inline bool rc_text_one_row(const rc_text_plan *k)
{
    return !rc_text_padded(k) && k->t->config.pool != RC_POOL_MEAN;
}

/* Whether only these rows are left after the last layer: not in training. */
static inline bool rc_text_keeps(const rc_text_plan *k)
{
    return rc_text_one_row(k) && !k->train;
}

static inline int64_t rc_text_tokens(const rc_text_call *job, int64_t i)
{
    return job->first[i + 1] - job->first[i];
}

static inline int64_t rc_text_padding(const rc_text_call *job, int64_t i)
{
    return rc_text_padded(job->k) ? job->k->t->config.pad_to - rc_text_tokens(job, i) : 0;
}

/* The first row of padding of sequence i. */
static inline int64_t rc_text_padding_row(const rc_text_call *job, int64_t i)
{
    return job->first[job->k->n] + i * job->k->t->config.pad_to - job->first[i];
}

/* Rows that are not there for roundness. */
static inline int64_t rc_text_real(const rc_text_call *job)
{
    const rc_text_plan *k = job->k;
    return rc_text_padded(k) ? k->n * k->t->config.pad_to : job->first[k->n];
}

/* text_run.c: the row that stands for sequence i, where one does; what the layers of a call share.
 */
int64_t rc_text_pooled_row(const rc_text_call *job, int64_t i);
rc_sequences rc_text_sequences(const rc_text_call *job);

/* The row of the table of positions of a token, when so many have been counted. RoBERTa's padding
 * token, wherever it stands, takes the row before the first one and is not counted
 * (create_position_ids_from_input_ids of transformers). */
int64_t rc_text_position(const rc_text_call *job, int32_t id, int64_t *counted);

/* Dropout of the embedding, of rows that lie one after the other, or of its gradient. */
void rc_text_drop(const rc_text_call *job, float *x, int64_t row, int64_t rows);

#endif
