/* audio: bytes of a sound file to samples, samples to the log-mel picture an encoder sees.
 *
 * All functions are serial and safe to call from several threads at once: a library table and a mel
 * plan are read-only after creation, everything else belongs to the call. Resampling is not here,
 * it is done by the soxr package between decoding and the mel transform. */
#ifndef RC_AUDIO_H
#define RC_AUDIO_H

#include "base.h"

/* ---- Decoding -------------------------------------------------------------------------------- */

/* libsndfile, bound at run time: the library travels inside a Python wheel that has no header and
 * no place a linker would look at. */
typedef struct rc_sndfile rc_sndfile;

/* Load the library at `path` (a file, or a bare name for the loader to find). RC_EBACKEND with the
 * loader's reason when it is missing or lacks a function. */
rc_status rc_sndfile_new(rc_sndfile **out, const char *path);
void rc_sndfile_free(rc_sndfile *lib); /* NULL allowed; no decode may be running */

/* One decoded clip: x (frames, channels), nominally in [-1, 1], at `rate` samples per second. */
typedef struct {
    float *x;
    int64_t frames, channels;
    int rate;
} rc_audio;

/* Decode `n` bytes of WAV, FLAC, OGG, MP3, AIFF or whatever else the library knows.
 *
 * Damaged files give what can be decoded; the header's frame count is not trusted, memory grows
 * with what really arrives. Float files may hold any value, NaN included: see rc_all_finite.
 * RC_EFORMAT when the bytes are no sound file, hold no frame, or when rate or length are absurd;
 * *out is then all zero. Free with rc_audio_free (or rc_free on x, once out of this struct). */
rc_status rc_audio_decode(rc_audio *out, const rc_sndfile *lib, const void *bytes, int64_t n);
void rc_audio_free(rc_audio *audio);

/* Mean over channels: y (frames), x (frames, channels). */
void rc_downmix(float *y, const float *x, int64_t frames, int64_t channels);

/* Whether none of n samples is NaN or infinite. */
bool rc_all_finite(const float *x, int64_t n);

/* Fill y (m) with as many whole copies of x (n) as fit, then zeros: the "repeatpad" of the family
 * (LAION-AI/CLAP training/data.py, transformers ClapFeatureExtractor). x longer than m is cut. */
void rc_repeat_pad(float *y, int64_t m, const float *x, int64_t n);

/* ---- Log-mel --------------------------------------------------------------------------------- */

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
