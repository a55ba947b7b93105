/* Weights in oneDNN's preferred layout, in float32 or a narrower type, or split into parts. */
#include "product/packed.h"

#include "product/matmul.h"

#include <stdlib.h>
#include <string.h>

enum { PACK_ROWS = 256 };

static rc_status reorder(rc_dnn *dnn, void *to, const_dnnl_memory_desc_t to_desc, const void *from,
                         const_dnnl_memory_desc_t from_desc, int worker)
{
    dnnl_memory_t src = NULL, dst = NULL;
    dnnl_primitive_desc_t desc = NULL;
    dnnl_primitive_t primitive = NULL;
    int before = rc_library_threads(1); /* on a busy system more would wait for each other */
    dnnl_status_t st = dnnl_memory_create(&src, from_desc, dnn->engine, (void *)from);
    if (st == dnnl_success) st = dnnl_memory_create(&dst, to_desc, dnn->engine, to);
    rc_library_enter();
    if (st == dnnl_success)
        st = dnnl_reorder_primitive_desc_create(&desc, from_desc, dnn->engine, to_desc, dnn->engine,
                                                NULL);
    if (st == dnnl_success) st = dnnl_primitive_create(&primitive, desc);
    rc_library_leave();
    dnnl_exec_arg_t args[2] = {{DNNL_ARG_FROM, src}, {DNNL_ARG_TO, dst}};
    if (st == dnnl_success)
        st = dnnl_primitive_execute(primitive, dnn->worker[worker].stream, 2, args);
    rc_library_threads(before);
    if (primitive != NULL) dnnl_primitive_destroy(primitive);
    if (desc != NULL) dnnl_primitive_desc_destroy(desc);
    if (src != NULL) dnnl_memory_destroy(src);
    if (dst != NULL) dnnl_memory_destroy(dst);
    return st == dnnl_success ? RC_OK : rc_dnn_fail(st, "reorder of a weight");
}

/* Bytes of the scales in front of the int8 layout of a weight with n outputs. */
static int64_t scale_bytes(int64_t n)
{
    return (n * (int64_t)sizeof(float) + 63) / 64 * 64;
}

static void *layout(const rc_packed *packed)
{
    return packed->base + (packed->type == RC_S8 ? scale_bytes(packed->n) : 0);
}

static rc_status fill(rc_packed *packed, rc_dnn *dnn, const void *w, dnnl_data_type_t type,
                      int worker)
{
    dnnl_memory_desc_t plain;
    int64_t ld = packed->turned ? packed->n : packed->k;
    DNN_TRY(rc_matrix_desc(&plain, packed->k, packed->n, ld, !packed->turned, type));
    rc_status status = reorder(dnn, layout(packed), packed->desc, w, plain, worker);
    dnnl_memory_desc_destroy(plain);
    return status;
}

int rc_int8_weight(void)
{
    switch (dnnl_get_effective_cpu_isa()) {
    case dnnl_cpu_isa_sse41:
    case dnnl_cpu_isa_avx:
    case dnnl_cpu_isa_avx2:
    case dnnl_cpu_isa_avx512_core:
        return RC_INT8_MOST / 2;
    default:
        return RC_INT8_MOST;
    }
}

/* Rows of w are what one output sums over, so each has a scale of its own. */
static rc_status fill_int8(rc_packed *packed, rc_dnn *dnn, const float *w)
{
    int8_t *rounded;
    RC_TRY(rc_alloc((void **)&rounded, packed->n * packed->k));
    rc_quantize_rows(rounded, (float *)packed->base, w, packed->n, packed->k, rc_int8_weight());
    rc_status status = fill(packed, dnn, rounded, dnnl_s8, 0);
    rc_free(rounded);
    return status;
}

static rc_status pack_split(rc_packed *packed, const float *w, int parts)
{
    RC_TRY(rc_alloc((void **)&packed->base, rc_split_bytes(packed->n, packed->k, parts)));
    rc_split_weight((uint16_t *)packed->base, w, packed->n, packed->k, parts);
    return RC_OK;
}

static rc_status pack(rc_packed *packed, rc_dnn *dnn, matmul_parts *parts, const float *w)
{
    int64_t n = packed->n, k = packed->k;
    int split = rc_engine_of(packed->type)->parts;
    if (split > 0) return pack_split(packed, w, split);
    rc_product_shape shape = {.m = PACK_ROWS, .n = n, .k = k, .lda = k, .ldc = n, .bias = 1};
    RC_TRY(rc_parts_describe(dnn, parts, &shape, NULL, &packed->type));
    DNN_TRY(dnnl_memory_desc_clone(
        &packed->desc, dnnl_primitive_desc_query_md(parts->desc, dnnl_query_weights_md, 0)));
    int64_t bytes = (int64_t)dnnl_memory_desc_get_size(packed->desc);
    if (packed->type == RC_S8) bytes += scale_bytes(n);
    RC_TRY(rc_alloc((void **)&packed->base, bytes));
    return packed->type == RC_S8 ? fill_int8(packed, dnn, w) : fill(packed, dnn, w, dnnl_f32, 0);
}

/* How many outputs lie together, which is the product of the blocks of columns. */
static int64_t block_of(const_dnnl_memory_desc_t desc)
{
    const dnnl_dims_t *size = NULL, *axis = NULL;
    int count = 0;
    int64_t block = 1;
    if (dnnl_memory_desc_query(desc, dnnl_query_inner_nblks_s32, &count) != dnnl_success ||
        dnnl_memory_desc_query(desc, dnnl_query_inner_blks, &size) != dnnl_success ||
        dnnl_memory_desc_query(desc, dnnl_query_inner_idxs, &axis) != dnnl_success)
        return 0;
    for (int i = 0; i < count; i++)
        if ((*axis)[i] == 1) block *= (*size)[i];
    return block;
}

/* Where the outputs from `from` on begin, in values; -1 where a layout has no such place. */
static int64_t place_of(const rc_packed *packed, int64_t from, int64_t n)
{
    dnnl_memory_desc_t part = NULL;
    int64_t place = -1;
    dnnl_status_t st = dnnl_memory_desc_create_submemory(
        &part, packed->desc, (dnnl_dims_t){packed->k, n}, (dnnl_dims_t){0, from});
    if (st == dnnl_success)
        st = dnnl_memory_desc_query(part, dnnl_query_submemory_offset_s64, &place);
    if (part != NULL) dnnl_memory_desc_destroy(part);
    return st == dnnl_success ? place : -1;
}

/* Whether there is more than the weight: int8 without AMX has sums of all columns behind it. */
static bool has_more(const rc_packed *packed)
{
    const dnnl_dims_t *size = NULL;
    if (dnnl_memory_desc_query(packed->desc, dnnl_query_padded_dims, &size) != dnnl_success)
        return true;
    return dnnl_memory_desc_get_size(packed->desc) !=
           (size_t)((*size)[0] * (*size)[1] * rc_engine_of(packed->type)->value);
}

static int64_t unit_of(const rc_packed *packed)
{
    if (rc_engine_of(packed->type)->parts > 0) return rc_split_unit();
    int64_t unit = block_of(packed->desc);
    return unit >= packed->n || has_more(packed) ? 0 : unit;
}

/* Where outputs can be cut. A layout is linear in whole units. */
static void find_cuts(rc_packed *packed)
{
    packed->unit = unit_of(packed);
    if (packed->unit == 0 || rc_engine_of(packed->type)->parts > 0) return;
    packed->stride = place_of(packed, packed->unit, packed->n - packed->unit);
    if (packed->stride < 0) packed->unit = 0;
}

static rc_status new_packed(rc_packed **out, rc_dnn *dnn, const float *w, rc_packed how)
{
    *out = NULL;
    rc_packed *packed = calloc(1, sizeof *packed);
    if (packed == NULL) return rc_fail(RC_ENOMEM, "out of memory: packed weight");
    *packed = how;
    matmul_parts parts = {0};
    rc_status status = pack(packed, dnn, &parts, w);
    rc_parts_free(&parts);
    if (status != RC_OK) {
        rc_packed_free(packed);
        return status;
    }
    find_cuts(packed);
    *out = packed;
    return RC_OK;
}

rc_status rc_packed_new(rc_packed **out, rc_dnn *dnn, const float *w, int64_t n, int64_t k,
                        rc_type type)
{
    return new_packed(out, dnn, w, (rc_packed){.type = type, .n = n, .k = k});
}

rc_status rc_packed_turned(rc_packed **out, rc_dnn *dnn, const float *w, int64_t n, int64_t k)
{
    return new_packed(out, dnn, w, (rc_packed){.type = RC_BF16, .n = n, .k = k, .turned = true});
}

void rc_packed_refill(rc_packed *packed, rc_dnn *dnn, const float *w, int worker)
{
    rc_status status = fill(packed, dnn, w, dnnl_f32, worker);
    if (status != RC_OK) __atomic_store_n(&dnn->failed, (int)dnnl_runtime_error, __ATOMIC_RELAXED);
}

void rc_packed_free(rc_packed *packed)
{
    if (packed == NULL) return;
    if (packed->desc != NULL) dnnl_memory_desc_destroy(packed->desc);
    rc_free(packed->base);
    free(packed);
}

rc_status rc_packed_read(float *w, rc_dnn *dnn, const rc_packed *packed)
{
    dnnl_memory_desc_t plain;
    if (packed->type != RC_F32)
        return rc_fail(RC_EINVAL, "a weight that was rounded to a narrower type cannot be read");
    DNN_TRY(rc_matrix_desc(&plain, packed->k, packed->n, packed->k, 1, dnnl_f32));
    rc_status status = reorder(dnn, w, plain, layout(packed), packed->desc, 0);
    dnnl_memory_desc_destroy(plain);
    return status;
}

rc_type rc_packed_type(const rc_packed *packed)
{
    return packed->type;
}

/* ---- Some of the outputs --------------------------------------------------------------------- */

int64_t rc_packed_unit(const rc_packed *packed)
{
    return packed->unit;
}

rc_factor rc_packed_factor(const rc_packed *packed, int64_t from)
{
    int parts = rc_engine_of(packed->type)->parts;
    int64_t bytes = 0;
    if (from > 0 && parts > 0) bytes = rc_split_bytes(from, packed->k, parts);
    if (from > 0 && parts == 0)
        bytes = from / packed->unit * packed->stride * rc_engine_of(packed->type)->value;
    const float *scale = packed->type == RC_S8 ? (const float *)packed->base + from : NULL;
    return (rc_factor){.b = (const float *)((char *)layout(packed) + bytes), .scale = scale};
}
