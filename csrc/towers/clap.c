/* Both towers and their heads as one model. */
#include "towers/clap.h"

#include <stdlib.h>
#include <string.h>

/* ---- Model ----------------------------------------------------------------------------------- */

static rc_status check_heads(const rc_clap_config *c)
{
    if (c->dim < 1 || c->dim > 16384)
        return rc_fail(RC_EINVAL, "dim: expected 1 to 16384, got %lld", (long long)c->dim);
    for (int i = 0; i < 2; i++) {
        int kind = (int)(i == 0 ? c->audio_head : c->text_head);
        if (kind < RC_HEAD_NONE || kind > RC_HEAD_MS)
            return rc_fail(RC_EINVAL, "%s head: unknown kind %d", i == 0 ? "audio" : "text", kind);
    }
    if (c->text_width < 0 || c->text_width > 16384 ||
        (c->has_text && c->text_width != c->text.width))
        return rc_fail(RC_EINVAL, "text_width: %lld is out of range, or not the text tower's %lld",
                       (long long)c->text_width, (long long)c->text.width);
    return RC_OK;
}

static rc_status open_model(rc_clap *m)
{
    const rc_clap_config *c = &m->config;
    rc_params *p = &m->params;
    RC_TRY(check_heads(c));
    if (c->audio != NULL) {
        rc_audio_tower *t = &m->audio;
        t->kind = c->audio;
        RC_TRY(t->kind->declare(&t->tower, &t->shape, c->audio_config, p));
        rc_head_declare(&m->audio_head, p, c->audio_head, t->shape.width, c->dim,
                        "audio_projection");
    }
    if (c->has_text) RC_TRY(rc_text_new(&m->text, &c->text, p));
    if (c->text_width > 0)
        rc_head_declare(&m->text_head, p, c->text_head, c->text_width, c->dim, "text_projection");
    m->logit_scale = rc_params_add(p, RC_BIAS, 0, NULL, "logit_scale");
    RC_TRY(p->status);
    if ((c->audio != NULL && m->audio_head.out != c->dim) ||
        (c->text_width > 0 && m->text_head.out != c->dim))
        return rc_fail(RC_EINVAL, "dim %lld: a tower without a head has another width",
                       (long long)c->dim);
    return RC_OK;
}

rc_status rc_clap_new(rc_clap **out, const rc_clap_config *c)
{
    *out = NULL;
    rc_clap *m = calloc(1, sizeof *m);
    if (m == NULL) return rc_fail(RC_ENOMEM, "out of memory: model");
    m->config = *c;
    rc_status status = open_model(m);
    if (status != RC_OK) {
        rc_clap_free(m);
        return status;
    }
    m->config.audio_config = NULL; /* the caller's */
    *out = m;
    return RC_OK;
}

void rc_clap_free(rc_clap *m)
{
    if (m == NULL) return;
    if (m->audio.kind != NULL) m->audio.kind->free(m->audio.tower);
    rc_text_free(m->text);
    rc_params_free(&m->params);
    free(m);
}

/* ---- Who reads and who changes it ------------------------------------------------------------ */

static rc_status entered(rc_entry entry, const char *what, const char *busy)
{
    if (entry == RC_ENTRY_FREE) return RC_OK;
    if (entry == RC_ENTRY_TORN)
        return rc_fail(RC_EBUSY, "%s: the process was forked while this model was changed", what);
    return rc_fail(RC_EBUSY, "%s: busy, %s", what, busy);
}

rc_status rc_clap_claim(rc_clap *m, const char *what)
{
    return entered(rc_guard_write(&m->guard), what, "another thread works with this model");
}

void rc_clap_release(rc_clap *m)
{
    rc_guard_write_end(&m->guard);
}

/* Counting readers changes nothing that a reader sees. */
rc_status rc_clap_enter(const rc_clap *m)
{
    return entered(rc_guard_read((rc_guard *)&m->guard), "model",
                   "another thread changes its parameters");
}

void rc_clap_leave(const rc_clap *m)
{
    rc_guard_read_end((rc_guard *)&m->guard);
}

/* ---- Packing --------------------------------------------------------------------------------- */

/* Until all are packed, x keeps what those that are new would go back to. */
static void settle(rc_clap *m, int64_t from, int64_t to, rc_status status)
{
    for (int64_t i = from; i < to; i++) {
        rc_param *p = &m->params.item[i];
        if (p->packed == NULL || p->x == NULL) continue;
        if (status == RC_OK)
            p->x = NULL;
        else
            rc_param_unpack(p);
    }
}

rc_status rc_clap_pack(rc_clap *m, int64_t from, int64_t to, rc_type type)
{
    rc_dnn *dnn;
    if (m->params.item[0].dx != NULL)
        return rc_fail(RC_EINVAL, "pack: this model is in training, its weights will change");
    RC_TRY(rc_dnn_new(&dnn, 1));
    rc_status status = RC_OK;
    for (int64_t i = from; i < to && status == RC_OK; i++) {
        status = rc_param_pack(&m->params.item[i], dnn, type);
        if (status == RC_OK && i + 1 < to) status = rc_dnn_check(dnn);
    }
    settle(m, from, to, status);
    rc_dnn_free(dnn);
    return status;
}

static rc_status read_param(float *out, const rc_clap *m, int64_t i)
{
    rc_dnn *dnn;
    RC_TRY(rc_dnn_new(&dnn, 1));
    rc_status status = rc_param_read(out, dnn, &m->params.item[i]);
    rc_dnn_free(dnn);
    return status;
}

rc_status rc_clap_read(float *out, const rc_clap *m, int64_t i)
{
    RC_TRY(rc_clap_enter(m));
    rc_status status = read_param(out, m, i);
    rc_clap_leave(m);
    return status;
}

/* ---- Embedding ------------------------------------------------------------------------------- */

/* Room for features (n, h->in) and the head's rows. */
static rc_status take_head(rc_context *c, rc_head_tape *k, float **features, const rc_head *h,
                           int64_t n)
{
    rc_arena counting = {0};
    rc_take(&counting, n * h->in);
    rc_head_tape_take(k, &counting, h, n);
    RC_TRY(rc_arena_reserve(&c->heads, counting.peak));
    *features = rc_take(&c->heads, n * h->in);
    rc_head_tape_take(k, &c->heads, h, n);
    return RC_OK;
}

static rc_status project(const rc_clap *m, rc_context *c, float *y, const rc_head *h,
                         const rc_head_tape *k, const float *x, int64_t n)
{
    RC_TRY(rc_head_forward(h, &m->params, c->dnn, k, x, n));
    memcpy(y, k->y, (size_t)(n * h->out) * sizeof *y);
    return rc_dnn_check(c->dnn);
}

rc_status rc_check_batch(const char *name, int64_t n)
{
    if (n <= RC_BATCH_MAX) return RC_OK;
    return rc_fail(RC_EINVAL, "%s: expected at most %d in one call, got %lld", name, RC_BATCH_MAX,
                   (long long)n);
}

rc_status rc_clap_audio(const rc_clap *m, rc_context *c, float *y, const rc_log_mels *in,
                        bool features)
{
    rc_head_tape k;
    float *x;
    const rc_audio_tower *t = &m->audio;
    const rc_audio_shape *shape = &t->shape;
    if (t->kind == NULL) return rc_fail(RC_EINVAL, "this model has no audio tower");
    if (in->frames < shape->least || in->frames > shape->most)
        return rc_fail(RC_EINVAL, "mel: %lld frames, this audio tower takes %lld to %lld",
                       (long long)in->frames, (long long)shape->least, (long long)shape->most);
    RC_TRY(rc_check_batch("clips", in->b));
    if ((shape->views > 1) != (in->longer != NULL))
        return rc_fail(RC_EINVAL,
                       shape->views > 1
                           ? "longer: this audio tower has fusion and needs a flag a clip"
                           : "longer: this audio tower has no fusion");
    RC_TRY(take_head(c, &k, &x, &m->audio_head, in->b));
    RC_TRY(t->kind->forward(t->tower, &m->params, c, features ? y : x, in, NULL, (rc_draw){0}));
    return features ? rc_dnn_check(c->dnn) : project(m, c, y, &m->audio_head, &k, x, in->b);
}

rc_status rc_clap_text(const rc_clap *m, rc_context *c, float *y, const int32_t *id,
                       const int32_t *first, int64_t n, bool features)
{
    rc_head_tape k;
    float *x;
    if (m->text == NULL) return rc_fail(RC_EINVAL, "this model has no text tower");
    RC_TRY(rc_check_batch("texts", n));
    RC_TRY(take_head(c, &k, &x, &m->text_head, n));
    RC_TRY(rc_text_forward(m->text, &m->params, c, features ? y : x, id, first, n));
    return features ? rc_dnn_check(c->dnn) : project(m, c, y, &m->text_head, &k, x, n);
}

rc_status rc_clap_text_head(const rc_clap *m, rc_context *c, float *y, const float *x, int64_t n)
{
    rc_head_tape k;
    float *unused;
    if (m->config.text_width < 1) return rc_fail(RC_EINVAL, "this model has no text head");
    RC_TRY(take_head(c, &k, &unused, &m->text_head, n));
    return project(m, c, y, &m->text_head, &k, x, n);
}
