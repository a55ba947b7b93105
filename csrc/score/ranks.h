/* ranks: ranks of paired items. */
#ifndef RC_RANKS_H
#define RC_RANKS_H

#include "layers/context.h"

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
