/* The text tower's configuration and parameters. */
#include "towers/text_inside.h"

#include "kernels/act.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static int64_t head_width(const rc_text_config *c)
{
    return c->head_width > 0 ? c->head_width : c->width / c->heads;
}

/* Width of all heads together. */
static int64_t inner_width(const rc_text_config *c)
{
    return c->heads * head_width(c);
}

/* Most tokens of a text. */
static int64_t longest(const rc_text_config *c)
{
    int64_t most = c->positions - (c->position == RC_POSITION_LEARNED ? c->position_offset : 0);
    return c->pool == RC_POOL_MEAN_PADDED ? rc_min(most, c->pad_to) : most;
}

/* ---- Checks ---------------------------------------------------------------------------------- */

static rc_status check_sizes(const rc_text_config *c)
{
    const struct {
        const char *name;
        int64_t value, least, most;
    } sizes[] = {
        {"text.vocab", c->vocab, 1, 1 << 24}, {"text.positions", c->positions, 1, 1 << 20},
        {"text.types", c->types, 0, 1 << 20}, {"text.width", c->width, 1, 16384},
        {"text.layers", c->layers, 1, 256},   {"text.heads", c->heads, 1, 16384},
        {"text.mlp", c->mlp, 1, 1 << 20},     {"text.head_width", c->head_width, 0, 16384},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        RC_TRY(rc_check_range(sizes[i].name, sizes[i].value, sizes[i].least, sizes[i].most));
    if (c->head_width == 0 && c->width % c->heads != 0)
        return rc_fail(RC_EINVAL, "text.heads: %lld does not divide the width %lld",
                       (long long)c->heads, (long long)c->width);
    if (!(c->dropout >= 0 && c->dropout < 1))
        return rc_fail(RC_EINVAL, "text.dropout: %g must lie in [0, 1)", c->dropout);
    RC_TRY(rc_check_range("text: heads x head_width", inner_width(c), 1, 1 << 16));
    return rc_check_eps("text.eps", c->eps);
}

static rc_status check_kind(const char *name, int64_t kind, int64_t last)
{
    if (kind >= 0 && kind <= last) return RC_OK;
    return rc_fail(RC_EINVAL, "text.%s: unknown kind %lld", name, (long long)kind);
}

static rc_status check_kinds(const rc_text_config *c)
{
    const int64_t flags[] = {c->gated,  c->causal,     c->biases,
                             c->scaled, c->embed_norm, c->final_norm};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        if (flags[i] != 0 && flags[i] != 1)
            return rc_fail(RC_EINVAL, "text: a switch is %lld, expected 0 or 1",
                           (long long)flags[i]);
    RC_TRY(check_kind("norm", c->norm, RC_NORM_RMS));
    RC_TRY(check_kind("place", c->place, RC_PLACE_PRE));
    RC_TRY(check_kind("position", c->position, RC_POSITION_NONE));
    RC_TRY(check_kind("activation", c->activation, RC_ACTS - 1));
    return check_kind("pool", c->pool, RC_POOL_NONZERO);
}

static rc_status check_positions(const rc_text_config *c)
{
    int64_t offset = c->position == RC_POSITION_LEARNED ? c->position_offset : 0;
    if (offset < 0 || offset >= c->positions)
        return rc_fail(RC_EINVAL, "text.position_offset: expected 0 to %lld, got %lld",
                       (long long)c->positions - 1, (long long)offset);
    if (c->position == RC_POSITION_BUCKETS &&
        (c->buckets < 4 || c->buckets > 1 << 16 || c->buckets % 4 != 0 ||
         c->max_distance <= c->buckets / 4 || c->max_distance > 1 << 20))
        return rc_fail(RC_EINVAL, "text.buckets: %lld buckets to a distance of %lld do not fit",
                       (long long)c->buckets, (long long)c->max_distance);
    if (c->pool == RC_POOL_MEAN_PADDED && (c->pad_to < 1 || c->pad_to > c->positions - offset ||
                                           c->pad_id < 0 || c->pad_id >= c->vocab))
        return rc_fail(RC_EINVAL, "text.pad_to: %lld tokens of id %lld do not fit the tables",
                       (long long)c->pad_to, (long long)c->pad_id);
    return RC_OK;
}

static rc_status check_config(const rc_text_config *c)
{
    RC_TRY(check_sizes(c));
    RC_TRY(check_kinds(c));
    return check_positions(c);
}

/* ---- Parameters ------------------------------------------------------------------------------ */

#define BRANCH "text_branch."

static rc_pair declare_norm(rc_params *p, const rc_text_config *c, const char *at, const char *name)
{
    bool rms = c->norm == RC_NORM_RMS;
    return (rms ? rc_declare_rms_norm : rc_declare_norm)(p, c->width, at, name);
}

static int64_t declare_table(rc_params *p, int64_t rows, int64_t width, const char *name)
{
    return rc_params_add(p, RC_WEIGHT, 2, (int64_t[]){rows, width}, BRANCH "%s.weight", name);
}

static void declare_tables(rc_text *t, rc_params *p)
{
    const rc_text_config *c = &t->config;
    t->position = t->type = t->buckets = -1;
    t->token = declare_table(p, c->vocab, c->width, "token");
    if (c->position == RC_POSITION_LEARNED)
        t->position = declare_table(p, c->positions, c->width, "position");
    if (c->types > 0) t->type = declare_table(p, c->types, c->width, "type");
    if (c->position == RC_POSITION_BUCKETS)
        t->buckets = rc_params_add(p, RC_BIAS, 2, (int64_t[]){c->buckets, c->heads},
                                   BRANCH "relative_position_bias_table");
    if (c->embed_norm) t->norm = declare_norm(p, c, BRANCH, "norm");
}

static void declare_layer(rc_block *l, rc_params *p, const rc_text_config *c, int64_t i)
{
    char at[RC_NAME_MAX];
    int64_t inner = inner_width(c);
    *l = (rc_block){.c = c->width,
                    .heads = c->heads,
                    .d = head_width(c),
                    .mlp = c->mlp,
                    .post = c->place == RC_PLACE_POST,
                    .gated = c->gated,
                    .padded = c->pool == RC_POOL_MEAN_PADDED,
                    .eps = (float)c->eps,
                    .scale = c->scaled ? 1 / sqrtf((float)head_width(c)) : 1,
                    .act = rc_act_of(c->activation),
                    .dropout = (float)c->dropout,
                    .site = RC_TEXT_SITE + 16 + 4 * (uint64_t)i};
    snprintf(at, sizeof at, BRANCH "layers.%d.", (int)i);
    l->qkv = rc_declare_linear(p, 3 * inner, c->width, c->biases, at, "attn.qkv");
    if (l->padded) rc_param_cut(p, l->qkv.w, inner); /* padding only asks */
    l->proj = rc_declare_linear(p, c->width, inner, c->biases, at, "attn.proj");
    l->norm1 = declare_norm(p, c, at, "norm1");
    l->fc1 = rc_declare_linear(p, c->mlp, c->width, c->biases, at, "mlp.fc1");
    if (c->gated) l->gate = rc_declare_linear(p, c->mlp, c->width, c->biases, at, "mlp.gate");
    l->fc2 = rc_declare_linear(p, c->width, c->mlp, c->biases, at, "mlp.fc2");
    l->norm2 = declare_norm(p, c, at, "norm2");
}

static void free_tower(void *tower)
{
    rc_text *t = tower;
    if (t == NULL) return;
    free(t->layer);
    free(t);
}

static rc_status new_tower(void **out, rc_tower_shape *shape, const void *config, rc_params *p)
{
    const rc_text_config *c = config;
    *out = NULL;
    RC_TRY(check_config(c));
    rc_text *t = calloc(1, sizeof *t);
    if (t != NULL) t->layer = calloc((size_t)c->layers, sizeof *t->layer);
    if (t == NULL || t->layer == NULL) {
        free_tower(t);
        return rc_fail(RC_ENOMEM, "out of memory: text tower");
    }
    t->config = *c;
    t->from = p->count;
    declare_tables(t, p);
    for (int64_t i = 0; i < c->layers; i++) declare_layer(&t->layer[i], p, c, i);
    if (c->final_norm) t->final = declare_norm(p, c, BRANCH, "final_norm");
    if (c->pool == RC_POOL_POOLER) {
        t->pooler = rc_declare_linear(p, c->width, c->width, true, BRANCH, "pooler");
        rc_param_packs(p, t->pooler.w, RC_PACK_F32);
    }
    *shape = (rc_tower_shape){.least = 1, .most = longest(c), .width = c->width};
    *out = t;
    return RC_OK;
}

/* ---- Its row --------------------------------------------------------------------------------- */

#define SETTING(kind, field) RC_SETTING(rc_text_config, kind, field)

static const rc_setting SETTINGS[] = {
    SETTING(INT, vocab),
    SETTING(INT, positions),
    SETTING(INT, types),
    SETTING(INT, width),
    SETTING(INT, layers),
    SETTING(INT, heads),
    SETTING(INT, mlp),
    SETTING(DOUBLE, eps),
    SETTING(INT, head_width),
    SETTING(INT, norm),
    SETTING(INT, place),
    SETTING(INT, position),
    SETTING(INT, position_offset),
    SETTING(INT, buckets),
    SETTING(INT, max_distance),
    SETTING(INT, activation),
    SETTING(INT, gated),
    SETTING(INT, causal),
    SETTING(INT, biases),
    SETTING(INT, scaled),
    SETTING(INT, embed_norm),
    SETTING(INT, final_norm),
    SETTING(INT, pool),
    SETTING(INT, pad_to),
    SETTING(INT, pad_id),
    SETTING(DOUBLE, dropout),
    {NULL, RC_SETTING_INT, 0, 0},
};

const rc_tower_kind rc_text_kind = {
    .name = "text",
    .config_size = sizeof(rc_text_config),
    .settings = SETTINGS,
    .declare = new_tower,
    .free = free_tower,
    .measure = rc_text_measure,
    .plan = rc_text_plan_make,
    .forward = rc_text_forward,
    .backward = rc_text_backward,
};
