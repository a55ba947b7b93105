/* cnn14: Cnn14, the other audio tower, forward only. */
#ifndef RC_CNN14_H
#define RC_CNN14_H

#include "layers/context.h"
#include "layers/params.h"

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

rc_status rc_cnn14_forward(const rc_cnn14 *t, const rc_params *p, rc_context *c, float *y,
                           const float *mel, int64_t b, int64_t frames);

#endif
