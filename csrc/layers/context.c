/* Threads, plans and scratch of one caller at a time. */
#include "layers/context.h"

#include <stdlib.h>

rc_status rc_context_new(rc_context **out, int threads, rc_type type)
{
    *out = NULL;
    rc_context *c = calloc(1, sizeof *c);
    if (c == NULL) return rc_fail(RC_ENOMEM, "out of memory: context");
    c->plans.type = type;
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
    rc_plans_clear(&c->plans);
    rc_dnn_free(c->dnn);
    rc_free(c->scratch);
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
    c->plans = (rc_plans){.type = c->plans.type};
    c->scratch = NULL;
    c->floats = 0;
    return RC_OK;
}

rc_status rc_context_enter(rc_context *c)
{
    rc_entry entry = rc_guard_write(&c->guard);
    if (entry == RC_ENTRY_TORN && rc_guard_mend(&c->guard)) return begin_anew(c);
    if (entry != RC_ENTRY_FREE)
        return rc_fail(RC_EBUSY, "this context serves another thread; give each thread its own");
    return RC_OK;
}

void rc_context_leave(rc_context *c)
{
    rc_guard_write_end(&c->guard);
}

/* The old scratch goes first: what a call left there belongs to its plan, and another one has come.
 */
static rc_status reserve(rc_context *c, int64_t floats)
{
    if (c->scratch != NULL && floats <= c->floats) return RC_OK;
    rc_free(c->scratch);
    c->scratch = NULL;
    c->floats = 0;
    int64_t bytes;
    RC_TRY(rc_mul(&bytes, floats, (int64_t)sizeof(float)));
    RC_TRY(rc_alloc((void **)&c->scratch, bytes));
    c->floats = floats;
    return RC_OK;
}

rc_status rc_context_scratch(rc_context *c, float **out, int64_t floats)
{
    RC_TRY(reserve(c, floats));
    *out = c->scratch;
    return RC_OK;
}

rc_status rc_context_plan(rc_context *c, const void **body, const rc_plan_key *key,
                          rc_plan_make *make, const void *arg)
{
    int64_t floats;
    RC_TRY(rc_plans_get(&c->plans, body, &floats, c->dnn, key, make, arg));
    return reserve(c, floats);
}

rc_status rc_context_measure(rc_context *c, int64_t *floats, const rc_plan_key *key,
                             rc_plan_make *make, const void *arg)
{
    rc_plan *plan;
    void *body;
    RC_TRY(rc_plan_new(&plan, c->dnn, c->plans.type));
    rc_status status = make(&body, plan, key, arg);
    *floats = rc_plan_floats(plan) + rc_plan_turn_floats(plan);
    rc_plan_free(plan);
    return status;
}

rc_run rc_context_run(const rc_context *c, rc_draw draw)
{
    return (rc_run){.pool = rc_dnn_pool(c->dnn), .scratch = c->scratch, .draw = draw};
}
