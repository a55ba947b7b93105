/* The types of factors, a row each; products at work, and sinks. */
#include "product/dnn_inside.h"

/* ---- Running --------------------------------------------------------------------------------- */

/* The kernels of oneDNN's gemm:jit let the stack pointer point at their workspace, which lies in
 * the heap: the frame of a signal that comes then would overwrite the memory before it. The pool's
 * workers never take signals. */
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
    if (p->moves_stack) rc_signals_hold();
    dnnl_status_t st = dnnl_primitive_execute(p->primitive, w->stream, count, args);
    if (p->moves_stack) rc_signals_release();
    if (st != dnnl_success) __atomic_store_n(&p->dnn->failed, (int)st, __ATOMIC_RELAXED);
}

/* Where the result of a product goes first; c itself where nothing keeps it from there. */
static void *first_result(const rc_product *p, int worker, float *c)
{
    bool elsewhere = rc_result_apart(&p->key.shape, rc_key_type(&p->key));
    return elsewhere ? p->dnn->worker[worker].narrow + rc_result_at(&p->key) : (void *)c;
}

static void run_floats(rc_product *p, int worker, float *c, const void *form, rc_factor f)
{
    const rc_product_shape *s = &p->key.shape;
    float *first = first_result(p, worker, c);
    execute(p, worker, first, form, f.b, f.bias);
    if (first != c) rc_place(c, s->ldc, first, s->m, s->n, s->sum);
}

static void run_int8(rc_product *p, int worker, float *c, const void *form, rc_factor f)
{
    const rc_product_shape *s = &p->key.shape;
    void *sums = first_result(p, worker, c);
    execute(p, worker, sums, form, f.b, NULL);
    rc_dequantize(c, s->ldc, sums, rc_int8_scales(form, s->m, s->k), f.scale, f.bias, s->m, s->n,
                  s->sum);
}

static void multiply_tiles(rc_product *p, float *c, const void *form, rc_factor f, void *next,
                           rc_activation *activate)
{
    const rc_product_shape *s = &p->key.shape;
    rc_split_shape shape = {.m = s->m,
                            .n = s->n,
                            .terms = s->k,
                            .ldy = s->ldc,
                            .parts = p->engine->parts,
                            .add = s->sum,
                            .next = next,
                            .activate = activate};
    rc_split_product(c, form, (const uint16_t *)f.b, f.bias, &shape, p->dnn->split);
}

static void run_tiles(rc_product *p, int worker, float *c, const void *form, rc_factor f)
{
    (void)worker;
    multiply_tiles(p, c, form, f, NULL, NULL);
}

static void run_tiles_into(rc_product *p, void *to, float *c, const void *form, rc_factor f,
                           rc_activation *activate)
{
    multiply_tiles(p, c, form, f, to, activate);
    rc_split_pad(to, p->key.shape.m, p->key.shape.n, p->engine->parts);
}

/* ---- The table ------------------------------------------------------------------------------- */

static const rc_engine ENGINES[RC_TYPES] = {
    [RC_F32] = {dnnl_f32, 4, 0, NULL, NULL, run_floats, NULL},
    [RC_BF16] = {dnnl_bf16, 2, 0, rc_bf16_size, rc_bf16_lay, run_floats, NULL},
    [RC_S8] = {dnnl_s8, 1, 0, rc_int8_size, rc_int8_lay, run_int8, NULL},
    [RC_SPLIT_1] = {dnnl_data_type_undef, 2, 1, rc_tiles_size, rc_tiles_lay, run_tiles,
                    run_tiles_into},
    [RC_SPLIT_2] = {dnnl_data_type_undef, 2, 2, rc_tiles_size, rc_tiles_lay, run_tiles,
                    run_tiles_into},
    [RC_SPLIT_3] = {dnnl_data_type_undef, 2, 3, rc_tiles_size, rc_tiles_lay, run_tiles,
                    run_tiles_into},
};

const rc_engine *rc_engine_of(rc_type type)
{
    return &ENGINES[type];
}

int64_t rc_form_bytes(rc_type type, int64_t m, int64_t k)
{
    const rc_engine *e = &ENGINES[type];
    return e->size == NULL ? 0 : e->size(m, k, e->parts);
}

/* Integers where floats are to be added to, and some outputs of all, because oneDNN falls back to a
 * plain loop where the rows of a result lie apart. */
bool rc_result_apart(const rc_product_shape *s, rc_type type)
{
    return s->ldc != s->n || (s->sum && type == RC_S8);
}

int64_t rc_result_at(const product_key *key)
{
    if (key->shape.narrow) return 0; /* its factors lie elsewhere */
    return (rc_form_bytes(rc_key_type(key), key->shape.m, key->shape.k) + 63) / 64 * 64;
}

/* ---- Products and sinks ---------------------------------------------------------------------- */

static void lay(const rc_product *p, void *form, const float *x, int64_t from, int64_t rows)
{
    p->engine->lay(form, x, from, rows, p->key.shape.m, p->key.shape.k, p->engine->parts);
}

rc_rows rc_product_rows(const rc_product *p, int worker, rc_rows a)
{
    if (p->engine->lay == NULL || a.form != RC_F32) return a;
    void *form = p->dnn->worker[worker].narrow;
    lay(p, form, a.at, 0, p->key.shape.m);
    return (rc_rows){form, rc_key_type(&p->key)};
}

void rc_product_run(rc_product *p, int worker, float *c, rc_rows a, rc_factor b)
{
    if (p != NULL) p->engine->run(p, worker, c, rc_product_rows(p, worker, a).at, b);
}

bool rc_sink_lays(const rc_sink *sink)
{
    return sink->product->engine->lay != NULL;
}

float *rc_sink_at(const rc_sink *sink, int64_t from, float *scratch)
{
    return rc_sink_lays(sink) ? scratch : sink->floats + from * sink->product->key.shape.k;
}

void rc_sink_put(const rc_sink *sink, const float *x, int64_t from, int64_t rows)
{
    if (rc_sink_lays(sink)) lay(sink->product, sink->form, x, from, rows);
}

rc_rows rc_sink_rows(const rc_sink *sink)
{
    return rc_sink_lays(sink) ? (rc_rows){sink->form, rc_key_type(&sink->product->key)}
                              : rc_floats(sink->floats);
}

void rc_product_run_into(rc_product *p, int worker, const rc_sink *sink, float *c, rc_rows a,
                         rc_factor b, rc_activation *activate)
{
    const void *form = rc_product_rows(p, worker, a).at;
    if (p->engine->run_into != NULL && p->engine == sink->product->engine) {
        p->engine->run_into(p, sink->form, c, form, b, activate);
        return;
    }
    p->engine->run(p, worker, c, form, b);
    rc_sink_activate(sink, c, 0, p->key.shape.m, activate);
}

void rc_sink_activate(const rc_sink *sink, float *c, int64_t from, int64_t rows,
                      rc_activation *activate)
{
    enum { ROWS = 16 };
    int64_t k = sink->product->key.shape.k;
    for (int64_t i = from, n; i < from + rows; i += n) {
        n = rc_min(ROWS, from + rows - i);
        activate(c + i * k, c + i * k, n * k);
        rc_sink_put(sink, c + i * k, i, n);
    }
}
