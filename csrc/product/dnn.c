/* Matrix products through oneDNN, with a shape-keyed cache of single-thread primitives. */
#include "product/dnn_inside.h"

#include "product/matmul.h"

#include <stdlib.h>
#include <string.h>

/* ---- Life ------------------------------------------------------------------------------------ */

static rc_status dnn_open(rc_dnn *dnn)
{
    RC_TRY(rc_pool_new(&dnn->pool, dnn->threads));
    rc_library_enter();
    dnnl_status_t st = dnnl_engine_create(&dnn->engine, dnnl_cpu, 0);
    rc_library_leave();
    DNN_TRY(st);
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
    dnn->split = rc_split_choice();
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

static void product_free(rc_product *p)
{
    for (int i = 0; p->args != NULL && i < p->dnn->threads; i++)
        for (int j = 0; j < ARGS; j++)
            if (p->args[i].memory[j] != NULL) dnnl_memory_destroy(p->args[i].memory[j]);
    free(p->args);
    if (p->primitive != NULL) dnnl_primitive_destroy(p->primitive);
    free(p);
}

static void cache_clear(rc_dnn *dnn)
{
    for (int i = 0; i < BUCKETS; i++)
        for (rc_product *p = dnn->bucket[i], *next; p != NULL; p = next) {
            next = p->next;
            product_free(p);
        }
}

void rc_dnn_free(rc_dnn *dnn)
{
    if (dnn == NULL) return;
    rc_pool_free(dnn->pool);
    cache_clear(dnn);
    for (int i = 0; dnn->worker != NULL && i < dnn->threads; i++) {
        if (dnn->worker[i].stream != NULL) dnnl_stream_destroy(dnn->worker[i].stream);
        rc_free(dnn->worker[i].scratch);
        rc_free(dnn->worker[i].narrow);
    }
    free(dnn->worker);
    if (dnn->engine != NULL) dnnl_engine_destroy(dnn->engine);
    free(dnn);
}

rc_dnn_counts rc_dnn_count(const rc_dnn *dnn)
{
    return dnn->counts;
}

rc_status rc_dnn_check(rc_dnn *dnn)
{
    int failed = __atomic_exchange_n(&dnn->failed, 0, __ATOMIC_RELAXED);
    if (rc_stopped()) return rc_fail(RC_ESTOPPED, "the call was ended");
    return failed == 0 ? RC_OK : rc_dnn_fail((dnnl_status_t)failed, "primitive execution");
}

/* ---- Building -------------------------------------------------------------------------------- */

/* The old memory stays where there is no more: cached products go on with it. */
static rc_status grow(void **memory, int64_t bytes)
{
    void *grown;
    RC_TRY(rc_alloc(&grown, bytes));
    rc_free(*memory);
    *memory = grown;
    return RC_OK;
}

static rc_status grow_scratch(rc_dnn *dnn, int64_t bytes)
{
    if (bytes <= dnn->scratch_bytes) return RC_OK;
    for (int i = 0; i < dnn->threads; i++) RC_TRY(grow(&dnn->worker[i].scratch, bytes));
    dnn->scratch_bytes = bytes;
    return RC_OK;
}

static rc_status grow_narrow(rc_dnn *dnn, const product_key *key)
{
    const rc_product_shape *s = &key->shape;
    int64_t bytes = rc_result_at(key);
    if (rc_result_apart(s, rc_key_type(key))) bytes += s->m * s->n * (int64_t)sizeof(float);
    if (bytes <= dnn->narrow_bytes) return RC_OK;
    for (int i = 0; i < dnn->threads; i++) RC_TRY(grow((void **)&dnn->worker[i].narrow, bytes));
    dnn->narrow_bytes = bytes;
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

static rc_status build_matmul(rc_product *p, matmul_parts *parts, const rc_packed *packed)
{
    rc_dnn *dnn = p->dnn;
    RC_TRY(rc_parts_describe(dnn, parts, &p->key.shape, packed, NULL));
    const_dnnl_memory_desc_t scratch =
        dnnl_primitive_desc_query_md(parts->desc, dnnl_query_scratchpad_md, 0);
    RC_TRY(grow_scratch(dnn, (int64_t)dnnl_memory_desc_get_size(scratch)));
    RC_TRY(make_args(p, parts, scratch));
    const char *info = "";
    DNN_TRY(dnnl_primitive_desc_query(parts->desc, dnnl_query_impl_info_str, 0, &info));
    p->slow = strstr(info, "ref") != NULL;
    p->moves_stack = strstr(info, "gemm:jit") != NULL;
    int before = rc_library_threads(1); /* a primitive fixes its number when it is built */
    rc_library_enter();
    dnnl_status_t st = dnnl_primitive_create(&p->primitive, parts->desc);
    rc_library_leave();
    rc_library_threads(before);
    DNN_TRY(st);
    return RC_OK;
}

static rc_status product_build(rc_product *p, const rc_packed *packed)
{
    matmul_parts parts = {0};
    RC_TRY(grow_narrow(p->dnn, &p->key));
    rc_status status = p->engine->parts == 0 ? build_matmul(p, &parts, packed) : RC_OK;
    rc_parts_free(&parts);
    return status;
}

static rc_status product_new(rc_product **out, rc_dnn *dnn, const product_key *key,
                             const rc_packed *packed)
{
    rc_product *p = calloc(1, sizeof *p);
    if (p == NULL) return rc_fail(RC_ENOMEM, "out of memory: product");
    p->key = *key;
    p->dnn = dnn;
    p->engine = rc_engine_of(rc_key_type(key));
    rc_status status = product_build(p, packed);
    if (status != RC_OK) {
        product_free(p);
        return status;
    }
    dnn->counts.products++;
    dnn->counts.slow += p->slow;
    *out = p;
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

static rc_product **bucket_of(rc_dnn *dnn, const product_key *key)
{
    return &dnn->bucket[hash_key(key) % BUCKETS];
}

rc_status rc_product_get(rc_dnn *dnn, rc_product **out, rc_product_shape shape,
                         const rc_packed *packed)
{
    *out = NULL;
    if (shape.m < 1 || shape.n < 1 || shape.k < 1) return RC_OK;
    product_key key = {shape, packed == NULL ? 0 : 1 + (int64_t)packed->type};
    rc_product **bucket = bucket_of(dnn, &key), *p = *bucket;
    while (p != NULL && memcmp(&p->key, &key, sizeof key) != 0) p = p->next;
    if (p != NULL) {
        dnn->counts.hits++;
    } else {
        dnn->counts.misses++;
        RC_TRY(product_new(&p, dnn, &key, packed));
        p->next = *bucket;
        *bucket = p;
    }
    p->users++;
    *out = p;
    return RC_OK;
}

void rc_product_release(rc_product *product)
{
    if (product == NULL || --product->users > 0) return;
    rc_dnn *dnn = product->dnn;
    rc_product **at = bucket_of(dnn, &product->key);
    while (*at != product) at = &(*at)->next;
    *at = product->next;
    dnn->counts.products--;
    dnn->counts.slow -= product->slow;
    product_free(product);
}
