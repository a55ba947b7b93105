/* One block of a split product, three times: plain C, AVX-512 and AMX. */
#define _DEFAULT_SOURCE /* syscall */
#include "product/split_blocks.h"

#include <string.h>

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(RECLAP_NO_SPLIT_ASM)
#define HAVE_X86 1
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#define HAVE_X86 0
#endif

static const uint16_t *tile_a(const rc_split_block *s, int64_t row, int64_t tile, int part)
{
    return s->a + row * s->band + (tile * s->parts + part) * TILE_SIZE;
}

static const uint16_t *tile_b(const rc_split_block *s, int64_t tile, int part)
{
    return s->b + (tile * s->parts + part) * 2 * TILE_SIZE;
}

/* ---- Plain C --------------------------------------------------------------------------------- */

typedef uint32_t pairs __attribute__((vector_size(64)));

RC_INLINE float half_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* sums (16, 32) += a tile of a with two of b; a pair is the low and the high half of a word. */
RC_INLINE void add_tiles(float *sums, const uint16_t *a, const uint16_t *b)
{
    for (int i = 0; i < TILE_ROWS; i++)
        for (int v = 0; v < 2; v++) {
            rc_vec sum = *(const rc_vec *)(sums + i * BLOCK + v * RC_LANES);
            for (int k = 0; k < TILE_ROWS; k++) {
                pairs word;
                memcpy(&word, b + v * TILE_SIZE + k * TILE_TERMS, sizeof word);
                pairs low = word << 16, high = word & 0xffff0000u;
                sum += half_of((uint32_t)a[i * TILE_TERMS + 2 * k + 1] << 16) * (rc_vec)high;
                sum += half_of((uint32_t)a[i * TILE_TERMS + 2 * k] << 16) * (rc_vec)low;
            }
            *(rc_vec *)(sums + i * BLOCK + v * RC_LANES) = sum;
        }
}

RC_CLONES
void rc_split_block_plain(float *sums, const rc_split_block *s)
{
    int rows = s->wide ? 2 : 1;
    memset(sums, 0, (size_t)(rows * TILE_ROWS * BLOCK) * sizeof *sums);
    for (int64_t t = 0; t < s->tiles; t++)
        for (int i = 0; i < s->steps; i++)
            for (int r = 0; r < rows; r++)
                add_tiles(sums + r * TILE_ROWS * BLOCK, tile_a(s, r, t, s->step[i].a),
                          tile_b(s, t, s->step[i].b));
}

#if HAVE_X86

/* ---- AVX-512 --------------------------------------------------------------------------------- */

enum { ROWS = 8 }; /* of sums in registers, two vectors each */

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16")))

/* sums (8, 32) of eight rows of a row of tiles. */
AVX512 static void eight_rows(float *sums, const rc_split_block *s, int64_t row, int64_t from)
{
    __m512 sum[ROWS][2];
    for (int i = 0; i < ROWS; i++) sum[i][0] = sum[i][1] = _mm512_setzero_ps();
    for (int64_t t = 0; t < s->tiles; t++)
        for (int step = 0; step < s->steps; step++) {
            const uint16_t *a = tile_a(s, row, t, s->step[step].a) + from * TILE_TERMS;
            const uint16_t *b = tile_b(s, t, s->step[step].b);
            for (int k = 0; k < TILE_ROWS; k++) {
                __m512bh left = (__m512bh)_mm512_load_si512(b + k * TILE_TERMS);
                __m512bh right = (__m512bh)_mm512_load_si512(b + TILE_SIZE + k * TILE_TERMS);
                for (int i = 0; i < ROWS; i++) {
                    int32_t pair;
                    memcpy(&pair, a + i * TILE_TERMS + 2 * k, sizeof pair);
                    __m512bh both = (__m512bh)_mm512_set1_epi32(pair);
                    sum[i][0] = _mm512_dpbf16_ps(sum[i][0], both, left);
                    sum[i][1] = _mm512_dpbf16_ps(sum[i][1], both, right);
                }
            }
        }
    for (int i = 0; i < ROWS; i++)
        for (int v = 0; v < 2; v++) _mm512_store_ps(sums + i * BLOCK + v * RC_LANES, sum[i][v]);
}

void rc_split_block_avx512(float *sums, const rc_split_block *s)
{
    for (int64_t i = 0; i < (s->wide ? BLOCK : TILE_ROWS); i += ROWS)
        eight_rows(sums + i * BLOCK, s, i / TILE_ROWS, i % TILE_ROWS);
}

/* ---- AMX ------------------------------------------------------------------------------------- */

/* Written as assembly because GCC's intrinsics do not say that they read memory. Registers 0 to 3
 * hold the sums, 4 and 5 two tiles of a, 6 and 7 two of b; every row has 64 bytes. */
#define TILE_LOAD(tile, from)                                                                      \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile::"r"(from), "r"((int64_t)64) : "memory")
#define TILE_STORE(tile, to)                                                                       \
    __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)" ::"r"(to),                             \
                     "r"((int64_t)(BLOCK * sizeof(float)))                                         \
                     : "memory")
#define TILE_ZERO(tile) __asm__ volatile("tilezero %tmm" #tile)
#define TILE_ADD(sum, a, b) /* sum += a b */                                                       \
    __asm__ volatile("tdpbf16ps %tmm" #b ", %tmm" #a ", %tmm" #sum)

void rc_split_amx_begin(void)
{
    struct {
        uint8_t palette, start_row, none[14];
        uint16_t bytes[16]; /* of a row, by register */
        uint8_t rows[16];
    } config = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        config.bytes[i] = 64;
        config.rows[i] = TILE_ROWS;
    }
    __asm__ volatile("ldtilecfg %0" ::"m"(config));
}

void rc_split_amx_end(void)
{
    __asm__ volatile("tilerelease" ::: "memory");
}

static void amx_wide(float *sums, const rc_split_block *s)
{
    TILE_ZERO(0);
    TILE_ZERO(1);
    TILE_ZERO(2);
    TILE_ZERO(3);
    for (int64_t t = 0; t < s->tiles; t++)
        for (const rc_split_step *step = s->step; step < s->step + s->steps; step++) {
            if (step->load_b) {
                TILE_LOAD(6, tile_b(s, t, step->b));
                TILE_LOAD(7, tile_b(s, t, step->b) + TILE_SIZE);
            }
            if (step->load_a) {
                TILE_LOAD(4, tile_a(s, 0, t, step->a));
                TILE_LOAD(5, tile_a(s, 1, t, step->a));
            }
            TILE_ADD(0, 4, 6);
            TILE_ADD(1, 4, 7);
            TILE_ADD(2, 5, 6);
            TILE_ADD(3, 5, 7);
        }
    TILE_STORE(0, sums);
    TILE_STORE(1, sums + TILE_ROWS);
    TILE_STORE(2, sums + TILE_ROWS * BLOCK);
    TILE_STORE(3, sums + TILE_ROWS * BLOCK + TILE_ROWS);
}

static void amx_narrow(float *sums, const rc_split_block *s)
{
    TILE_ZERO(0);
    TILE_ZERO(1);
    for (int64_t t = 0; t < s->tiles; t++)
        for (const rc_split_step *step = s->step; step < s->step + s->steps; step++) {
            if (step->load_b) {
                TILE_LOAD(6, tile_b(s, t, step->b));
                TILE_LOAD(7, tile_b(s, t, step->b) + TILE_SIZE);
            }
            if (step->load_a) TILE_LOAD(4, tile_a(s, 0, t, step->a));
            TILE_ADD(0, 4, 6);
            TILE_ADD(1, 4, 7);
        }
    TILE_STORE(0, sums);
    TILE_STORE(1, sums + TILE_ROWS);
}

void rc_split_block_amx(float *sums, const rc_split_block *s)
{
    if (s->wide)
        amx_wide(sums, s);
    else
        amx_narrow(sums, s);
}

/* ---- What there is --------------------------------------------------------------------------- */

static uint64_t enabled_state(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 }; /* arch_prctl of Linux 5.16 and later */

/* Intel's manual, volume 2: CPUID leaf 7, EDX bits 22 (bfloat16) and 24 (tiles). */
static bool have_amx(void)
{
    const uint64_t tiles = 3u << 17;
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) return false;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> 22 & 1) || !(d >> 24 & 1)) return false;
    return (enabled_state() & tiles) == tiles &&
           syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

rc_split_kind rc_split_best(void)
{
    if (have_amx()) return RC_SPLIT_AMX;
    return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw") &&
                   __builtin_cpu_supports("avx512vl")
               ? RC_SPLIT_AVX512
               : RC_SPLIT_PLAIN;
}

#else

void rc_split_block_avx512(float *sums, const rc_split_block *s)
{
    rc_split_block_plain(sums, s);
}

void rc_split_block_amx(float *sums, const rc_split_block *s)
{
    rc_split_block_plain(sums, s);
}

void rc_split_amx_begin(void) {}
void rc_split_amx_end(void) {}

rc_split_kind rc_split_best(void)
{
    return RC_SPLIT_PLAIN;
}

#endif
