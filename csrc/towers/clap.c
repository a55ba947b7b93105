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
    return rc_check_range("text_width", c->text_width, 0, 16384);
}

static rc_status open_tower(rc_tower *t, const rc_tower_kind *kind, const void *config,
                            rc_params *p)
{
    t->kind = kind;
    t->from = p->count;
    if (kind != NULL) RC_TRY(kind->declare(&t->tower, &t->shape, config, p));
    t->to = p->count;
    return RC_OK;
}

static rc_status open_model(rc_clap *m)
{
    const rc_clap_config *c = &m->config;
    rc_params *p = &m->params;
    RC_TRY(check_heads(c));
    RC_TRY(open_tower(&m->audio, c->audio, c->audio_config, p));
    if (c->audio != NULL)
        rc_head_declare(&m->audio_head, p, c->audio_head, m->audio.shape.width, c->dim,
                        "audio_projection");
    RC_TRY(open_tower(&m->text, c->text, c->text_config, p));
    if (c->text != NULL && c->text_width != m->text.shape.width)
        return rc_fail(RC_EINVAL, "text_width: %lld is not the text tower's %lld",
                       (long long)c->text_width, (long long)m->text.shape.width);
    if (c->text_width > 0)
        rc_head_declare(&m->text_head, p, c->text_head, c->text_width, c->dim, "text_projection");
    m->logit_scale = rc_params_add(p, RC_BIAS, 0, NULL, "logit_scale");
    m->logit_bias = c->logit_bias ? rc_params_add(p, RC_BIAS, 0, NULL, "logit_bias") : -1;
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
    m->config.audio_config = m->config.text_config = NULL; /* the caller's */
    rc_params_moved(&m->params);
    *out = m;
    return RC_OK;
}

void rc_clap_free(rc_clap *m)
{
    if (m == NULL) return;
    if (m->audio.kind != NULL) m->audio.kind->free(m->audio.tower);
    if (m->text.kind != NULL) m->text.kind->free(m->text.tower);
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

rc_status rc_clap_adapt(rc_clap *m, int64_t i, int64_t rank, double alpha)
{
    RC_TRY(rc_check_range("adapter: place", i, 0, m->params.count - 1));
    if (m->params.item[i].x != NULL || m->params.item[i].packed != NULL)
        return rc_fail(RC_EINVAL, "adapter: this model has its parameters already");
    return rc_params_adapt(&m->params, i, rank, alpha);
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
    rc_params_moved(&m->params);
}

rc_status rc_clap_pack(rc_clap *m, int64_t from, int64_t to, rc_type type)
{
    rc_dnn *dnn;
    if (m->training)
        return rc_fail(RC_EINVAL, "pack: this model is in training, its weights will change");
    for (int64_t i = 0; i < m->params.count; i++)
        if (m->params.item[i].adapter != 0)
            return rc_fail(RC_EINVAL, "pack: this model has adapters, which are merged first");
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

/* A tower and its head, or a head alone. */
typedef struct {
    const void *tower;
    rc_head_plan head;
    int64_t features;
} call_plan;

typedef struct {
    const rc_clap *m;
    const rc_tower *tower; /* NULL: none */
    const rc_head *head;
    rc_input_size size;
} call;

static rc_status make_plan(void **body, rc_plan *plan, const rc_plan_key *key, const void *arg)
{
    (void)key;
    const call *job = arg;
    const rc_tower *t = job->tower;
    const rc_params *p = &job->m->params;
    RC_TRY(rc_plan_alloc(plan, body, sizeof(call_plan)));
    call_plan *k = *body;
    k->features = rc_plan_take(plan, job->size.b * job->head->in);
    RC_TRY(rc_head_plan_make(&k->head, plan, job->head, p, job->size.b, false));
    return t == NULL ? RC_OK
                     : t->kind->plan((void **)&k->tower, plan, t->tower, p, &job->size, false);
}

static rc_status get_plan(const call_plan **k, rc_context *c, const call *job, int64_t what)
{
    const rc_input_size *s = &job->size;
    rc_plan_key key = {job->m->params.layout, what, s->b, s->rows, s->longest, {0}};
    return rc_context_plan(c, (const void **)k, &key, make_plan, job);
}

static void project(const call_plan *k, const rc_run *run, float *y, const float *x)
{
    const float *unit = rc_head_forward(&k->head, run, x);
    memcpy(y, unit, (size_t)(k->head.grid.total * k->head.h->out) * sizeof *y);
}

rc_status rc_check_batch(const char *name, int64_t n)
{
    if (n <= RC_BATCH_MAX) return RC_OK;
    return rc_fail(RC_EINVAL, "%s: expected at most %d in one call, got %lld", name, RC_BATCH_MAX,
                   (long long)n);
}

/* What is wanted of a tower, and unit rows y of its features; what is not wanted is NULL. */
static rc_status embed(call *job, rc_context *c, int64_t what, rc_features wanted, float *y,
                       const rc_input *in)
{
    const rc_tower *t = job->tower;
    const call_plan *k;
    RC_TRY(t->kind->measure(&job->size, &t->shape, t->tower, in));
    RC_TRY(get_plan(&k, c, job, what));
    rc_run run = rc_context_run(c, (rc_draw){0});
    if (wanted.y == NULL) wanted.y = run.scratch + k->features;
    t->kind->forward(k->tower, &run, &wanted, in);
    if (y != NULL) project(k, &run, y, wanted.y);
    return rc_dnn_check(c->dnn);
}

static rc_status embed_or_features(call *job, rc_context *c, int64_t what, float *y,
                                   const rc_input *in, bool features)
{
    rc_features wanted = {.y = features ? y : NULL};
    return embed(job, c, what, wanted, features ? NULL : y, in);
}

rc_status rc_clap_audio(const rc_clap *m, rc_context *c, float *y, const rc_input *in,
                        bool features)
{
    call job = {.m = m, .tower = &m->audio, .head = &m->audio_head};
    if (m->audio.kind == NULL) return rc_fail(RC_EINVAL, "this model has no audio tower");
    RC_TRY(rc_check_batch("clips", in->b));
    return embed_or_features(&job, c, RC_CALL_AUDIO, y, in, features);
}

rc_status rc_clap_text(const rc_clap *m, rc_context *c, float *y, const rc_input *in, bool features)
{
    call job = {.m = m, .tower = &m->text, .head = &m->text_head};
    if (m->text.kind == NULL) return rc_fail(RC_EINVAL, "this model has no text tower");
    RC_TRY(rc_check_batch("texts", in->b));
    return embed_or_features(&job, c, RC_CALL_TEXT, y, in, features);
}

int64_t rc_clap_count_tokens(const rc_clap *m, int64_t frames)
{
    const rc_tower *t = &m->audio;
    return t->kind == NULL || t->kind->tokens == NULL ? 0 : t->kind->tokens(t->tower, frames);
}

rc_status rc_clap_tokens(const rc_clap *m, rc_context *c, float *y, const rc_input *in)
{
    call job = {.m = m, .tower = &m->audio, .head = &m->audio_head};
    if (m->audio.kind == NULL || m->audio.kind->tokens == NULL)
        return rc_fail(RC_EINVAL, "this model's audio tower has no features of tokens");
    RC_TRY(rc_check_batch("clips", in->b));
    return embed(&job, c, RC_CALL_AUDIO, (rc_features){.tokens = y}, NULL, in);
}

rc_status rc_clap_text_head(const rc_clap *m, rc_context *c, float *y, const float *x, int64_t n)
{
    call job = {.m = m, .head = &m->text_head, .size = {.b = n}};
    const call_plan *k;
    if (m->config.text_width < 1) return rc_fail(RC_EINVAL, "this model has no text head");
    RC_TRY(get_plan(&k, c, &job, RC_CALL_TEXT_HEAD));
    rc_run run = rc_context_run(c, (rc_draw){0});
    project(k, &run, y, x);
    return rc_dnn_check(c->dnn);
}
