/* The audio tower at work: tape, patch merging, pooling, and the order of it all, both ways. */
#include "towers/htsat_call.h"

#include "kernels/embed.h"
#include "kernels/norm.h"
#include "kernels/window.h"

#include <stdlib.h>
#include <string.h>

rc_status rc_htsat_new_tape(void **out, const void *tower)
{
    const rc_htsat *t = tower;
    rc_htsat_tape *tape = *out = calloc(1, sizeof *tape);
    if (tape != NULL) tape->block = calloc((size_t)t->blocks, sizeof *tape->block);
    if (tape != NULL && tape->block != NULL) return RC_OK;
    rc_htsat_free_tape(tape);
    *out = NULL;
    return rc_fail(RC_ENOMEM, "out of memory: tape of the audio tower");
}

void rc_htsat_free_tape(void *kept)
{
    rc_htsat_tape *tape = kept;
    if (tape == NULL) return;
    rc_arena_free(&tape->arena);
    free(tape->block);
    free(tape);
}

/* Room for everything backward needs; with a counting arena only its size is learnt. */
static void tape_take(rc_htsat_tape *k, const rc_htsat *t, int64_t b)
{
    rc_arena *arena = &k->arena;
    const rc_htsat_config *c = &t->config;
    int64_t rows = b * t->stage[0].tokens, block = 0;
    k->bn_mean = rc_take(arena, c->mels);
    k->bn_var = rc_take(arena, c->mels);
    k->pixels = rc_take(arena, rows * c->patch * c->patch);
    if (c->patch_norm) {
        k->embed = rc_take(arena, rows * c->embed);
        k->mean = rc_take(arena, rows);
        k->rstd = rc_take(arena, rows);
    }
    for (int64_t i = 0; i < c->stages; i++) {
        const rc_htsat_stage *s = &t->stage[i];
        for (int64_t j = 0; j < s->depth; j++, block++)
            rc_swin_tape_take(&k->block[block], arena, &s->block[j], b * s->tokens);
        if (i + 1 == c->stages) break; /* merges into nothing */
        k->merge[i].x = rc_take(arena, b * s->tokens * s->c);
        k->merge[i].mean = rc_take(arena, b * s->tokens / 4);
        k->merge[i].rstd = rc_take(arena, b * s->tokens / 4);
    }
    rows = b * t->stage[c->stages - 1].tokens;
    k->last = rc_take(arena, rows * rc_htsat_width(t));
    k->last_mean = rc_take(arena, rows);
    k->last_rstd = rc_take(arena, rows);
}

/* ---- Patch merging --------------------------------------------------------------------------- */

/* Four neighbours side by side; rows may cross from one clip into the next. */
static void gather_four(const rc_htsat_call *job, float *y, int64_t first, int64_t rows)
{
    const rc_htsat_stage *s = job->stage;
    for (int64_t i = 0; i < rows; i++) {
        int64_t row = 4 * (first + i), place = row % s->tokens;
        rc_gather_rows(y + i * 4 * s->c, job->x + (row - place) * s->c, s->from[3] + place, 4,
                       s->c);
    }
}

static void merge_chunk(void *arg, int64_t first, int64_t rows, rc_crew crew)
{
    const rc_htsat_call *job = arg;
    const rc_htsat_stage *s = job->stage;
    int64_t wide = 4 * s->c;
    float *a = rc_call_scratch(job, crew.worker), *x = a, *mean = NULL, *rstd = NULL;
    if (job->tape != NULL) {
        x = job->merge->x + first * wide;
        mean = job->merge->mean + first;
        rstd = job->merge->rstd + first;
    }
    gather_four(job, x, first, rows);
    rc_layernorm_forward(a, mean, rstd, x, rc_call_value(job, s->merge_norm.w),
                         rc_call_value(job, s->merge_norm.b), rows, wide,
                         (float)job->t->config.eps);
    rc_linear_run(&job->linear, crew, job->y + first * 2 * s->c, rc_floats(a), rows);
}

static void merge_rows(rc_htsat_call *job, int64_t stage)
{
    job->stage = &job->t->stage[stage];
    int64_t total = job->b * job->stage->tokens / 4, rows = rc_chunk_rows(total, 16);
    job->grid = job->tape == NULL ? rc_linear_grid(job->p, job->stage->merge, total, rows)
                                  : rc_grid_rows(total, rows);
}

static rc_status merge_forward(rc_htsat_call *job, int64_t stage, float *y, const float *x)
{
    int64_t used = job->arena->used;
    merge_rows(job, stage);
    rc_call_take(job, job->grid.rows * 4 * job->stage->c);
    if (job->arena->base != NULL) {
        job->merge = job->tape == NULL ? NULL : &job->tape->merge[stage];
        job->x = x;
        job->y = y;
        RC_TRY(rc_linear_get(&job->linear, job->dnn, job->p, job->stage->merge, &job->grid, false));
        rc_grid_run(&job->grid, rc_dnn_pool(job->dnn), merge_chunk, job);
    }
    job->arena->used = used;
    return RC_OK;
}

static void merge_chunk_backward(void *arg, int64_t first, int64_t rows, rc_crew crew)
{
    const rc_htsat_call *job = arg;
    const rc_htsat_stage *s = job->stage;
    const rc_merge_tape *k = job->merge;
    int64_t wide = 4 * s->c;
    float *dx = rc_call_scratch(job, crew.worker), *a = job->y + first * wide,
          *da = job->da + first * wide;
    rc_layernorm_forward(a, NULL, NULL, k->x + first * wide, rc_call_value(job, s->merge_norm.w),
                         rc_call_value(job, s->merge_norm.b), rows, wide,
                         (float)job->t->config.eps);
    rc_linear_backward_run(&job->linear, crew.worker, da, job->dy + first * 2 * s->c, rows);
    rc_layernorm_backward(dx, da, k->x + first * wide, k->mean + first, k->rstd + first,
                          rc_call_value(job, s->merge_norm.w), rows, wide);
    for (int64_t i = 0; i < rows; i++) {
        int64_t row = 4 * (first + i), place = row % s->tokens;
        rc_scatter_rows(job->dx + (row - place) * s->c, dx + i * wide, s->from[3] + place, 4, s->c);
    }
}

static rc_status merge_backward(rc_htsat_call *job, int64_t stage, float *dx, const float *dy)
{
    int64_t used = job->arena->used;
    merge_rows(job, stage);
    const rc_htsat_stage *s = job->stage;
    rc_call_take(job, job->grid.rows * 4 * s->c);
    job->y = rc_take(job->arena, job->grid.total * 4 * s->c);
    job->da = rc_take(job->arena, job->grid.total * 4 * s->c);
    if (job->arena->base != NULL) {
        const rc_merge_tape *k = job->merge = &job->tape->merge[stage];
        job->dx = dx;
        job->dy = dy;
        RC_TRY(rc_linear_backward_get(&job->linear, job->dnn, job->p, s->merge, &job->grid));
        rc_grid_run(&job->grid, rc_dnn_pool(job->dnn), merge_chunk_backward, job);
        RC_TRY(rc_linear_backward_weight(job->dnn, job->p, s->merge, dy, job->y, job->grid.total));
        rc_norm_backward_weight(rc_dnn_pool(job->dnn), job->p, s->merge_norm, job->da, k->x,
                                k->mean, k->rstd, job->grid.total);
    }
    job->arena->used = used;
    return RC_OK;
}

/* ---- Pooling --------------------------------------------------------------------------------- */

static void pool_clip(void *arg, int64_t clip, int worker)
{
    const rc_htsat_call *job = arg;
    const rc_htsat *t = job->t;
    int64_t c = rc_htsat_width(t), n = t->stage[t->config.stages - 1].tokens, row = clip * n;
    float *a = rc_call_scratch(job, worker);
    rc_layernorm_forward(a, job->tape ? job->tape->last_mean + row : NULL,
                         job->tape ? job->tape->last_rstd + row : NULL, job->x + row * c,
                         rc_call_value(job, t->norm.w), rc_call_value(job, t->norm.b), n, c,
                         (float)t->config.eps);
    rc_meanpool_forward(job->y + clip * c, a, n, c);
}

static void pool_clip_backward(void *arg, int64_t clip, int worker)
{
    (void)worker;
    const rc_htsat_call *job = arg;
    const rc_htsat *t = job->t;
    const rc_htsat_tape *k = job->tape;
    int64_t c = rc_htsat_width(t), n = t->stage[t->config.stages - 1].tokens, row = clip * n;
    rc_meanpool_backward(job->da + row * c, job->dy + clip * c, n, c);
    rc_layernorm_backward(job->dx + row * c, job->da + row * c, k->last + row * c,
                          k->last_mean + row, k->last_rstd + row, rc_call_value(job, t->norm.w), n,
                          c);
}

static void pool_forward(rc_htsat_call *job, float *y, const float *x)
{
    const rc_htsat *t = job->t;
    int64_t used = job->arena->used, n = t->stage[t->config.stages - 1].tokens;
    rc_call_take(job, n * rc_htsat_width(t));
    job->x = x;
    job->y = y;
    if (job->arena->base != NULL) rc_parallel(rc_dnn_pool(job->dnn), job->b, pool_clip, job);
    job->arena->used = used;
}

static void pool_backward(rc_htsat_call *job, float *dx, const float *dy)
{
    const rc_htsat *t = job->t;
    const rc_htsat_tape *k = job->tape;
    int64_t used = job->arena->used, rows = job->b * t->stage[t->config.stages - 1].tokens;
    job->da = rc_take(job->arena, rows * rc_htsat_width(t));
    job->dx = dx;
    job->dy = dy;
    if (job->arena->base != NULL) {
        rc_parallel(rc_dnn_pool(job->dnn), job->b, pool_clip_backward, job);
        rc_norm_backward_weight(rc_dnn_pool(job->dnn), job->p, t->norm, job->da, k->last,
                                k->last_mean, k->last_rstd, rows);
    }
    job->arena->used = used;
}

/* ---- The whole tower ------------------------------------------------------------------------- */

/* Two stream buffers that take turns; while counting both are NULL. */
static rc_status pass_forward(rc_htsat_call *job, float *y)
{
    const rc_htsat *t = job->t;
    int64_t size = job->b * t->stage[0].tokens * t->config.embed, block = 0;
    float *now = rc_take(job->arena, size), *next = rc_take(job->arena, size), *swap;
    RC_TRY(rc_htsat_input_forward(job, now));
    for (int64_t i = 0; i < t->config.stages; i++) {
        for (int64_t j = 0; j < t->stage[i].depth; j++, block++) {
            int64_t used = job->arena->used;
            rc_swin_tape *k = job->tape == NULL ? NULL : &job->tape->block[block];
            RC_TRY(rc_swin_forward(&t->stage[i].block[j], job->p, job->dnn, next, now, job->b, k,
                                   job->draw, job->arena));
            job->arena->used = used;
            swap = now, now = next, next = swap;
        }
        if (i + 1 == t->config.stages) break;
        RC_TRY(merge_forward(job, i, next, now));
        swap = now, now = next, next = swap;
    }
    if (job->tape != NULL && job->arena->base != NULL) {
        int64_t rows = job->b * t->stage[t->config.stages - 1].tokens;
        memcpy(job->tape->last, now, (size_t)(rows * rc_htsat_width(t)) * sizeof(float));
    }
    pool_forward(job, y, now);
    return RC_OK;
}

static rc_status pass_backward(rc_htsat_call *job, const float *dy)
{
    const rc_htsat *t = job->t;
    int64_t size = job->b * t->stage[0].tokens * t->config.embed, block = t->blocks;
    float *now = rc_take(job->arena, size), *next = rc_take(job->arena, size), *swap;
    pool_backward(job, now, dy);
    for (int64_t i = t->config.stages - 1; i >= 0; i--) {
        if (i + 1 < t->config.stages) {
            RC_TRY(merge_backward(job, i, next, now));
            swap = now, now = next, next = swap;
        }
        for (int64_t j = t->stage[i].depth - 1; j >= 0; j--) {
            int64_t used = job->arena->used;
            RC_TRY(rc_swin_backward(&t->stage[i].block[j], job->p, job->dnn, next, now, job->b,
                                    &job->tape->block[--block], job->draw, job->arena));
            job->arena->used = used;
            swap = now, now = next, next = swap;
        }
    }
    return rc_htsat_input_backward(job, now);
}

rc_status rc_htsat_forward(const void *tower, const rc_params *p, rc_context *c, float *y,
                           const rc_log_mels *in, void *kept, rc_draw draw)
{
    const rc_htsat *t = tower;
    rc_htsat_tape *tape = kept;
    rc_arena counting = {0};
    rc_htsat_call job = {.t = t,
                         .p = p,
                         .dnn = c->dnn,
                         .arena = &counting,
                         .tape = tape,
                         .mel = in->x,
                         .longer = in->longer,
                         .b = in->b,
                         .frames = in->frames,
                         .draw = draw};
    if (tape != NULL) {
        tape->mel = in->x;
        tape->b = in->b;
        tape->frames = in->frames;
        tape->draw = draw;
        rc_arena real = tape->arena;
        tape->arena = (rc_arena){0};
        tape_take(tape, t, in->b);
        int64_t bytes = tape->arena.peak;
        tape->arena = real;
        RC_TRY(rc_arena_reserve(&tape->arena, bytes));
        tape_take(tape, t, in->b);
    }
    RC_TRY(pass_forward(&job, y));
    RC_TRY(rc_arena_reserve(&c->shared, counting.peak));
    job.arena = &c->shared;
    return pass_forward(&job, y);
}

rc_status rc_htsat_backward(const void *tower, const rc_params *p, rc_context *c, const float *dy,
                            void *kept)
{
    const rc_htsat *t = tower;
    rc_htsat_tape *tape = kept;
    rc_arena counting = {0};
    rc_htsat_call job = {.t = t,
                         .p = p,
                         .dnn = c->dnn,
                         .arena = &counting,
                         .tape = tape,
                         .mel = tape->mel,
                         .b = tape->b,
                         .frames = tape->frames,
                         .draw = tape->draw};
    RC_TRY(pass_backward(&job, dy));
    RC_TRY(rc_arena_reserve(&c->shared, counting.peak));
    job.arena = &c->shared;
    return pass_backward(&job, dy);
}
