/* tiles: products of many rows with many columns, tile by tile.
 *
 * A tile is a product of some rows with some columns, small enough to stay in the second cache.
 * What is wanted of it (the best of each row, ranks) is taken before the next one is computed, so
 * that scores need no memory that grows with their number unless the caller wants them all. */
#ifndef RC_TILES_H
#define RC_TILES_H

#include "product/dnn.h"

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
void rc_tiles_release(rc_tiles *t); /* also after rc_tiles_get failed */
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

#endif
