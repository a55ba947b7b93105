/* What calls of one size need, worked out once. */
#include "layers/plan.h"

#include <stdlib.h>
#include <string.h>

/* ---- One plan -------------------------------------------------------------------------------- */

typedef struct block {
    struct block *next;
    int64_t unused; /* keeps what follows aligned to 16 bytes */
} block;

struct rc_plan {
    rc_dnn *dnn;
    rc_type type;
    bool checkpointing;
    int64_t used, most;
    block *memory;
    rc_product **product;
    int64_t products, capacity;
    rc_turns turns[2]; /* [rc_turns_of] */
};

rc_status rc_plan_new(rc_plan **out, rc_dnn *dnn, rc_type type)
{
    *out = calloc(1, sizeof **out);
    if (*out == NULL) return rc_fail(RC_ENOMEM, "out of memory: plan");
    (*out)->dnn = dnn;
    (*out)->type = type;
    return RC_OK;
}

void rc_plan_free(rc_plan *plan)
{
    if (plan == NULL) return;
    for (int64_t i = 0; i < plan->products; i++) rc_product_release(plan->product[i]);
    free(plan->product);
    for (int i = 0; i < 2; i++) rc_free(plan->turns[i].x);
    for (block *b = plan->memory, *next; b != NULL; b = next) {
        next = b->next;
        free(b);
    }
    free(plan);
}

int rc_plan_threads(const rc_plan *plan)
{
    return rc_dnn_threads(plan->dnn);
}

rc_type rc_plan_type(const rc_plan *plan)
{
    return plan->type;
}

void rc_plan_checkpoint(rc_plan *plan, bool on)
{
    plan->checkpointing = on;
}

bool rc_plan_checkpoints(const rc_plan *plan)
{
    return plan->checkpointing;
}

rc_status rc_plan_alloc(rc_plan *plan, void **out, int64_t bytes)
{
    *out = NULL;
    block *b = calloc(1, sizeof *b + (size_t)bytes);
    if (b == NULL) return rc_fail(RC_ENOMEM, "out of memory: plan");
    b->next = plan->memory;
    plan->memory = b;
    *out = b + 1;
    return RC_OK;
}

static rc_status make_space(rc_plan *plan)
{
    if (plan->products < plan->capacity) return RC_OK;
    int64_t capacity = 2 * plan->capacity + 32;
    rc_product **grown = realloc(plan->product, (size_t)capacity * sizeof(rc_product *));
    if (grown == NULL) return rc_fail(RC_ENOMEM, "out of memory: plan");
    plan->product = grown;
    plan->capacity = capacity;
    return RC_OK;
}

rc_status rc_plan_product(rc_plan *plan, rc_product **out, rc_product_shape shape,
                          const rc_packed *packed)
{
    *out = NULL;
    RC_TRY(make_space(plan));
    RC_TRY(rc_product_get(plan->dnn, out, shape, packed));
    plan->product[plan->products++] = *out;
    return RC_OK;
}

/* ---- Scratch --------------------------------------------------------------------------------- */

enum { LINE = 16 };
static const int64_t HUGE = (int64_t)1 << 58;

int64_t rc_whole_lines(int64_t count)
{
    return count < 0 || count > HUGE - LINE ? HUGE : (count + LINE - 1) / LINE * LINE;
}

int64_t rc_plan_take(rc_plan *plan, int64_t count)
{
    int64_t at = plan->used;
    plan->used = rc_min(HUGE, at + rc_whole_lines(count));
    plan->most = rc_max(plan->most, plan->used);
    return at;
}

int64_t rc_plan_mark(const rc_plan *plan)
{
    return plan->used;
}

void rc_plan_back(rc_plan *plan, int64_t mark)
{
    plan->used = mark;
}

int64_t rc_plan_floats(const rc_plan *plan)
{
    return plan->most;
}

rc_status rc_plan_turns(rc_plan *plan, const rc_turns **out, rc_turns_of owners, int64_t count)
{
    rc_turns *turns = &plan->turns[owners];
    *out = turns;
    int64_t size = rc_whole_lines(count), bytes;
    if (size <= turns->size) return RC_OK;
    RC_TRY(rc_mul(&bytes, size * (int64_t)sizeof(float),
                  owners == RC_TURNS_WORKERS ? rc_plan_threads(plan) : 1));
    rc_free(turns->x);
    *turns = (rc_turns){0};
    RC_TRY(rc_alloc((void **)&turns->x, bytes));
    turns->size = size;
    return RC_OK;
}

int64_t rc_plan_turn_floats(const rc_plan *plan)
{
    int64_t workers = plan->turns[RC_TURNS_WORKERS].size * rc_plan_threads(plan);
    return plan->turns[RC_TURNS_ALL].size + workers;
}

rc_shares rc_plan_shares(rc_plan *plan, int64_t owners, int64_t count)
{
    int64_t size = rc_whole_lines(count), all;
    if (rc_mul(&all, owners, size) != RC_OK) all = HUGE;
    return (rc_shares){rc_plan_take(plan, all), size};
}

/* ---- Plans that are kept --------------------------------------------------------------------- */

static int place_of(const rc_plans *plans, const rc_plan_key *key)
{
    int oldest = 0;
    for (int i = 0; i < RC_PLANS_MAX; i++) {
        if (plans->item[i].plan != NULL && memcmp(&plans->item[i].key, key, sizeof *key) == 0)
            return i;
        if (plans->item[i].used < plans->item[oldest].used) oldest = i;
    }
    return oldest;
}

static void drop(rc_plans *plans, int i)
{
    rc_plan_free(plans->item[i].plan);
    memset(&plans->item[i], 0, sizeof plans->item[i]);
}

/* Products that both have stay, because the new plan holds them before the old one goes. */
static rc_status replace(rc_plans *plans, int i, rc_dnn *dnn, const rc_plan_key *key,
                         rc_plan_make *make, const void *arg)
{
    rc_plan *plan;
    void *body;
    RC_TRY(rc_plan_new(&plan, dnn, plans->type));
    rc_status status = make(&body, plan, key, arg);
    if (status != RC_OK) {
        rc_plan_free(plan);
        return status;
    }
    drop(plans, i);
    plans->item[i].key = *key;
    plans->item[i].plan = plan;
    plans->item[i].body = body;
    return RC_OK;
}

rc_status rc_plans_get(rc_plans *plans, const void **body, int64_t *floats, rc_dnn *dnn,
                       const rc_plan_key *key, rc_plan_make *make, const void *arg)
{
    int i = place_of(plans, key);
    if (plans->item[i].plan == NULL || memcmp(&plans->item[i].key, key, sizeof *key) != 0)
        RC_TRY(replace(plans, i, dnn, key, make, arg));
    plans->item[i].used = ++plans->clock;
    *body = plans->item[i].body;
    *floats = rc_plan_floats(plans->item[i].plan);
    return RC_OK;
}

int rc_plans_count(const rc_plans *plans)
{
    int count = 0;
    for (int i = 0; i < RC_PLANS_MAX; i++) count += plans->item[i].plan != NULL;
    return count;
}

void rc_plans_clear(rc_plans *plans)
{
    for (int i = 0; i < RC_PLANS_MAX; i++) drop(plans, i);
}
