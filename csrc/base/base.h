/* base: what everything else in C stands on.
 *
 * Status codes with a message per thread, checked size arithmetic, memory. Nothing in
 * this folder (or above) reads a file, an environment variable or a clock, prints, or ends the
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

#endif
