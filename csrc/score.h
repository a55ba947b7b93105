/* score: embeddings against embeddings, tile by tile.
 *
 * A tile is a product of some rows with some columns, small enough to stay in the second cache.
 * What is wanted of it (the best of each row, ranks) is taken before the next one is computed, so
 * that scores need no memory that grows with their number unless the caller wants them all. */
#ifndef RC_SCORE_H
#define RC_SCORE_H

#include "model.h"

/* ---- tiles.c --------------------------------------------------------------------------------- */

typedef struct {
    const float *x, *w;        /* (n, width), (columns, width) */
    int64_t n, columns, width; /* all above 0 */
    int64_t rows, span;        /* of a tile */
    float *kept;               /* (n, columns), where results stay, or NULL; only of whole rows */
    float *scratch;            /* without it, rc_tiles_scratch floats for each worker */
    rc_product *full, *tail;
} rc_tiles;

/* Choose rows and span and get the products; x, w, n, columns, width and kept are set. A caller
 * that works on groups of up to `most` columns can start every group inside some tile: without
 * `whole` a tile has room for about 512 columns and at least `most`; with it, for all. */
rc_status rc_tiles_get(rc_tiles *t, rc_dnn *dnn, int64_t most, bool whole);
int64_t rc_tiles_scratch(const rc_tiles *t);
int64_t rc_tiles_chunks(const rc_tiles *t); /* of rows */

/* Where the results of some rows lie in memory. */
typedef struct {
    float *at; /* row `first`, column `start`; rows lie a span apart */
    int64_t start, first, rows;
} rc_tile;

/* The tile of `chunk` that contains column `from` and as many after it as span and columns allow;
 * rc_tile_run computes it. */
rc_tile rc_tile_at(const rc_tiles *t, int64_t chunk, int64_t from, int worker);
void rc_tile_run(const rc_tiles *t, const rc_tile *tile, int worker);

/* ---- score.c --------------------------------------------------------------------------------- */

/* Class vectors: y[i] = normalised mean of the normalised prompts first[i]..first[i+1]-1 of x. */
void rc_class_vectors(float *y, const float *x, const int32_t *first, int64_t labels, int64_t c);

/* RC_EINVAL, naming the array and the row, where x (n, c) holds a value that is not finite. */
rc_status rc_check_finite(const float *x, int64_t n, int64_t c, const char *name);

/* The k best of a row of scores that come in pieces: index and value (k) are a heap whose root is
 * the worst. Of equal scores the one that comes first is better. Add the scores of places
 * from..from + n - 1 after those of all places before. */
void rc_best_add(int32_t *index, float *value, int64_t k, const float *score, int64_t from,
                 int64_t n);

/* Put the heap in order, best first, once k or more scores were added. */
void rc_best_sort(int32_t *index, float *value, int64_t k);

/* ---- combine.c ------------------------------------------------------------------------------- */

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

/* ---- ranks.c --------------------------------------------------------------------------------- */

typedef struct {
    const float *query, *item; /* (n, width), (items, width) */
    const int32_t *pair;       /* (n, m), items that belong to each query; -1 for none */
    int32_t *rank;             /* (n, m), from 1; 0 for none */
    int64_t n, items, width, m;
} rc_ranking;

/* The place of each pair's item among all items, by falling product with the query; of equal ones
 * the item that comes first is better. RC_EINVAL where an embedding is not finite. */
rc_status rc_ranks(rc_context *c, const rc_ranking *job);

#endif
