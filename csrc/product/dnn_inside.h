/* dnn_inside: what dnn.c, engines.c and packed.c, the only files that know oneDNN, share. */
#ifndef RC_DNN_INSIDE_H
#define RC_DNN_INSIDE_H

#include "product/dnn.h"
#include "product/split.h"

#include <oneapi/dnnl/dnnl.h>

enum { BUCKETS = 256, ARGS = 5 };

typedef struct {
    rc_product_shape shape;
    int64_t
        packed; /* 0, or 1 + the type of a packed weight, whose layout depends on n, k and type */
} product_key;

/* The memory objects of one worker, in the order src, weights, bias, dst, scratchpad. */
typedef struct {
    dnnl_memory_t memory[ARGS];
} product_args;

/* What a type of factors is: a new one, or a new instruction set, is a row of the table. */
typedef struct {
    dnnl_data_type_t input; /* of both factors, where oneDNN multiplies */
    int64_t value;          /* bytes of a value of the second factor there */
    int parts;              /* into which ours are split; 0 where oneDNN multiplies */
    int64_t (*size)(int64_t m, int64_t k, int parts); /* NULL, as lay, where rows stay floats */
    void (*lay)(void *form, const float *x, int64_t from, int64_t rows, int64_t m, int64_t k,
                int parts);
    void (*run)(rc_product *p, int worker, float *c, const void *form, rc_factor f);
    /* The same, activated and laid in `to` for a product of the same type, or NULL. */
    void (*run_into)(rc_product *p, void *to, float *c, const void *form, rc_factor f,
                     rc_activation *activate);
} rc_engine;

const rc_engine *rc_engine_of(rc_type type);

struct rc_product {
    product_key key;
    const rc_engine *engine;
    rc_dnn *dnn;
    dnnl_primitive_t primitive; /* NULL: not oneDNN's */
    product_args *args;         /* one per worker, NULL without a primitive */
    bool slow;
    bool moves_stack; /* see execute */
    int64_t users;
    rc_product *next; /* of its bucket */
};

typedef struct {
    dnnl_stream_t stream;
    void *scratch;
    char *narrow; /* rounded activations, and results that go elsewhere first */
} dnn_worker;

struct rc_dnn {
    dnnl_engine_t engine;
    rc_pool *pool;
    dnn_worker *worker;
    rc_split_kind split;
    int threads;
    int failed; /* status of a failed run, 0 if none; written atomically */
    int64_t scratch_bytes, narrow_bytes;
    rc_dnn_counts counts;
    rc_product *bucket[BUCKETS]; /* by shape */
};

struct rc_packed {
    dnnl_memory_desc_t desc; /* NULL where split */
    rc_type type;
    char *base; /* scales of int8 columns, padded to whole cache lines, then the layout */
    int64_t n, k;
    bool turned;          /* its values come as (k, n) */
    int64_t unit, stride; /* outputs can be cut at multiples of unit, which lie `stride` values
                             apart; unit 0: not at all */
};

static inline rc_type rc_key_type(const product_key *key)
{
    if (key->packed == 0) return key->shape.narrow ? RC_BF16 : RC_F32;
    return (rc_type)(key->packed - 1);
}

/* Whether a result goes elsewhere first, and where: behind the laid first factor. */
bool rc_result_apart(const rc_product_shape *s, rc_type type);
int64_t rc_result_at(const product_key *key);

#endif
