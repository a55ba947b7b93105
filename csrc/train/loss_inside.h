/* loss_inside: what the files of the losses share: logits of all pairs of clips and texts, in
 * tiles, never as a whole. A tile is computed where it is needed: once for sums, once for the
 * gradient of its rows and once for that of its columns. Each row and each column has one owner at
 * a time and takes tiles in order, so results do not depend on the number of threads. */
#ifndef RC_LOSS_INSIDE_H
#define RC_LOSS_INSIDE_H

#include "train/loss.h"

enum { RC_PAIR_TILE = 256 }; /* most rows, and columns, of a tile */

extern const rc_loss_kind rc_contrastive_kind, rc_sigmoid_kind, rc_distillation_kind;

static inline int64_t rc_owner_of(const rc_loss_in *in, int64_t text)
{
    return in->owner == NULL ? text : in->owner[text];
}
static inline int32_t rc_role_of(const rc_loss_in *in, int64_t text)
{
    return in->role == NULL ? RC_ROLE_SHARED : in->role[text];
}

/* ---- Tiles ----------------------------------------------------------------------------------- */

typedef struct {
    int64_t na, nt, c;
    int64_t rows, columns;             /* of a whole tile */
    int64_t row_blocks, column_blocks; /* tiles of a column, of a row */
    rc_shares tile;                    /* for each worker */
    int64_t partial;                   /* (na) rc_partial */
    /* by whether the tile's rows, then its columns are the last ones; then by adding or not */
    rc_product *logits[2][2], *for_a[2][2][2], *for_t[2][2][2];
} rc_pair_tiles;

/* Rows or columns from..from+size-1. */
typedef struct {
    int64_t from, size;
    int last; /* and fewer than of the others */
} rc_pair_block;

/* What scale and bias receive from one row. */
typedef struct {
    double scale, bias;
} rc_partial;

/* Of so many rows and columns each; logits, and gradients where they are wanted. */
rc_status rc_pair_tiles_plan(rc_pair_tiles *k, rc_plan *plan, const rc_loss_size *size,
                             int64_t rows, int64_t columns, bool gradients);
rc_pair_block rc_pair_rows(const rc_pair_tiles *k, int64_t index);
rc_pair_block rc_pair_columns(const rc_pair_tiles *k, int64_t index);
float *rc_pair_tile_of(const rc_pair_tiles *k, const rc_run *run, int worker);

/* Cosines of some rows of a with some of t. */
void rc_pair_cosines(const rc_pair_tiles *k, float *tile, const rc_loss_in *in, rc_pair_block rows,
                     rc_pair_block columns, int worker);

/* From cosines of a tile to gradients of the scaled logits; what each row gives to scale and bias
 * is added to `partial`, where that is not NULL. */
typedef struct rc_pair_job rc_pair_job;
typedef void rc_pair_slopes(const rc_pair_job *job, float *tile, rc_pair_block rows,
                            rc_pair_block columns, rc_partial *partial, int worker);

struct rc_pair_job {
    const rc_pair_tiles *k;
    const rc_run *run;
    const rc_loss_in *in;
    rc_loss_out out;
    float scale;
    const void *loss; /* the body of the loss that `slopes` belongs to */
    const void *more; /* input of a loss that takes more than `in` */
    rc_pair_slopes *slopes;
};

/* All gradients of a loss. */
void rc_pair_backward(rc_pair_job *job);

/* ---- Sums ------------------------------------------------------------------------------------ */

/* The largest of some cosines, and the sum of exp(scale (x - best)). */
typedef struct {
    float best;
    double sum;
} rc_line_sum;

rc_line_sum rc_line_join(rc_line_sum x, rc_line_sum y, float scale);
float rc_line_log(rc_line_sum s, float scale); /* log-sum-exp */

/* log-sum-exp of the logits of each clip over the texts that it sees, and of each text over all
 * clips; the cosine of each text with its own clip. */
typedef struct {
    int64_t rows;    /* (na) */
    int64_t columns; /* (nt) */
    int64_t own;     /* (nt) */
    int64_t best;    /* (row_blocks, nt) of each column: its largest cosine in some rows */
    int64_t sum;     /* and the sum of its exponentials relative to that, in double */
} rc_pair_sums;

void rc_pair_sums_plan(rc_pair_sums *k, rc_plan *plan, const rc_pair_tiles *tiles);
void rc_pair_sums_run(const rc_pair_sums *k, const rc_pair_tiles *tiles, const rc_run *run,
                      const rc_loss_in *in);

#endif
