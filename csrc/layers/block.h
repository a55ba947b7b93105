/* block: one transformer block, the repeated part of every tower.
 *
 * Attention and an MLP, each with a norm and added to the residual stream. What towers differ in is
 * an option of the block or of how its rows form sequences. Windows stay within a chunk of rows,
 * which runs through the whole block on one worker while it is warm in the cache; longer sequences
 * cross chunks, so attention has a region of its own, in which a task is some heads of a sequence.
 */
#ifndef RC_BLOCK_H
#define RC_BLOCK_H

#include "kernels/act.h"
#include "kernels/attention.h"
#include "layers/linear.h"

typedef struct {
    rc_pair norm1, qkv, proj, norm2, fc1, gate, fc2;
    int64_t c, heads, d, mlp; /* widths: of the stream, of a head, of the MLP */
    bool post, gated;         /* norms after the sums; the MLP has a gate */
    bool padded;              /* keys and values for rows in front only: the others only ask */
    float eps, scale;         /* of norms; of scores */
    const rc_act *act;        /* of the MLP */
    float drop_path, dropout; /* training only */
    uint64_t site;            /* the first of the four sites where this block draws */
    int64_t period;           /* rows of a clip, after which the tables below begin again */
    const int32_t *from;      /* (period) where in the stream before it each row lies, or NULL */
    int64_t window, relpos;   /* side of a window, or 0; the parameter of its biases */
    const float *mask;        /* (kinds, window^2, window^2), or NULL */
    const int32_t *mask_of;   /* (period / window^2) the kind of each window; 0: no mask */
} rc_block;

static inline int64_t rc_block_inner(const rc_block *b)
{
    return b->heads * b->d;
}

/* Declare layer norms, linear layers and, of windows, the table of biases, by the names of timm's
 * blocks behind `prefix`; sizes and options are set. */
void rc_block_declare(rc_block *b, rc_params *p, const char *prefix, bool qkv_bias);

/* How the rows of a call form sequences. */
typedef struct {
    rc_grid all, keyed, kept; /* all rows; those with keys; those that go on after attention */
    int64_t n, t;             /* sequences, or spans; rows of each, or of the longest */
    int64_t clip;             /* rows of a clip, which stochastic depth drops together */
    bool equal;               /* one after the other, t rows each */
} rc_block_rows;

/* n sequences of t rows each: windows, or the tokens of clips. */
rc_block_rows rc_block_equal(const rc_block *b, const rc_params *p, int64_t n, int64_t t,
                             bool train);

/* Queries and the keys they see: rows q.. of the stream, the first of which is token `from` of its
 * sequence, and rows k.. */
typedef struct {
    int64_t q, rows, k, keys, from;
} rc_span;

/* What differs from call to call where sequences are not equal, or share tables. */
typedef struct {
    const rc_span *span; /* (n) */
    const float *bias;   /* (heads, t, t), or NULL */
    float *dbias;        /* its gradient, which backward adds to, or NULL */
    const float *mask;   /* (t, t), or NULL */
    const int64_t *keep; /* (kept) rows that go on after attention, in front; NULL: all */
    int64_t kept;
    int64_t real;         /* rows of the stream that are not there for roundness */
    int64_t keyed;        /* those in front that have keys, where not all have */
    const int64_t *place; /* of each row in the whole batch, which dropout draws by */
} rc_sequences;

typedef struct rc_block_plan rc_block_plan;

/* With `train` what forward keeps is taken for good; other scratch may be taken again. Then all
 * rows go on after attention. Where some rows have no keys, spans come in two halves: those of rows
 * with keys, then for each the rows that only ask. */
rc_status rc_block_plan_make(rc_block_plan **out, rc_plan *plan, const rc_block *b,
                             const rc_params *p, const rc_block_rows *rows, bool train);

/* y, in this block's order, of x, in the order before. They may be the same where there are no
 * windows. */
void rc_block_forward(const rc_block_plan *k, const rc_run *run, float *y, const float *x,
                      const rc_sequences *s);

/* dx, in the order before, of dy, in this block's; gradients of parameters are added to. They may
 * be the same where there are no windows. */
void rc_block_backward(const rc_block_plan *k, const rc_run *run, float *dx, const float *dy,
                       const rc_sequences *s);

#endif
