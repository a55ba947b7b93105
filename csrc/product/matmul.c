/* A product as oneDNN wants it described: layouts of factors and result, attributes. */
#include "product/matmul.h"

rc_status rc_dnn_fail(dnnl_status_t status, const char *call)
{
    if (status == dnnl_out_of_memory)
        return rc_fail(RC_ENOMEM, "oneDNN: out of memory in %s", call);
    return rc_fail(RC_EBACKEND, "oneDNN: status %d in %s", (int)status, call);
}

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

static rc_status describe_b(matmul_parts *p, const rc_product_shape *s, const rc_packed *packed,
                            const rc_type *any)
{
    dnnl_dims_t dims = {s->k, s->n};
    if (packed != NULL && s->n == packed->n)
        DNN_TRY(dnnl_memory_desc_clone(&p->b, packed->desc));
    else if (packed != NULL)
        DNN_TRY(dnnl_memory_desc_create_submemory(&p->b, packed->desc, dims, (dnnl_dims_t){0, 0}));
    else if (any != NULL)
        DNN_TRY(dnnl_memory_desc_create_with_tag(&p->b, 2, dims, rc_engine_of(*any)->input,
                                                 dnnl_format_tag_any));
    else
        DNN_TRY(rc_matrix_desc(&p->b, s->k, s->n, s->ldb, s->tb, s->narrow ? dnnl_bf16 : dnnl_f32));
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

/* An int8 product gives integer sums; rc_dequantize does what else there is to do. */
rc_status rc_parts_describe(rc_dnn *dnn, matmul_parts *p, const rc_product_shape *s,
                            const rc_packed *packed, const rc_type *any)
{
    rc_type plain = s->narrow ? RC_BF16 : RC_F32;
    rc_type type = packed != NULL ? packed->type : any != NULL ? *any : plain;
    bool integer = type == RC_S8;
    int64_t lda = type == plain ? s->lda : s->k;
    bool sum = s->sum && !integer && !rc_result_apart(s, type);
    DNN_TRY(rc_matrix_desc(&p->a, s->m, s->k, lda, s->ta, rc_engine_of(type)->input));
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
