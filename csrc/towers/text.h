/* text: one text tower for BERT, RoBERTa, T5's encoder, GPT-2 and CLIP's text transformer. */
#ifndef RC_TEXT_H
#define RC_TEXT_H

#include "towers/tower.h"

/* The kinds count in the order of the names in reclap/config.py. */
enum { RC_NORM_LAYER, RC_NORM_RMS };
enum { RC_PLACE_POST, RC_PLACE_PRE }; /* of a norm: after the sum, or before the branch */
enum { RC_POSITION_LEARNED, RC_POSITION_BUCKETS, RC_POSITION_NONE };
enum {
    RC_POOL_MEAN,
    RC_POOL_FIRST,
    RC_POOL_POOLER,      /* tanh(dense(first)) */
    RC_POOL_LAST,        /* the last token */
    RC_POOL_MEAN_PADDED, /* over pad_to rows; padding sees the tokens, tokens see no padding */
    RC_POOL_NONZERO,     /* row (tokens other than 0) - 1 */
};

typedef struct {
    int64_t vocab, positions, types, width, layers, heads, mlp;
    double eps;
    int64_t head_width; /* 0: width / heads */
    int64_t norm, place, position, activation, pool;
    int64_t position_offset;       /* row of the first token in a learned table of positions */
    int64_t buckets, max_distance; /* of T5's relative positions */
    int64_t gated, causal, biases, scaled, embed_norm, final_norm; /* 0 or 1 */
    int64_t pad_to, pad_id;                                        /* of RC_POOL_MEAN_PADDED */
    double dropout; /* of the embedding and of both branches, in training */
} rc_text_config;

extern const rc_tower_kind rc_text_kind;

#endif
