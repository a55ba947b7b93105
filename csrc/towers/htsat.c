/* The audio tower HTS-AT: its parameters and index tables, and the order of its layers.
 * Mathematics: LAION-AI/CLAP clap_module/htsat.py, class HTSAT_Swin_Transformer. */
#include "towers/htsat_inside.h"

#include "kernels/window.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Configuration --------------------------------------------------------------------------- */

enum { MOST_SIDE = 512 }; /* tokens a side: published towers have 64 */

static rc_status check_stage(const rc_htsat_config *c, int64_t i, int64_t side)
{
    int64_t width = c->embed << i;
    if (c->depths[i] < 1 || c->depths[i] > 64)
        return rc_fail(RC_EINVAL, "audio.depths[%d]: expected 1 to 64, got %lld", (int)i,
                       (long long)c->depths[i]);
    if (c->heads[i] < 1 || width % c->heads[i] != 0)
        return rc_fail(RC_EINVAL, "audio.heads[%d]: %lld does not divide the width %lld", (int)i,
                       (long long)c->heads[i], (long long)width);
    if (side < 1 || side % rc_min(side, c->window) != 0)
        return rc_fail(RC_EINVAL,
                       "audio.window: %lld does not divide the %lld tokens a side of stage %d",
                       (long long)c->window, (long long)side, (int)i);
    if (i + 1 < c->stages && side % 2 != 0)
        return rc_fail(RC_EINVAL, "audio.spec_size: stage %d has an odd side of %lld tokens",
                       (int)i, (long long)side);
    return RC_OK;
}

/* Hidden width of an MLP, rounded as transformers does. */
static int64_t hidden_of(const rc_htsat_config *c, int64_t width)
{
    return (int64_t)(c->mlp_ratio * (double)width);
}

static rc_status check_config(const rc_htsat_config *c)
{
    if (c->mels < 1 || c->mels > 1024 || c->spec_size < 1 || c->spec_size > 4096 ||
        c->spec_size % c->mels != 0)
        return rc_fail(RC_EINVAL, "audio: spec_size %lld must be a multiple of mels %lld",
                       (long long)c->spec_size, (long long)c->mels);
    if (c->patch < 1 || c->spec_size % c->patch != 0)
        return rc_fail(RC_EINVAL, "audio.patch: %lld does not divide spec_size %lld",
                       (long long)c->patch, (long long)c->spec_size);
    if (c->spec_size / c->patch > MOST_SIDE)
        return rc_fail(RC_EINVAL, "audio.patch: %lld makes %lld tokens a side, expected at most %d",
                       (long long)c->patch, (long long)(c->spec_size / c->patch), MOST_SIDE);
    RC_TRY(rc_check_range("audio: number of depths", c->stages, 1, RC_STAGES_MAX));
    if (c->stages_with_heads != c->stages)
        return rc_fail(RC_EINVAL, "audio: %lld depths but %lld heads", (long long)c->stages,
                       (long long)c->stages_with_heads);
    RC_TRY(rc_check_range("audio.embed", c->embed, 1, 4096));
    RC_TRY(rc_check_range("audio.window", c->window, 1, 64));
    if (!(c->mlp_ratio >= 1.0 / 16 && c->mlp_ratio <= 16) || hidden_of(c, c->embed) < 1)
        return rc_fail(RC_EINVAL,
                       "audio.mlp_ratio: expected 0.0625 to 16, and a hidden width of at least 1, "
                       "got %g with an embed of %lld",
                       c->mlp_ratio, (long long)c->embed);
    RC_TRY(rc_check_range("audio.activation", c->activation, 0, RC_ACTS - 1));
    if (!(c->drop_path >= 0 && c->drop_path < 1) || !(c->dropout >= 0 && c->dropout < 1))
        return rc_fail(RC_EINVAL, "audio: drop_path %g and dropout %g must lie in [0, 1)",
                       c->drop_path, c->dropout);
    if (c->time_stripes < 0 || c->time_stripes > 32 || c->freq_stripes < 0 ||
        c->freq_stripes > 32 || c->time_width < 0 || c->freq_width < 0)
        return rc_fail(RC_EINVAL,
                       "audio: expected 0 to 32 stripes, and widths that are not negative");
    if (!(c->bn_momentum >= 0 && c->bn_momentum <= 1))
        return rc_fail(RC_EINVAL, "audio.bn_momentum: expected 0 to 1, got %g", c->bn_momentum);
    RC_TRY(rc_check_eps("audio.eps", c->eps));
    RC_TRY(rc_check_eps("audio.block_eps", c->block_eps));
    if (c->fusion) RC_TRY(rc_fusion_check(c));
    for (int64_t i = 0, side = c->spec_size / c->patch; i < c->stages; i++, side /= 2)
        RC_TRY(check_stage(c, i, side));
    return RC_OK;
}

/* ---- Parameters, named as in LAION's state dict ---------------------------------------------- */

#define BRANCH "audio_branch."

static void declare_input(rc_htsat *t, rc_params *p)
{
    const rc_htsat_config *c = &t->config;
    t->bn = rc_declare_batch_norm(p, c->mels, BRANCH, "bn0");
    int64_t kernel[4] = {c->embed, 1, c->patch, c->patch};
    t->patch.w = rc_params_add(p, RC_WEIGHT, 4, kernel, BRANCH "patch_embed.proj.weight");
    rc_param_packs(p, t->patch.w, RC_PACK_F32);
    t->patch.b = rc_params_add(p, RC_BIAS, 1, &c->embed, BRANCH "patch_embed.proj.bias");
    if (c->patch_norm) t->patch_norm = rc_declare_norm(p, c->embed, BRANCH, "patch_embed.norm");
}

static void declare_block(rc_block *b, rc_params *p, bool qkv_bias, int64_t stage, int64_t block)
{
    char at[RC_NAME_MAX];
    snprintf(at, sizeof at, BRANCH "layers.%d.blocks.%d.", (int)stage, (int)block);
    rc_block_declare(b, p, at, qkv_bias);
}

static void declare_merge(rc_htsat_stage *stage, rc_params *p, int64_t i)
{
    char at[RC_NAME_MAX];
    snprintf(at, sizeof at, BRANCH "layers.%d.downsample.", (int)i);
    stage->merge_norm = rc_declare_norm(p, 4 * stage->c, at, "norm");
    stage->merge = rc_declare_linear(p, 2 * stage->c, 4 * stage->c, false, at, "reduction");
}

/* ---- Tables ---------------------------------------------------------------------------------- */

static rc_status new_table(int32_t **out, int64_t n)
{
    return rc_alloc((void **)out, n * (int64_t)sizeof **out);
}

/* to[i] = place in `before` order of what lies at place i of `order`; NULL stands for grid order.
 */
static void compose(int32_t *to, int32_t *place, const int32_t *before, const int32_t *order,
                    int64_t n)
{
    for (int64_t i = 0; i < n; i++) place[before == NULL ? i : before[i]] = (int32_t)i;
    for (int64_t i = 0; i < n; i++) to[i] = place[order == NULL ? i : order[i]];
}

/* Rows that patch merging puts side by side, grid order of the next stage: (even, even), (odd,
 * even), (even, odd), (odd, odd) for row and column. */
static void merge_order(int32_t *order, int64_t side)
{
    for (int64_t i = 0; i < side * side; i++) {
        int64_t cell = i / 4, k = i % 4, y = cell / (side / 2), x = cell % (side / 2);
        order[i] = (int32_t)((2 * y + k % 2) * side + 2 * x + k / 2);
    }
}

/* Everything in a stage that depends on its grid alone. */
static rc_status stage_tables(rc_htsat_stage *s, bool merges)
{
    int64_t n = s->tokens;
    RC_TRY(new_table(&s->order[0], n));
    RC_TRY(new_table(&s->order[1], n));
    rc_window_index(s->order[0], s->side, s->window, 0);
    rc_window_index(s->order[1], s->side, s->window, s->shift);
    int32_t *place;
    RC_TRY(new_table(&place, 2 * n));
    rc_status status = RC_OK;
    for (int i = 0; i < (merges ? 4 : 3) && status == RC_OK; i++)
        status = new_table(&s->from[i], n);
    if (status == RC_OK) {
        compose(s->from[0], place, NULL, s->order[0], n);
        compose(s->from[1], place, s->order[0], s->order[1], n);
        compose(s->from[2], place, s->order[1], s->order[0], n);
    }
    if (status == RC_OK && merges) {
        merge_order(place + n, s->side);
        compose(s->from[3], place, s->order[(s->depth - 1) % 2], place + n, n);
    }
    rc_free(place);
    return status;
}

/* The masks of shifted windows by their place on the grid. */
static rc_status mask_kinds(rc_htsat_stage *s)
{
    int64_t across = s->side / s->window;
    RC_TRY(new_table(&s->mask_of, across * across));
    for (int64_t w = 0; w < across * across; w++)
        s->mask_of[w] = (int32_t)rc_window_kind(w, across);
    return RC_OK;
}

/* A stage whose windows are shifted has windows of the configured side, so one table serves all. */
static rc_status mask_table(rc_htsat *t, int64_t window, int64_t shift)
{
    if (t->mask != NULL) return RC_OK;
    int64_t size = window * window * window * window;
    RC_TRY(rc_alloc((void **)&t->mask, (RC_WINDOW_KINDS - 1) * size * (int64_t)sizeof(float)));
    for (int64_t kind = 1; kind < RC_WINDOW_KINDS; kind++)
        rc_window_mask(t->mask + (kind - 1) * size, window, shift, kind);
    return RC_OK;
}

static rc_status open_stage(rc_htsat *t, rc_params *p, int64_t i, int64_t *block_of_all)
{
    const rc_htsat_config *c = &t->config;
    rc_htsat_stage *s = &t->stage[i];
    s->side = c->spec_size / c->patch >> i;
    s->tokens = s->side * s->side;
    s->c = c->embed << i;
    s->depth = c->depths[i];
    s->window = rc_min(c->window, s->side);
    s->shift = s->side > c->window ? c->window / 2 : 0;
    RC_TRY(stage_tables(s, i + 1 < c->stages));
    if (s->shift > 0) RC_TRY(mask_table(t, s->window, s->shift));
    if (s->shift > 0) RC_TRY(mask_kinds(s));
    s->block = calloc((size_t)s->depth, sizeof *s->block);
    if (s->block == NULL) return rc_fail(RC_ENOMEM, "out of memory: blocks of stage %d", (int)i);
    for (int64_t j = 0; j < s->depth; j++, ++*block_of_all) {
        double share = t->blocks > 1 ? (double)*block_of_all / (double)(t->blocks - 1) : 0;
        s->block[j] = (rc_block){.c = s->c,
                                 .heads = c->heads[i],
                                 .d = s->c / c->heads[i],
                                 .mlp = hidden_of(c, s->c),
                                 .window = s->window,
                                 .period = s->tokens,
                                 .from = s->from[j == 0  ? 0
                                                 : j % 2 ? 1
                                                         : 2],
                                 .mask = j % 2 && s->shift > 0 ? t->mask : NULL,
                                 .mask_of = s->mask_of,
                                 .eps = (float)c->block_eps,
                                 .scale = 1 / sqrtf((float)(s->c / c->heads[i])),
                                 .act = rc_act_of(c->activation),
                                 .drop_path = (float)(c->drop_path * share),
                                 .dropout = (float)c->dropout,
                                 .site = (uint64_t)(16 + 4 * *block_of_all)};
        declare_block(&s->block[j], p, c->qkv_bias, i, j);
    }
    if (i + 1 < c->stages) declare_merge(s, p, i);
    return RC_OK;
}

static rc_status open_tower(rc_htsat *t, rc_params *p)
{
    const rc_htsat_config *c = &t->config;
    for (int64_t i = 0; i < c->stages; i++) t->blocks += c->depths[i];
    declare_input(t, p);
    if (c->fusion) RC_TRY(rc_fusion_open(&t->fusion, c, p));
    int64_t block = 0;
    for (int64_t i = 0; i < c->stages; i++) RC_TRY(open_stage(t, p, i, &block));
    t->norm = rc_declare_norm(p, rc_htsat_width(t), BRANCH, "norm");
    RC_TRY(new_table(&t->patch_from, c->spec_size * c->spec_size));
    rc_patch_index(t->patch_from, c->spec_size, c->mels, c->patch, c->patch);
    return p->status;
}

static void free_tower(void *tower)
{
    rc_htsat *t = tower;
    if (t == NULL) return;
    for (int i = 0; i < RC_STAGES_MAX; i++) {
        rc_htsat_stage *s = &t->stage[i];
        for (int k = 0; k < 2; k++) rc_free(s->order[k]);
        for (int k = 0; k < 4; k++) rc_free(s->from[k]);
        rc_free(s->mask_of);
        free(s->block);
    }
    rc_free(t->patch_from);
    rc_free(t->mask);
    rc_fusion_close(&t->fusion);
    free(t);
}

static rc_status new_tower(void **out, rc_tower_shape *shape, const void *config, rc_params *p)
{
    const rc_htsat_config *c = config;
    *out = NULL;
    RC_TRY(check_config(c));
    rc_htsat *t = calloc(1, sizeof *t);
    if (t == NULL) return rc_fail(RC_ENOMEM, "out of memory: audio tower");
    t->config = *c;
    rc_status status = open_tower(t, p);
    if (status != RC_OK) {
        free_tower(t);
        return status;
    }
    *shape = (rc_tower_shape){.mels = c->mels,
                              .views = c->fusion ? RC_VIEWS : 1,
                              .channels = 1,
                              .least = 1,
                              .most = rc_htsat_frames(t),
                              .width = rc_htsat_width(t)};
    *out = t;
    return RC_OK;
}

int64_t rc_htsat_width(const rc_htsat *t)
{
    return t->config.embed << (t->config.stages - 1);
}

int64_t rc_htsat_frames(const rc_htsat *t)
{
    return t->config.spec_size * t->config.spec_size / t->config.mels;
}

/* ---- Its row --------------------------------------------------------------------------------- */

#define SETTING(kind, field) RC_SETTING(rc_htsat_config, kind, field)

static const rc_setting SETTINGS[] = {
    SETTING(INT, mels),
    SETTING(INT, spec_size),
    SETTING(INT, patch),
    SETTING(INT, embed),
    SETTING(INT, window),
    SETTING(DOUBLE, mlp_ratio),
    SETTING(INT, activation),
    RC_SETTING_OF(rc_htsat_config, depths, stages),
    RC_SETTING_OF(rc_htsat_config, heads, stages_with_heads),
    SETTING(BOOL, fusion),
    SETTING(INT, fusion_ratio),
    SETTING(BOOL, qkv_bias),
    SETTING(BOOL, patch_norm),
    SETTING(DOUBLE, drop_path),
    SETTING(DOUBLE, dropout),
    SETTING(INT, time_stripes),
    SETTING(INT, time_width),
    SETTING(INT, freq_stripes),
    SETTING(INT, freq_width),
    SETTING(DOUBLE, bn_momentum),
    SETTING(DOUBLE, eps),
    SETTING(DOUBLE, block_eps),
    {NULL, RC_SETTING_INT, 0, 0},
};

const rc_tower_kind rc_htsat_kind = {
    .name = "HTS-AT",
    .config_size = sizeof(rc_htsat_config),
    .settings = SETTINGS,
    .declare = new_tower,
    .free = free_tower,
    .measure = rc_measure_log_mels,
    .plan = rc_htsat_plan_make,
    .forward = rc_htsat_forward,
    .backward = rc_htsat_backward,
    .commit = rc_htsat_commit,
    .moments = rc_htsat_moments,
};
