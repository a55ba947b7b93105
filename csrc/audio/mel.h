/* mel: samples to log-mel.
 *
 * All functions are serial and safe to call from several threads at once: a plan is read-only after
 * creation, all else belongs to one caller. */
#ifndef RC_MEL_H
#define RC_MEL_H

#include "base/base.h"

typedef struct {
    int64_t rate;      /* Hz; places the FFT bins on the frequency axis */
    int64_t n_fft;     /* window and transform length, a power of two in 32..65536 */
    int64_t hop;       /* samples between frames, 1..65536 */
    int64_t mels;      /* bands, 1..4096 */
    double fmin, fmax; /* Hz, 0 <= fmin < fmax */
    bool htk;          /* scale: HTK's 2595 log10(1 + f/700), else Slaney's */
    bool area_norm;    /* triangles times 2 / width in Hz (Slaney), else of height 1 */
} rc_mel_config;

/* Tables of one configuration. */
typedef struct rc_mel_plan rc_mel_plan;

/* RC_EINVAL names the setting that is out of range. */
rc_status rc_mel_plan_new(rc_mel_plan **out, const rc_mel_config *config);
void rc_mel_plan_free(rc_mel_plan *plan); /* NULL allowed */

/* Frames of a clip: samples / hop + 1. */
int64_t rc_mel_frames(const rc_mel_plan *plan, int64_t samples);
int64_t rc_mel_bands(const rc_mel_plan *plan);

/* Bytes of scratch memory, 64-byte aligned, that one rc_log_mel needs (any clip length). */
int64_t rc_mel_scratch(const rc_mel_plan *plan);

/* y (frames, mels) = 10 log10(max(P w, 1e-10)), P the power spectrum of periodic Hann windows that
 * are centred on multiples of `hop`, edges reflected as numpy.pad(mode="reflect") does for any
 * length. RC_EINVAL when samples < 1. */
rc_status rc_log_mel(float *y, const rc_mel_plan *plan, const float *x, int64_t samples,
                     void *scratch);

/* The dense filter bank, w (mels, n_fft / 2 + 1), for tests and for comparison with checkpoints. */
void rc_mel_filters(float *w, const rc_mel_plan *plan);

#endif
