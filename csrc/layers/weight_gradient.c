/* Gradients of linear weights: tiles, groups of rows, and their sums. */
#include "layers/weight_gradient.h"

#include <string.h>

enum {
    TILE = 512,   /* side of a tile, at most */
    SUMMED = 512, /* rows of a product: its factors and the tile stay in the cache */
    TASKS = 8,    /* at least, where there are so many rows */
    UNIT = 16,    /* of sides */
    GROUP = 64,   /* of rows of a group */
    MERGED = 32   /* rows of a tile whose sums are added at a time */
};

static int64_t pieces(int64_t n, int64_t size)
{
    return (n + size - 1) / size;
}

/* About n / count, rounded up to whole units. */
static int64_t share(int64_t n, int64_t count, int64_t unit)
{
    return rc_min(n, pieces(pieces(n, count), unit) * unit);
}

/* ---- Plan ------------------------------------------------------------------------------------ */

static void cut(rc_weight_gradient *g)
{
    g->out = share(g->n, pieces(g->n, TILE), UNIT);
    g->in = share(g->k, pieces(g->k, TILE), UNIT);
    g->outs = pieces(g->n, g->out);
    g->ins = pieces(g->k, g->in);
    g->rows = share(g->total, pieces(TASKS, g->outs * g->ins), GROUP);
    g->groups = pieces(g->total, g->rows);
    g->stretch[0] = rc_min(SUMMED, g->rows);
    g->stretch[1] = g->rows % SUMMED;
    g->stretch[2] = (g->total - (g->groups - 1) * g->rows) % SUMMED;
}

static rc_status plan_products(rc_weight_gradient *g, rc_plan *plan)
{
    int64_t out[2] = {g->out, g->n - (g->outs - 1) * g->out};
    int64_t in[2] = {g->in, g->k - (g->ins - 1) * g->in};
    rc_product_shape s = {.ta = 1, .sum = 1, .narrow = g->narrow};
    bool copied = g->narrow && !g->laid;
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 2; j++)
            for (int r = 0; r < 3; r++) {
                s.m = out[i];
                s.n = s.ldc = in[j];
                s.k = g->stretch[r];
                s.lda = copied ? s.m : g->n;
                s.ldb = copied ? s.n : g->k;
                RC_TRY(rc_plan_product(plan, &g->product[i][j][r], s, NULL));
            }
    return RC_OK;
}

rc_status rc_weight_gradient_plan(rc_weight_gradient *out, rc_plan *plan, int64_t n, int64_t k,
                                  int64_t total, bool narrow, bool laid)
{
    rc_weight_gradient *g = out;
    *g = (rc_weight_gradient){.n = n, .k = k, .total = total, .narrow = narrow};
    g->laid = narrow && laid;
    if (total < 1) return RC_OK;
    cut(g);
    int64_t tile = g->out * g->in, own = g->groups == 1 ? tile : 0;
    if (narrow && !laid) own += pieces(g->stretch[0] * (g->out + g->in), 2);
    RC_TRY(rc_plan_turns(plan, &g->own, RC_TURNS_WORKERS, own));
    if (g->groups > 1)
        RC_TRY(rc_plan_turns(plan, &g->sums, RC_TURNS_ALL, g->groups * g->outs * g->ins * tile));
    return plan_products(g, plan);
}

/* ---- Work ------------------------------------------------------------------------------------ */

typedef struct {
    const rc_weight_gradient *g;
    float *dw;
    rc_lowered dy, x;
} gradient_job;

/* A tile of dw: its first output and input, how many there are. */
typedef struct {
    int64_t at, out, in, outs, ins;
} tile_place;

static tile_place place_of(const rc_weight_gradient *g, int64_t tile)
{
    int64_t out = tile / g->ins * g->out, in = tile % g->ins * g->in;
    return (tile_place){tile, out, in, rc_min(g->out, g->n - out), rc_min(g->in, g->k - in)};
}

static int64_t tiles_of(const rc_weight_gradient *g)
{
    return g->outs * g->ins;
}

static float *sums_of(const rc_weight_gradient *g, int64_t group, int64_t tile)
{
    return g->sums->x + (group * tiles_of(g) + tile) * g->out * g->in;
}

static void round_block(uint16_t *to, const float *x, int64_t ld, int64_t rows, int64_t columns)
{
    for (int64_t i = 0; i < rows; i++) rc_to_bf16(to + i * columns, x + i * ld, columns);
}

/* sums += the product of rows first..first+rows-1; `low` is for both factors, rounded. */
static void add_stretch(const gradient_job *job, float *sums, const tile_place *t, int64_t first,
                        int64_t rows, uint16_t *low, int worker)
{
    const rc_weight_gradient *g = job->g;
    int64_t left = first * g->n + t->out, right = first * g->k + t->in;
    int i = t->outs != g->out, j = t->ins != g->in, r = 0;
    while (g->stretch[r] != rows) r++;
    rc_rows dy = rc_floats(job->dy.x + left);
    const void *x = job->x.x + right;
    if (g->laid) {
        dy = (rc_rows){job->dy.low + left, RC_BF16};
        x = job->x.low + right;
    } else if (g->narrow) {
        round_block(low, dy.at, g->n, rows, t->outs);
        round_block(low + rows * t->outs, x, g->k, rows, t->ins);
        dy = (rc_rows){low, RC_BF16};
        x = low + rows * t->outs;
    }
    rc_product_run(g->product[i][j][r], worker, sums, dy, (rc_factor){.b = x});
}

/* A group of rows in a tile. */
static void run_tile(void *arg, int64_t index, int worker)
{
    const gradient_job *job = arg;
    const rc_weight_gradient *g = job->g;
    tile_place t = place_of(g, index % tiles_of(g));
    int64_t group = index / tiles_of(g), from = group * g->rows;
    int64_t to = rc_min(from + g->rows, g->total);
    float *own = g->own->x + worker * g->own->size;
    float *sums = g->groups > 1 ? sums_of(g, group, t.at) : own;
    uint16_t *low = (uint16_t *)(void *)(own + (g->groups > 1 ? 0 : g->out * g->in));
    memset(sums, 0, (size_t)(t.outs * t.ins) * sizeof *sums);
    for (int64_t first = from, rows; first < to; first += rows) {
        rows = rc_min(SUMMED, to - first);
        add_stretch(job, sums, &t, first, rows, low, worker);
    }
    if (g->groups == 1) rc_place(job->dw + t.out * g->k + t.in, g->k, sums, t.outs, t.ins, true);
}

/* Some rows of a tile: what all groups have summed. */
static void merge_rows(void *arg, int64_t index, int worker)
{
    (void)worker;
    const gradient_job *job = arg;
    const rc_weight_gradient *g = job->g;
    int64_t parts = pieces(g->out, MERGED), first = index % parts * MERGED;
    tile_place t = place_of(g, index / parts);
    int64_t rows = rc_min(MERGED, t.outs - first);
    float *dw = job->dw + (t.out + first) * g->k + t.in;
    for (int64_t i = 0; i < g->groups && rows > 0; i++)
        rc_place(dw, g->k, sums_of(g, i, t.at) + first * t.ins, rows, t.ins, true);
}

void rc_weight_gradient_run(const rc_weight_gradient *g, rc_pool *pool, float *dw, rc_lowered dy,
                            rc_lowered x)
{
    gradient_job job = {g, dw, dy, x};
    if (g->total < 1) return;
    rc_parallel(pool, g->groups * tiles_of(g), run_tile, &job);
    if (g->groups > 1) rc_parallel(pool, tiles_of(g) * pieces(g->out, MERGED), merge_rows, &job);
}
