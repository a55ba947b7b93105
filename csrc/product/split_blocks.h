/* split_blocks: one block of a product of split factors; which kinds the processor has. */
#ifndef RC_SPLIT_BLOCKS_H
#define RC_SPLIT_BLOCKS_H

#include "base/vector.h"
#include "product/split.h"

enum {
    TILE_ROWS = 16,                     /* rows of a, or pairs of terms of b */
    TILE_TERMS = 32,                    /* terms of a row of a */
    TILE_SIZE = TILE_ROWS * TILE_TERMS, /* values of a tile, 1 KiB */
    BLOCK = 2 * TILE_ROWS,              /* side of a block of sums: two tiles by two */
};

/* One product of parts; whether its tiles differ from those of the step before. */
typedef struct {
    int8_t a, b;
    bool load_a, load_b;
} rc_split_step;

/* A block of sums over `tiles` tiles of terms. */
typedef struct {
    const uint16_t *a, *b;
    int64_t band; /* values from one row of tiles of a to the next */
    int64_t tiles;
    int parts, steps;
    const rc_split_step *step;
    bool wide; /* both rows of tiles of a; else the lower half of the sums is left alone */
} rc_split_block;

/* sums (BLOCK, BLOCK) = the block. */
void rc_split_block_plain(float *sums, const rc_split_block *block);
void rc_split_block_avx512(float *sums, const rc_split_block *block);
void rc_split_block_amx(float *sums, const rc_split_block *block);

/* The best kind of all. */
rc_split_kind rc_split_best(void);

/* Configure this thread's tile registers before, and give them back after blocks. */
void rc_split_amx_begin(void);
void rc_split_amx_end(void);

#endif
