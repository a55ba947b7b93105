/* engines: what the types of factors differ in. */
#ifndef RC_ENGINES_H
#define RC_ENGINES_H

#include "product/dnn.h"

#include <oneapi/dnnl/dnnl.h>

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

#endif
