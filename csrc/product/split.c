/* Products of bfloat16 parts on tiles: layout, the order of work, and what happens to sums. */
#include "product/split_blocks.h"

#include <stdatomic.h>
#include <string.h>

enum {
    STRETCH = 16 * TILE_TERMS
}; /* terms between two visits to y: tiles of a stay in the cache */

static int64_t tiles_of(int64_t n, int64_t size)
{
    return (n + size - 1) / size;
}

int64_t rc_split_bytes(int64_t rows, int64_t terms, int parts)
{
    int64_t pairs = tiles_of(rows, BLOCK); /* of tiles: blocks of a result are two tiles wide */
    return pairs * 2 * tiles_of(terms, TILE_TERMS) * parts * TILE_SIZE * (int64_t)sizeof(uint16_t);
}

int64_t rc_split_unit(void)
{
    return BLOCK;
}

/* ---- Choice ---------------------------------------------------------------------------------- */

static _Atomic int limit = RC_SPLIT_AMX;
static _Atomic int best = -1; /* kept, because to ask takes a virtual machine long */

void rc_split_limit(rc_split_kind most)
{
    atomic_store(&limit, most);
}

rc_split_kind rc_split_choice(void)
{
    if (atomic_load(&best) < 0) atomic_store(&best, rc_split_best());
    return (rc_split_kind)rc_min(atomic_load(&best), atomic_load(&limit));
}

/* ---- Layout ---------------------------------------------------------------------------------- */

RC_INLINE uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

RC_INLINE float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* The leading bits of each value, nearest with ties to even; x keeps what is left. What would round
 * to infinity is cut instead, so that the next part can hold the rest, and NaN stays one. */
RC_INLINE void take_part(uint16_t *to, float *x)
{
    for (int k = 0; k < TILE_TERMS; k++) {
        uint32_t bits = bits_of(x[k]), size = bits & 0x7fffffffu;
        uint32_t nearest = bits + 0x7fff + (bits >> 16 & 1);
        uint32_t cut = bits | (size > 0x7f800000u ? 0x400000u : 0);
        bits = (size < 0x7f7f8000u ? nearest : cut) & 0xffff0000u;
        to[k] = (uint16_t)(bits >> 16);
        x[k] -= float_of(bits);
    }
}

/* One row of tiles: chunk t of x (terms) becomes row `row` of the tiles at to + t * stride. */
RC_INLINE void split_row(uint16_t *to, const float *x, int64_t terms, int parts, int64_t stride)
{
    float left[TILE_TERMS];
    for (int64_t from = 0; from < terms; from += TILE_TERMS, to += stride) {
        int64_t count = rc_min(TILE_TERMS, terms - from);
        if (count < TILE_TERMS) memset(left, 0, sizeof left);
        memcpy(left, x + from, (size_t)count * sizeof *left);
        for (int p = 0; p < parts; p++) take_part(to + p * TILE_SIZE, left);
    }
}

/* Tile (i, t) of part p lies at ((i * all t + t) * parts + p) * TILE_SIZE; rows of 32 terms. */
RC_CLONES
void rc_split_rows(uint16_t *to, const float *x, int64_t from, int64_t rows, int64_t terms,
                   int parts)
{
    int64_t stride = parts * TILE_SIZE, band = tiles_of(terms, TILE_TERMS) * stride;
    for (int64_t i = from; i < from + rows; i++, x += terms)
        split_row(to + i / TILE_ROWS * band + i % TILE_ROWS * TILE_TERMS, x, terms, parts, stride);
}

/* What an earlier product left there may not be a number. */
void rc_split_pad(uint16_t *to, int64_t rows, int64_t terms, int parts)
{
    int64_t band = tiles_of(terms, TILE_TERMS) * parts * TILE_SIZE;
    for (int64_t i = rows; i < tiles_of(rows, BLOCK) * BLOCK; i++)
        for (int64_t t = 0; t < band; t += TILE_SIZE)
            memset(to + i / TILE_ROWS * band + i % TILE_ROWS * TILE_TERMS + t, 0,
                   TILE_TERMS * sizeof *to);
}

/* Tiles of 16 pairs of terms by 16 outputs: the pair of one output side by side. Two tiles of
 * neighbouring outputs follow each other: ((block * all t + t) * parts + p) * 2 tiles. */
void rc_split_weight(uint16_t *to, const float *w, int64_t n, int64_t terms, int parts)
{
    uint16_t row[3 * TILE_SIZE];
    int64_t all = tiles_of(terms, TILE_TERMS);
    memset(to, 0, (size_t)rc_split_bytes(n, terms, parts));
    for (int64_t j = 0; j < n; j++)
        for (int64_t t = 0; t < all; t++) {
            int64_t from = t * TILE_TERMS;
            split_row(row, w + j * terms + from, rc_min(TILE_TERMS, terms - from), parts, 0);
            uint16_t *tile = to + (j / BLOCK * all + t) * parts * 2 * TILE_SIZE;
            tile += j % BLOCK / TILE_ROWS * TILE_SIZE + j % TILE_ROWS * 2;
            for (int p = 0; p < parts; p++, tile += 2 * TILE_SIZE)
                for (int k = 0; k < TILE_TERMS; k++)
                    tile[k / 2 * TILE_TERMS + k % 2] = row[p * TILE_SIZE + k];
        }
}

/* ---- Work ------------------------------------------------------------------------------------ */

/* Small parts first where it costs no register: 0 is the largest part. */
static const rc_split_step STEPS_1[] = {{0, 0, true, true}};
static const rc_split_step STEPS_2[] = {
    {1, 0, true, true}, {0, 0, true, false}, {0, 1, false, true}};
static const rc_split_step STEPS_3[] = {{2, 0, true, true},  {1, 0, true, false},
                                        {0, 0, true, false}, {0, 2, false, true},
                                        {0, 1, false, true}, {1, 1, true, false}};
static const struct {
    const rc_split_step *step;
    int count;
} ORDER[] = {{STEPS_1, 1}, {STEPS_2, 3}, {STEPS_3, 6}};

/* to = a block of sums, with the bias where there is one, and what was there where `add`. */
RC_CLONES
static void finish(float *to, int64_t ld, const float *sums, const float *bias, const float *y,
                   int64_t ldy, int64_t rows, int64_t columns, bool add)
{
    for (int64_t i = 0; i < rows; i++, to += ld, y += ldy, sums += BLOCK)
        for (int64_t j = 0; j < columns; j++)
            to[j] = sums[j] + (bias != NULL ? bias[j] : 0) + (add ? y[j] : 0);
}

/* A finished block (rows, BLOCK) is a column of tiles of the next product's first factor. */
RC_CLONES
static void lay_block(const rc_split_shape *s, float *block, int64_t i, int64_t j, int64_t rows,
                      int64_t columns)
{
    int64_t part = (int64_t)s->parts * TILE_SIZE, band = tiles_of(s->n, TILE_TERMS) * part;
    uint16_t *to = s->next + i / TILE_ROWS * band + j / TILE_TERMS * part;
    s->activate(block, block, rows * BLOCK);
    for (int64_t r = 0; r < rows; r++)
        split_row(to + r / TILE_ROWS * band + r % TILE_ROWS * TILE_TERMS, block + r * BLOCK,
                  columns, s->parts, 0);
}

static void run_block(float *sums, const rc_split_block *block, rc_split_kind kind)
{
    if (kind == RC_SPLIT_AMX)
        rc_split_block_amx(sums, block);
    else if (kind == RC_SPLIT_AVX512)
        rc_split_block_avx512(sums, block);
    else
        rc_split_block_plain(sums, block);
}

/* Blocks of columns outermost: a stretch of b stays in the first cache while rows pass by. */
static void stretch(float *y, const uint16_t *a, const uint16_t *b, const float *bias,
                    const rc_split_shape *s, rc_split_kind kind, int64_t from, int64_t tiles)
{
    float sums[BLOCK * BLOCK] __attribute__((aligned(64)));
    int64_t all = tiles_of(s->terms, TILE_TERMS), part = (int64_t)s->parts * TILE_SIZE;
    bool first = from == 0, laid = s->next != NULL && from + tiles == all;
    rc_split_block block = {.band = all * part,
                            .tiles = tiles,
                            .parts = s->parts,
                            .step = ORDER[s->parts - 1].step,
                            .steps = ORDER[s->parts - 1].count};
    for (int64_t j = 0; j < s->n; j += BLOCK)
        for (int64_t i = 0; i < s->m; i += BLOCK) {
            block.a = a + i / TILE_ROWS * block.band + from * part;
            block.b = b + (j / BLOCK * all + from) * 2 * part;
            block.wide = s->m - i > TILE_ROWS;
            run_block(sums, &block, kind);
            int64_t rows = rc_min(BLOCK, s->m - i), columns = rc_min(BLOCK, s->n - j);
            float *at = y + i * s->ldy + j;
            finish(laid ? sums : at, laid ? BLOCK : s->ldy, sums,
                   first && bias != NULL ? bias + j : NULL, at, s->ldy, rows, columns,
                   s->add || !first);
            if (laid) lay_block(s, sums, i, j, rows, columns);
        }
}

void rc_split_product(float *y, const uint16_t *a, const uint16_t *b, const float *bias,
                      const rc_split_shape *s, rc_split_kind kind)
{
    int64_t all = tiles_of(s->terms, TILE_TERMS);
    int64_t shares = tiles_of(s->terms * s->parts, STRETCH), share = tiles_of(all, shares);
    if (kind == RC_SPLIT_AMX) rc_split_amx_begin();
    for (int64_t from = 0; from < all; from += share)
        stretch(y, a, b, bias, s, kind, from, rc_min(share, all - from));
    if (kind == RC_SPLIT_AMX) rc_split_amx_end();
}
