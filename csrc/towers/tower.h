/* tower: what a tower of audio is for all who use one; a new one is a row of the table in tower.c.
 */
#ifndef RC_TOWER_H
#define RC_TOWER_H

#include "base/rng.h"
#include "layers/context.h"
#include "layers/params.h"

/* A setting of a configuration by its name, and where it lies there. A list has up to RC_STAGES_MAX
 * integers, and their number at `count`. */
typedef enum {
    RC_SETTING_INT,
    RC_SETTING_BOOL,
    RC_SETTING_DOUBLE,
    RC_SETTING_LIST
} rc_setting_kind;

typedef struct {
    const char *name; /* NULL ends a table */
    rc_setting_kind kind;
    size_t at, count;
} rc_setting;

#define RC_SETTING(config, kind, field) {#field, RC_SETTING_##kind, offsetof(config, field), 0}
#define RC_SETTING_OF(config, field, n)                                                            \
    {#field, RC_SETTING_LIST, offsetof(config, field), offsetof(config, n)}

/* The input of a call: x (b, views, frames, mels) in dB. Where there are several views of a clip,
 * longer (b) says which clips have them; of the others the first is heard. Else it is NULL. */
typedef struct {
    const float *x;
    const bool *longer;
    int64_t b, frames;
} rc_log_mels;

typedef struct {
    int64_t mels, views; /* bands; log-mels of a clip */
    int64_t least, most; /* frames of one */
    int64_t width;       /* of the embedding before the head */
} rc_audio_shape;

typedef struct {
    const char *name;
    size_t config_size;
    const rc_setting *settings;

    /* Check a configuration, declare the parameters, make the tables. */
    rc_status (*declare)(void **tower, rc_audio_shape *shape, const void *config, rc_params *p);
    void (*free)(void *tower); /* NULL allowed */

    /* y (b, width). With a tape: train mode, draws at (seed, step), what backward needs is kept, as
     * are the statistics of the batch. */
    rc_status (*forward)(const void *tower, const rc_params *p, rc_context *c, float *y,
                         const rc_log_mels *in, void *tape, rc_draw draw);

    /* NULL, as all below, where a tower cannot be trained. */
    rc_status (*new_tape)(void **tape, const void *tower);
    void (*free_tape)(void *tape); /* NULL allowed */
    rc_status (*backward)(const void *tower, const rc_params *p, rc_context *c, const float *dy,
                          void *tape);
    /* Mix the statistics of the tape's batch into the running ones, for a step that is taken. */
    void (*commit)(const void *tower, const rc_params *p, const void *tape);
} rc_audio_kind;

/* The kinds count in the order of the names in reclap/config/towers.py; NULL for an unknown one. */
const rc_audio_kind *rc_audio_kind_of(int64_t kind);

/* Whether this tower, opened with such a shape, can be trained; RC_EINVAL says why not. */
rc_status rc_audio_check_training(const rc_audio_kind *kind, const rc_audio_shape *shape);

#endif
