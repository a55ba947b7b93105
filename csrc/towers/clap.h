/* clap: both towers and their heads as one model.
 *
 * An rc_clap holds configuration and parameters and is read-only in use, so any number of contexts
 * may share it; whoever changes it claims it. */
#ifndef RC_CLAP_H
#define RC_CLAP_H

#include "base/guard.h"
#include "layers/context.h"
#include "layers/head.h"
#include "towers/tower.h"

typedef struct {
    const rc_tower_kind *audio, *text;      /* NULL: no such tower */
    const void *audio_config, *text_config; /* of their sizes; only looked at by rc_clap_new */
    int64_t text_width;                     /* of the text features that enter the text head */
    rc_head_kind audio_head, text_head;
    int64_t dim;     /* joint space */
    bool logit_bias; /* as SigLIP learns one */
} rc_clap_config;

typedef struct {
    rc_clap_config config;
    rc_params params;
    rc_tower audio, text;
    rc_head audio_head, text_head;
    int64_t logit_scale, logit_bias; /* indices; -1: none */
    bool training;                   /* a trainer has it */
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

/* Give a linear weight an adapter, before values are bound; see rc_params_adapt. For who has
 * claimed the model. */
rc_status rc_clap_adapt(rc_clap *m, int64_t i, int64_t rank, double alpha);

/* Lay out the linear weights among parameters from..to-1 for inference, in `type` where they may be
 * (RC_PACK_ANY), else in float32; the memory that they were bound to is not looked at again. All of
 * them or, on failure, none. For who has claimed the model. */
rc_status rc_clap_pack(rc_clap *m, int64_t from, int64_t to, rc_type type);

/* Copy the values of parameter i. */
rc_status rc_clap_read(float *out, const rc_clap *m, int64_t i);

/* Clips or texts of one call: with the bounds of configurations, so few that no size overflows. */
enum { RC_BATCH_MAX = 1 << 16 };
rc_status rc_check_batch(const char *name, int64_t n);

/* Clips or texts -> y (b, dim), unit rows; with `features` the tower's output before the head, (b,
 * width), not normalised. */
rc_status rc_clap_audio(const rc_clap *m, rc_context *c, float *y, const rc_input *in,
                        bool features);
rc_status rc_clap_text(const rc_clap *m, rc_context *c, float *y, const rc_input *in,
                       bool features);

/* Features of all tokens of each clip, (b, tokens, width), after the tower's last norm. RC_EINVAL
 * for a tower without. */
rc_status rc_clap_tokens(const rc_clap *m, rc_context *c, float *y, const rc_input *in);
int64_t rc_clap_count_tokens(const rc_clap *m, int64_t frames); /* of a clip; 0: none */

/* A word for each kind of call that plans are kept of; the trainer's are its own. */
enum { RC_CALL_AUDIO, RC_CALL_TEXT, RC_CALL_TEXT_HEAD, RC_CALL_TRAIN };

/* Text features (n, text_width) through the text head -> y (n, dim), unit rows. */
rc_status rc_clap_text_head(const rc_clap *m, rc_context *c, float *y, const float *x, int64_t n);

#endif
