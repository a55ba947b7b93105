/* Bytes, in memory or in a file, to float frames through libsndfile's virtual I/O.
 *
 * The declarations below restate, from the library's documentation, the few parts of its public
 * interface in use here; it has been stable since version 1.0.18. */
#define _GNU_SOURCE /* pread, locks that prefer writers */
#include "audio/decode.h"

#include "base/clones.h"
#include "base/parallel.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- The library's interface ----------------------------------------------------------------- */

typedef struct sf_handle sf_handle;

typedef struct {
    int64_t frames;
    int samplerate, channels, format, sections, seekable;
} sf_info;

typedef struct {
    int64_t (*length)(void *user);
    int64_t (*seek)(int64_t offset, int whence, void *user);
    int64_t (*read)(void *to, int64_t count, void *user);
    int64_t (*write)(const void *from, int64_t count, void *user);
    int64_t (*tell)(void *user);
} sf_virtual_io;

enum { MODE_READ = 0x10, FROM_START = 0, FROM_HERE = 1, FROM_END = 2 };

struct rc_sndfile {
    void *handle;
    sf_handle *(*open_virtual)(sf_virtual_io *io, int mode, sf_info *info, void *user);
    int64_t (*readf_float)(sf_handle *file, float *to, int64_t frames);
    int (*error)(sf_handle *file);
    const char *(*strerror)(sf_handle *file);
    int (*close)(sf_handle *file);
};

/* dlsym hands out a data pointer; copying its bytes is the conversion ISO C leaves open. */
static rc_status bind(const rc_sndfile *lib, void *function, const char *name)
{
    void *symbol = dlsym(lib->handle, name);
    if (symbol == NULL) return rc_fail(RC_EBACKEND, "libsndfile has no %s: %s", name, dlerror());
    memcpy(function, &symbol, sizeof symbol);
    return RC_OK;
}

static rc_status bind_all(rc_sndfile *lib)
{
    RC_TRY(bind(lib, &lib->open_virtual, "sf_open_virtual"));
    RC_TRY(bind(lib, &lib->readf_float, "sf_readf_float"));
    RC_TRY(bind(lib, &lib->error, "sf_error"));
    RC_TRY(bind(lib, &lib->strerror, "sf_strerror"));
    return bind(lib, &lib->close, "sf_close");
}

rc_status rc_sndfile_new(rc_sndfile **out, const char *path)
{
    void *memory;
    *out = NULL;
    RC_TRY(rc_alloc(&memory, sizeof(rc_sndfile)));
    rc_sndfile *lib = memory;
    lib->handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    rc_status st = lib->handle == NULL
                       ? rc_fail(RC_EBACKEND, "cannot load libsndfile: %s", dlerror())
                       : bind_all(lib);
    if (st == RC_OK)
        *out = lib;
    else
        rc_sndfile_free(lib);
    return st;
}

void rc_sndfile_free(rc_sndfile *lib)
{
    if (lib != NULL && lib->handle != NULL) dlclose(lib->handle);
    rc_free(lib);
}

/* ---- Virtual I/O over memory or a file ------------------------------------------------------- */

typedef struct {
    const char *bytes; /* or NULL: in the file */
    int fd;
    int64_t size, at;
    int error; /* errno of a read that failed; libsndfile takes it for the end */
} byte_source;

static int64_t source_length(void *user)
{
    return ((byte_source *)user)->size;
}

static int64_t source_tell(void *user)
{
    return ((byte_source *)user)->at;
}

/* As with a file, a position past the end is allowed and reads nothing; one before it is not. */
static int64_t source_seek(int64_t offset, int whence, void *user)
{
    byte_source *src = user;
    int64_t from = whence == FROM_HERE ? src->at : whence == FROM_END ? src->size : 0;
    int64_t to;
    if (__builtin_add_overflow(from, offset, &to) || to < 0) return -1;
    return src->at = to;
}

/* Read up to `n` bytes of the file at the source's place; a signal does not end it. */
static int64_t file_read(void *to, int64_t n, byte_source *src)
{
    int64_t got;
    do got = pread(src->fd, to, (size_t)n, (off_t)src->at);
    while (got < 0 && errno == EINTR);
    if (got < 0) src->error = errno;
    return rc_max(got, 0);
}

static int64_t source_read(void *to, int64_t count, void *user)
{
    byte_source *src = user;
    int64_t n = rc_min(count, src->size - src->at);
    if (n <= 0) return 0;
    if (src->bytes == NULL)
        n = file_read(to, n, src);
    else
        memcpy(to, src->bytes + src->at, (size_t)n);
    src->at += n;
    return n;
}

static int64_t source_write(const void *from, int64_t count, void *user)
{
    (void)from, (void)count, (void)user;
    return 0;
}

/* ---- Decoding -------------------------------------------------------------------------------- */

enum {
    CHUNK = 1 << 16,       /* floats read at a time while the length is unknown */
    PIECE = 1 << 20,       /* floats read between two looks for a call's end */
    RATE_MIN = 1000,       /* Hz; a lower one, resampled, would blow a few bytes up to gigabytes */
    RATE_MAX = 4 << 20,    /* Hz */
    SAMPLES_MAX = 1 << 30, /* floats: 6 hours of mono at 48 kHz; some formats pack hours in a KB */
};

/* The library keeps the reason of a failed open process-wide, and each open begins by clearing it.
 * Opens run side by side; one that failed is repeated alone for its reason. */
#ifdef PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP /* else a writer may wait for long */
static pthread_rwlock_t opens = PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP;
#else
static pthread_rwlock_t opens = PTHREAD_RWLOCK_INITIALIZER;
#endif
static pthread_once_t opens_once = PTHREAD_ONCE_INIT;

/* Whoever held it does not exist in the child, where the library has no lock of its own either. */
static void forget_opens(void)
{
    pthread_rwlock_init(&opens, NULL);
}

static void watch_forks(void)
{
    pthread_atfork(NULL, NULL, forget_opens);
}

static rc_status reason_of(const char *reason)
{
    if (strstr(reason, "malloc") != NULL) /* there is no public code for it */
        return rc_fail(RC_ENOMEM, "out of memory: libsndfile: %s", reason);
    return rc_fail(RC_EFORMAT, "not a sound file that libsndfile can read: %s", reason);
}

/* Damaged MIDI sample dumps make the library write to standard output; nobody keeps sounds so. */
static bool is_sample_dump(byte_source *src)
{
    unsigned char head[4] = {0};
    source_read(head, sizeof head, src);
    src->at = 0;
    return head[0] == 0xF0 && head[1] == 0x7E && head[3] == 0x01;
}

static rc_status open_bytes(sf_handle **file, sf_info *info, const rc_sndfile *lib,
                            byte_source *src)
{
    sf_virtual_io io = {source_length, source_seek, source_read, source_write, source_tell};
    rc_status st = RC_OK;
    if (src->size < 1) return rc_fail(RC_EFORMAT, "the file is empty (0 bytes)");
    if (is_sample_dump(src))
        return rc_fail(RC_EFORMAT, "not a sound file that can be read: a MIDI sample dump");
    pthread_once(&opens_once, watch_forks);
    pthread_rwlock_rdlock(&opens);
    *file = lib->open_virtual(&io, MODE_READ, info, src);
    pthread_rwlock_unlock(&opens);
    if (*file != NULL) return RC_OK;
    src->at = 0;
    *info = (sf_info){0};
    pthread_rwlock_wrlock(&opens);
    *file = lib->open_virtual(&io, MODE_READ, info, src);
    if (*file == NULL) st = reason_of(lib->strerror(NULL));
    pthread_rwlock_unlock(&opens);
    return st;
}

static rc_status check_info(const sf_info *info)
{
    if (info->channels < 1 || info->channels > 1024)
        return rc_fail(RC_EFORMAT, "header says %d channels, expected 1 to 1024", info->channels);
    if (info->samplerate < RATE_MIN || info->samplerate > RATE_MAX)
        return rc_fail(RC_EFORMAT, "header says %d Hz, expected %d to %d Hz", info->samplerate,
                       RATE_MIN, RATE_MAX);
    return RC_OK;
}

/* A buffer of `capacity` floats, `used` of them full. */
typedef struct {
    float *x;
    int64_t capacity, used;
} sample_buffer;

/* Make room for at least `need` more floats, `want` if the limit allows. */
static rc_status grow(sample_buffer *b, int64_t need, int64_t want)
{
    int64_t floats = rc_min(b->used + rc_max(need, want), SAMPLES_MAX);
    if (floats - b->used < need)
        return rc_fail(RC_EFORMAT, "the file holds more than %d samples; split it", SAMPLES_MAX);
    /* realloc, not rc_alloc: gigabytes are then moved by remapping pages, and need no zeroing. */
    float *grown = realloc(b->x, (size_t)floats * sizeof *grown);
    if (grown == NULL) return rc_fail(RC_ENOMEM, "out of memory: %lld samples", (long long)floats);
    b->x = grown;
    b->capacity = floats;
    return RC_OK;
}

struct rc_reader {
    const rc_sndfile *lib;
    sf_handle *file;
    sf_info info;
    byte_source src;
    int64_t at; /* frames read so far */
};

/* Read `most` floats or to the end of what decodes. The header's count only chooses the first size,
 * and only as far as the number of bytes makes it plausible. */
static rc_status read_frames(sample_buffer *b, rc_reader *r, int64_t most)
{
    int64_t c = r->info.channels, got = 1;
    int64_t plausible = rc_max(CHUNK, 16 * rc_min(r->src.size, SAMPLES_MAX));
    int64_t said = rc_max(0, rc_min(r->info.frames - r->at, plausible / c)) * c;
    /* One frame more than it says: then the end is seen without growing. */
    RC_TRY(grow(b, c, rc_min(said + c, most)));
    while (b->used < most && got > 0) {
        if (b->capacity - b->used < c)
            RC_TRY(grow(b, c, rc_min(rc_max(CHUNK, b->used / 2), most - b->used)));
        if (rc_stopped()) return rc_fail(RC_ESTOPPED, "the call was ended");
        int64_t floats = rc_min(rc_min(b->capacity, most) - b->used, rc_max(PIECE, c));
        got = r->lib->readf_float(r->file, b->x + b->used, floats / c);
        b->used += rc_max(got, 0) * c;
    }
    r->at += b->used / c;
    if (r->src.error != 0)
        return rc_fail(RC_EFORMAT, "reading the file failed: errno %d", r->src.error);
    if (r->at > 0) return RC_OK;
    return rc_fail(RC_EFORMAT, "no audio frame could be decoded: %s",
                   r->lib->error(r->file) ? r->lib->strerror(r->file)
                                          : "the file ends after its header");
}

/* Give back what growing in steps took too much of. */
static float *trimmed(const sample_buffer *b)
{
    float *less = realloc(b->x, (size_t)rc_max(b->used, 1) * sizeof *less);
    return less == NULL ? b->x : less;
}

rc_status rc_reader_read(rc_audio *out, rc_reader *reader, int64_t frames)
{
    sample_buffer b = {0};
    int64_t c = reader->info.channels;
    int64_t most = frames < 0 || frames > SAMPLES_MAX / c ? INT64_MAX : frames * c;
    *out = (rc_audio){0};
    rc_status st = read_frames(&b, reader, most);
    if (st == RC_OK)
        *out = (rc_audio){trimmed(&b), b.used / c, c};
    else
        free(b.x);
    return st;
}

static rc_status open_reader(rc_reader *r)
{
    RC_TRY(open_bytes(&r->file, &r->info, r->lib, &r->src));
    return check_info(&r->info);
}

rc_status rc_reader_new(rc_reader **out, const rc_sndfile *lib, rc_bytes from)
{
    void *memory;
    *out = NULL;
    RC_TRY(rc_alloc(&memory, sizeof(rc_reader)));
    rc_reader *r = memory;
    r->lib = lib;
    r->src = (byte_source){.bytes = from.bytes, .fd = -1, .size = from.size};
    if (from.bytes == NULL && (r->src.fd = dup(from.fd)) < 0) {
        rc_free(r);
        return rc_fail(RC_EINVAL, "file descriptor %d: errno %d", from.fd, errno);
    }
    rc_status st = open_reader(r);
    if (st == RC_OK)
        *out = r;
    else
        rc_reader_free(r);
    return st;
}

void rc_reader_free(rc_reader *r)
{
    if (r == NULL) return;
    if (r->file != NULL) r->lib->close(r->file);
    if (r->src.fd >= 0) close(r->src.fd);
    rc_free(r);
}

int rc_reader_rate(const rc_reader *r)
{
    return r->info.samplerate;
}

int64_t rc_reader_channels(const rc_reader *r)
{
    return r->info.channels;
}

/* ---- Samples --------------------------------------------------------------------------------- */

RC_CLONES void rc_downmix(float *y, const float *x, int64_t frames, int64_t channels)
{
    float scale = 1.0f / (float)channels;
    if (channels == 1) {
        memcpy(y, x, (size_t)frames * sizeof *y);
        return;
    }
    if (channels == 2) { /* by far the most frequent; fixed strides vectorise */
        for (int64_t i = 0; i < frames; i++) y[i] = (x[2 * i] + x[2 * i + 1]) * scale;
        return;
    }
    for (int64_t i = 0; i < frames; i++) {
        float sum = 0;
        for (int64_t j = 0; j < channels; j++) sum += x[i * channels + j];
        y[i] = sum * scale;
    }
}

void rc_repeat_pad(float *y, int64_t m, const float *x, int64_t n)
{
    int64_t at = 0;
    if (n >= m) {
        memcpy(y, x, (size_t)m * sizeof *y);
        return;
    }
    for (; n > 0 && at + n <= m; at += n) memcpy(y + at, x, (size_t)n * sizeof *y);
    memset(y + at, 0, (size_t)(m - at) * sizeof *y);
}
