/* The audio tower at work: input path, stages, pooling, and the way back. */
#include "htsat.h"

#include <stdlib.h>
#include <string.h>

enum { SITE_STRIPES = 1 }; /* blocks draw from site 16 on */

/* What patch merging keeps: the four rows side by side and their statistics. */
typedef struct {
    float *x, *mean, *rstd;
} merge_tape;

struct rc_htsat_tape {
    rc_arena arena;
    const float *mel; /* the caller's, must live until backward */
    int64_t b, frames;
    rc_draw draw;
    float *bn_mean, *bn_var;           /* of this batch */
    float *pixels;                     /* (b tokens, patch^2) */
    float *embed, *mean, *rstd;        /* (b tokens, embed) before the patch norm */
    rc_swin_tape *block;               /* all blocks in order */
    merge_tape merge[RC_STAGES_MAX];
    float *last, *last_mean, *last_rstd; /* input of the final norm */
};

rc_status rc_htsat_tape_new(rc_htsat_tape **out, const rc_htsat *t)
{
    rc_htsat_tape *tape = *out = calloc(1, sizeof *tape);
    if (tape != NULL) tape->block = calloc((size_t)t->blocks, sizeof *tape->block);
    if (tape != NULL && tape->block != NULL) return RC_OK;
    rc_htsat_tape_free(tape);
    *out = NULL;
    return rc_fail(RC_ENOMEM, "out of memory: tape of the audio tower");
}

void rc_htsat_tape_free(rc_htsat_tape *tape)
{
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
    k->embed = rc_take(arena, rows * c->embed);
    k->mean = rc_take(arena, rows);
    k->rstd = rc_take(arena, rows);
    for (int64_t i = 0; i < c->stages; i++) {
        const rc_htsat_stage *s = &t->stage[i];
        for (int64_t j = 0; j < s->depth; j++, block++)
            rc_swin_tape_take(&k->block[block], arena, &s->block[j], b * s->tokens);
        k->merge[i].x = rc_take(arena, b * s->tokens * s->c);
        k->merge[i].mean = rc_take(arena, b * s->tokens / 4);
        k->merge[i].rstd = rc_take(arena, b * s->tokens / 4);
    }
    rows = b * t->stage[c->stages - 1].tokens;
    k->last = rc_take(arena, rows * rc_htsat_width(t));
    k->last_mean = rc_take(arena, rows);
    k->last_rstd = rc_take(arena, rows);
}

/* ---- One call -------------------------------------------------------------------------------- */

typedef struct {
    const rc_htsat *t;
    const rc_params *p;
    rc_dnn *dnn;
    rc_arena *arena;
    rc_htsat_tape *tape;
    const float *mel;
    int64_t b, frames;
    const float *bn_mean, *bn_var;
    rc_draw draw;
    rc_linear linear;    /* of the step under way */
    float *scratch;      /* per worker */
    int64_t scratch_size;
    /* the step under way: merging, input or pooling */
    const rc_htsat_stage *stage;
    const merge_tape *merge;
    const float *x;
    float *y, *dx;
    const float *dy;
    float *da;
    int64_t total, rows;
} tower_job;

static const float *value(const tower_job *job, int64_t index) { return job->p->item[index].x; }

static float *worker_scratch(const tower_job *job, int worker)
{
    return job->scratch + worker * job->scratch_size;
}

static void take_scratch(tower_job *job, int64_t floats)
{
    job->scratch_size = (floats + 15) / 16 * 16;
    job->scratch = rc_take(job->arena, rc_dnn_threads(job->dnn) * job->scratch_size);
}

/* ---- Input path ------------------------------------------------------------------------------ */

/* SpecAugment (Park et al. 2019) as torchlibrosa's SpecAugmentation: stripes filled with 0 after bn0. */
static void drop_stripes(const tower_job *job, float *x, int64_t clip)
{
    const rc_htsat_config *c = &job->t->config;
    rc_draw at = job->draw;
    at.site = SITE_STRIPES;
    for (int64_t k = 0; k < c->time_stripes + c->freq_stripes; k++) {
        bool time = k < c->time_stripes;
        int64_t length = time ? job->frames : c->mels;
        int64_t most = rc_min(time ? c->time_width : c->freq_width, length);
        uint64_t index = (uint64_t)(clip * 256 + 2 * k);
        int64_t width = (int64_t)(rc_uniform(at, index) * (float)most);
        int64_t start = (int64_t)(rc_uniform(at, index + 1) * (float)(length - width));
        for (int64_t i = time ? start : 0; i < (time ? start + width : job->frames); i++)
            memset(x + i * c->mels + (time ? 0 : start), 0,
                   (size_t)(time ? c->mels : width) * sizeof *x);
    }
}

/* Decibels of one clip to patch embeddings in grid order. */
static void input_clip(void *arg, int64_t clip, int worker)
{
    const tower_job *job = arg;
    const rc_htsat *t = job->t;
    const rc_htsat_config *c = &t->config;
    int64_t n = t->stage[0].tokens, area = c->patch * c->patch, e = c->embed, row = clip * n;
    float *normed = worker_scratch(job, worker), *wide = normed + job->frames * c->mels;
    float *pixels = wide + rc_htsat_frames(t) * c->mels, *y = job->y + row * e, *out = y;
    float *mean = NULL, *rstd = NULL;
    if (job->tape != NULL) {
        pixels = job->tape->pixels + row * area;
        out = job->tape->embed + row * e;
        mean = job->tape->mean + row;
        rstd = job->tape->rstd + row;
    }
    rc_batchnorm_forward(normed, job->mel + clip * job->frames * c->mels, job->bn_mean, job->bn_var,
                         value(job, t->bn.w), value(job, t->bn.b), job->frames, c->mels,
                         (float)c->eps);
    if (job->tape != NULL) drop_stripes(job, normed, clip);
    rc_stretch_forward(wide, normed, job->frames, rc_htsat_frames(t), c->mels);
    rc_gather_rows(pixels, wide, t->patch_from, n * area, 1);
    rc_linear_run(&job->linear, worker, out, pixels, n);
    rc_layernorm_forward(y, mean, rstd, out, value(job, t->patch_norm.w), value(job, t->patch_norm.b),
                         n, e, (float)c->eps);
}

/* Batch statistics, also mixed into the running ones (unbiased variance, as torch.nn.BatchNorm2d). */
static void batch_statistics(tower_job *job)
{
    const rc_htsat *t = job->t;
    rc_htsat_tape *k = job->tape;
    int64_t n = job->b * job->frames, c = t->config.mels;
    float *mean = job->p->item[t->bn_mean].x, *var = job->p->item[t->bn_var].x;
    float momentum = (float)t->config.bn_momentum, unbiased = n > 1 ? (float)n / (float)(n - 1) : 1;
    rc_batchnorm_stats(k->bn_mean, k->bn_var, job->mel, n, c);
    for (int64_t j = 0; j < c; j++) {
        mean[j] += momentum * (k->bn_mean[j] - mean[j]);
        var[j] += momentum * (k->bn_var[j] * unbiased - var[j]);
    }
}

static rc_status input_forward(tower_job *job, float *y)
{
    const rc_htsat *t = job->t;
    int64_t used = job->arena->used, n = t->stage[0].tokens;
    take_scratch(job, (job->frames + 2 * rc_htsat_frames(t)) * t->config.mels);
    if (job->arena->base != NULL) {
        RC_TRY(rc_linear_get(&job->linear, job->dnn, job->p, t->patch, n, n, false));
        if (job->tape != NULL) batch_statistics(job);
        job->bn_mean = job->tape != NULL ? job->tape->bn_mean : value(job, t->bn_mean);
        job->bn_var = job->tape != NULL ? job->tape->bn_var : value(job, t->bn_var);
        job->y = y;
        rc_parallel(rc_dnn_threads(job->dnn), job->b, input_clip, job);
    }
    job->arena->used = used;
    return RC_OK;
}

/* From the gradient of the patch norm's output to the gradient of bn0's output, clip by clip. */
static void input_clip_backward(void *arg, int64_t clip, int worker)
{
    const tower_job *job = arg;
    const rc_htsat *t = job->t;
    const rc_htsat_tape *k = job->tape;
    const rc_htsat_config *c = &t->config;
    int64_t n = t->stage[0].tokens, area = c->patch * c->patch, e = c->embed, row = clip * n;
    float *pixels = worker_scratch(job, worker), *wide = pixels + n * area;
    float *dnormed = job->dx + clip * job->frames * c->mels;
    rc_layernorm_backward(job->da + row * e, job->dy + row * e, k->embed + row * e, k->mean + row,
                          k->rstd + row, value(job, t->patch_norm.w), n, e);
    rc_linear_backward_run(&job->linear, worker, pixels, job->da + row * e, n);
    rc_scatter_rows(wide, pixels, t->patch_from, n * area, 1);
    rc_stretch_backward(dnormed, wide, job->frames, rc_htsat_frames(t), c->mels);
    drop_stripes(job, dnormed, clip);
}

static rc_status input_backward(tower_job *job, const float *dy)
{
    const rc_htsat *t = job->t;
    const rc_htsat_tape *k = job->tape;
    const rc_htsat_config *c = &t->config;
    int64_t n = t->stage[0].tokens, rows = job->b * n, used = job->arena->used;
    take_scratch(job, n * c->patch * c->patch + rc_htsat_frames(t) * c->mels);
    job->da = rc_take(job->arena, rows * c->embed);
    job->dx = rc_take(job->arena, job->b * job->frames * c->mels);
    if (job->arena->base != NULL) {
        job->dy = dy;
        RC_TRY(rc_linear_backward_get(&job->linear, job->dnn, job->p, t->patch, n, n));
        rc_parallel(rc_dnn_threads(job->dnn), job->b, input_clip_backward, job);
        RC_TRY(rc_linear_backward_weight(job->dnn, job->p, t->patch, job->da, k->pixels, rows));
        rc_norm_backward_weight(rc_dnn_threads(job->dnn), job->p, t->patch_norm, dy, k->embed, k->mean,
                                k->rstd, rows);
        rc_batchnorm_backward(NULL, job->p->item[t->bn.w].dx, job->p->item[t->bn.b].dx, job->dx,
                              job->mel, k->bn_mean, k->bn_var, value(job, t->bn.w),
                              job->b * job->frames, c->mels, (float)c->eps, true);
    }
    job->arena->used = used;
    return RC_OK;
}

/* ---- Patch merging --------------------------------------------------------------------------- */

/* Four neighbours side by side; rows may cross from one clip into the next. */
static void gather_four(const tower_job *job, float *y, int64_t first, int64_t rows)
{
    const rc_htsat_stage *s = job->stage;
    for (int64_t i = 0; i < rows; i++) {
        int64_t row = 4 * (first + i), place = row % s->tokens;
        rc_gather_rows(y + i * 4 * s->c, job->x + (row - place) * s->c, s->from[3] + place, 4, s->c);
    }
}

static void merge_chunk(void *arg, int64_t index, int worker)
{
    const tower_job *job = arg;
    const rc_htsat_stage *s = job->stage;
    int64_t wide = 4 * s->c, first = index * job->rows, rows = rc_min(job->rows, job->total - first);
    float *a = worker_scratch(job, worker), *x = a, *mean = NULL, *rstd = NULL;
    if (job->tape != NULL) {
        x = job->merge->x + first * wide;
        mean = job->merge->mean + first;
        rstd = job->merge->rstd + first;
    }
    gather_four(job, x, first, rows);
    rc_layernorm_forward(a, mean, rstd, x, value(job, s->merge_norm.w), value(job, s->merge_norm.b),
                         rows, wide, (float)job->t->config.eps);
    rc_linear_run(&job->linear, worker, job->y + first * 2 * s->c, a, rows);
}

static void merge_rows(tower_job *job, int64_t stage)
{
    job->stage = &job->t->stage[stage];
    job->total = job->b * job->stage->tokens / 4;
    job->rows = rc_chunk_rows(job->total, 16);
}

static rc_status merge_forward(tower_job *job, int64_t stage, float *y, const float *x)
{
    int64_t used = job->arena->used;
    merge_rows(job, stage);
    take_scratch(job, job->rows * 4 * job->stage->c);
    if (job->arena->base != NULL) {
        job->merge = job->tape == NULL ? NULL : &job->tape->merge[stage];
        job->x = x;
        job->y = y;
        RC_TRY(rc_linear_get(&job->linear, job->dnn, job->p, job->stage->merge, job->total, job->rows,
                             false));
        rc_parallel(rc_dnn_threads(job->dnn), (job->total + job->rows - 1) / job->rows, merge_chunk, job);
    }
    job->arena->used = used;
    return RC_OK;
}

static void merge_chunk_backward(void *arg, int64_t index, int worker)
{
    const tower_job *job = arg;
    const rc_htsat_stage *s = job->stage;
    const merge_tape *k = job->merge;
    int64_t wide = 4 * s->c, first = index * job->rows, rows = rc_min(job->rows, job->total - first);
    float *dx = worker_scratch(job, worker), *a = job->y + first * wide, *da = job->da + first * wide;
    rc_layernorm_forward(a, NULL, NULL, k->x + first * wide, value(job, s->merge_norm.w),
                         value(job, s->merge_norm.b), rows, wide, (float)job->t->config.eps);
    rc_linear_backward_run(&job->linear, worker, da, job->dy + first * 2 * s->c, rows);
    rc_layernorm_backward(dx, da, k->x + first * wide, k->mean + first, k->rstd + first,
                          value(job, s->merge_norm.w), rows, wide);
    for (int64_t i = 0; i < rows; i++) {
        int64_t row = 4 * (first + i), place = row % s->tokens;
        rc_scatter_rows(job->dx + (row - place) * s->c, dx + i * wide, s->from[3] + place, 4, s->c);
    }
}

static rc_status merge_backward(tower_job *job, int64_t stage, float *dx, const float *dy)
{
    int64_t used = job->arena->used;
    merge_rows(job, stage);
    const rc_htsat_stage *s = job->stage;
    take_scratch(job, job->rows * 4 * s->c);
    job->y = rc_take(job->arena, job->total * 4 * s->c);
    job->da = rc_take(job->arena, job->total * 4 * s->c);
    if (job->arena->base != NULL) {
        const merge_tape *k = job->merge = &job->tape->merge[stage];
        job->dx = dx;
        job->dy = dy;
        RC_TRY(rc_linear_backward_get(&job->linear, job->dnn, job->p, s->merge, job->total, job->rows));
        rc_parallel(rc_dnn_threads(job->dnn), (job->total + job->rows - 1) / job->rows,
                    merge_chunk_backward, job);
        RC_TRY(rc_linear_backward_weight(job->dnn, job->p, s->merge, dy, job->y, job->total));
        rc_norm_backward_weight(rc_dnn_threads(job->dnn), job->p, s->merge_norm, job->da, k->x, k->mean,
                                k->rstd, job->total);
    }
    job->arena->used = used;
    return RC_OK;
}

/* ---- Pooling --------------------------------------------------------------------------------- */

static void pool_clip(void *arg, int64_t clip, int worker)
{
    const tower_job *job = arg;
    const rc_htsat *t = job->t;
    int64_t c = rc_htsat_width(t), n = t->stage[t->config.stages - 1].tokens, row = clip * n;
    float *a = worker_scratch(job, worker);
    rc_layernorm_forward(a, job->tape ? job->tape->last_mean + row : NULL,
                         job->tape ? job->tape->last_rstd + row : NULL, job->x + row * c,
                         value(job, t->norm.w), value(job, t->norm.b), n, c, (float)t->config.eps);
    rc_meanpool_forward(job->y + clip * c, a, n, c);
}

static void pool_clip_backward(void *arg, int64_t clip, int worker)
{
    (void)worker;
    const tower_job *job = arg;
    const rc_htsat *t = job->t;
    const rc_htsat_tape *k = job->tape;
    int64_t c = rc_htsat_width(t), n = t->stage[t->config.stages - 1].tokens, row = clip * n;
    rc_meanpool_backward(job->da + row * c, job->dy + clip * c, n, c);
    rc_layernorm_backward(job->dx + row * c, job->da + row * c, k->last + row * c, k->last_mean + row,
                          k->last_rstd + row, value(job, t->norm.w), n, c);
}

static void pool_forward(tower_job *job, float *y, const float *x)
{
    const rc_htsat *t = job->t;
    int64_t used = job->arena->used, n = t->stage[t->config.stages - 1].tokens;
    take_scratch(job, n * rc_htsat_width(t));
    job->x = x;
    job->y = y;
    if (job->arena->base != NULL) rc_parallel(rc_dnn_threads(job->dnn), job->b, pool_clip, job);
    job->arena->used = used;
}

static void pool_backward(tower_job *job, float *dx, const float *dy)
{
    const rc_htsat *t = job->t;
    const rc_htsat_tape *k = job->tape;
    int64_t used = job->arena->used, rows = job->b * t->stage[t->config.stages - 1].tokens;
    job->da = rc_take(job->arena, rows * rc_htsat_width(t));
    job->dx = dx;
    job->dy = dy;
    if (job->arena->base != NULL) {
        rc_parallel(rc_dnn_threads(job->dnn), job->b, pool_clip_backward, job);
        rc_norm_backward_weight(rc_dnn_threads(job->dnn), job->p, t->norm, job->da, k->last,
                                k->last_mean, k->last_rstd, rows);
    }
    job->arena->used = used;
}

/* ---- The whole tower ------------------------------------------------------------------------- */

/* Two stream buffers that take turns; while counting both are NULL. */
static rc_status pass_forward(tower_job *job, float *y)
{
    const rc_htsat *t = job->t;
    int64_t size = job->b * t->stage[0].tokens * t->config.embed, block = 0;
    float *now = rc_take(job->arena, size), *next = rc_take(job->arena, size), *swap;
    RC_TRY(input_forward(job, now));
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

static rc_status pass_backward(tower_job *job, const float *dy)
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
    return input_backward(job, now);
}

rc_status rc_htsat_forward(const rc_htsat *t, const rc_params *p, rc_context *c, float *y,
                           const float *mel, int64_t b, int64_t frames, rc_htsat_tape *tape,
                           rc_draw draw)
{
    rc_arena counting = {0};
    tower_job job = {.t = t, .p = p, .dnn = c->dnn, .arena = &counting, .tape = tape, .mel = mel,
                     .b = b, .frames = frames, .draw = draw};
    if (tape != NULL) {
        tape->mel = mel;
        tape->b = b;
        tape->frames = frames;
        tape->draw = draw;
        rc_arena real = tape->arena;
        tape->arena = (rc_arena){0};
        tape_take(tape, t, b);
        int64_t bytes = tape->arena.peak;
        tape->arena = real;
        RC_TRY(rc_arena_reserve(&tape->arena, bytes));
        tape_take(tape, t, b);
    }
    RC_TRY(pass_forward(&job, y));
    RC_TRY(rc_arena_reserve(&c->shared, counting.peak));
    job.arena = &c->shared;
    return pass_forward(&job, y);
}

rc_status rc_htsat_backward(const rc_htsat *t, const rc_params *p, rc_context *c, const float *dy,
                            rc_htsat_tape *tape)
{
    rc_arena counting = {0};
    tower_job job = {.t = t, .p = p, .dnn = c->dnn, .arena = &counting, .tape = tape, .mel = tape->mel,
                     .b = tape->b, .frames = tape->frames, .draw = tape->draw};
    RC_TRY(pass_backward(&job, dy));
    RC_TRY(rc_arena_reserve(&c->shared, counting.peak));
    job.arena = &c->shared;
    return pass_backward(&job, dy);
}
