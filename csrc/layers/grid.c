/* How the rows of a call are cut among threads. */
#include "layers/grid.h"

enum { CHUNK_ROWS = 512, SHARES = 8 };

int64_t rc_chunk_rows(int64_t total, int64_t unit)
{
    int64_t units = (total / SHARES + unit - 1) / unit;
    return unit * rc_max(1, rc_min(units, rc_max(1, CHUNK_ROWS / unit)));
}

typedef struct {
    const rc_grid *grid;
    rc_pool *pool;
    rc_chunk *chunk;
    void *job;
} grid_job;

static void run_chunk(void *arg, int64_t index, int worker)
{
    const grid_job *run = arg;
    const rc_grid *g = run->grid;
    int64_t first = index * g->rows;
    rc_crew crew = g->columns ? (rc_crew){run->pool, worker} : rc_alone(worker);
    run->chunk(run->job, first, rc_min(g->rows, g->total - first), crew);
}

void rc_grid_run(const rc_grid *grid, rc_pool *pool, rc_chunk *chunk, void *job)
{
    grid_job run = {grid, pool, chunk, job};
    rc_parallel(pool, rc_grid_chunks(grid), run_chunk, &run);
}
