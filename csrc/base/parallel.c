/* The pool of workers behind rc_parallel.
 *
 * OpenMP's own loops wait for every thread of a team, also for one that the system has not run yet;
 * on a busy machine each region then costs a time slice (a training step took six times longer with
 * two threads than with one beside another load). Here workers claim indices one by one, and the
 * caller waits only for workers that claimed some: at worst it does all the work itself. The same
 * makes a forked child safe, where the workers do not exist. */
#define _XOPEN_SOURCE 700 /* sigset_t */
#include "base/parallel.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

/* OpenMP's runtime is the one that oneDNN brings, be it GNU's or LLVM's, or there is none: linking
 * our compiler's would put a second one beside it. */
#ifndef RC_NO_OPENMP
extern int omp_get_max_threads(void) __attribute__((weak));
extern void omp_set_num_threads(int threads) __attribute__((weak));
#endif

#ifdef __SSE2__
#include <xmmintrin.h>
#endif

/* Looks at the flag before sleeping: regions follow each other closely within a call. */
enum { SPINS = 2000 };

typedef struct {
    rc_pool *pool;
    pthread_t thread;
    int id;
} pool_worker;

struct rc_pool {
    int threads, started; /* workers besides the caller: threads - 1 wanted, started running */
    pid_t owner;
    pool_worker *worker;
    pthread_mutex_t lock;
    pthread_cond_t wake, done;
    _Atomic uint64_t round; /* counts regions; workers watch it */
    _Atomic int64_t next;   /* index to claim */
    _Atomic int active;     /* workers inside the region */
    bool open, stop;        /* under lock */
    rc_task *task;
    void *job;
    int64_t count;
    _Atomic bool stopped; /* the caller was told to end */
};

/* ---- Floating-point state and oneDNN's threads ----------------------------------------------- */

/* Flush-to-zero (bit 15) and denormals-are-zero (bit 6) of MXCSR. */
#ifdef __SSE2__
static unsigned flush_denormals(void)
{
    unsigned before = _mm_getcsr();
    _mm_setcsr(before | 0x8040u);
    return before;
}
static void restore_denormals(unsigned before)
{
    _mm_setcsr(before);
}
static void pause_briefly(void)
{
    _mm_pause();
}
#elif defined(__aarch64__)
/* Flush-to-zero is bit 24 of FPCR. */
static unsigned flush_denormals(void)
{
    uint64_t before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    __asm__ volatile("msr fpcr, %0" : : "r"(before | 1u << 24));
    return (unsigned)before;
}
static void restore_denormals(unsigned before)
{
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)before));
}
static void pause_briefly(void)
{
    __asm__ volatile("yield");
}
#else
static unsigned flush_denormals(void)
{
    return 0;
}
static void restore_denormals(unsigned before)
{
    (void)before;
}
static void pause_briefly(void) {}
#endif

int rc_library_threads(int threads)
{
#ifndef RC_NO_OPENMP
    if (omp_get_max_threads != NULL && omp_set_num_threads != NULL) {
        int before = omp_get_max_threads();
        omp_set_num_threads(threads);
        return before;
    }
#endif
    return threads;
}

/* One lock for all of them: what it guards is rare, and short. */
static pthread_mutex_t library_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t library_once = PTHREAD_ONCE_INIT;

static void lock_library(void)
{
    pthread_mutex_lock(&library_lock);
}

static void unlock_library(void)
{
    pthread_mutex_unlock(&library_lock);
}

static void watch_forks(void)
{
    pthread_atfork(lock_library, unlock_library, unlock_library);
}

void rc_library_enter(void)
{
    pthread_once(&library_once, watch_forks);
    lock_library();
}

void rc_library_leave(void)
{
    unlock_library();
}

/* ---- Signals --------------------------------------------------------------------------------- */

static _Thread_local sigset_t held_before;

void rc_signals_hold(void)
{
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP};
    sigset_t held;
    sigfillset(&held);
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) sigdelset(&held, faults[i]);
    pthread_sigmask(SIG_BLOCK, &held, &held_before);
}

void rc_signals_release(void)
{
    pthread_sigmask(SIG_SETMASK, &held_before, NULL);
}

/* ---- Ending early ---------------------------------------------------------------------------- */

static _Thread_local rc_watch *watch;          /* of the thread that called */
static _Thread_local const rc_pool *region_of; /* of a worker inside of a region */

rc_watch *rc_watch_set(rc_watch *now)
{
    rc_watch *before = watch;
    watch = now;
    return before;
}

bool rc_stopped(void)
{
    if (region_of != NULL) return atomic_load_explicit(&region_of->stopped, memory_order_relaxed);
    if (watch == NULL) return false;
    if (!watch->stopped) watch->stopped = watch->ends(watch->arg);
    return watch->stopped;
}

/* ---- Working --------------------------------------------------------------------------------- */

static void claim_all(rc_pool *pool, int id)
{
    int64_t i;
    while ((i = atomic_fetch_add(&pool->next, 1)) < pool->count) pool->task(pool->job, i, id);
}

/* The caller's part; told to end, it leaves nothing to claim. */
static void claim_watched(rc_pool *pool)
{
    int64_t i;
    while ((i = atomic_fetch_add(&pool->next, 1)) < pool->count) {
        pool->task(pool->job, i, 0);
        if (!rc_stopped()) continue;
        atomic_store(&pool->stopped, true);
        atomic_store(&pool->next, pool->count);
    }
}

/* Sleep until a region opens that this worker has not seen; false when the pool closes. */
static bool next_region(rc_pool *pool, uint64_t *seen)
{
    for (int i = 0; i < SPINS && atomic_load(&pool->round) == *seen; i++) pause_briefly();
    pthread_mutex_lock(&pool->lock);
    while (!pool->stop && (!pool->open || atomic_load(&pool->round) == *seen))
        pthread_cond_wait(&pool->wake, &pool->lock);
    bool go = !pool->stop;
    *seen = atomic_load(&pool->round);
    if (go) atomic_fetch_add(&pool->active, 1);
    pthread_mutex_unlock(&pool->lock);
    return go;
}

static void leave_region(rc_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    if (atomic_fetch_sub(&pool->active, 1) == 1) pthread_cond_signal(&pool->done);
    pthread_mutex_unlock(&pool->lock);
}

static void *worker_main(void *arg)
{
    pool_worker *self = arg;
    uint64_t seen = 0;
    flush_denormals();
    rc_library_threads(1);
    region_of = self->pool;
    while (next_region(self->pool, &seen)) {
        claim_all(self->pool, self->id);
        leave_region(self->pool);
    }
    return NULL;
}

static void open_region(rc_pool *pool, int64_t count, rc_task *task, void *job)
{
    pthread_mutex_lock(&pool->lock);
    pool->task = task;
    pool->job = job;
    pool->count = count;
    pool->open = true;
    atomic_store(&pool->stopped, false);
    atomic_store(&pool->next, 0);
    atomic_fetch_add(&pool->round, 1);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
}

static void close_region(rc_pool *pool)
{
    for (int i = 0; i < SPINS && atomic_load(&pool->active) > 0; i++) pause_briefly();
    pthread_mutex_lock(&pool->lock);
    pool->open = false; /* who has not come by now need not come */
    while (atomic_load(&pool->active) > 0) pthread_cond_wait(&pool->done, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
}

void rc_parallel(rc_pool *pool, int64_t count, rc_task *task, void *job)
{
    if (watch != NULL && watch->stopped) return;
    unsigned state = flush_denormals();
    int library = rc_library_threads(1);
    if (count > 1 && pool->started > 0 && pool->owner == getpid()) {
        open_region(pool, count, task, job);
        claim_watched(pool);
        close_region(pool);
    } else {
        for (int64_t i = 0; i < count && !rc_stopped(); i++) task(job, i, 0);
    }
    rc_library_threads(library);
    restore_denormals(state);
}

void rc_each(rc_crew crew, int64_t count, rc_task *task, void *job)
{
    if (crew.pool != NULL)
        rc_parallel(crew.pool, count, task, job);
    else
        for (int64_t i = 0; i < count; i++) task(job, i, crew.worker);
}

/* ---- Life ------------------------------------------------------------------------------------ */

/* Signals are for the threads of the program: Python's handler may not run on ours. */
static void start_workers(rc_pool *pool)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (int i = 1; i < pool->threads; i++) {
        pool->worker[i] = (pool_worker){.pool = pool, .id = i};
        if (pthread_create(&pool->worker[i].thread, NULL, worker_main, &pool->worker[i]) != 0)
            break;
        pool->started++; /* fewer than wanted only make it slower */
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

rc_status rc_pool_new(rc_pool **out, int threads)
{
    *out = NULL;
    if (threads < 1 || threads > 1024)
        return rc_fail(RC_EINVAL, "threads: expected 1 to 1024, got %d", threads);
    rc_pool *pool = calloc(1, sizeof *pool);
    pool_worker *worker = calloc((size_t)threads, sizeof *worker);
    if (pool == NULL || worker == NULL) {
        free(pool);
        free(worker);
        return rc_fail(RC_ENOMEM, "out of memory: pool of %d threads", threads);
    }
    pool->threads = threads;
    pool->owner = getpid();
    pool->worker = worker;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pthread_cond_init(&pool->done, NULL);
    start_workers(pool);
    *out = pool;
    return RC_OK;
}

void rc_pool_free(rc_pool *pool)
{
    if (pool == NULL) return;
    if (pool->owner == getpid()) {
        pthread_mutex_lock(&pool->lock);
        pool->stop = true;
        pthread_cond_broadcast(&pool->wake);
        pthread_mutex_unlock(&pool->lock);
        for (int i = 1; i <= pool->started; i++) pthread_join(pool->worker[i].thread, NULL);
        pthread_mutex_destroy(&pool->lock);
        pthread_cond_destroy(&pool->wake);
        pthread_cond_destroy(&pool->done);
    }
    free(pool->worker);
    free(pool);
}
