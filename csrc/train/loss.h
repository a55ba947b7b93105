/* loss: what a loss is for all who use one; a new one is a row of a table in loss.c.
 *
 * Every loss takes one rc_loss_in and gives one rc_loss_out, plans its products and scratch in the
 * plan of a step, and never holds all logits. A trainer sums several, each with a weight:
 *
 *     rc_losses_plan(&k->losses, plan, terms, count, &size)     in the plan of its step
 *     rc_losses_check(terms, count, &size, &in)                 before the step
 *     rc_losses_forward, then rc_losses_backward                with the same input
 */
#ifndef RC_LOSS_H
#define RC_LOSS_H

#include "layers/plan.h"

/* Who sees a text, and whether it is a positive of the clip that it belongs to. */
enum {
    RC_ROLE_SHARED,   /* a positive, seen by all clips */
    RC_ROLE_OWN,      /* a positive, seen by its own clip only */
    RC_ROLE_NEGATIVE, /* a hard negative, seen by its own clip only */
    RC_ROLES
};

/* Clips, texts, width of their embeddings, and of a teacher's; 0 without a teacher. */
typedef struct {
    int64_t na, nt, c, teacher;
} rc_loss_size;

/* a (na, c), t (nt, c) have unit rows. owner (nt) is the clip of each text, NULL: text i belongs to
 * clip i; role (nt), NULL: all are RC_ROLE_SHARED. Logits are exp(log_scale) cosine, and bias where
 * a loss has one. Of a teacher: unit rows (na, teacher), (nt, teacher), and its own scale. */
typedef struct {
    int64_t na, nt;
    const float *a, *t;
    const int32_t *owner, *role;
    float log_scale, bias;
    const float *teacher_a, *teacher_t;
    float teacher_log_scale;
    bool without_teacher; /* leave out the terms that need one */
} rc_loss_in;

/* da (na, c), dt (nt, c) are overwritten; dscale, of log_scale, and dbias are added to, or NULL. */
typedef struct {
    float *da, *dt, *dscale, *dbias;
} rc_loss_out;

typedef struct {
    const char *name;
    bool teacher, bias; /* whether it reads them */
    rc_status (*plan)(void **body, rc_plan *plan, const rc_loss_size *size);
    /* The loss; keeps in scratch what backward needs. */
    double (*forward)(const void *body, const rc_run *run, const rc_loss_in *in);
    void (*backward)(const void *body, const rc_run *run, const rc_loss_out *out,
                     const rc_loss_in *in);
} rc_loss_kind;

enum {
    RC_LOSS_CONTRASTIVE, /* softmax over texts and over clips */
    RC_LOSS_SIGMOID,     /* each pair by itself */
    RC_LOSS_DISTILLATION /* the softmax of a teacher's logits */
};

/* NULL for an unknown one. */
const rc_loss_kind *rc_loss_kind_of(int64_t kind);

/* ---- A weighted sum of losses ---------------------------------------------------------------- */

enum { RC_LOSSES_MAX = 4 };

typedef struct {
    int64_t kind;
    float weight;
} rc_loss_term;

typedef struct {
    int count;
    rc_loss_size size;
    rc_loss_term term[RC_LOSSES_MAX];
    const void *body[RC_LOSSES_MAX];
    int64_t da, dt; /* gradients of a term that is not the first, in scratch */
} rc_losses;

/* RC_EINVAL for an input that does not fit: no clips, owners out of range, a clip without a
 * positive text, a teacher that is missing. */
rc_status rc_losses_check(const rc_loss_term *term, int count, const rc_loss_size *size,
                          const rc_loss_in *in);

/* 1 to RC_LOSSES_MAX terms; na and nt of at least 1. */
rc_status rc_losses_plan(rc_losses *k, rc_plan *plan, const rc_loss_term *term, int count,
                         const rc_loss_size *size);
double rc_losses_forward(const rc_losses *k, const rc_run *run, const rc_loss_in *in);
void rc_losses_backward(const rc_losses *k, const rc_run *run, const rc_loss_out *out,
                        const rc_loss_in *in);

#endif
