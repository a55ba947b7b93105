/* Scratch memory and compiled products for one caller at a time. */
#include "layers/context.h"

#include <stdlib.h>

rc_status rc_context_new(rc_context **out, int threads)
{
    *out = NULL;
    rc_context *c = calloc(1, sizeof *c);
    if (c == NULL) return rc_fail(RC_ENOMEM, "out of memory: context");
    rc_status status = rc_dnn_new(&c->dnn, threads);
    if (status != RC_OK) {
        rc_context_free(c);
        return status;
    }
    *out = c;
    return RC_OK;
}

void rc_context_free(rc_context *c)
{
    if (c == NULL) return;
    rc_dnn_free(c->dnn);
    rc_arena_free(&c->shared);
    rc_arena_free(&c->heads);
    free(c);
}

/* In the child of a fork that met a call at work. What the call left may be half-written, so it is
 * not freed either. */
static rc_status begin_anew(rc_context *c)
{
    rc_dnn *dnn;
    rc_status status = rc_dnn_new(&dnn, rc_dnn_threads(c->dnn));
    if (status != RC_OK) {
        rc_guard_tear(&c->guard);
        return status;
    }
    c->dnn = dnn;
    c->shared = c->heads = (rc_arena){0};
    return RC_OK;
}

rc_status rc_context_enter(rc_context *c)
{
    rc_entry entry = rc_guard_write(&c->guard);
    if (entry == RC_ENTRY_TORN && rc_guard_mend(&c->guard)) return begin_anew(c);
    if (entry != RC_ENTRY_FREE)
        return rc_fail(RC_EBUSY, "this context serves another thread; give each thread its own");
    rc_dnn_trim(c->dnn);
    return RC_OK;
}

void rc_context_leave(rc_context *c)
{
    rc_guard_write_end(&c->guard);
}
