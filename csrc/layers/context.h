/* context: threads, plans and scratch of one caller at a time. */
#ifndef RC_CONTEXT_H
#define RC_CONTEXT_H

#include "base/guard.h"
#include "layers/plan.h"

typedef struct {
    rc_dnn *dnn;
    rc_guard guard;
    rc_plans plans;
    float *scratch;
    int64_t floats; /* of scratch */
} rc_context;

/* `type` is that of the products of weights in training, where some are to be. */
rc_status rc_context_new(rc_context **out, int threads, rc_type type);
void rc_context_free(rc_context *c);

/* RC_EBUSY when another thread is inside. Where one was when this process was forked, the child
 * begins with new memory. */
rc_status rc_context_enter(rc_context *c);
void rc_context_leave(rc_context *c);

/* The body of the plan of a key, made where there is none, with scratch for it; it stays until the
 * next is asked for. */
rc_status rc_context_plan(rc_context *c, const void **body, const rc_plan_key *key,
                          rc_plan_make *make, const void *arg);

/* The floats of scratch that a plan of this key would need; none is kept. */
rc_status rc_context_measure(rc_context *c, int64_t *floats, const rc_plan_key *key,
                             rc_plan_make *make, const void *arg);

/* Scratch for a call without a plan. */
rc_status rc_context_scratch(rc_context *c, float **out, int64_t floats);

/* What calls of this context run on. */
rc_run rc_context_run(const rc_context *c, rc_draw draw);

#endif
