/* Status, sizes and arenas. */
#include "base/base.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static _Thread_local char message[512];

rc_status rc_fail(rc_status code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    return code;
}

const char *rc_message(void)
{
    return message;
}

rc_status rc_mul(int64_t *out, int64_t a, int64_t b)
{
    if (a < 0 || b < 0 || __builtin_mul_overflow(a, b, out))
        return rc_fail(RC_EINVAL, "size %lld x %lld is negative or does not fit", (long long)a,
                       (long long)b);
    return RC_OK;
}

enum { ALIGN = 64 };

rc_status rc_alloc(void **out, int64_t bytes)
{
    *out = NULL;
    if (bytes < 0 || bytes > INT64_MAX - ALIGN)
        return rc_fail(RC_EINVAL, "cannot allocate %lld bytes", (long long)bytes);
    size_t rounded = ((size_t)bytes + ALIGN - 1) / ALIGN * ALIGN;
    void *p = aligned_alloc(ALIGN, rounded ? rounded : ALIGN);
    if (p == NULL) return rc_fail(RC_ENOMEM, "out of memory: %lld bytes", (long long)bytes);
    *out = memset(p, 0, rounded);
    return RC_OK;
}

void rc_free(void *p)
{
    free(p);
}

/* What does not fit counts as HUGE, so that a dry run ends in a request that is refused. */
static const int64_t HUGE = INT64_MAX / 4;

static int64_t bytes_of(int64_t count)
{
    if (count < 0 || count > HUGE / (int64_t)sizeof(float) - ALIGN) return HUGE;
    return (count * (int64_t)sizeof(float) + ALIGN - 1) / ALIGN * ALIGN;
}

float *rc_take(rc_arena *arena, int64_t count)
{
    char *p = arena->base == NULL ? NULL : arena->base + arena->used;
    arena->used = rc_min(HUGE, arena->used + bytes_of(count));
    arena->peak = rc_max(arena->peak, arena->used);
    assert(arena->base == NULL || arena->used <= arena->size);
    return (float *)p;
}

rc_status rc_arena_reserve(rc_arena *arena, int64_t bytes)
{
    arena->used = 0;
    if (arena->base != NULL && arena->size >= bytes) return RC_OK;
    rc_arena_free(arena);
    void *p;
    RC_TRY(rc_alloc(&p, bytes));
    *arena = (rc_arena){.base = p, .size = bytes};
    return RC_OK;
}

void rc_arena_free(rc_arena *arena)
{
    rc_free(arena->base);
    *arena = (rc_arena){0};
}
