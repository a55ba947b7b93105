/* decode: bytes of a sound file to samples.
 *
 * All functions are serial and safe to call from several threads at once: a library table is
 * read-only after creation, a reader belongs to one caller. */
#ifndef RC_DECODE_H
#define RC_DECODE_H

#include "base/base.h"

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

#endif
