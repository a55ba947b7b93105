/* dnn_inside: what dnn.c, engines.c and packed.c, the only files that know oneDNN, share. */
#ifndef RC_DNN_INSIDE_H
#define RC_DNN_INSIDE_H

#include "product/engines.h"
#include "product/split.h"

enum { SLOTS = 512, ARGS = 5 };

typedef struct {
    rc_product_shape shape;
    int64_t
        packed; /* 0, or 1 + the type of a packed weight, whose layout depends on n, k and type */
} product_key;

/* The memory objects of one worker, in the order src, weights, bias, dst, scratchpad. */
typedef struct {
    dnnl_memory_t memory[ARGS];
} product_args;

struct rc_product {
    product_key key;
    const rc_engine *engine;
    rc_dnn *dnn;
    dnnl_primitive_t primitive; /* NULL: not oneDNN's, or the slot is free */
    product_args *args;         /* one per worker, NULL without a primitive */
    bool slow;
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
    int64_t scratch_bytes, narrow_bytes, used, hits, misses, slow;
    rc_product slot[SLOTS];
};

struct rc_packed {
    dnnl_memory_desc_t desc; /* NULL where split */
    rc_type type;
    char *base; /* scales of int8 columns, padded to whole cache lines, then the layout */
    int64_t n, k;
    int64_t unit, stride; /* outputs can be cut at multiples of unit, which lie `stride` values
                             apart; unit 0: not at all */
};

static inline rc_type rc_key_type(const product_key *key)
{
    return key->packed == 0 ? RC_F32 : (rc_type)(key->packed - 1);
}

/* Whether a result goes elsewhere first: integers where floats are to be added to, and some outputs
 * of all, because oneDNN falls back to a plain loop where the rows of a result lie apart. Then it
 * lies behind the laid first factor. */
static inline bool rc_result_apart(const rc_product_shape *s, rc_type type)
{
    return s->ldc != s->n || (s->sum && type == RC_S8);
}

static inline int64_t rc_result_at(const product_key *key)
{
    return (rc_form_bytes(rc_key_type(key), key->shape.m, key->shape.k) + 63) / 64 * 64;
}

#define DNN_TRY(call)                                                                              \
    do {                                                                                           \
        dnnl_status_t dnn_try_ = (call);                                                           \
        if (dnn_try_ != dnnl_success) return rc_dnn_fail(dnn_try_, #call);                         \
    } while (0)

rc_status rc_dnn_fail(dnnl_status_t status, const char *call);

/* Everything that describes a product; free it with rc_parts_free. */
typedef struct {
    dnnl_memory_desc_t a, b, bias, c;
    dnnl_primitive_attr_t attr;
    dnnl_post_ops_t post;
    dnnl_primitive_desc_t desc;
} matmul_parts;

/* A matrix whose rows, or columns where `transposed`, lie ld values apart. */
dnnl_status_t rc_matrix_desc(dnnl_memory_desc_t *desc, int64_t rows, int64_t cols, int64_t ld,
                             int64_t transposed, dnnl_data_type_t type);

/* Fill p->desc. b lies as `packed` says, or where `any` as oneDNN chooses for the type, or plain.
 */
rc_status rc_parts_describe(rc_dnn *dnn, matmul_parts *p, const rc_product_shape *s,
                            const rc_packed *packed, const rc_type *any);
void rc_parts_free(matmul_parts *p);

#endif
