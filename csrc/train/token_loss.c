/* Contrastive loss by late interaction.
 *
 * A tile holds the cosines of all tokens of some clips with all tokens of some texts: rows and
 * columns of rc_pair_tiles are tokens. In the gradient a tile is nearly empty: each token passes on
 * to the one that it found. */
#include "train/token_loss.h"

#include "layers/params.h"
#include "train/loss_inside.h"

#include <math.h>

typedef struct {
    rc_token_size size;
    rc_pair_tiles tiles;
    int64_t clips, texts;       /* of a whole tile */
    int64_t of_clip, of_text;   /* (n) log-sum-exp of its logits */
    int64_t own_clip, own_text; /* (n) similarity of the pair, either way */
    int64_t best, sum; /* (row_blocks, n) of each text over some clips, as in rc_pair_sums */
    rc_shares found;   /* for each worker, tokens found by those of a clip, of a text */
} token_loss;

rc_status rc_token_loss_check(const rc_token_in *in)
{
    const rc_token_size *s = &in->size;
    RC_TRY(rc_check_range("pairs", s->n, 1, 1 << 20));
    RC_TRY(rc_check_range("tokens of a clip", s->clip_tokens, 1, 1 << 16));
    RC_TRY(rc_check_range("tokens of a text", s->text_tokens, 1, 1 << 16));
    for (int64_t i = 0; i < s->n; i++) {
        RC_TRY(rc_check_range("count_a", in->count_a[i], 1, s->clip_tokens));
        RC_TRY(rc_check_range("count_t", in->count_t[i], 1, s->text_tokens));
    }
    return RC_OK;
}

rc_status rc_token_loss_plan(void **body, rc_plan *plan, const rc_token_size *size)
{
    RC_TRY(rc_plan_alloc(plan, body, sizeof(token_loss)));
    token_loss *k = *body;
    int64_t n = size->n;
    k->size = *size;
    k->clips = rc_min(n, rc_max(1, RC_PAIR_TILE / size->clip_tokens));
    k->texts = rc_min(n, rc_max(1, RC_PAIR_TILE / size->text_tokens));
    rc_loss_size tokens = {n * size->clip_tokens, n * size->text_tokens, size->c, 0};
    RC_TRY(rc_pair_tiles_plan(&k->tiles, plan, &tokens, k->clips * size->clip_tokens,
                              k->texts * size->text_tokens, true));
    k->of_clip = rc_plan_take(plan, n);
    k->of_text = rc_plan_take(plan, n);
    k->own_clip = rc_plan_take(plan, n);
    k->own_text = rc_plan_take(plan, n);
    k->best = rc_plan_take(plan, k->tiles.row_blocks * n);
    k->sum = rc_plan_take(plan, 2 * k->tiles.row_blocks * n);
    k->found = rc_plan_shares(plan, rc_plan_threads(plan), size->clip_tokens + size->text_tokens);
    return RC_OK;
}

/* All tokens as rows. */
static rc_loss_in rows_of(const token_loss *k, const rc_token_in *in)
{
    rc_loss_in rows = {.na = k->tiles.na, .nt = k->tiles.nt, .a = in->a, .t = in->t};
    rows.log_scale = in->log_scale;
    return rows;
}

/* ---- One clip and one text ------------------------------------------------------------------- */

/* Cosines of their tokens in a tile. */
typedef struct {
    float *x;
    int64_t stride, rows, columns; /* tokens that count */
} interaction;

/* Mean over m tokens of the largest of n; which one that is goes to `found`, or NULL. A NaN may
 * lose here, but all cosines of the token that it comes from are NaN, and so is its own mean. */
static float similarity(const float *x, int64_t m, int64_t from_one, int64_t n, int64_t to_next,
                        int32_t *found)
{
    double sum = 0;
    for (int64_t i = 0; i < m; i++) {
        const float *line = x + i * from_one;
        float best = line[0];
        int64_t at = 0;
        for (int64_t j = 1; j < n; j++)
            if (line[j * to_next] > best) {
                best = line[j * to_next];
                at = j;
            }
        if (found != NULL) found[i] = (int32_t)at;
        sum += (double)best;
    }
    return (float)(sum / (double)m);
}

static float of_clip(const interaction *p, int32_t *found)
{
    return similarity(p->x, p->rows, p->stride, p->columns, 1, found);
}

static float of_text(const interaction *p, int32_t *found)
{
    return similarity(p->x, p->columns, 1, p->rows, p->stride, found);
}

/* The clip and the text at places of a tile. */
static interaction at(const token_loss *k, const rc_token_in *in, float *tile, rc_pair_block rows,
                      rc_pair_block columns, int64_t clip, int64_t text)
{
    int64_t first = clip - rows.from / k->size.clip_tokens, la = k->size.clip_tokens;
    int64_t second = text - columns.from / k->size.text_tokens, lt = k->size.text_tokens;
    return (interaction){tile + first * la * columns.size + second * lt, columns.size,
                         in->count_a[clip], in->count_t[text]};
}

/* Clips or texts of a block. */
static int64_t begin_of(rc_pair_block block, int64_t tokens)
{
    return block.from / tokens;
}
static int64_t end_of(rc_pair_block block, int64_t tokens)
{
    return (block.from + block.size) / tokens;
}

/* ---- Forward --------------------------------------------------------------------------------- */

typedef struct {
    const token_loss *k;
    const rc_run *run;
    const rc_token_in *in;
    float scale;
} sum_job;

static void add_pair(const sum_job *job, rc_line_sum *clip_line, rc_line_sum *text_line, bool own,
                     const interaction *p, int64_t clip)
{
    const token_loss *k = job->k;
    float to_text = of_clip(p, NULL), to_clip = of_text(p, NULL);
    *clip_line = rc_line_join(*clip_line, (rc_line_sum){to_text, 1}, job->scale);
    *text_line = rc_line_join(*text_line, (rc_line_sum){to_clip, 1}, job->scale);
    if (!own) return;
    job->run->scratch[k->own_clip + clip] = to_text;
    job->run->scratch[k->own_text + clip] = to_clip;
}

static void sum_rows(void *arg, int64_t index, int worker)
{
    const sum_job *job = arg;
    const token_loss *k = job->k;
    int64_t n = k->size.n, la = k->size.clip_tokens, lt = k->size.text_tokens;
    rc_loss_in all = rows_of(k, job->in);
    rc_pair_block rows = rc_pair_rows(&k->tiles, index);
    float *tile = rc_pair_tile_of(&k->tiles, job->run, worker);
    float *best = job->run->scratch + k->best + index * n;
    double *sum = (double *)(job->run->scratch + k->sum) + index * n;
    rc_line_sum line[RC_PAIR_TILE];
    int64_t begin = begin_of(rows, la), end = end_of(rows, la);
    for (int64_t i = begin; i < end; i++) line[i - begin] = (rc_line_sum){-INFINITY, 0};
    for (int64_t b = 0; b < k->tiles.column_blocks; b++) {
        rc_pair_block columns = rc_pair_columns(&k->tiles, b);
        rc_pair_cosines(&k->tiles, tile, &all, rows, columns, worker);
        for (int64_t j = begin_of(columns, lt); j < end_of(columns, lt); j++) {
            rc_line_sum of = {-INFINITY, 0};
            for (int64_t i = begin; i < end; i++) {
                interaction p = at(k, job->in, tile, rows, columns, i, j);
                add_pair(job, &line[i - begin], &of, i == j, &p, i);
            }
            best[j] = of.best;
            sum[j] = of.sum;
        }
    }
    for (int64_t i = begin; i < end; i++)
        job->run->scratch[k->of_clip + i] = rc_line_log(line[i - begin], job->scale);
}

double rc_token_loss_forward(const void *body, const rc_run *run, const rc_token_in *in)
{
    const token_loss *k = body;
    int64_t n = k->size.n;
    sum_job job = {.k = k, .run = run, .in = in, .scale = expf(in->log_scale)};
    rc_parallel(run->pool, k->tiles.row_blocks, sum_rows, &job);
    const float *best = run->scratch + k->best;
    const double *sum = (const double *)(run->scratch + k->sum);
    double loss = 0;
    for (int64_t j = 0; j < n; j++) {
        rc_line_sum line = {best[j], sum[j]};
        for (int64_t i = n + j; i < k->tiles.row_blocks * n; i += n)
            line = rc_line_join(line, (rc_line_sum){best[i], sum[i]}, job.scale);
        run->scratch[k->of_text + j] = rc_line_log(line, job.scale);
        double own = (double)run->scratch[k->own_clip + j] + run->scratch[k->own_text + j];
        loss += (double)run->scratch[k->of_clip + j] + run->scratch[k->of_text + j];
        loss -= (double)job.scale * own;
    }
    return 0.5 * loss / (double)n;
}

/* ---- Backward -------------------------------------------------------------------------------- */

/* Cosines of a clip and a text become their gradients; returns what the scale receives. */
static double slope_of_pair(const rc_pair_job *job, const interaction *p, int64_t clip,
                            int64_t text, int32_t *found)
{
    const token_loss *k = job->loss;
    const float *scratch = job->run->scratch;
    int32_t *by_clip = found, *by_text = found + k->size.clip_tokens;
    float to_text = job->scale * of_clip(p, by_clip), to_clip = job->scale * of_text(p, by_text);
    float share = 0.5f / (float)k->size.n, own = clip == text ? share : 0;
    float first = share * expf(to_text - scratch[k->of_clip + clip]) - own;
    float second = share * expf(to_clip - scratch[k->of_text + text]) - own;
    for (int64_t i = 0; i < k->size.clip_tokens; i++)
        for (int64_t j = 0; j < k->size.text_tokens; j++) p->x[i * p->stride + j] = 0;
    for (int64_t i = 0; i < p->rows; i++)
        p->x[i * p->stride + by_clip[i]] += first / (float)p->rows;
    for (int64_t j = 0; j < p->columns; j++)
        p->x[by_text[j] * p->stride + j] += second / (float)p->columns;
    return (double)first * to_text + (double)second * to_clip;
}

static void slopes(const rc_pair_job *job, float *tile, rc_pair_block rows, rc_pair_block columns,
                   rc_partial *partial, int worker)
{
    const token_loss *k = job->loss;
    const rc_token_in *in = job->more;
    int64_t la = k->size.clip_tokens, lt = k->size.text_tokens;
    int32_t *found = (int32_t *)rc_share_of(job->run, k->found, worker);
    for (int64_t i = begin_of(rows, la); i < end_of(rows, la); i++)
        for (int64_t j = begin_of(columns, lt); j < end_of(columns, lt); j++) {
            interaction p = at(k, in, tile, rows, columns, i, j);
            double for_scale = slope_of_pair(job, &p, i, j, found);
            if (partial != NULL) partial[i * la - rows.from].scale += for_scale;
        }
}

void rc_token_loss_backward(const void *body, const rc_run *run, float *da, float *dt,
                            float *dscale, const rc_token_in *in)
{
    const token_loss *k = body;
    rc_loss_in all = rows_of(k, in);
    rc_pair_job job = {.k = &k->tiles, .run = run, .in = &all, .loss = k, .slopes = slopes};
    job.out = (rc_loss_out){da, dt, dscale, NULL};
    job.more = in;
    rc_pair_backward(&job);
}
