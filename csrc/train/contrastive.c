/* Contrastive loss: a softmax over texts for each clip and one over clips for each text.
 *
 * With one text a clip it is symmetric InfoNCE (Radford et al. 2021; LAION: clap_module/loss.py,
 * ClipLoss, default mode). Clip i sees the texts V_i: all shared ones and its own; P_i of its own
 * are positives:
 *
 *     audio to text   mean over clips of  -1/P_i sum_p log softmax over V_i of z_ip
 *     text to audio   mean over positive texts of  -log softmax over all clips of z at its own
 *
 * The loss is half of both. Further roles give CompA's losses (Ghosh et al. 2023,
 * arXiv 2310.08753) with texts that a clip does not see left out of its softmax. */
#include "train/loss_inside.h"

#include <math.h>

typedef struct {
    rc_pair_tiles tiles;
    rc_pair_sums sums;
    int64_t positives; /* (na) of each clip, P_i; behind them those of all */
} contrastive;

static rc_status plan_contrastive(void **body, rc_plan *plan, const rc_loss_size *size)
{
    RC_TRY(rc_plan_alloc(plan, body, sizeof(contrastive)));
    contrastive *k = *body;
    RC_TRY(rc_pair_tiles_plan(&k->tiles, plan, size, RC_PAIR_TILE, RC_PAIR_TILE, true));
    rc_pair_sums_plan(&k->sums, plan, &k->tiles);
    k->positives = rc_plan_take(plan, size->na + 1);
    return RC_OK;
}

static bool is_positive(const rc_loss_in *in, int64_t text)
{
    return rc_role_of(in, text) != RC_ROLE_NEGATIVE;
}

static void count_positives(const contrastive *k, const rc_run *run, const rc_loss_in *in)
{
    float *count = run->scratch + k->positives;
    for (int64_t i = 0; i <= in->na; i++) count[i] = 0;
    for (int64_t j = 0; j < in->nt; j++)
        if (is_positive(in, j)) {
            count[in->owner[j]]++;
            count[in->na]++;
        }
}

/* ---- Forward --------------------------------------------------------------------------------- */

static double loss_of_pairs(const contrastive *k, const rc_run *run, float scale)
{
    const float *rows = run->scratch + k->sums.rows, *columns = run->scratch + k->sums.columns;
    const float *own = run->scratch + k->sums.own;
    double sum = 0;
    for (int64_t i = 0; i < k->tiles.na; i++)
        sum += 0.5 * ((double)rows[i] + columns[i]) - (double)scale * own[i];
    return sum / (double)k->tiles.na;
}

static double loss_of_owned(const contrastive *k, const rc_run *run, const rc_loss_in *in,
                            float scale)
{
    const float *rows = run->scratch + k->sums.rows, *columns = run->scratch + k->sums.columns;
    const float *own = run->scratch + k->sums.own, *count = run->scratch + k->positives;
    double to_text = 0, to_audio = 0;
    count_positives(k, run, in);
    for (int64_t i = 0; i < in->na; i++) to_text += rows[i];
    for (int64_t j = 0; j < in->nt; j++)
        if (is_positive(in, j)) {
            double z = (double)scale * own[j];
            to_text -= z / count[in->owner[j]];
            to_audio += columns[j] - z;
        }
    return 0.5 * (to_text / (double)in->na + to_audio / count[in->na]);
}

static double run_forward(const void *body, const rc_run *run, const rc_loss_in *in)
{
    const contrastive *k = body;
    float scale = expf(in->log_scale);
    rc_pair_sums_run(&k->sums, &k->tiles, run, in);
    return in->owner == NULL ? loss_of_pairs(k, run, scale) : loss_of_owned(k, run, in, scale);
}

/* ---- Backward -------------------------------------------------------------------------------- */

static void slopes_of_pairs(const rc_pair_job *job, float *tile, rc_pair_block rows,
                            rc_pair_block columns, rc_partial *partial, int worker)
{
    (void)worker;
    const contrastive *k = job->loss;
    const float *of_rows = job->run->scratch + k->sums.rows;
    const float *of_columns = job->run->scratch + k->sums.columns;
    for (int64_t i = 0; i < rows.size; i++) {
        float *row = tile + i * columns.size, own = of_rows[rows.from + i];
        double for_scale = partial == NULL ? 0 : partial[i].scale;
        for (int64_t j = 0; j < columns.size; j++) {
            float z = job->scale * row[j];
            float g = 0.5f * (expf(z - own) + expf(z - of_columns[columns.from + j])) -
                      (rows.from + i == columns.from + j);
            g /= (float)k->tiles.na;
            for_scale += (double)g * z; /* d z / d s = z, since the scale is exp(s) */
            row[j] = g;
        }
        if (partial != NULL) partial[i].scale = for_scale;
    }
}

/* What a logit's terms weigh. */
typedef struct {
    float text, audio, own; /* softmax over texts, over clips; a clip's own positive */
} weights;

/* d loss / d z of one pair. */
static float slope(const rc_loss_in *in, weights w, float z, float of_row, float of_column,
                   int64_t clip, int64_t text)
{
    bool own = in->owner[text] == clip, positive = is_positive(in, text);
    float g = own || rc_role_of(in, text) == RC_ROLE_SHARED ? w.text * expf(z - of_row) : 0;
    if (positive) g += w.audio * expf(z - of_column);
    return own && positive ? g - w.own : g;
}

static void slopes_of_owned(const rc_pair_job *job, float *tile, rc_pair_block rows,
                            rc_pair_block columns, rc_partial *partial, int worker)
{
    (void)worker;
    const contrastive *k = job->loss;
    const float *of_rows = job->run->scratch + k->sums.rows;
    const float *of_columns = job->run->scratch + k->sums.columns;
    const float *count = job->run->scratch + k->positives;
    double text = 0.5 / (double)k->tiles.na, audio = 0.5 / (double)count[k->tiles.na];
    for (int64_t i = 0; i < rows.size; i++) {
        int64_t clip = rows.from + i;
        float *row = tile + i * columns.size;
        weights w = {(float)text, (float)audio, (float)(text / count[clip] + audio)};
        double for_scale = partial == NULL ? 0 : partial[i].scale;
        for (int64_t j = 0; j < columns.size; j++) {
            float z = job->scale * row[j];
            row[j] = slope(job->in, w, z, of_rows[clip], of_columns[columns.from + j], clip,
                           columns.from + j);
            for_scale += (double)row[j] * z;
        }
        if (partial != NULL) partial[i].scale = for_scale;
    }
}

static void run_backward(const void *body, const rc_run *run, const rc_loss_out *out,
                         const rc_loss_in *in)
{
    const contrastive *k = body;
    rc_pair_job job = {.k = &k->tiles, .run = run, .in = in, .out = *out, .loss = k};
    job.slopes = in->owner == NULL ? slopes_of_pairs : slopes_of_owned;
    rc_pair_backward(&job);
}

const rc_loss_kind rc_contrastive_kind = {
    .name = "contrastive",
    .plan = plan_contrastive,
    .forward = run_forward,
    .backward = run_backward,
};
