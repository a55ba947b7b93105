/* matmul: a product as oneDNN wants it described. */
#ifndef RC_MATMUL_H
#define RC_MATMUL_H

#include "product/dnn_inside.h"

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
