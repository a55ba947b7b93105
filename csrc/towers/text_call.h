/* text_call: one call of the text tower, which text_run.c and text_layer.c share.
 *
 * Sequences lie one after the other; only RC_POOL_MEAN_PADDED asks for rows of padding, which lie
 * behind the tokens of all sequences: they only ask, so keys and values are computed for the rows
 * in front. Everything but attention works on chunks of rows, or, where rows are few, on one chunk
 * in whose layers threads share outputs; attention on one sequence. */
#ifndef RC_TEXT_CALL_H
#define RC_TEXT_CALL_H

#include "kernels/attention.h"
#include "layers/linear.h"
#include "towers/text_inside.h"

enum { RC_TEXT_ROUND = 16 }; /* rows are rounded up to a multiple, and pass so many at a time */

typedef struct {
    const rc_text *t;
    const rc_params *p;
    const rc_text_layer *layer;
    const int32_t *id, *first;
    int64_t n, real;    /* sequences, rows without rounding */
    rc_grid grid, seen; /* of all rows; of those with keys, where padding only asks */
    int64_t most;       /* rows of the longest chunk of all */
    int64_t longest;    /* rows of one sequence */
    rc_pool *pool;
    rc_linear qkv, kv, proj, fc1, gate, fc2, pooler;
    float *q, *k; /* rows of queries; of keys with values behind them */
    int64_t ldq, ldk;
    float *x, *o, *bias, *mask, *pooled, *y;
    float *chunk, *room; /* scratch of a worker: of a chunk; of a sequence or rows */
    int64_t chunk_size, room_size, form; /* in floats; form: the input of a layer of a chunk */
} rc_text_call;

static inline const float *rc_text_value(const rc_text_call *job, int64_t index)
{
    return job->p->item[index].x;
}

static inline bool rc_text_padded(const rc_text_call *job)
{
    return job->t->config.pool == RC_POOL_MEAN_PADDED;
}

static inline int64_t rc_text_tokens(const rc_text_call *job, int64_t i)
{
    return job->first[i + 1] - job->first[i];
}

static inline int64_t rc_text_padding(const rc_text_call *job, int64_t i)
{
    return rc_text_padded(job) ? job->t->config.pad_to - rc_text_tokens(job, i) : 0;
}

/* The first row of padding of sequence i. */
static inline int64_t rc_text_padding_row(const rc_text_call *job, int64_t i)
{
    return job->first[job->n] + i * job->t->config.pad_to - job->first[i];
}

/* y = the norm of x; y may be x. */
void rc_text_norm(const rc_text_call *job, rc_pair pair, float *y, const float *x, int64_t rows);

/* Attention of queries that have `keys` keys. */
rc_attention rc_text_attention(const rc_text_call *job, int64_t rows, int64_t keys);

/* Room in a chunk's scratch; the two halves of job->layer. */
int64_t rc_text_chunk_size(const rc_text_call *job);
rc_status rc_text_attend(rc_text_call *job, rc_dnn *dnn);
rc_status rc_text_rest(rc_text_call *job, rc_dnn *dnn);

#endif
