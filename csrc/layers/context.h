/* context: scratch memory and compiled products for one caller at a time. */
#ifndef RC_CONTEXT_H
#define RC_CONTEXT_H

#include "base/guard.h"
#include "product/dnn.h"

typedef struct {
    rc_dnn *dnn;
    rc_guard guard;
    rc_arena shared; /* activations of a tower */
    rc_arena heads;  /* features and what the heads make of them */
} rc_context;

rc_status rc_context_new(rc_context **out, int threads);
void rc_context_free(rc_context *c);

/* RC_EBUSY when another thread is inside. Where one was when this process was forked, the child
 * begins with new memory. */
rc_status rc_context_enter(rc_context *c);
void rc_context_leave(rc_context *c);

#endif
