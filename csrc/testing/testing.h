/* testing: kernels as plain functions, for tests and benchmarks: a module of its own, made of the
 * same objects as the core. */
#ifndef RC_TESTING_H
#define RC_TESTING_H

#include "python/py.h"

/* A new array of zeros. */
PyArrayObject *rc_testing_zeros(int rank, const int64_t *sizes);

#define NEW(rank, ...) rc_py_new(rank, (int64_t[]){__VA_ARGS__}, NPY_FLOAT32)
#define ENTRY(name, text) {#name, name, METH_VARARGS, text}

/* Method tables of the other files, gathered by module.c. */
extern PyMethodDef rc_testing_kernel_methods[], rc_testing_move_methods[],
    rc_testing_layer_methods[], rc_testing_adapter_methods[], rc_testing_loss_methods[],
    rc_testing_block_methods[];

#endif
