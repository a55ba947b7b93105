/* convolution: 3 x 3 convolutions of clips of pixels, (frames, mels, c), with the batch norm and
 * the ReLU behind them, in training.
 *
 * The gradient of the input is a convolution with turned kernels; that of the kernels a sum of
 * products over panels, the neighbourhoods of so many rows of pixels, in order. */
#ifndef RC_CONVOLUTION_H
#define RC_CONVOLUTION_H

#include "layers/batch_norm.h"
#include "layers/linear.h"

/* Over the rows of b clips, `mels` pixels each; c -> n channels. The scratch that backward needs,
 * in floats: of a worker; of panels; of turned kernels. On the tape: what the convolution gives. */
typedef struct {
    const rc_param *w;
    int64_t frames, mels, c, n;
    rc_grid grid;  /* of rows */
    int64_t panel; /* rows of one */
    rc_linear linear;
    rc_product *dx[2];    /* [of the last, shorter chunk] */
    rc_linear_back dw[2]; /* [of the last, shorter panel] */
    rc_batch_norm_plan norm;
    int64_t out;
    int64_t worker_floats, panel_floats, turned_floats;
} rc_convolution;

/* Scratch that layers share, each as large as the largest needs. */
typedef struct {
    rc_shares worker;
    int64_t panel, turned;
} rc_convolution_scratch;

/* Rows of pixels, `unit` pixels for each, that are worked on at a time. */
int64_t rc_convolution_rows(int64_t total, int64_t unit);

rc_status rc_convolution_plan(rc_convolution *k, rc_plan *plan, const rc_params *p, rc_pair conv,
                              rc_batch_norm norm, int64_t b, int64_t frames, int64_t mels,
                              float eps);

/* The convolution of x, and its statistics. */
void rc_convolution_forward(const rc_convolution *k, const rc_run *run,
                            const rc_convolution_scratch *s, const float *x);

/* y = relu(norm(the convolution)) of some rows; of all of them. */
void rc_convolution_activate(const rc_convolution *k, const rc_run *run, float *y, int64_t first,
                             int64_t rows);
void rc_convolution_activate_all(const rc_convolution *k, const rc_run *run, float *y);

/* From dy, the gradient of the norm's output, which becomes that of its input, to dx, that of x. */
void rc_convolution_backward(const rc_convolution *k, const rc_run *run,
                             const rc_convolution_scratch *s, float *dx, float *dy, const float *x);

#endif
