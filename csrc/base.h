/* base: what everything else in C stands on.
 *
 * Status codes with a message per thread, checked size arithmetic, arenas, guards (guard.c), the
 * one parallel loop (parallel.c), and random numbers that are a pure function of their coordinates.
 * Nothing here (or above) reads a file, an environment variable or a clock, prints, or ends the
 * process. */
#ifndef RC_BASE_H
#define RC_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- Status ---------------------------------------------------------------------------------- */

typedef enum {
    RC_OK = 0,
    RC_EINVAL,   /* an argument is out of its range */
    RC_ENOMEM,   /* memory could not be had */
    RC_EFORMAT,  /* bytes from outside do not say what they should */
    RC_EBACKEND, /* oneDNN or libsndfile refused */
    RC_EBUSY,    /* another thread works with the handle right now */
    RC_ESTOPPED, /* whoever watches the call has asked it to end */
} rc_status;

/* Store a printf-style message for this thread and return `code`, so that a failure is one line. */
rc_status rc_fail(rc_status code, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* This thread's last message; never NULL. */
const char *rc_message(void);

/* Pass a failure on to the caller. */
#define RC_TRY(call)                                                                               \
    do {                                                                                           \
        rc_status rc_try_ = (call);                                                                \
        if (rc_try_ != RC_OK) return rc_try_;                                                      \
    } while (0)

/* ---- Sizes ----------------------------------------------------------------------------------- */

/* *out = a * b for sizes that come from outside; RC_EINVAL if either is negative or the product
 * does not fit. */
rc_status rc_mul(int64_t *out, int64_t a, int64_t b);

static inline int64_t rc_min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}
static inline int64_t rc_max(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* ---- Memory ---------------------------------------------------------------------------------- */

/* 64-byte aligned memory, zeroed; RC_ENOMEM names the byte count. Free with rc_free (NULL allowed).
 */
rc_status rc_alloc(void **out, int64_t bytes);
void rc_free(void *p);

/* A bump allocator. With a NULL base it only counts: the code that lays out a step runs once dry to
 * learn `peak`, then for real, so that the two cannot disagree. */
typedef struct {
    char *base;
    int64_t size; /* bytes available at base */
    int64_t used; /* bytes taken so far */
    int64_t peak; /* most bytes ever taken */
} rc_arena;

/* `count` floats, 64-byte aligned, not zeroed. NULL while counting, which ends at 2^61 bytes: more
 * than anybody has. The caller has sized the arena
 * by a dry run, so running out is a defect of ours and checked by assert. */
float *rc_take(rc_arena *arena, int64_t count);

/* Make room for `bytes` and forget what was taken; keeps the old memory when it is large enough. */
rc_status rc_arena_reserve(rc_arena *arena, int64_t bytes);
void rc_arena_free(rc_arena *arena);

/* ---- Guards ---------------------------------------------------------------------------------- */

/* Readers or one writer of something that threads share; all zero is free. Nobody waits. Whoever
 * was inside when the process was forked does not exist in the child: there readers are forgotten,
 * and what a writer left is torn. */
typedef struct {
    uint64_t state;
} rc_guard;

typedef enum { RC_ENTRY_FREE, RC_ENTRY_BUSY, RC_ENTRY_TORN } rc_entry;

/* Inside after RC_ENTRY_FREE, and only then to be left. */
rc_entry rc_guard_read(rc_guard *guard);
rc_entry rc_guard_write(rc_guard *guard);
void rc_guard_read_end(rc_guard *guard);
void rc_guard_write_end(rc_guard *guard);

/* Become the writer of what is torn, to replace it; false where another thread is faster. The
 * writer who fails to leaves it torn. */
bool rc_guard_mend(rc_guard *guard);
void rc_guard_tear(rc_guard *guard);

/* ---- The parallel loop ----------------------------------------------------------------------- */

/* One piece of work: `index` in 0..count-1, `worker` in 0..threads-1. It must not fail. */
typedef void rc_task(void *job, int64_t index, int worker);

/* Threads that wait for work. Serves one caller at a time; a forked child runs alone. */
typedef struct rc_pool rc_pool;

/* `threads` counts the caller. */
rc_status rc_pool_new(rc_pool **out, int threads);
void rc_pool_free(rc_pool *pool);
int rc_pool_threads(const rc_pool *pool);

/* Run task(job, i, worker) for every i, claimed one by one by the caller and the pool's threads.
 * This is the only place where work is shared. Inside it denormals are flushed to zero (attention
 * masks make them by the million) and oneDNN runs on one thread; the caller's state is restored
 * after it. Results do not depend on the number of threads as long as each element is written by
 * one index. */
void rc_parallel(rc_pool *pool, int64_t count, rc_task *task, void *job);

/* The same on all threads of `pool` or, where that is NULL, by `worker` alone, who may be inside a
 * region. */
void rc_each(rc_pool *pool, int worker, int64_t count, rc_task *task, void *job);

/* ---- Ending early, and libraries ------------------------------------------------------------- */

/* Asked by the thread that called, between tasks: whether to end. */
typedef struct {
    bool (*ends)(void *arg);
    void *arg;
    bool stopped; /* it was said once */
} rc_watch;

/* Watch this thread's calls, or with NULL let them run to their end; returns what watched before.
 */
rc_watch *rc_watch_set(rc_watch *watch);

/* Whether the call under way is to end. From then on rc_parallel runs nothing, so results mean
 * nothing; rc_dnn_check says RC_ESTOPPED. Also for loops outside of rc_parallel, and inside of long
 * tasks, on any thread. */
bool rc_stopped(void);

/* Around calls into libraries that hold locks of their own for a moment: one thread at a time, and
 * a fork waits, so that no child finds them locked. Not to be nested. */
void rc_library_enter(void);
void rc_library_leave(void);

/* Threads that OpenMP would give the calling thread, and so oneDNN, whose GEMM asks for them when
 * it runs; returns how many it would have given before. */
int rc_library_threads(int threads);

/* ---- Instruction sets ------------------------------------------------------------------------ */

/* In front of the definition of a hot function: compile it three times and let the loader choose by
 * CPU. Helpers that should follow the choice must be inlined into it. Needs the ifunc mechanism of
 * glibc, which the sanitizers' early start-up does not survive, and GCC's resolvers: those of Clang
 * refer to symbols that are not there when a module is loaded. RC_TARGET, a string, builds one of
 * the three alone, to be compared with the others. */
#if defined(__has_feature)
#define RC_HAS_FEATURE(x) __has_feature(x)
#else
#define RC_HAS_FEATURE(x) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) ||                               \
    RC_HAS_FEATURE(address_sanitizer) || RC_HAS_FEATURE(thread_sanitizer)
#define RC_SANITIZED 1
#else
#define RC_SANITIZED 0
#endif
#if defined(RC_TARGET)
#define RC_CLONES __attribute__((target(RC_TARGET)))
#elif defined(__x86_64__) && defined(__linux__) && defined(__GLIBC__) && !RC_SANITIZED &&          \
    !defined(__clang__) && __GNUC__ >= 12
#define RC_CLONES __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define RC_CLONES
#endif

/* ---- Random numbers -------------------------------------------------------------------------- */

/* Where in a run a draw stands: equal coordinates give equal numbers, on any thread, after resume.
 */
typedef struct {
    uint64_t seed, step, site;
} rc_draw;

/* Uniform in [0, 1) with 24 bits. */
float rc_uniform(rc_draw at, uint64_t index);

/* The same in two steps, of which the first serves many indices. */
uint64_t rc_draw_key(rc_draw at);

static inline uint64_t rc_mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static inline uint64_t rc_draw_bits(uint64_t key, uint64_t index)
{
    return rc_mix(key + (index + 1) * 0x9e3779b97f4a7c15u);
}

static inline float rc_uniform_of(uint64_t key, uint64_t index)
{
    return (float)(int32_t)(rc_draw_bits(key, index) >> 40) * 0x1p-24f;
}

/* Standard normal (Box-Muller on two uniforms). */
float rc_normal(rc_draw at, uint64_t index);

#endif
