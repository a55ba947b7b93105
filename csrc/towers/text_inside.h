/* text_inside: the inside of the text tower, which text.c declares and text_run.c runs. */
#ifndef RC_TEXT_INSIDE_H
#define RC_TEXT_INSIDE_H

#include "layers/block.h"
#include "towers/text.h"

typedef struct {
    rc_text_config config;
    int64_t from;                           /* its first parameter */
    int64_t token, position, type, buckets; /* tables, -1 where absent */
    rc_pair norm, final, pooler;            /* used where the configuration says so */
    rc_block *layer;
} rc_text;

/* text_run.c, for the row of the table. */
rc_status rc_text_measure(rc_input_size *size, const rc_tower_shape *shape, const void *tower,
                          const rc_input *in);
rc_status rc_text_plan_make(void **body, rc_plan *plan, const void *tower, const rc_params *p,
                            const rc_input_size *size, bool train);
void rc_text_forward(const void *body, const rc_run *run, const rc_features *out,
                     const rc_input *in);

/* text_back.c */
void rc_text_backward(const void *body, const rc_run *run, const float *dy, const rc_input *in);

/* Draws; blocks draw from behind it on. */
enum { RC_TEXT_SITE = 1 << 20 };

#endif
