/* kernels: the mathematics, every forward with its backward.
 *
 * Letters: n rows, c channels, b clips, t positions, h heads, d head width; x input, y output, w
 * weight, dx the gradient of x. Arrays are float32, contiguous, row-major; shapes stand in
 * brackets. Arguments come in one order: outputs, what forward keeps for backward, inputs, weights,
 * sizes, options. Input gradients are overwritten, weight gradients accumulate. Kernels are serial
 * and never fail: the towers hand them chunks of rows through rc_parallel. Where a weight gradient
 * sums over all rows, columns from..to-1 are done, so that workers can own columns and the order of
 * summation is fixed. */
#ifndef RC_KERNELS_H
#define RC_KERNELS_H

#include "kernels/act.h"
#include "kernels/attention.h"
#include "kernels/conv.h"
#include "kernels/embed.h"
#include "kernels/norm.h"
#include "kernels/optim.h"
#include "kernels/window.h"

#endif
