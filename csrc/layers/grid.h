/* grid: how the rows of a call are cut among threads, chosen once. */
#ifndef RC_GRID_H
#define RC_GRID_H

#include "base/parallel.h"

/* Chunks of `rows` rows, the last one shorter, each for one worker; or, with `columns`, one chunk
 * of all, in whose layers threads share outputs. Sizes depend on the call alone, so that results do
 * not depend on the number of threads. */
typedef struct {
    int64_t total, rows;
    bool columns;
} rc_grid;

/* Rows of a chunk: a multiple of `unit`, enough chunks to share, small enough to stay in the cache.
 */
int64_t rc_chunk_rows(int64_t total, int64_t unit);

static inline rc_grid rc_grid_rows(int64_t total, int64_t rows)
{
    return (rc_grid){total, rows, false};
}

static inline rc_grid rc_grid_columns(int64_t total)
{
    return (rc_grid){total, rc_max(total, 1), true};
}

static inline int64_t rc_grid_chunks(const rc_grid *grid)
{
    return (grid->total + grid->rows - 1) / grid->rows;
}

/* Chunks that memory must be there for at a time. */
static inline int rc_grid_places(const rc_grid *grid, int threads)
{
    return grid->columns ? 1 : threads;
}

/* One chunk: rows first..first+rows-1. Its crew has a pool only where the chunk is the only one, so
 * nothing that runs inside a region can open another. */
typedef void rc_chunk(void *job, int64_t first, int64_t rows, rc_crew crew);
void rc_grid_run(const rc_grid *grid, rc_pool *pool, rc_chunk *chunk, void *job);

#endif
