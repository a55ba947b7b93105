/* tower: what a tower of audio or text is for all who use one; a new one is a row of a table in
 * tower.c. */
#ifndef RC_TOWER_H
#define RC_TOWER_H

#include "kernels/norm.h"
#include "layers/params.h"
#include "layers/plan.h"
#include "towers/setting.h"

/* What a tower takes and gives. */
typedef struct {
    int64_t mels, views, channels; /* bands; log-mels of a clip; channels of one; 0 of texts */
    int64_t least, most;           /* frames of a log-mel, tokens of a text */
    int64_t width;                 /* of the features before the head */
} rc_tower_shape;

/* The input of a call of b clips, x (b, views, channels, frames, mels) in dB, or of b texts: text i
 * is id[first[i]]..id[first[i + 1] - 1]. Where there are several views, longer (b) says which clips
 * have them; of the others the first is heard. In training, where the call is a piece of a batch,
 * `whole` may hold the moments of all its log-mels. What is not the tower's is NULL. */
typedef struct {
    int64_t b, frames;
    const float *x;
    const bool *longer;
    const rc_moments *whole;
    const int32_t *id, *first;
} rc_input;

/* What a plan depends on: clips of so many frames each, or texts of so many tokens together, of
 * which the longest has so many. */
typedef struct {
    int64_t b, rows, longest;
} rc_input_size;

/* y (b, width); tokens (of all, width) is NULL where only y is wanted. */
typedef struct {
    float *y, *tokens;
} rc_features;

typedef struct {
    const char *name;
    size_t config_size;
    const rc_setting *settings;

    /* Check a configuration, declare the parameters, make the tables. */
    rc_status (*declare)(void **tower, rc_tower_shape *shape, const void *config, rc_params *p);
    void (*free)(void *tower); /* NULL allowed */

    /* RC_EINVAL for what the tower cannot take. */
    rc_status (*measure)(rc_input_size *size, const rc_tower_shape *shape, const void *tower,
                         const rc_input *in);

    /* The body of a plan. With `train` backward may follow: forward then keeps what it needs, and
     * the statistics of the batch, in scratch. */
    rc_status (*plan)(void **body, rc_plan *plan, const void *tower, const rc_params *p,
                      const rc_input_size *size, bool train);
    void (*forward)(const void *body, const rc_run *run, const rc_features *out,
                    const rc_input *in);

    /* NULL, as what follows, where a tower cannot be trained. */
    void (*backward)(const void *body, const rc_run *run, const float *dy, const rc_input *in);
    /* Mix the statistics of the call into the running ones, for a step that is taken. */
    void (*commit)(const void *body, const rc_run *run);
    /* Add the log-mels of a call to the moments (mels) of a batch, which become its pieces'
     * rc_input.whole; NULL where the input goes through no batch norm. */
    void (*moments)(const void *tower, rc_pool *pool, rc_moments *m, const rc_input *in);

    /* Tokens that each clip of so many frames has features of; NULL where it has none. */
    int64_t (*tokens)(const void *tower, int64_t rows);
} rc_tower_kind;

/* The kinds count in the order of the names in reclap/config/towers.py; NULL for an unknown one. */
const rc_tower_kind *rc_audio_kind_of(int64_t kind);
const rc_tower_kind *rc_text_kind_of(int64_t kind);

/* A tower that is open, or nothing; its parameters are from..to-1. */
typedef struct {
    const rc_tower_kind *kind;
    void *tower;
    rc_tower_shape shape;
    int64_t from, to;
} rc_tower;

/* Whether it can be trained; RC_EINVAL says why not. */
rc_status rc_tower_check_training(const rc_tower *t);

/* `measure` of a tower of audio. */
rc_status rc_measure_log_mels(rc_input_size *size, const rc_tower_shape *shape, const void *tower,
                              const rc_input *in);

#endif
