/* Status, sizes and memory. */
#include "base/base.h"

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
