/* Products of many rows with many columns, tile by tile. */
#include "score/tiles.h"

#include "layers/linear.h"

enum { TILE_ROWS = 256, UNIT = 64, TILE_COLUMNS = 512, LANES = 16 };

/* Columns overlap where a group would be cut and at the end, so that all tiles have one shape.
 * Spread evenly with room for one more group, they are no more than without groups. */
static int64_t span_of(int64_t columns, int64_t most)
{
    int64_t tiles = (columns + TILE_COLUMNS - 1) / TILE_COLUMNS;
    int64_t span = (columns + tiles - 1) / tiles + most - 1;
    return rc_min(columns, (span + LANES - 1) / LANES * LANES);
}

rc_status rc_tiles_get(rc_tiles *t, rc_dnn *dnn, int64_t most, bool whole)
{
    t->rows = whole ? UNIT : rc_min(rc_chunk_rows(t->n, UNIT), TILE_ROWS);
    t->span = whole ? t->columns : span_of(t->columns, most);
    rc_product_shape s = {
        .n = t->span, .k = t->width, .lda = t->width, .ldb = t->width, .ldc = t->span, .tb = 1};
    s.m = rc_min(t->n, t->rows);
    RC_TRY(rc_product_get(dnn, &t->full, s, NULL));
    s.m = t->n % t->rows;
    return rc_product_get(dnn, &t->tail, s, NULL);
}

void rc_tiles_release(rc_tiles *t)
{
    rc_product_release(t->full);
    rc_product_release(t->tail);
}

int64_t rc_tiles_scratch(const rc_tiles *t)
{
    return t->kept != NULL ? 0 : t->rows * t->span;
}

int64_t rc_tiles_chunks(const rc_tiles *t)
{
    return (t->n + t->rows - 1) / t->rows;
}

rc_tile rc_tile_at(const rc_tiles *t, int64_t chunk, int64_t from, int worker)
{
    rc_tile tile = {.start = rc_min(from, t->columns - t->span), .first = chunk * t->rows};
    tile.rows = rc_min(t->rows, t->n - tile.first);
    tile.at = t->kept != NULL ? t->kept + tile.first * t->columns
                              : t->scratch + worker * rc_tiles_scratch(t);
    return tile;
}

void rc_tile_run(const rc_tiles *t, const rc_tile *tile, int worker)
{
    bool full = tile->rows == rc_min(t->rows, t->n);
    rc_product_run(full ? t->full : t->tail, worker, tile->at,
                   rc_floats(t->x + tile->first * t->width),
                   (rc_factor){.b = t->w + tile->start * t->width});
}
