/* bfloat16 copies of linear weights in training. */
#include "layers/low.h"

rc_status rc_param_lower(rc_param *p, rc_dnn *dnn, const float *x, bool back)
{
    if (p->packing != RC_PACK_ANY) return RC_OK;
    int64_t k = p->count / p->size[0], from[3] = {0, p->cut > 0 ? p->cut : p->size[0], p->size[0]};
    for (int i = 0; i < 2 && from[i] < p->size[0]; i++) {
        int64_t n = from[i + 1] - from[i];
        const float *part = x + from[i] * k;
        RC_TRY(rc_packed_new(&p->low[i], dnn, part, n, k, RC_BF16));
        if (back) RC_TRY(rc_packed_turned(&p->back[i], dnn, part, k, n));
    }
    return RC_OK;
}

void rc_param_lower_again(rc_param *p, rc_dnn *dnn, int worker)
{
    for (int i = 0; i < 2 && p->low[i] != NULL; i++) {
        const float *x = p->x + (i == 0 ? 0 : p->cut * (p->count / p->size[0]));
        rc_packed_refill(p->low[i], dnn, x, worker);
        if (p->back[i] != NULL) rc_packed_refill(p->back[i], dnn, x, worker);
    }
}

int64_t rc_param_low_bytes(const rc_param *p)
{
    int64_t copies = (p->low[0] != NULL) + (p->back[0] != NULL);
    return copies * p->count * (int64_t)sizeof(uint16_t);
}

void rc_param_raise(rc_param *p)
{
    for (int i = 0; i < 2; i++) {
        rc_packed_free(p->low[i]);
        rc_packed_free(p->back[i]);
        p->low[i] = p->back[i] = NULL;
    }
}
