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
        rc_free(dnn->worker[i].narrow);
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
    if (rc_stopped()) return rc_fail(RC_ESTOPPED, "the call was ended");
    return failed == 0 ? RC_OK : rc_dnn_fail((dnnl_status_t)failed, "primitive execution");
}

/* ---- Building -------------------------------------------------------------------------------- */

/* The old memory stays where there is no more: cached products go on with it. */
static rc_status grow(void **room, int64_t bytes)
{
    void *more;
    RC_TRY(rc_alloc(&more, bytes));
    rc_free(*room);
    *room = more;
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
    int before = rc_library_threads(1); /* a primitive fixes its number when it is built */
    rc_library_enter();
    dnnl_status_t st = dnnl_primitive_create(&p->primitive, parts->desc);
    rc_library_leave();
    rc_library_threads(before);
    DNN_TRY(st);
    return RC_OK;
}

static rc_status product_build(rc_dnn *dnn, rc_product *p, const product_key *key,
                               const rc_packed *packed)
{
    matmul_parts parts = {0};
    *p = (rc_product){.key = *key, .dnn = dnn, .engine = rc_engine_of(rc_key_type(key))};
    rc_status status = grow_narrow(dnn, key);
    if (status == RC_OK && p->engine->parts == 0) status = build_matmul(p, &parts, packed);
    rc_parts_free(&parts);
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
    product_key key = {shape, packed == NULL ? 0 : 1 + (int64_t)packed->type};
    for (uint64_t at = hash_key(&key);; at++) {
        rc_product *p = &dnn->slot[at % SLOTS];
        if (p->dnn == NULL) {
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
