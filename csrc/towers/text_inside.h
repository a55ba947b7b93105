/* text_inside: the inside of the text tower.
 *
 * What differs between them is an option of rc_text_config, asked for in one small function each:
 * text.c declares the parameters, text_run.c runs them. */
#ifndef RC_TEXT_INSIDE_H
#define RC_TEXT_INSIDE_H

#include "towers/text.h"

/* norm1 and norm2 stand before their branch or after its sum, by rc_text_config.place. */
typedef struct {
    rc_pair qkv, proj, norm1, fc1, gate, fc2, norm2; /* gate only where gated */
} rc_text_layer;

struct rc_text {
    rc_text_config config;
    int64_t token, position, type, buckets; /* tables, -1 where absent */
    rc_pair norm, final, pooler;            /* used where the configuration says so */
    rc_text_layer *layer;
};

/* Width of all heads together, and of one. */
int64_t rc_text_inner(const rc_text_config *c);
int64_t rc_text_head_width(const rc_text_config *c);

/* Most tokens of a text. */
int64_t rc_text_longest(const rc_text_config *c);

/* RC_EINVAL for texts that are too long or empty, and for tokens outside the vocabulary. */
rc_status rc_text_check_sequences(const rc_text *t, const int32_t *id, const int32_t *first,
                                  int64_t n);

#endif
