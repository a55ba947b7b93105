/* parallel: the pool of threads and the only parallel loop; calls that end early; locks of
 * libraries. */
#ifndef RC_PARALLEL_H
#define RC_PARALLEL_H

#include "base/base.h"

/* One piece of work: `index` in 0..count-1, `worker` in 0..threads-1. It must not fail. */
typedef void rc_task(void *job, int64_t index, int worker);

/* Threads that wait for work. Serves one caller at a time; a forked child runs alone. */
typedef struct rc_pool rc_pool;

/* `threads` counts the caller. */
rc_status rc_pool_new(rc_pool **out, int threads);
void rc_pool_free(rc_pool *pool);

/* Run task(job, i, worker) for every i, claimed one by one by the caller and the pool's threads.
 * This is the only place where work is shared. Inside it denormals are flushed to zero (attention
 * masks make them by the million) and oneDNN runs on one thread; the caller's state is restored
 * after it. Results do not depend on the number of threads as long as each element is written by
 * one index. */
void rc_parallel(rc_pool *pool, int64_t count, rc_task *task, void *job);

/* Who does a piece of work: all threads of a pool, outside of its regions; or, where that is NULL,
 * a worker alone, who may be inside one. */
typedef struct {
    rc_pool *pool;
    int worker;
} rc_crew;

static inline rc_crew rc_alone(int worker)
{
    return (rc_crew){NULL, worker};
}

void rc_each(rc_crew crew, int64_t count, rc_task *task, void *job);

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

/* Signals to this thread wait in between, but those of faults. Not to be nested. */
void rc_signals_hold(void);
void rc_signals_release(void);

/* Threads that OpenMP would give the calling thread, and so oneDNN, whose GEMM asks for them when
 * it runs; returns how many it would have given before. */
int rc_library_threads(int threads);

#endif
