/* plan: what calls of one size need, worked out once: products, how rows are cut, where scratch
 * lies. Making a plan may fail; what runs by it cannot. */
#ifndef RC_PLAN_H
#define RC_PLAN_H

#include "base/rng.h"
#include "product/dnn.h"

typedef struct rc_plan rc_plan;

/* `type` is that of the products of weights in training, RC_F32 or RC_BF16. */
rc_status rc_plan_new(rc_plan **out, rc_dnn *dnn, rc_type type);
void rc_plan_free(rc_plan *plan);
int rc_plan_threads(const rc_plan *plan);

/* Gradient checkpointing (Chen et al. 2016): of each block forward keeps its input alone, and
 * backward computes the rest once more. Off until it is switched on. */
void rc_plan_checkpoint(rc_plan *plan, bool on);
bool rc_plan_checkpoints(const rc_plan *plan);
rc_type rc_plan_type(const rc_plan *plan);

/* Zeroed memory that lives as long as the plan. */
rc_status rc_plan_alloc(rc_plan *plan, void **out, int64_t bytes);

/* A product that the plan holds. */
rc_status rc_plan_product(rc_plan *plan, rc_product **out, rc_product_shape shape,
                          const rc_packed *packed);

/* Memory that layers use in turn, as much as the largest of them asks for while the plan is made:
 * an owner's floats, of each worker while it runs a layer, or of the one layer that all work on. */
typedef enum { RC_TURNS_WORKERS, RC_TURNS_ALL } rc_turns_of;

typedef struct {
    float *x;
    int64_t size; /* of each owner */
} rc_turns;

rc_status rc_plan_turns(rc_plan *plan, const rc_turns **out, rc_turns_of owners, int64_t count);
int64_t rc_plan_turn_floats(const rc_plan *plan); /* of all owners */

/* Where `count` floats of scratch begin, on a cache line of their own. What was taken since a mark
 * can be given to others by going back to it. Sizes that nobody has count as 2^58 floats. */
int64_t rc_plan_take(rc_plan *plan, int64_t count);
int64_t rc_whole_lines(int64_t count); /* the floats of the cache lines that so many fill */
int64_t rc_plan_mark(const rc_plan *plan);
void rc_plan_back(rc_plan *plan, int64_t mark);
int64_t rc_plan_floats(const rc_plan *plan); /* the most that were taken at a time */

/* `count` floats for each of `owners`, on cache lines of their own. */
typedef struct {
    int64_t at, size;
} rc_shares;

rc_shares rc_plan_shares(rc_plan *plan, int64_t owners, int64_t count);

/* What a call runs on: threads, scratch, where its random draws stand. */
typedef struct {
    rc_pool *pool;
    float *scratch;
    rc_draw draw;
    int64_t clip; /* clips of the batch before those of this call: draws know their clip */
} rc_run;

static inline float *rc_share_of(const rc_run *run, rc_shares shares, int owner)
{
    return run->scratch + shares.at + owner * shares.size;
}

/* ---- Plans that are kept --------------------------------------------------------------------- */

/* What a plan is for: parameters as they lie now (rc_params.layout), a kind of call, its size, and
 * that of its other side. */
typedef struct {
    uint64_t layout;
    int64_t call, b, rows, longest; /* one size of type only: no padding bytes to compare */
    int64_t other[5];
} rc_plan_key;

/* Make the body of a plan, in its memory. */
typedef rc_status rc_plan_make(void **body, rc_plan *plan, const rc_plan_key *key, const void *arg);

enum { RC_PLANS_MAX = 16 };

/* The plans of a context; of those that are too many the least recently used goes first. */
typedef struct {
    struct {
        rc_plan_key key;
        rc_plan *plan; /* NULL: empty */
        const void *body;
        uint64_t used;
    } item[RC_PLANS_MAX];
    uint64_t clock;
    rc_type type; /* of them all */
} rc_plans;

/* The body of the plan of a key, made where there is none, and the floats of scratch it runs on. */
rc_status rc_plans_get(rc_plans *plans, const void **body, int64_t *floats, rc_dnn *dnn,
                       const rc_plan_key *key, rc_plan_make *make, const void *arg);
int rc_plans_count(const rc_plans *plans);
void rc_plans_clear(rc_plans *plans);

#endif
