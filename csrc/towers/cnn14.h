/* cnn14: Cnn14, the convolutional audio tower. */
#ifndef RC_CNN14_H
#define RC_CNN14_H

#include "towers/tower.h"

/* Cnn14 (Kong et al. 2020): two convolutions a block; all blocks but the last halve frames and
 * mels. */
typedef struct {
    int64_t mels, blocks, widths[RC_STAGES_MAX];
    double dropout, fc_dropout; /* training only: after blocks; before and after the last layer */
    double bn_momentum, eps;
} rc_cnn14_config;

extern const rc_tower_kind rc_cnn14_kind;

#endif
