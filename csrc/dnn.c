/* Matrix products through oneDNN, with a shape-keyed cache of single-thread primitives. */
#include "dnn.h"

#include <stdlib.h>
#include <string.h>

#include <oneapi/dnnl/dnnl.h>

enum { SLOTS = 512, ARGS = 5, PACK_ROWS = 256 };

typedef struct {
    rc_product_shape shape;
    int64_t packed; /* 1 for a packed weight, whose layout depends on n and k alone */
} product_key;

/* The memory objects of one worker, in the order src, weights, bias, dst, scratchpad. */
typedef struct {
    dnnl_memory_t memory[ARGS];
} product_args;

struct rc_product {
    product_key key;
    rc_dnn *dnn;
    dnnl_primitive_t primitive; /* NULL: the slot is free */
    product_args *args;         /* one per worker */
    bool slow;
};

typedef struct {
    dnnl_stream_t stream;
    void *scratch;
} dnn_worker;

struct rc_dnn {
    dnnl_engine_t engine;
    rc_pool *pool;
    dnn_worker *worker;
    int threads;
    int failed; /* status of a failed run, 0 if none; written atomically */
    int64_t scratch_bytes, used, hits, misses, slow;
    rc_product slot[SLOTS];
};

struct rc_packed {
    dnnl_memory_desc_t desc;
    float *data;
    int64_t bytes;
};

#define DNN_TRY(call)                                                                              \
    do {                                                                                           \
        dnnl_status_t dnn_try_ = (call);                                                           \
        if (dnn_try_ != dnnl_success) return dnn_fail(dnn_try_, #call);                            \
    } while (0)

static rc_status dnn_fail(dnnl_status_t status, const char *call)
{
    if (status == dnnl_out_of_memory)
        return rc_fail(RC_ENOMEM, "oneDNN: out of memory in %s", call);
    return rc_fail(RC_EBACKEND, "oneDNN: status %d in %s", (int)status, call);
}

/* ---- Life ------------------------------------------------------------------------------------ */

static rc_status dnn_open(rc_dnn *dnn)
{
    RC_TRY(rc_pool_new(&dnn->pool, dnn->threads));
    DNN_TRY(dnnl_engine_create(&dnn->engine, dnnl_cpu, 0));
    dnn->worker = calloc((size_t)dnn->threads, sizeof *dnn->worker);
    if (dnn->worker == NULL) return rc_fail(RC_ENOMEM, "out of memory: workers");
    for (int i = 0; i < dnn->threads; i++)
        DNN_TRY(dnnl_stream_create(&dnn->worker[i].stream, dnn->engine, dnnl_stream_default_flags));
    return RC_OK;
}

rc_status rc_dnn_new(rc_dnn **out, int threads)
{
    *out = NULL;
    rc_dnn *dnn = calloc(1, sizeof *dnn);
    if (dnn == NULL) return rc_fail(RC_ENOMEM, "out of memory: oneDNN context");
    dnn->threads = threads;
    rc_status status = dnn_open(dnn);
    if (status != RC_OK) {
        rc_dnn_free(dnn);
        return status;
    }
    *out = dnn;
    return RC_OK;
}

int rc_dnn_threads(const rc_dnn *dnn)
{
    return dnn->threads;
}

rc_pool *rc_dnn_pool(const rc_dnn *dnn)
{
    return dnn->pool;
}

static void product_clear(rc_product *p, int threads)
{
    for (int i = 0; p->args != NULL && i < threads; i++)
        for (int j = 0; j < ARGS; j++)
            if (p->args[i].memory[j] != NULL) dnnl_memory_destroy(p->args[i].memory[j]);
    free(p->args);
    if (p->primitive != NULL) dnnl_primitive_destroy(p->primitive);
    memset(p, 0, sizeof *p);
}

static void cache_clear(rc_dnn *dnn)
{
    for (int i = 0; i < SLOTS; i++) product_clear(&dnn->slot[i], dnn->threads);
    dnn->used = dnn->slow = 0;
}

void rc_dnn_free(rc_dnn *dnn)
{
    if (dnn == NULL) return;
    rc_pool_free(dnn->pool);
    cache_clear(dnn);
    for (int i = 0; dnn->worker != NULL && i < dnn->threads; i++) {
        if (dnn->worker[i].stream != NULL) dnnl_stream_destroy(dnn->worker[i].stream);
        rc_free(dnn->worker[i].scratch);
    }
    free(dnn->worker);
    if (dnn->engine != NULL) dnnl_engine_destroy(dnn->engine);
    free(dnn);
}

void rc_dnn_trim(rc_dnn *dnn)
{
    if (dnn->used > SLOTS / 2)
        cache_clear(dnn); /* shapes are few: starting over beats bookkeeping */
}

void rc_dnn_stats(const rc_dnn *dnn, int64_t *hits, int64_t *misses, int64_t *slow)
{
    *hits = dnn->hits;
    *misses = dnn->misses;
    *slow = dnn->slow;
}

rc_status rc_dnn_check(rc_dnn *dnn)
{
    int failed = __atomic_exchange_n(&dnn->failed, 0, __ATOMIC_RELAXED);
    return failed == 0 ? RC_OK : dnn_fail((dnnl_status_t)failed, "primitive execution");
}

/* ---- Building -------------------------------------------------------------------------------- */

static dnnl_status_t matrix_desc(dnnl_memory_desc_t *desc, int64_t rows, int64_t cols, int64_t ld,
                                 int64_t transposed)
{
    dnnl_dims_t dims = {rows, cols};
    dnnl_dims_t strides = {transposed ? 1 : ld, transposed ? ld : 1};
    return dnnl_memory_desc_create_with_strides(desc, 2, dims, dnnl_f32, strides);
}

typedef struct {
    dnnl_memory_desc_t a, b, bias, c;
    dnnl_primitive_attr_t attr;
    dnnl_post_ops_t post;
    dnnl_primitive_desc_t desc;
} matmul_parts;

static void parts_free(matmul_parts *p)
{
    if (p->desc != NULL) dnnl_primitive_desc_destroy(p->desc);
    if (p->post != NULL) dnnl_post_ops_destroy(p->post);
    if (p->attr != NULL) dnnl_primitive_attr_destroy(p->attr);
    if (p->a != NULL) dnnl_memory_desc_destroy(p->a);
    if (p->b != NULL) dnnl_memory_desc_destroy(p->b);
    if (p->bias != NULL) dnnl_memory_desc_destroy(p->bias);
    if (p->c != NULL) dnnl_memory_desc_destroy(p->c);
}

static rc_status describe_b(matmul_parts *p, const rc_product_shape *s, const rc_packed *packed,
                            bool any)
{
    if (packed != NULL) {
        DNN_TRY(dnnl_memory_desc_clone(&p->b, packed->desc));
    } else if (any) {
        dnnl_dims_t dims = {s->k, s->n};
        DNN_TRY(dnnl_memory_desc_create_with_tag(&p->b, 2, dims, dnnl_f32, dnnl_format_tag_any));
    } else {
        DNN_TRY(matrix_desc(&p->b, s->k, s->n, s->ldb, s->tb));
    }
    return RC_OK;
}

/* Fill p->desc; with `any` oneDNN chooses the layout of b. */
static rc_status describe(rc_dnn *dnn, matmul_parts *p, const rc_product_shape *s,
                          const rc_packed *packed, bool any)
{
    DNN_TRY(matrix_desc(&p->a, s->m, s->k, s->lda, s->ta));
    RC_TRY(describe_b(p, s, packed, any));
    DNN_TRY(matrix_desc(&p->c, s->m, s->n, s->ldc, 0));
    if (s->bias) DNN_TRY(matrix_desc(&p->bias, 1, s->n, s->n, 0));
    DNN_TRY(dnnl_primitive_attr_create(&p->attr));
    /* oneDNN's own scratchpad would tie a primitive to the thread that made it */
    DNN_TRY(dnnl_primitive_attr_set_scratchpad_mode(p->attr, dnnl_scratchpad_mode_user));
    DNN_TRY(dnnl_post_ops_create(&p->post));
    if (s->sum) DNN_TRY(dnnl_post_ops_append_sum(p->post, 1.0f, 0, dnnl_data_type_undef));
    DNN_TRY(dnnl_primitive_attr_set_post_ops(p->attr, p->post));
    int before = rc_library_threads(1); /* a primitive fixes its number when it is built */
    dnnl_status_t st = dnnl_matmul_primitive_desc_create(&p->desc, dnn->engine, p->a, p->b, p->bias,
                                                         p->c, p->attr);
    rc_library_threads(before);
    DNN_TRY(st);
    return RC_OK;
}

static rc_status grow_scratch(rc_dnn *dnn, int64_t bytes)
{
    if (bytes <= dnn->scratch_bytes) return RC_OK;
    for (int i = 0; i < dnn->threads; i++) {
        rc_free(dnn->worker[i].scratch);
        dnn->worker[i].scratch = NULL;
    }
    dnn->scratch_bytes = 0;
    for (int i = 0; i < dnn->threads; i++) RC_TRY(rc_alloc(&dnn->worker[i].scratch, bytes));
    dnn->scratch_bytes = bytes;
    return RC_OK;
}

static rc_status make_args(rc_product *p, const matmul_parts *parts,
                           const_dnnl_memory_desc_t scratch)
{
    rc_dnn *dnn = p->dnn;
    const_dnnl_memory_desc_t desc[ARGS] = {parts->a, parts->b, parts->bias, parts->c, scratch};
    p->args = calloc((size_t)dnn->threads, sizeof *p->args);
    if (p->args == NULL) return rc_fail(RC_ENOMEM, "out of memory: arguments of a product");
    for (int i = 0; i < dnn->threads; i++)
        for (int j = 0; j < ARGS; j++)
            if (desc[j] != NULL)
                DNN_TRY(dnnl_memory_create(&p->args[i].memory[j], desc[j], dnn->engine,
                                           DNNL_MEMORY_NONE));
    return RC_OK;
}

static rc_status product_fill(rc_product *p, matmul_parts *parts, const rc_packed *packed)
{
    rc_dnn *dnn = p->dnn;
    RC_TRY(describe(dnn, parts, &p->key.shape, packed, false));
    const_dnnl_memory_desc_t scratch =
        dnnl_primitive_desc_query_md(parts->desc, dnnl_query_scratchpad_md, 0);
    RC_TRY(grow_scratch(dnn, (int64_t)dnnl_memory_desc_get_size(scratch)));
    RC_TRY(make_args(p, parts, scratch));
    const char *info = "";
    DNN_TRY(dnnl_primitive_desc_query(parts->desc, dnnl_query_impl_info_str, 0, &info));
    p->slow = strstr(info, "ref") != NULL;
    int before = rc_library_threads(1); /* a primitive fixes its number when it is built */
    dnnl_status_t st = dnnl_primitive_create(&p->primitive, parts->desc);
    rc_library_threads(before);
    DNN_TRY(st);
    return RC_OK;
}

static rc_status product_build(rc_dnn *dnn, rc_product *p, const product_key *key,
                               const rc_packed *packed)
{
    matmul_parts parts = {0};
    *p = (rc_product){.key = *key, .dnn = dnn};
    rc_status status = product_fill(p, &parts, packed);
    parts_free(&parts);
    if (status != RC_OK) {
        product_clear(p, dnn->threads);
        return status;
    }
    dnn->used++;
    dnn->slow += p->slow;
    return RC_OK;
}

static uint64_t hash_key(const product_key *key)
{
    const int64_t *word = (const int64_t *)key;
    uint64_t h = 14695981039346656037u;
    for (size_t i = 0; i < sizeof *key / sizeof *word; i++) {
        h = (h ^ (uint64_t)word[i]) * 1099511628211u;
        h ^= h >> 29;
    }
    return h;
}

rc_status rc_product_get(rc_dnn *dnn, rc_product **out, rc_product_shape shape,
                         const rc_packed *packed)
{
    *out = NULL;
    if (shape.m < 1 || shape.n < 1 || shape.k < 1) return RC_OK;
    if (dnn->used >= SLOTS - 1)
        return rc_fail(RC_EBACKEND, "oneDNN: more than %d shapes in one call", SLOTS - 1);
    product_key key = {shape, packed != NULL};
    for (uint64_t at = hash_key(&key);; at++) {
        rc_product *p = &dnn->slot[at % SLOTS];
        if (p->primitive == NULL) {
            dnn->misses++;
            RC_TRY(product_build(dnn, p, &key, packed));
        } else if (memcmp(&p->key, &key, sizeof key) != 0) {
            continue;
        } else {
            dnn->hits++;
        }
        *out = p;
        return RC_OK;
    }
}

/* ---- Running --------------------------------------------------------------------------------- */

void rc_product_run(rc_product *p, int worker, float *c, const float *a, const float *b,
                    const float *bias)
{
    if (p == NULL) return;
    static const int name[ARGS] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_BIAS, DNNL_ARG_DST,
                                   DNNL_ARG_SCRATCHPAD};
    dnn_worker *w = &p->dnn->worker[worker];
    void *data[ARGS] = {(void *)a, (void *)b, (void *)bias, c, w->scratch};
    dnnl_exec_arg_t args[ARGS];
    int count = 0;
    for (int i = 0; i < ARGS; i++) {
        dnnl_memory_t memory = p->args[worker].memory[i];
        if (memory == NULL) continue;
        dnnl_memory_set_data_handle(memory, data[i]);
        args[count++] = (dnnl_exec_arg_t){name[i], memory};
    }
    dnnl_status_t st = dnnl_primitive_execute(p->primitive, w->stream, count, args);
    if (st != dnnl_success) __atomic_store_n(&p->dnn->failed, (int)st, __ATOMIC_RELAXED);
}

/* ---- Packing --------------------------------------------------------------------------------- */

static rc_status reorder(rc_dnn *dnn, float *to, const_dnnl_memory_desc_t to_desc,
                         const float *from, const_dnnl_memory_desc_t from_desc)
{
    dnnl_memory_t src = NULL, dst = NULL;
    dnnl_primitive_desc_t desc = NULL;
    dnnl_primitive_t primitive = NULL;
    dnnl_status_t st = dnnl_memory_create(&src, from_desc, dnn->engine, (void *)from);
    if (st == dnnl_success) st = dnnl_memory_create(&dst, to_desc, dnn->engine, to);
    if (st == dnnl_success)
        st = dnnl_reorder_primitive_desc_create(&desc, from_desc, dnn->engine, to_desc, dnn->engine,
                                                NULL);
    if (st == dnnl_success) st = dnnl_primitive_create(&primitive, desc);
    dnnl_exec_arg_t args[2] = {{DNNL_ARG_FROM, src}, {DNNL_ARG_TO, dst}};
    if (st == dnnl_success) st = dnnl_primitive_execute(primitive, dnn->worker[0].stream, 2, args);
    if (primitive != NULL) dnnl_primitive_destroy(primitive);
    if (desc != NULL) dnnl_primitive_desc_destroy(desc);
    if (src != NULL) dnnl_memory_destroy(src);
    if (dst != NULL) dnnl_memory_destroy(dst);
    return st == dnnl_success ? RC_OK : dnn_fail(st, "reorder of a weight");
}

static rc_status pack(rc_packed *packed, rc_dnn *dnn, matmul_parts *parts, const float *w,
                      const rc_product_shape *shape)
{
    RC_TRY(describe(dnn, parts, shape, NULL, true));
    DNN_TRY(dnnl_memory_desc_clone(
        &packed->desc, dnnl_primitive_desc_query_md(parts->desc, dnnl_query_weights_md, 0)));
    packed->bytes = (int64_t)dnnl_memory_desc_get_size(packed->desc);
    RC_TRY(rc_alloc((void **)&packed->data, packed->bytes));
    dnnl_memory_desc_t plain;
    DNN_TRY(matrix_desc(&plain, shape->k, shape->n, shape->k, 1));
    rc_status status = reorder(dnn, packed->data, packed->desc, w, plain);
    dnnl_memory_desc_destroy(plain);
    return status;
}

rc_status rc_packed_new(rc_packed **out, rc_dnn *dnn, const float *w, int64_t n, int64_t k)
{
    *out = NULL;
    rc_packed *packed = calloc(1, sizeof *packed);
    if (packed == NULL) return rc_fail(RC_ENOMEM, "out of memory: packed weight");
    matmul_parts parts = {0};
    rc_product_shape shape = {.m = PACK_ROWS, .n = n, .k = k, .lda = k, .ldc = n, .bias = 1};
    rc_status status = pack(packed, dnn, &parts, w, &shape);
    parts_free(&parts);
    if (status != RC_OK) {
        rc_packed_free(packed);
        return status;
    }
    *out = packed;
    return RC_OK;
}

void rc_packed_free(rc_packed *packed)
{
    if (packed == NULL) return;
    if (packed->desc != NULL) dnnl_memory_desc_destroy(packed->desc);
    rc_free(packed->data);
    free(packed);
}

rc_status rc_packed_read(float *w, rc_dnn *dnn, const rc_packed *packed, int64_t n, int64_t k)
{
    dnnl_memory_desc_t plain;
    DNN_TRY(matrix_desc(&plain, k, n, k, 1));
    rc_status status = reorder(dnn, w, plain, packed->data, packed->desc);
    dnnl_memory_desc_destroy(plain);
    return status;
}

const float *rc_packed_data(const rc_packed *packed)
{
    return packed->data;
}
