/* The table of parameters: names, shapes, and where their values and gradients lie. */
#include "layers/params.h"

#include "kernels/act.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static rc_status make_space(rc_params *p)
{
    if (p->count < p->capacity) return RC_OK;
    int64_t capacity = p->capacity == 0 ? 64 : 2 * p->capacity;
    rc_param *item = realloc(p->item, (size_t)capacity * sizeof *item);
    if (item == NULL)
        return rc_fail(RC_ENOMEM, "out of memory: table of %lld parameters", (long long)capacity);
    p->item = item;
    p->capacity = capacity;
    return RC_OK;
}

int64_t rc_params_add(rc_params *p, rc_kind kind, int rank, const int64_t *size, const char *format,
                      ...)
{
    if (p->status == RC_OK) p->status = make_space(p);
    if (p->status != RC_OK) return 0; /* the declaring function reports it at its end */
    rc_param *item = &p->item[p->count];
    *item = (rc_param){.kind = kind, .rank = rank, .count = 1};
    for (int i = 0; i < rank && p->status == RC_OK; i++) {
        item->size[i] = size[i];
        p->status = rc_mul(&item->count, item->count, size[i]);
    }
    va_list args;
    va_start(args, format);
    vsnprintf(item->name, sizeof item->name, format, args);
    va_end(args);
    return p->count++;
}

static int64_t inputs(const rc_param *p)
{
    return p->count / p->size[0];
}

rc_status rc_param_check(const rc_param *p, const float *x)
{
    bool finite = rc_all_finite(x, p->count);
    for (int64_t i = 0; (!finite || p->variance) && i < p->count; i++) {
        if (!isfinite(x[i]))
            return rc_fail(RC_EINVAL, "%s: value %lld is %g, expected finite values", p->name,
                           (long long)i, x[i]);
        if (p->variance && x[i] < 0)
            return rc_fail(RC_EINVAL, "%s: value %lld is %g, a variance is not negative", p->name,
                           (long long)i, x[i]);
    }
    return RC_OK;
}

rc_status rc_param_read(float *out, rc_dnn *dnn, const rc_param *p)
{
    if (p->behind != NULL) RC_TRY(rc_packed_read(out + p->cut * inputs(p), dnn, p->behind));
    if (p->packed != NULL) return rc_packed_read(out, dnn, p->packed);
    memcpy(out, p->x, (size_t)p->count * sizeof *out);
    return RC_OK;
}

rc_status rc_param_pack(rc_param *p, rc_dnn *dnn, rc_type type)
{
    if (p->packing == RC_PACK_NO) return RC_OK;
    if (p->packing == RC_PACK_F32) type = RC_F32;
    if (p->packed != NULL && rc_packed_type(p->packed) != type)
        return rc_fail(RC_EINVAL, "pack: %s is packed in another type already", p->name);
    if (p->packed != NULL) return RC_OK;
    int64_t k = inputs(p), n = p->size[0], first = p->cut > 0 ? p->cut : n;
    if (p->cut > 0) RC_TRY(rc_packed_new(&p->behind, dnn, p->x + first * k, n - first, k, type));
    rc_status status = rc_packed_new(&p->packed, dnn, p->x, first, k, type);
    if (status != RC_OK) rc_param_unpack(p);
    return status;
}

void rc_param_unpack(rc_param *p)
{
    rc_packed_free(p->packed);
    rc_packed_free(p->behind);
    p->packed = p->behind = NULL;
}

void rc_param_packs(rc_params *p, int64_t i, rc_packing packing)
{
    if (p->status == RC_OK) p->item[i].packing = packing;
}

void rc_param_cut(rc_params *p, int64_t i, int64_t cut)
{
    if (p->status == RC_OK) p->item[i].cut = cut;
}

static uint64_t layouts; /* of all tables so far */

void rc_params_moved(rc_params *p)
{
    p->layout = __atomic_add_fetch(&layouts, 1, __ATOMIC_RELAXED);
}

bool rc_param_is_linear(const rc_param *p)
{
    return p->rank == 2 && p->packing != RC_PACK_NO;
}

static rc_status check_adapter(const rc_param *w, int64_t rank, double alpha)
{
    if (!rc_param_is_linear(w))
        return rc_fail(RC_EINVAL, "adapter: %s is not the weight of a linear layer", w->name);
    if (w->adapter != 0) return rc_fail(RC_EINVAL, "adapter: %s has one already", w->name);
    int64_t most = rc_min(w->size[0], w->size[1]);
    if (rank < 1 || rank > most)
        return rc_fail(RC_EINVAL, "adapter of %s: rank: expected 1 to %lld, got %lld", w->name,
                       (long long)most, (long long)rank);
    if (alpha > 0 && alpha <= 1e6) return RC_OK;
    return rc_fail(RC_EINVAL, "adapter of %s: alpha: expected above 0, to 1e6, got %g", w->name,
                   alpha);
}

rc_status rc_params_adapt(rc_params *p, int64_t i, int64_t rank, double alpha)
{
    RC_TRY(check_adapter(&p->item[i], rank, alpha));
    char name[RC_NAME_MAX];
    snprintf(name, sizeof name, "%s", p->item[i].name);
    char *end = strrchr(name, '.'); /* of .weight */
    if (end != NULL) *end = 0;
    int64_t n = p->item[i].size[0], in = p->item[i].size[1], before = p->count;
    int64_t a = rc_params_add(p, RC_WEIGHT, 2, (int64_t[]){rank, in}, "%.90s.lora_A.weight", name);
    rc_params_add(p, RC_WEIGHT, 2, (int64_t[]){n, rank}, "%.90s.lora_B.weight", name);
    rc_status status = p->status;
    if (status == RC_OK) {
        p->item[i].adapter = a;
        p->item[i].scale = (float)(alpha / (double)rank);
        rc_params_moved(p);
    } else {
        p->count = before;
        p->status = RC_OK; /* the table is as before */
    }
    return status;
}

static bool learns(const rc_params *p, int64_t i)
{
    int64_t a = p->item[i].adapter;
    if (p->item[i].dx != NULL) return true;
    return a != 0 && (p->item[a].dx != NULL || p->item[a + 1].dx != NULL);
}

bool rc_params_learn(const rc_params *p, int64_t from, int64_t to)
{
    for (int64_t i = from; i < to; i++)
        if (learns(p, i)) return true;
    return false;
}

void rc_params_free(rc_params *p)
{
    for (int64_t i = 0; i < p->count; i++) rc_param_unpack(&p->item[i]);
    free(p->item);
    *p = (rc_params){0};
}

rc_status rc_check_range(const char *name, int64_t value, int64_t least, int64_t most)
{
    if (value >= least && value <= most) return RC_OK;
    return rc_fail(RC_EINVAL, "%s: expected %lld to %lld, got %lld", name, (long long)least,
                   (long long)most, (long long)value);
}

/* Far enough from 0 that a variance of 0 gives no infinity. */
rc_status rc_check_eps(const char *name, double eps)
{
    if (eps >= 1e-30 && eps <= 1) return RC_OK;
    return rc_fail(RC_EINVAL, "%s: expected 1e-30 to 1, got %g", name, eps);
}

rc_pair rc_declare_norm(rc_params *p, int64_t c, const char *prefix, const char *name)
{
    rc_pair pair;
    pair.w = rc_params_add(p, RC_BIAS, 1, &c, "%s%s.weight", prefix, name);
    pair.b = rc_params_add(p, RC_BIAS, 1, &c, "%s%s.bias", prefix, name);
    return pair;
}

rc_pair rc_declare_rms_norm(rc_params *p, int64_t c, const char *prefix, const char *name)
{
    return (rc_pair){rc_params_add(p, RC_BIAS, 1, &c, "%s%s.weight", prefix, name), -1};
}

rc_pair rc_declare_linear(rc_params *p, int64_t n, int64_t c, bool bias, const char *prefix,
                          const char *name)
{
    rc_pair pair = {.b = -1};
    pair.w = rc_params_add(p, RC_WEIGHT, 2, (int64_t[]){n, c}, "%s%s.weight", prefix, name);
    rc_param_packs(p, pair.w, RC_PACK_ANY);
    if (bias) pair.b = rc_params_add(p, RC_BIAS, 1, &n, "%s%s.bias", prefix, name);
    return pair;
}

rc_batch_norm rc_declare_batch_norm(rc_params *p, int64_t c, const char *prefix, const char *name)
{
    rc_batch_norm norm = {.scale = rc_declare_norm(p, c, prefix, name)};
    norm.mean = rc_params_add(p, RC_BUFFER, 1, &c, "%s%s.running_mean", prefix, name);
    norm.var = rc_params_add(p, RC_BUFFER, 1, &c, "%s%s.running_var", prefix, name);
    if (p->status == RC_OK) p->item[norm.var].variance = true;
    return norm;
}

bool rc_batch_norm_learns(const rc_params *p, const rc_batch_norm *norm)
{
    return p->item[norm->mean].dx != NULL;
}
