/* audio: bytes of a sound file to samples, samples to the log-mel picture an encoder sees.
 *
 * All functions are serial and safe to call from several threads at once: a library table and a mel
 * plan are read-only after creation, a reader and everything else belongs to one caller. Resampling
 * is not here, it is done by the soxr package between decoding and the mel transform. */
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

/* The content of a sound file: `size` bytes in memory, or, where `bytes` is NULL, of an open file.
 */
typedef struct {
    const void *bytes;
    int fd;
    int64_t size;
} rc_bytes;

/* Decodes one file from beginning to end: WAV, FLAC, OGG, MP3, AIFF or whatever else the library
 * knows. Serves one caller at a time. */
typedef struct rc_reader rc_reader;

/* RC_EFORMAT when the bytes are no sound file, or rate or channels are absurd. Memory must outlive
 * the reader, as must `lib`; a file is read through a descriptor of its own, from any place. */
rc_status rc_reader_new(rc_reader **out, const rc_sndfile *lib, rc_bytes from);
void rc_reader_free(rc_reader *reader); /* NULL allowed */

int rc_reader_rate(const rc_reader *reader); /* samples per second */
int64_t rc_reader_channels(const rc_reader *reader);

/* Decoded audio: x (frames, channels), nominally in [-1, 1]; x is never NULL. */
typedef struct {
    float *x;
    int64_t frames, channels;
} rc_audio;

/* Decode the next `frames` frames, fewer at the end, none after it; all that are left where
 * `frames` is negative.
 *
 * Damaged files give what can be decoded; the header's frame count is not trusted, memory grows
 * with what really arrives. Float files may hold any value, NaN included: see rc_all_finite.
 * RC_EFORMAT when a file holds no frame at all, cannot be read, or holds more than one call may
 * return; *out is then all zero. Free x with rc_free. */
rc_status rc_reader_read(rc_audio *out, rc_reader *reader, int64_t frames);

/* Mean over channels: y (frames), x (frames, channels). */
void rc_downmix(float *y, const float *x, int64_t frames, int64_t channels);

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
