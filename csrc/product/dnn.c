/* Matrix products through oneDNN, with a shape-keyed cache of single-thread primitives. */
#include "product/dnn_inside.h"

#include <stdlib.h>
#include <string.h>

rc_status rc_dnn_fail(dnnl_status_t status, const char *call)
{
    if (status == dnnl_out_of_memory)
        return rc_fail(RC_ENOMEM, "oneDNN: out of memory in %s", call);
    return rc_fail(RC_EBACKEND, "oneDNN: status %d in %s", (int)status, call);
}

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

dnnl_status_t rc_matrix_desc(dnnl_memory_desc_t *desc, int64_t rows, int64_t cols, int64_t ld,
                             int64_t transposed, dnnl_data_type_t type)
{
    dnnl_dims_t dims = {rows, cols};
    dnnl_dims_t strides = {transposed ? 1 : ld, transposed ? ld : 1};
    return dnnl_memory_desc_create_with_strides(desc, 2, dims, type, strides);
}

void rc_parts_free(matmul_parts *p)
{
    if (p->desc != NULL) dnnl_primitive_desc_destroy(p->desc);
    if (p->post != NULL) dnnl_post_ops_destroy(p->post);
    if (p->attr != NULL) dnnl_primitive_attr_destroy(p->attr);
    if (p->a != NULL) dnnl_memory_desc_destroy(p->a);
    if (p->b != NULL) dnnl_memory_desc_destroy(p->b);
    if (p->bias != NULL) dnnl_memory_desc_destroy(p->bias);
    if (p->c != NULL) dnnl_memory_desc_destroy(p->c);
}

static const dnnl_data_type_t INPUT[] = {dnnl_f32, dnnl_bf16, dnnl_s8}; /* by rc_type */

static rc_status describe_b(matmul_parts *p, const rc_product_shape *s, const rc_packed *packed,
                            const rc_type *any)
{
    dnnl_dims_t dims = {s->k, s->n};
    if (packed != NULL && s->n == packed->n)
        DNN_TRY(dnnl_memory_desc_clone(&p->b, packed->desc));
    else if (packed != NULL)
        DNN_TRY(dnnl_memory_desc_create_submemory(&p->b, packed->desc, dims, (dnnl_dims_t){0, 0}));
    else if (any != NULL)
        DNN_TRY(dnnl_memory_desc_create_with_tag(&p->b, 2, dims, INPUT[*any], dnnl_format_tag_any));
    else
        DNN_TRY(rc_matrix_desc(&p->b, s->k, s->n, s->ldb, s->tb, dnnl_f32));
    return RC_OK;
}

static rc_status describe_attributes(matmul_parts *p, bool sum)
{
    DNN_TRY(dnnl_primitive_attr_create(&p->attr));
    /* oneDNN's own scratchpad would tie a primitive to the thread that made it */
    DNN_TRY(dnnl_primitive_attr_set_scratchpad_mode(p->attr, dnnl_scratchpad_mode_user));
    DNN_TRY(dnnl_post_ops_create(&p->post));
    if (sum) DNN_TRY(dnnl_post_ops_append_sum(p->post, 1.0f, 0, dnnl_data_type_undef));
    DNN_TRY(dnnl_primitive_attr_set_post_ops(p->attr, p->post));
    return RC_OK;
}

/* Whether a result goes elsewhere first: integers where floats are to be added to, and some outputs
 * of all, because oneDNN falls back to a plain loop where the rows of a result lie apart. */
static bool apart(const rc_product_shape *s, rc_type type)
{
    return s->ldc != s->n || (s->sum && type == RC_S8);
}

/* An int8 product gives integer sums; rc_dequantize does what else there is to do. */
rc_status rc_parts_describe(rc_dnn *dnn, matmul_parts *p, const rc_product_shape *s,
                            const rc_packed *packed, const rc_type *any)
{
    rc_type type = packed != NULL ? packed->type : any != NULL ? *any : RC_F32;
    bool integer = type == RC_S8;
    int64_t lda = type == RC_F32 ? s->lda : s->k;
    bool sum = s->sum && !integer && !apart(s, type);
    DNN_TRY(rc_matrix_desc(&p->a, s->m, s->k, lda, s->ta, INPUT[type]));
    RC_TRY(describe_b(p, s, packed, any));
    DNN_TRY(rc_matrix_desc(&p->c, s->m, s->n, s->n, 0, integer ? dnnl_s32 : dnnl_f32));
    if (s->bias && !integer) DNN_TRY(rc_matrix_desc(&p->bias, 1, s->n, s->n, 0, dnnl_f32));
    RC_TRY(describe_attributes(p, sum));
    int before = rc_library_threads(1); /* a primitive fixes its number when it is built */
    rc_library_enter();
    dnnl_status_t st = dnnl_matmul_primitive_desc_create(&p->desc, dnn->engine, p->a, p->b, p->bias,
                                                         p->c, p->attr);
    rc_library_leave();
    rc_library_threads(before);
    DNN_TRY(st);
    return RC_OK;
}

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

static rc_type type_of(const product_key *key)
{
    return key->packed == 0 ? RC_F32 : (rc_type)(key->packed - 1);
}

/* Then it lies behind the first factor. */
static int64_t apart_at(const product_key *key)
{
    return (rc_form_bytes(type_of(key), key->shape.m, key->shape.k) + 63) / 64 * 64;
}

static rc_status grow_narrow(rc_dnn *dnn, const product_key *key)
{
    const rc_product_shape *s = &key->shape;
    rc_type type = type_of(key);
    int64_t bytes = apart_at(key);
    if (apart(s, type)) bytes += s->m * s->n * (int64_t)sizeof(float);
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

static rc_status product_fill(rc_product *p, matmul_parts *parts, const rc_packed *packed)
{
    rc_dnn *dnn = p->dnn;
    RC_TRY(rc_parts_describe(dnn, parts, &p->key.shape, packed, NULL));
    const_dnnl_memory_desc_t scratch =
        dnnl_primitive_desc_query_md(parts->desc, dnnl_query_scratchpad_md, 0);
    RC_TRY(grow_scratch(dnn, (int64_t)dnnl_memory_desc_get_size(scratch)));
    RC_TRY(grow_narrow(dnn, &p->key));
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
    *p = (rc_product){.key = *key, .dnn = dnn};
    bool split = rc_type_parts(type_of(key)) > 0;
    rc_status status = split ? grow_narrow(dnn, key) : product_fill(p, &parts, packed);
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

/* ---- Running --------------------------------------------------------------------------------- */

static void execute(rc_product *p, int worker, void *c, const void *a, const void *b,
                    const float *bias)
{
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

static void execute_int8(rc_product *p, int worker, float *c, const void *form, rc_factor f)
{
    const rc_product_shape *s = &p->key.shape;
    void *sums = apart(s, RC_S8) ? p->dnn->worker[worker].narrow + apart_at(&p->key) : (void *)c;
    execute(p, worker, sums, form, f.b, NULL);
    rc_dequantize(c, s->ldc, sums, rc_form_scales(form, s->m, s->k), f.scale, f.bias, s->m, s->n,
                  s->sum);
}

static void execute_apart(rc_product *p, int worker, float *c, const void *form, rc_factor f)
{
    const rc_product_shape *s = &p->key.shape;
    float *some = (float *)(p->dnn->worker[worker].narrow + apart_at(&p->key));
    execute(p, worker, some, form, f.b, f.bias);
    rc_place(c, s->ldc, some, s->m, s->n, s->sum);
}

static void execute_split(rc_product *p, float *c, const void *form, rc_factor f, void *next,
                          rc_activation *activate)
{
    const rc_product_shape *s = &p->key.shape;
    rc_split_shape shape = {.m = s->m,
                            .n = s->n,
                            .terms = s->k,
                            .ldy = s->ldc,
                            .parts = rc_type_parts(type_of(&p->key)),
                            .add = s->sum,
                            .next = next,
                            .activate = activate};
    rc_split_product(c, form, (const uint16_t *)f.b, f.bias, &shape, p->dnn->split);
}

bool rc_product_takes_floats(const rc_product *p)
{
    return type_of(&p->key) == RC_F32;
}

void rc_product_lay(const rc_product *p, void *form, const float *x, int64_t from, int64_t rows)
{
    rc_form_lay(type_of(&p->key), form, x, from, rows, p->key.shape.m, p->key.shape.k);
}

void rc_product_run_laid(rc_product *p, int worker, float *c, const void *form, rc_factor f)
{
    rc_type type = type_of(&p->key);
    if (type == RC_S8)
        execute_int8(p, worker, c, form, f);
    else if (rc_type_parts(type) > 0)
        execute_split(p, c, form, f, NULL, NULL);
    else if (apart(&p->key.shape, type))
        execute_apart(p, worker, c, form, f);
    else
        execute(p, worker, c, form, f.b, f.bias);
}

const void *rc_product_form(const rc_product *p, int worker, const float *a)
{
    if (rc_product_takes_floats(p)) return a;
    rc_product_lay(p, p->dnn->worker[worker].narrow, a, 0, p->key.shape.m);
    return p->dnn->worker[worker].narrow;
}

void rc_product_run(rc_product *p, int worker, float *c, const float *a, const float *b,
                    const float *bias)
{
    if (p != NULL) execute(p, worker, c, a, b, bias);
}

void rc_product_run_between(rc_product *p, const rc_product *next, int worker, void *to, float *c,
                            const void *form, rc_factor f, rc_activation *activate)
{
    const rc_product_shape *s = &p->key.shape;
    if (rc_type_parts(type_of(&p->key)) > 0 && type_of(&p->key) == type_of(&next->key)) {
        execute_split(p, c, form, f, to, activate);
        rc_split_pad(to, s->m, s->n, rc_type_parts(type_of(&p->key)));
        return;
    }
    rc_product_run_laid(p, worker, c, form, f);
    rc_product_activate(next, to, c, 0, s->m, activate);
}

void rc_product_activate(const rc_product *next, void *to, float *c, int64_t from, int64_t rows,
                         rc_activation *activate)
{
    enum { ROWS = 16 };
    int64_t k = next->key.shape.k;
    for (int64_t i = from, some; i < from + rows; i += some) {
        some = rc_min(ROWS, from + rows - i);
        activate(c + i * k, c + i * k, some * k);
        if (to != c) rc_product_lay(next, to, c + i * k, i, some);
    }
}
