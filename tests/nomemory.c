/* Preloaded, fails one allocation: the n-th that code between two addresses asks for. For tests on
 * glibc, whose own names of the allocators are called without dlsym, which allocates itself. */
#include <errno.h>
#include <stddef.h>
#include <stdint.h>

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *p, size_t size);
void *__libc_memalign(size_t align, size_t size);

enum { RANGES = 64 };

static struct {
    uintptr_t from, to;
} range[RANGES];
static int ranges;
static long left; /* allocations before the one that fails; 0: none does */

__attribute__((visibility("default"))) void nomemory_watch(uintptr_t from, uintptr_t to)
{
    if (ranges == RANGES) __builtin_trap();
    range[ranges].from = from;
    range[ranges++].to = to;
}

__attribute__((visibility("default"))) void nomemory_arm(long n)
{
    __atomic_store_n(&left, n, __ATOMIC_SEQ_CST);
}

/* How many are left; 0 after one has failed. */
__attribute__((visibility("default"))) long nomemory_disarm(void)
{
    return __atomic_exchange_n(&left, 0, __ATOMIC_SEQ_CST);
}

static int fails(const void *caller)
{
    uintptr_t at = (uintptr_t)caller;
    if (__atomic_load_n(&left, __ATOMIC_RELAXED) <= 0) return 0;
    for (int i = 0; i < ranges; i++)
        if (at >= range[i].from && at < range[i].to)
            return __atomic_fetch_sub(&left, 1, __ATOMIC_SEQ_CST) == 1;
    return 0;
}

#define CALLER __builtin_return_address(0)

void *malloc(size_t size)
{
    return fails(CALLER) ? (errno = ENOMEM, NULL) : __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    return fails(CALLER) ? (errno = ENOMEM, NULL) : __libc_calloc(count, size);
}

void *realloc(void *p, size_t size)
{
    return fails(CALLER) ? (errno = ENOMEM, NULL) : __libc_realloc(p, size);
}

void *memalign(size_t align, size_t size)
{
    return fails(CALLER) ? (errno = ENOMEM, NULL) : __libc_memalign(align, size);
}

void *aligned_alloc(size_t align, size_t size)
{
    return fails(CALLER) ? (errno = ENOMEM, NULL) : __libc_memalign(align, size);
}

int posix_memalign(void **out, size_t align, size_t size)
{
    if (fails(CALLER)) return ENOMEM;
    void *p = __libc_memalign(align, size);
    if (p == NULL) return ENOMEM;
    *out = p;
    return 0;
}
