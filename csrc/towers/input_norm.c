/* The batch norm at the input of audio towers. Threads share the bands, so that each sum has one
 * owner and takes the clips in order: pieces of a batch add up to the very moments of the whole. */
#include "towers/input_norm.h"

#include <string.h>

enum { BANDS = 16 }; /* a cache line */

void rc_input_norm_plan(rc_input_norm *k, rc_plan *plan, const rc_params *p, rc_batch_norm norm,
                        int64_t views, float eps)
{
    int64_t mels = p->item[norm.mean].count;
    *k = (rc_input_norm){.p = p, .norm = norm, .views = views, .mels = mels, .eps = eps};
    k->mean = rc_plan_take(plan, mels);
    k->var = rc_plan_take(plan, mels);
    k->rows = rc_plan_take(plan, 2);
    k->moments = rc_plan_take(plan, 4 * mels);
}

static double *doubles_at(const rc_run *run, int64_t offset)
{
    return (double *)(run->scratch + offset);
}

/* Log-mels of a clip that are heard. */
static int64_t heard(const rc_input *in, int64_t clip, int64_t views)
{
    return in->longer == NULL || in->longer[clip] ? views : 1;
}

/* ---- Statistics ------------------------------------------------------------------------------ */

typedef struct {
    rc_moments *m;
    const rc_input *in;
    int64_t views, mels;
} moments_job;

static void add_clip(const moments_job *job, rc_moments *all, int64_t clip, int64_t from, int64_t c)
{
    double mean[BANDS], square[BANDS];
    rc_moments one = {0, mean, square};
    int64_t size = job->in->frames * job->mels, some = heard(job->in, clip, job->views);
    int64_t times = job->views / some;
    for (int64_t i = 0; i < some; i++) {
        rc_moments_of(&one, job->in->x + (clip * job->views + i) * size + from, job->in->frames,
                      job->mels, c);
        one.n *= times;
        for (int64_t j = 0; j < c; j++) square[j] *= (double)times;
        rc_moments_merge(all, &one, c);
    }
}

static void moments_of_bands(void *arg, int64_t index, int worker)
{
    (void)worker;
    const moments_job *job = arg;
    int64_t from = index * BANDS;
    rc_moments all = {job->m->n, job->m->mean + from, job->m->square + from};
    for (int64_t i = 0; i < job->in->b; i++)
        add_clip(job, &all, i, from, rc_min(BANDS, job->mels - from));
}

void rc_input_moments(rc_pool *pool, rc_moments *m, const rc_input *in, int64_t views, int64_t mels)
{
    moments_job job = {.m = m, .in = in, .views = views, .mels = mels};
    rc_parallel(pool, (mels + BANDS - 1) / BANDS, moments_of_bands, &job);
    m->n += in->b * views * in->frames;
}

void rc_input_norm_stats(const rc_input_norm *k, const rc_run *run, const rc_input *in)
{
    double *at = doubles_at(run, k->moments);
    rc_moments own = {0, at, at + k->mels};
    const rc_moments *m = in->whole;
    float *mean = run->scratch + k->mean, *var = run->scratch + k->var;
    *doubles_at(run, k->rows) = 0;
    if (rc_batch_norm_frozen(k->p, k->norm, mean, var)) return;
    if (m == NULL) {
        memset(at, 0, (size_t)(2 * k->mels) * sizeof *at);
        rc_input_moments(run->pool, &own, in, k->views, k->mels);
        m = &own;
    }
    *doubles_at(run, k->rows) = (double)m->n;
    rc_moments_stats(mean, var, m, k->mels);
}

void rc_input_norm_commit(const rc_input_norm *k, const rc_run *run, double momentum)
{
    rc_batch_norm_mix(k->p, k->norm, rc_input_norm_mean(k, run), rc_input_norm_var(k, run),
                      *doubles_at(run, k->rows), momentum);
}

/* ---- Backward -------------------------------------------------------------------------------- */

typedef struct {
    const rc_input_norm *k;
    const rc_run *run;
    const float *dy;
    const rc_input *in;
} sums_job;

static void sums_of_bands(void *arg, int64_t index, int worker)
{
    (void)worker;
    const sums_job *job = arg;
    const rc_input_norm *k = job->k;
    int64_t from = index * BANDS, c = rc_min(BANDS, k->mels - from);
    int64_t frames = job->in->frames, size = frames * k->mels;
    double sum[BANDS] = {0}, dot[BANDS] = {0};
    float *dw = k->p->item[k->norm.scale.w].dx, *db = k->p->item[k->norm.scale.b].dx;
    for (int64_t clip = 0; clip < job->in->b; clip++)
        for (int64_t i = 0; i < heard(job->in, clip, k->views); i++) {
            int64_t at = (clip * k->views + i) * size + from;
            rc_batchnorm_sums(sum, dot, job->dy + at, job->in->x + at,
                              rc_input_norm_mean(k, job->run) + from,
                              rc_input_norm_var(k, job->run) + from, frames, k->mels, c, k->eps);
        }
    for (int64_t j = 0; j < c; j++) {
        if (dw != NULL) dw[from + j] += (float)dot[j];
        if (db != NULL) db[from + j] += (float)sum[j];
    }
}

void rc_input_norm_backward(const rc_input_norm *k, const rc_run *run, const float *dy,
                            const rc_input *in)
{
    sums_job job = {k, run, dy, in};
    rc_parallel(run->pool, (k->mels + BANDS - 1) / BANDS, sums_of_bands, &job);
}
