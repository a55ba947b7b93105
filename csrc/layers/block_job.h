/* block_job: plan and work of a block, what block.c, block_forward.c and block_backward.c share. */
#ifndef RC_BLOCK_JOB_H
#define RC_BLOCK_JOB_H

#include "layers/block.h"

/* What forward keeps for backward, in scratch: inputs of both branches; sums of streams and
 * branches where norms come after them; statistics of the norms; before and after attention; before
 * the activation, and what gates it. */
typedef struct {
    int64_t x, mid, sum1, sum2, mean1, rstd1, mean2, rstd2, qkv, kv, o, hidden, gate;
} rc_block_tape;

/* What backward computes of all rows, in scratch: inputs of the linear layers, and gradients. */
typedef struct {
    rc_linear_back qkv, kv, proj, fc1, gate, fc2;
    int64_t a1, a2, h, dbranch1, dbranch2, dq, dk, dh, dgate, da1, da2, dgated;
    int64_t dsum1, dsum2, dmid, dout, dbias;
} rc_block_back;

/* Of those the rows of both factors of weight gradients, rounded to bfloat16. */
typedef struct {
    bool there;
    int64_t a1, a2, h, o, dbranch1, dbranch2, dq, dk, dh, dgate;
} rc_block_low;

struct rc_block_plan {
    const rc_block *b;
    const rc_params *p;
    rc_block_rows rows;
    bool train, again; /* backward begins with forward once more */
    int64_t y;         /* where that leaves the output of a block with norms after its sums */
    rc_linear qkv, kv, proj, fc1, gate, fc2;
    int64_t heads, groups;     /* of a task of attention; tasks of a sequence */
    int64_t ldq, ldk, q, k, o; /* queries; keys; outputs of attention, of all rows */
    int64_t bias;              /* of windows */
    int64_t form, hidden;      /* floats of a chunk: an input, what is behind it */
    rc_shares chunk, worker;   /* scratch of a chunk, of a worker */
    rc_block_tape tape;
    rc_block_back back;
    rc_block_low low;
};

typedef struct {
    const rc_block_plan *k;
    const rc_run *run;
    const rc_sequences *s; /* NULL where sequences are equal and share nothing */
    const float *bias;     /* of the first head */
    const float *x, *dy;
    float *y, *dx;
    bool again; /* forward once more: the input is on the tape, the output is not wanted */
} rc_block_job;

rc_block_job rc_block_job_open(const rc_block_plan *k, const rc_run *run, const rc_sequences *s);

static inline const float *rc_block_value(const rc_block_job *job, int64_t index)
{
    return job->k->p->item[index].x;
}

/* Scratch that lies at an offset. */
static inline float *rc_block_at(const rc_block_job *job, int64_t offset)
{
    return job->run->scratch + offset;
}

/* x, values from.. of all rows of a factor, rounded to its place where products are narrow. */
rc_lowered rc_block_lay(const rc_block_job *job, int64_t low, const float *x, int64_t from,
                        int64_t values);

/* block_forward.c: forward for training. */
void rc_block_train(rc_block_job *job);

/* Rows that are there for roundness have no queries: rows from..to-1 of what lies at an offset, so
 * wide, are 0, so that what they compute stays finite. */
void rc_block_clear(const rc_block_job *job, int64_t offset, int64_t width, int64_t from,
                    int64_t to);

/* Rows first.. of x in the order of this block; and back. */
void rc_block_gather(const rc_block_job *job, float *y, int64_t first, int64_t rows);
void rc_block_scatter(const rc_block_job *job, const float *dx, int64_t first, int64_t rows);

/* Queries and keys of sequence i; what heads head..head+n-1 of them compute. */
rc_span rc_block_span(const rc_block_job *job, int64_t i);
rc_attention rc_block_attention(const rc_block_job *job, const rc_span *at, int64_t n);
const float *rc_block_bias(const rc_block_job *job, const rc_span *at, int64_t head);
const float *rc_block_mask(const rc_block_job *job, const rc_span *at);

/* A task of attention across chunks: some heads of a sequence. */
typedef struct {
    rc_span at;
    int64_t head, heads;
} rc_block_task;

rc_block_task rc_block_task_at(const rc_block_job *job, int64_t index);
int64_t rc_block_tasks(const rc_block_job *job);

/* Dropout and stochastic depth on a branch, or on its gradient: 0 attention, 2 the MLP. */
void rc_block_drop(const rc_block_job *job, float *branch, uint64_t which, int64_t first,
                   int64_t rows);

#endif
