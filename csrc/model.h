/* model: parameters, the two towers, heads, one training step.
 *
 * An rc_clap holds configuration and parameters and is read-only in use, so any number of contexts
 * may share it; whoever changes it claims it. An rc_context holds scratch memory and compiled
 * products for one caller at a time. An rc_trainer owns values, gradients, moments and the
 * activations of one step. */
#ifndef RC_MODEL_H
#define RC_MODEL_H

#include "dnn.h"
#include "kernels.h"

/* ---- params.c -------------------------------------------------------------------------------- */

enum { RC_NAME_MAX = 112, RC_STAGES_MAX = 8 };

typedef enum {
    RC_WEIGHT, /* a matrix or table: weight decay applies */
    RC_BIAS,   /* a vector, a scalar, a table of biases: no decay */
    RC_BUFFER, /* a statistic: no gradient */
} rc_kind;

/* Whether a parameter is the weight of a product, and then in which types it may be packed. */
typedef enum { RC_PACK_NO, RC_PACK_F32, RC_PACK_ANY } rc_packing;

typedef struct {
    char name[RC_NAME_MAX];
    rc_kind kind;
    int rank;
    int64_t size[4], count;
    float *x;          /* bound memory, not owned; NULL once packed */
    float *dx;         /* gradient, NULL outside training */
    rc_packed *packed; /* a linear weight in oneDNN's layout, NULL while training */
    rc_packed *rest;   /* outputs from `cut` on, which are packed apart; NULL where cut is 0 */
    int64_t cut;
    rc_packing packing;
    bool variance; /* a statistic that cannot be negative */
} rc_param;

/* Parameters in the order of declaration; towers keep indices into it. */
typedef struct {
    rc_param *item;
    int64_t count, room;
    rc_status status; /* first failure while declaring, reported once at the end */
} rc_params;

/* Index of a new parameter. */
int64_t rc_params_add(rc_params *p, rc_kind kind, int rank, const int64_t *size, const char *format,
                      ...) __attribute__((format(printf, 5, 6)));
void rc_params_free(rc_params *p);
void rc_param_packs(rc_params *p, int64_t i, rc_packing packing);

/* Pack the first `cut` outputs and the rest apart, so that products can have either alone. */
void rc_param_cut(rc_params *p, int64_t i, int64_t cut);

/* Nothing where it may not be, or is already; RC_EINVAL where it is in another type. x stays. */
rc_status rc_param_pack(rc_param *p, rc_dnn *dnn, rc_type type);
void rc_param_unpack(rc_param *p); /* free what is packed */

/* RC_EINVAL, naming the parameter, where its values (count) are not all finite, or where variances
 * are negative. */
rc_status rc_param_check(const rc_param *p, const float *x);

/* Copy the values of a parameter, packed or not. */
rc_status rc_param_read(float *out, rc_dnn *dnn, const rc_param *p);

/* Weight and bias indices; -1 for an absent bias. */
typedef struct {
    int64_t w, b;
} rc_pair;

/* Declare prefix + name + ".weight" and ".bias": a norm of c, or a linear layer c -> n. */
rc_pair rc_declare_norm(rc_params *p, int64_t c, const char *prefix, const char *name);
rc_pair rc_declare_linear(rc_params *p, int64_t n, int64_t c, bool bias, const char *prefix,
                          const char *name);

/* RC_EINVAL names the setting that is out of its range. */
rc_status rc_check_range(const char *name, int64_t value, int64_t least, int64_t most);
rc_status rc_check_eps(const char *name, double eps); /* what norms add to a variance */

/* A batch norm: scale and bias, running mean and variance. */
typedef struct {
    rc_pair scale;
    int64_t mean, var;
} rc_batch_norm;

rc_batch_norm rc_declare_batch_norm(rc_params *p, int64_t c, const char *prefix, const char *name);

/* ---- linear.c -------------------------------------------------------------------------------- */

/* Rows of a chunk: a multiple of `unit`, enough chunks to share, small enough to stay in the cache.
 * A function of the batch alone, so that results do not depend on the number of threads. */
int64_t rc_chunk_rows(int64_t total, int64_t unit);

/* y = x wᵀ + b over chunks of `rows` rows, the last one shorter. Looked up once per call of a
 * tower, run by any worker on any chunk. Where all rows together are few it is one chunk, whose
 * outputs all threads share: then it is run outside of parallel regions. */
typedef struct {
    rc_factor f;
    const rc_packed *packed;
    int64_t n, k;
    /* of a whole chunk, and of the last one; of a share, and of a longer one */
    rc_product *full, *tail;
    int64_t full_rows;
    /* where outputs are shared: how many shares, outputs of one and of a step, longer shares */
    rc_dnn *dnn;
    int64_t shares, share, step, more;
} rc_linear;

/* Outputs of a layer before the cut of its weight, or those from it on. */
typedef enum { RC_FIRST, RC_REST } rc_part;

/* Whether threads should share the outputs of a layer of this size for so many rows; depends on
 * sizes and on how the weight is packed, not on the threads. */
bool rc_linear_shares(const rc_params *p, rc_pair pair, int64_t rows);

enum { RC_SHARED = 0 }; /* as the rows of a chunk: it is the only one, and its outputs are shared */

/* Forward products, adding into y with `sum`. total is the number of rows of all chunks together.
 */
rc_status rc_linear_get(rc_linear *out, rc_dnn *dnn, const rc_params *p, rc_pair pair,
                        int64_t total, int64_t rows, bool sum);
rc_status rc_linear_get_part(rc_linear *out, rc_dnn *dnn, const rc_params *p, rc_pair pair,
                             rc_part part, int64_t total, int64_t rows);

void rc_linear_run(const rc_linear *l, int worker, float *y, const float *x, int64_t rows);

/* The same in steps (see rc_product_lay) on a chunk of `rows` rows, whose form has room for so many
 * floats, 0 where it takes floats. */
int64_t rc_linear_form(const rc_params *p, rc_pair pair, int64_t rows);
bool rc_linear_takes_floats(const rc_linear *l);
void rc_linear_lay(const rc_linear *l, void *form, const float *x, int64_t from, int64_t some,
                   int64_t rows);
void rc_linear_run_laid(const rc_linear *l, int worker, float *y, const void *form, int64_t rows);

/* `to`, the form of `next`, = activate(the layer); y (rows, outputs) is scratch, and `to` itself
 * where next takes floats. */
void rc_linear_run_between(const rc_linear *l, const rc_linear *next, int worker, void *to,
                           float *y, const void *form, rc_activation *activate, int64_t rows);

/* dx = dy w. */
rc_status rc_linear_backward_get(rc_linear *out, rc_dnn *dnn, const rc_params *p, rc_pair pair,
                                 int64_t total, int64_t rows);
void rc_linear_backward_run(const rc_linear *l, int worker, float *dx, const float *dy,
                            int64_t rows);

/* dw += dyᵀ x and db += column sums of dy over all `total` rows, sliced over outputs: worker-count
 * independent because each slice has one owner. */
rc_status rc_linear_backward_weight(rc_dnn *dnn, const rc_params *p, rc_pair pair, const float *dy,
                                    const float *x, int64_t total);

/* Layer-norm weight gradient over all rows, sliced over columns. */
void rc_norm_backward_weight(rc_pool *pool, const rc_params *p, rc_pair pair, const float *dy,
                             const float *x, const float *mean, const float *rstd, int64_t total);

/* ---- htsat.c --------------------------------------------------------------------------------- */

/* HTS-AT (Chen et al. 2022) as LAION-CLAP uses it; names and defaults as in its configuration. */
typedef struct {
    int64_t mels, spec_size, patch, embed, window;
    double mlp_ratio; /* hidden width: the whole part of mlp_ratio times a stage's width */
    int64_t activation;
    int64_t stages, depths[RC_STAGES_MAX], heads[RC_STAGES_MAX];
    bool fusion;                      /* four pictures a clip, fused in the patch embedding */
    int64_t fusion_ratio;             /* its attention has embed / fusion_ratio channels inside */
    bool qkv_bias, patch_norm;        /* whether there are these parameters */
    double drop_path, dropout;        /* training only */
    int64_t time_stripes, time_width; /* SpecAugment, training only */
    int64_t freq_stripes, freq_width;
    double bn_momentum, eps, block_eps; /* of all norms, of those inside blocks */
} rc_htsat_config;

/* Pictures of a clip in a tower with fusion: the whole clip, and its front, middle and back. */
enum { RC_VIEWS = 4 };

typedef struct rc_htsat rc_htsat; /* indices of the parameters and the gather tables */

rc_status rc_htsat_check(const rc_htsat_config *c);
rc_status rc_htsat_new(rc_htsat **out, const rc_htsat_config *c, rc_params *p);
void rc_htsat_free(rc_htsat *t);
int64_t rc_htsat_width(const rc_htsat *t);  /* of the embedding */
int64_t rc_htsat_frames(const rc_htsat *t); /* most spectrogram frames accepted */

/* ---- cnn14.c --------------------------------------------------------------------------------- */

/* Cnn14 (Kong et al. 2020): two convolutions a block; all blocks but the last halve the picture. */
typedef struct {
    int64_t mels, blocks, widths[RC_STAGES_MAX];
    double eps;
} rc_cnn14_config;

typedef struct rc_cnn14 rc_cnn14;

/* Most spectrogram frames accepted: a bound of memory only. */
enum { RC_CNN14_FRAMES = 8192 };

rc_status rc_cnn14_new(rc_cnn14 **out, const rc_cnn14_config *c, rc_params *p);
void rc_cnn14_free(rc_cnn14 *t);
int64_t rc_cnn14_width(const rc_cnn14 *t); /* of the embedding */
int64_t rc_cnn14_least(const rc_cnn14 *t); /* fewest spectrogram frames accepted */

/* ---- transformer.c --------------------------------------------------------------------------- */

/* The kinds count in the order of the names in reclap/config.py. */
enum { RC_NORM_LAYER, RC_NORM_RMS };
enum { RC_PLACE_POST, RC_PLACE_PRE }; /* of a norm: after the sum, or before the branch */
enum { RC_POSITION_LEARNED, RC_POSITION_BUCKETS, RC_POSITION_NONE };
enum {
    RC_POOL_MEAN,
    RC_POOL_FIRST,
    RC_POOL_POOLER,      /* tanh(dense(first)) */
    RC_POOL_LAST,        /* the last token */
    RC_POOL_MEAN_PADDED, /* over pad_to rows; padding sees the tokens, tokens see no padding */
    RC_POOL_NONZERO,     /* row (tokens other than 0) - 1 */
};

typedef struct {
    int64_t vocab, positions, types, width, layers, heads, mlp;
    double eps;
    int64_t head_width; /* 0: width / heads */
    int64_t norm, place, position, activation, pool;
    int64_t offset;            /* row of the first token in a learned table of positions */
    int64_t buckets, distance; /* of T5's relative positions */
    int64_t gated, causal, biases, scaled, embed_norm, final_norm; /* 0 or 1 */
    int64_t pad_to, pad_id;                                        /* of RC_POOL_MEAN_PADDED */
} rc_text_config;

typedef struct rc_text rc_text;

rc_status rc_text_check(const rc_text_config *c);
rc_status rc_text_new(rc_text **out, const rc_text_config *c, rc_params *p);
void rc_text_free(rc_text *t);

/* ---- clap.c ---------------------------------------------------------------------------------- */

typedef enum { RC_HEAD_NONE, RC_HEAD_LINEAR, RC_HEAD_MLP, RC_HEAD_MS } rc_head_kind;

typedef struct {
    rc_head_kind kind;
    int64_t in, out;
    rc_pair first, second; /* RC_HEAD_LINEAR uses only the first */
    rc_pair norm;          /* of RC_HEAD_MS */
} rc_head;

/* The kinds count in the order of reclap/towers.py. */
typedef enum { RC_AUDIO_HTSAT, RC_AUDIO_CNN14 } rc_audio_kind;

typedef struct {
    rc_audio_kind kind;
    rc_htsat_config htsat; /* used where the kind says so, as cnn14 */
    rc_cnn14_config cnn14;
} rc_audio_config;

/* An audio tower of either kind, and what holds for both. */
typedef struct {
    rc_htsat *htsat; /* NULL where it is the other kind, as cnn14 */
    rc_cnn14 *cnn14;
    int64_t mels, views; /* bands; pictures a clip: 1, with fusion RC_VIEWS */
    int64_t least, most; /* frames of a picture */
    int64_t width;       /* of the embedding before the head */
} rc_audio_tower;

typedef struct {
    bool has_audio, has_text;
    rc_audio_config audio;
    rc_text_config text;
    int64_t text_width; /* of the text features that enter the text head */
    rc_head_kind audio_head, text_head;
    int64_t dim; /* joint space */
} rc_clap_config;

typedef struct {
    rc_clap_config config;
    rc_params params;
    rc_audio_tower audio;
    rc_text *text;
    rc_head audio_head, text_head;
    int64_t logit_scale; /* index */
    rc_guard guard;
} rc_clap;

rc_status rc_clap_new(rc_clap **out, const rc_clap_config *c);
void rc_clap_free(rc_clap *m);

/* Around whatever changes parameters: RC_EBUSY, naming `what`, while another thread reads or
 * changes them. All that reads them, below, is refused meanwhile. */
rc_status rc_clap_claim(rc_clap *m, const char *what);
void rc_clap_release(rc_clap *m);

/* Around what reads parameters: RC_EBUSY while another thread changes them. */
rc_status rc_clap_enter(const rc_clap *m);
void rc_clap_leave(const rc_clap *m);

/* Lay out the linear weights among parameters from..to-1 for inference, in `type` where they may be
 * (RC_PACK_ANY), else in float32; the memory that they were bound to is not looked at again. All of
 * them or, on failure, none. For who has claimed the model. */
rc_status rc_clap_pack(rc_clap *m, int64_t from, int64_t to, rc_type type);

/* Copy the values of parameter i. */
rc_status rc_clap_read(float *out, const rc_clap *m, int64_t i);

typedef struct {
    rc_dnn *dnn;
    rc_guard guard;
    rc_arena shared; /* activations of a tower */
    rc_arena heads;  /* features and what the heads make of them */
} rc_context;

rc_status rc_context_new(rc_context **out, int threads);
void rc_context_free(rc_context *c);

/* RC_EBUSY when another thread is inside. Where one was when this process was forked, the child
 * begins with new memory. */
rc_status rc_context_enter(rc_context *c);
void rc_context_leave(rc_context *c);

/* Clips or texts of one call: with the bounds of configurations, so few that no size overflows. */
enum { RC_BATCH_MAX = 1 << 16 };
rc_status rc_check_batch(const char *name, int64_t n);

/* mel (b, frames, mels) in dB -> y (b, dim), unit rows; with `features` the tower's output before
 * the head, (b, width), not normalised. With fusion mel is (b, RC_VIEWS, frames, mels) and longer
 * (b) says which clips are fused; the others are their first picture. */
rc_status rc_clap_audio(const rc_clap *m, rc_context *c, float *y, const float *mel,
                        const bool *longer, int64_t b, int64_t frames, bool features);

/* n sequences of ids, one after the other; sequence i is id[first[i]]..id[first[i + 1] - 1]. */
rc_status rc_clap_text(const rc_clap *m, rc_context *c, float *y, const int32_t *id,
                       const int32_t *first, int64_t n, bool features);

/* Text features (n, text_width) through the text head -> y (n, dim), unit rows. */
rc_status rc_clap_text_head(const rc_clap *m, rc_context *c, float *y, const float *x, int64_t n);

/* ---- The towers as clap.c calls them --------------------------------------------------------- */

/* What a training forward keeps; NULL at inference. */
typedef struct rc_htsat_tape rc_htsat_tape;

rc_status rc_htsat_tape_new(rc_htsat_tape **out, const rc_htsat *t);
void rc_htsat_tape_free(rc_htsat_tape *tape);

/* y (b, width). With a tape: train mode, draws at (seed, step), the batch's statistics kept; not
 * for towers with fusion. Without fusion longer is NULL. */
rc_status rc_htsat_forward(const rc_htsat *t, const rc_params *p, rc_context *c, float *y,
                           const float *mel, const bool *longer, int64_t b, int64_t frames,
                           rc_htsat_tape *tape, rc_draw draw);
rc_status rc_htsat_backward(const rc_htsat *t, const rc_params *p, rc_context *c, const float *dy,
                            rc_htsat_tape *tape);

/* Mix the statistics of the tape's batch into the running ones. */
void rc_htsat_update_statistics(const rc_htsat *t, const rc_params *p, const rc_htsat_tape *tape);

rc_status rc_cnn14_forward(const rc_cnn14 *t, const rc_params *p, rc_context *c, float *y,
                           const float *mel, int64_t b, int64_t frames);

rc_status rc_text_forward(const rc_text *t, const rc_params *p, rc_context *c, float *y,
                          const int32_t *id, const int32_t *first, int64_t n);

/* ---- loss.c ---------------------------------------------------------------------------------- */

/* Symmetric InfoNCE (Radford et al. 2021; LAION: clap_module/loss.py, ClipLoss, default mode):
 * S = exp(s) a tᵀ, loss = (CE(S) + CE(Sᵀ)) / 2, row i belongs to row i. a, t (n, c) have unit rows.
 * Forward keeps what backward needs: the logarithm of each row's and column's sum (2, n). */
typedef struct {
    float *tile;     /* a piece of the logits for each worker */
    float *lse;      /* (2, n) */
    float *diagonal; /* (n) cosines of the pairs */
    float *best;     /* (blocks of rows, n) of each column: its largest cosine there */
    double *sum;     /* and the sum of its exponentials relative to that */
    double *partial; /* (n) what the scale receives from each row */
} rc_contrastive;

void rc_contrastive_take(rc_contrastive *k, rc_arena *arena, int64_t n, int threads);
rc_status rc_contrastive_forward(double *loss, const rc_contrastive *k, rc_dnn *dnn, const float *a,
                                 const float *t, float s, int64_t n, int64_t c);

/* da, dt overwritten; ds accumulates. */
rc_status rc_contrastive_backward(float *da, float *dt, float *ds, const rc_contrastive *k,
                                  rc_dnn *dnn, const float *a, const float *t, float s, int64_t n,
                                  int64_t c);

/* ---- train.c --------------------------------------------------------------------------------- */

typedef struct rc_trainer rc_trainer;

typedef struct {
    double lr, beta1, beta2, eps, weight_decay, clip; /* clip 0: none */
    uint64_t seed, step;                              /* step counts from 0 */
} rc_step;

typedef struct {
    double loss, grad_norm, logit_scale;
} rc_step_result;

/* Claims the model while it is made. */
rc_status rc_trainer_new(rc_trainer **out, rc_clap *m, int threads);
void rc_trainer_free(rc_trainer *t);

/* Before rc_trainer_free: the values, which the model's parameters point into, become the caller's
 * (rc_free), and the model is as before the trainer but for them. */
float *rc_trainer_leave_values(rc_trainer *t);

/* Flat buffers of equal layout: values, gradients, first and second moment. */
float *rc_trainer_buffer(rc_trainer *t, int which);
int64_t rc_trainer_offset(const rc_trainer *t, int64_t param);

/* Loss and gradients of one batch: mel (b, frames, mels), text features (b, text_width). Nothing
 * but the gradients changes. */
rc_status rc_trainer_gradients(rc_trainer *t, rc_step_result *result, const float *mel,
                               const float *text, int64_t b, int64_t frames, const rc_step *how);

/* The same, then clipping, AdamW and running statistics; claims the model meanwhile. RC_EINVAL, and
 * nothing changes, where loss or gradients are not finite. */
rc_status rc_trainer_step(rc_trainer *t, rc_step_result *result, const float *mel,
                          const float *text, int64_t b, int64_t frames, const rc_step *how);

#endif
