/* The table of losses, and weighted sums of them. */
#include "train/loss.h"

#include "train/loss_inside.h"

#include <string.h>

static const rc_loss_kind *const KINDS[] = {
    [RC_LOSS_CONTRASTIVE] = &rc_contrastive_kind,
    [RC_LOSS_SIGMOID] = &rc_sigmoid_kind,
    [RC_LOSS_DISTILLATION] = &rc_distillation_kind,
};

const rc_loss_kind *rc_loss_kind_of(int64_t kind)
{
    return kind < 0 || kind >= (int64_t)(sizeof KINDS / sizeof *KINDS) ? NULL : KINDS[kind];
}

/* ---- Check ----------------------------------------------------------------------------------- */

static rc_status check_term(const rc_loss_term *term, const rc_loss_size *size,
                            const rc_loss_in *in)
{
    const rc_loss_kind *kind = rc_loss_kind_of(term->kind);
    if (kind == NULL)
        return rc_fail(RC_EINVAL, "loss: there is no kind %lld", (long long)term->kind);
    bool given = size->teacher > 0 && in->teacher_a != NULL && in->teacher_t != NULL;
    if (kind->teacher && !given && !in->without_teacher)
        return rc_fail(RC_EINVAL, "loss: %s needs the embeddings of a teacher", kind->name);
    return RC_OK;
}

static rc_status check_text(const rc_loss_in *in, int64_t j)
{
    int64_t owner = rc_owner_of(in, j), role = rc_role_of(in, j);
    if (owner < 0 || owner >= in->na)
        return rc_fail(RC_EINVAL, "owner[%lld]: expected a clip from 0 to %lld, got %lld",
                       (long long)j, (long long)in->na - 1, (long long)owner);
    if (role >= 0 && role < RC_ROLES) return RC_OK;
    return rc_fail(RC_EINVAL, "role[%lld]: expected 0 to %d, got %lld", (long long)j, RC_ROLES - 1,
                   (long long)role);
}

static rc_status check_texts(const rc_loss_in *in)
{
    if (in->owner == NULL && (in->na != in->nt || in->role != NULL))
        return rc_fail(RC_EINVAL, "owner: %lld texts of %lld clips, with or without roles, need it",
                       (long long)in->nt, (long long)in->na);
    if (in->owner == NULL) return RC_OK;
    uint8_t *has;
    RC_TRY(rc_alloc((void **)&has, in->na));
    rc_status status = RC_OK;
    for (int64_t j = 0; status == RC_OK && j < in->nt; j++) {
        status = check_text(in, j);
        if (status == RC_OK && rc_role_of(in, j) != RC_ROLE_NEGATIVE) has[in->owner[j]] = 1;
    }
    for (int64_t i = 0; status == RC_OK && i < in->na; i++)
        if (!has[i])
            status = rc_fail(RC_EINVAL, "owner: clip %lld has no positive text", (long long)i);
    rc_free(has);
    return status;
}

rc_status rc_losses_check(const rc_loss_term *term, int count, const rc_loss_size *size,
                          const rc_loss_in *in)
{
    if (count < 1 || count > RC_LOSSES_MAX)
        return rc_fail(RC_EINVAL, "loss: expected 1 to %d terms, got %d", RC_LOSSES_MAX, count);
    for (int i = 0; i < count; i++) RC_TRY(check_term(&term[i], size, in));
    if (in->na < 1 || in->nt < 1) return rc_fail(RC_EINVAL, "loss: the batch is empty");
    return check_texts(in);
}

/* ---- Sum ------------------------------------------------------------------------------------- */

rc_status rc_losses_plan(rc_losses *k, rc_plan *plan, const rc_loss_term *term, int count,
                         const rc_loss_size *size)
{
    *k = (rc_losses){.count = count, .size = *size};
    for (int i = 0; i < count; i++) {
        k->term[i] = term[i];
        RC_TRY(rc_loss_kind_of(term[i].kind)->plan((void **)&k->body[i], plan, size));
    }
    if (count == 1) return RC_OK;
    k->da = rc_plan_take(plan, size->na * size->c);
    k->dt = rc_plan_take(plan, size->nt * size->c);
    return RC_OK;
}

static bool left_out(const rc_losses *k, int i, const rc_loss_in *in)
{
    return in->without_teacher && rc_loss_kind_of(k->term[i].kind)->teacher;
}

double rc_losses_forward(const rc_losses *k, const rc_run *run, const rc_loss_in *in)
{
    double sum = 0;
    for (int i = 0; i < k->count; i++)
        if (!left_out(k, i, in))
            sum += (double)k->term[i].weight *
                   rc_loss_kind_of(k->term[i].kind)->forward(k->body[i], run, in);
    return sum;
}

static void add(float *y, const float *x, int64_t n, float weight)
{
    for (int64_t i = 0; i < n; i++) y[i] += weight * x[i];
}

static void scale(float *y, int64_t n, float weight)
{
    for (int64_t i = 0; weight != 1 && i < n; i++) y[i] *= weight;
}

void rc_losses_backward(const rc_losses *k, const rc_run *run, const rc_loss_out *out,
                        const rc_loss_in *in)
{
    int64_t na = k->size.na * k->size.c, nt = k->size.nt * k->size.c;
    bool begun = false;
    for (int i = 0; i < k->count; i++) {
        if (left_out(k, i, in)) continue;
        float weight = k->term[i].weight, dscale = 0, dbias = 0;
        rc_loss_out one = {out->da, out->dt, &dscale, &dbias};
        if (begun) one.da = run->scratch + k->da;
        if (begun) one.dt = run->scratch + k->dt;
        rc_loss_kind_of(k->term[i].kind)->backward(k->body[i], run, &one, in);
        if (out->dscale != NULL) *out->dscale += weight * dscale;
        if (out->dbias != NULL) *out->dbias += weight * dbias;
        if (begun) {
            add(out->da, one.da, na, weight);
            add(out->dt, one.dt, nt, weight);
        } else {
            scale(out->da, na, weight);
            scale(out->dt, nt, weight);
        }
        begun = true;
    }
    if (begun) return;
    memset(out->da, 0, (size_t)na * sizeof(float));
    memset(out->dt, 0, (size_t)nt * sizeof(float));
}
