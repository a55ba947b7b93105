/* Log-mel spectrogram: frames, real FFT, power, mel filters, decibels.
 *
 * Eight frames go through the transform together, one per lane of a vector, so that every step is
 * plain vector arithmetic without a shuffle. The transform is double precision: a band 80 dB below
 * the loudest one of its frame would otherwise drown in rounding, and the references are float64.
 */
#include "audio/mel.h"

#include "base/clones.h"
#include "base/parallel.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum { LANES = 8 };
typedef double lanes __attribute__((vector_size(LANES * sizeof(double))));

/* Helpers must follow the instruction set of the one cloned function below. */
#define INLINE static inline __attribute__((always_inline))

struct rc_mel_plan {
    rc_mel_config c;
    double *window;         /* (n_fft) periodic Hann */
    double *cosine, *sine;  /* (n_fft) of -2 pi t / n_fft */
    int64_t *place;         /* (n_fft / 2) where the in-place transform leaves each bin */
    int64_t *first, *width; /* (mels) first bin and number of bins of each triangle */
    double *weight;         /* triangles one after the other */
    void *memory;           /* all of the above */
};

/* ---- The filter bank ------------------------------------------------------------------------- */

static const double slaney_log_step = 0.06875177742094912; /* ln(6.4) / 27 */

static double mel_from_hz(double f, bool htk)
{
    if (htk) return 2595 * log10(1 + f / 700);
    return f < 1000 ? f * 3 / 200 : 15 + log(f / 1000) / slaney_log_step;
}

static double hz_from_mel(double m, bool htk)
{
    if (htk) return 700 * (pow(10, m / 2595) - 1);
    return m < 15 ? m * 200 / 3 : 1000 * exp((m - 15) * slaney_log_step);
}

/* Corner `i` of 0..mels+1: equally spaced in mel; triangle i spans corners i, i+1, i+2. */
static double corner(const rc_mel_config *c, int64_t i)
{
    double low = mel_from_hz(c->fmin, c->htk), high = mel_from_hz(c->fmax, c->htk);
    return hz_from_mel(low + (high - low) * (double)i / (double)(c->mels + 1), c->htk);
}

/* Weight of FFT bin k in triangle i; linear in Hz on either side, zero outside. */
static double triangle(const rc_mel_config *c, int64_t i, int64_t k)
{
    double f = (double)(k * c->rate) / (double)c->n_fft;
    double low = corner(c, i), top = corner(c, i + 1), high = corner(c, i + 2);
    double w = fmax(0, fmin((f - low) / (top - low), (high - f) / (high - top)));
    return c->area_norm ? w * 2 / (high - low) : w;
}

/* Bins whose frequency lies between the corners of triangle i, as [*first, *end). */
static void triangle_bins(const rc_mel_config *c, int64_t i, int64_t *first, int64_t *end)
{
    double bin = (double)c->rate / (double)c->n_fft, bins = (double)(c->n_fft / 2 + 1);
    *first = (int64_t)fmin(ceil(corner(c, i) / bin), bins);
    *end = rc_max(*first, (int64_t)fmin(floor(corner(c, i + 2) / bin) + 1, bins));
}

static int64_t total_width(const rc_mel_config *c)
{
    int64_t sum = 0, first, end;
    for (int64_t i = 0; i < c->mels; i++) {
        triangle_bins(c, i, &first, &end);
        sum += end - first;
    }
    return sum;
}

/* Corners that rounding has made equal, or nearly so, have no triangle between them. */
static rc_status check_corners(const rc_mel_config *c)
{
    for (int64_t i = 0; i <= c->mels; i++)
        if (!(corner(c, i + 1) - corner(c, i) > 1e-9 * corner(c, i + 1)))
            return rc_fail(RC_EINVAL,
                           "mel: %lld bands between fmin %g and fmax %g Hz are too narrow",
                           (long long)c->mels, c->fmin, c->fmax);
    return RC_OK;
}

static void fill_filters(rc_mel_plan *p)
{
    double *w = p->weight;
    for (int64_t i = 0; i < p->c.mels; i++) {
        int64_t end;
        triangle_bins(&p->c, i, &p->first[i], &end);
        p->width[i] = end - p->first[i];
        for (int64_t k = p->first[i]; k < end; k++) *w++ = triangle(&p->c, i, k);
    }
}

void rc_mel_filters(float *w, const rc_mel_plan *plan)
{
    int64_t bins = plan->c.n_fft / 2 + 1;
    const double *from = plan->weight;
    memset(w, 0, (size_t)(plan->c.mels * bins) * sizeof *w);
    for (int64_t i = 0; i < plan->c.mels; i++)
        for (int64_t k = 0; k < plan->width[i]; k++)
            w[i * bins + plan->first[i] + k] = (float)*from++;
}

/* ---- The plan -------------------------------------------------------------------------------- */

static rc_status check_config(const rc_mel_config *c)
{
    if (c->rate < 1 || c->rate > 1 << 24)
        return rc_fail(RC_EINVAL, "mel: rate is %lld Hz, expected 1 to 2^24", (long long)c->rate);
    if (c->n_fft < 32 || c->n_fft > 65536 || (c->n_fft & (c->n_fft - 1)) != 0)
        return rc_fail(RC_EINVAL, "mel: n_fft is %lld, expected a power of two in 32..65536",
                       (long long)c->n_fft);
    if (c->hop < 1 || c->hop > 65536)
        return rc_fail(RC_EINVAL, "mel: hop is %lld, expected 1..65536", (long long)c->hop);
    if (c->mels < 1 || c->mels > 4096)
        return rc_fail(RC_EINVAL, "mel: mels is %lld, expected 1..4096", (long long)c->mels);
    if (!(c->fmin >= 0 && c->fmin < c->fmax && c->fmax <= 1e9))
        return rc_fail(RC_EINVAL, "mel: fmin %g and fmax %g Hz, expected 0 <= fmin < fmax <= 1e9",
                       c->fmin, c->fmax);
    return RC_OK;
}

/* Bin k of a decimation-in-frequency transform of `length` that starts at `base`: the first stage
 * sends bins k mod radix to its radix-th parts, and so on inside each part. */
static int64_t place_of(int64_t k, int64_t length, int64_t base)
{
    while (length > 1) {
        int64_t radix = length == 2 ? 2 : 4;
        length /= radix;
        base += k % radix * length;
        k /= radix;
    }
    return base;
}

static void fill_tables(rc_mel_plan *p)
{
    int64_t n = p->c.n_fft;
    for (int64_t t = 0; t < n; t++) {
        double angle = 2 * 3.14159265358979323846 * (double)t / (double)n;
        p->cosine[t] = cos(angle);
        p->sine[t] = -sin(angle);
        p->window[t] = 0.5 - 0.5 * p->cosine[t];
    }
    for (int64_t k = 0; k < n / 2; k++) p->place[k] = place_of(k, n / 2, 0);
}

rc_status rc_mel_plan_new(rc_mel_plan **out, const rc_mel_config *config)
{
    void *memory;
    *out = NULL;
    RC_TRY(check_config(config));
    RC_TRY(check_corners(config));
    int64_t n = config->n_fft, mels = config->mels;
    int64_t words = 3 * n + n / 2 + 2 * mels + total_width(config); /* 8 bytes each */
    RC_TRY(rc_alloc(&memory, (int64_t)sizeof(rc_mel_plan) + words * 8));
    rc_mel_plan *p = memory;
    p->c = *config;
    p->window = (double *)(p + 1);
    p->cosine = p->window + n;
    p->sine = p->cosine + n;
    p->place = (int64_t *)(p->sine + n);
    p->first = p->place + n / 2;
    p->width = p->first + mels;
    p->weight = (double *)(p->width + mels);
    fill_tables(p);
    fill_filters(p);
    *out = p;
    return RC_OK;
}

void rc_mel_plan_free(rc_mel_plan *plan)
{
    rc_free(plan);
}

int64_t rc_mel_frames(const rc_mel_plan *plan, int64_t samples)
{
    return samples / plan->c.hop + 1;
}

int64_t rc_mel_bands(const rc_mel_plan *plan)
{
    return plan->c.mels;
}

/* ---- One block of frames --------------------------------------------------------------------- */

/* Scratch of one call: each part starts on a cache line. */
typedef struct {
    lanes *re, *im; /* (n_fft / 2) */
    lanes *power;   /* (n_fft / 2 + 1) */
    lanes *band;    /* (mels) */
    float *span;    /* the samples that the block's frames cover */
} block;

static int64_t span_length(const rc_mel_plan *p)
{
    return (LANES - 1) * p->c.hop + p->c.n_fft;
}

int64_t rc_mel_scratch(const rc_mel_plan *plan)
{
    int64_t vectors = 3 * (plan->c.n_fft / 2) + 1 + plan->c.mels;
    return vectors * (int64_t)sizeof(lanes) + span_length(plan) * (int64_t)sizeof(float);
}

static block lay_out(const rc_mel_plan *p, void *scratch)
{
    int64_t half = p->c.n_fft / 2;
    lanes *v = scratch;
    lanes *band = v + 3 * half + 1;
    return (block){v, v + half, v + 2 * half, band, (float *)(band + p->c.mels)};
}

/* Sample i of a clip of n that is mirrored without end about its first and last sample. */
static float reflected(const float *x, int64_t n, int64_t i)
{
    if (n == 1) return x[0];
    int64_t period = 2 * (n - 1);
    i %= period;
    if (i < 0) i += period;
    return x[i < n ? i : period - i];
}

/* span (count) = samples start.. of the mirrored clip. */
static void fill_span(float *span, const float *x, int64_t n, int64_t start, int64_t count)
{
    int64_t from = rc_min(rc_max(0, -start), count);
    int64_t to = rc_max(from, rc_min(count, n - start));
    for (int64_t i = 0; i < from; i++) span[i] = reflected(x, n, start + i);
    if (to > from) memcpy(span + from, x + start + from, (size_t)(to - from) * sizeof *span);
    for (int64_t i = to; i < count; i++) span[i] = reflected(x, n, start + i);
}

/* Even samples are the real parts, odd ones the imaginary: a real FFT at half the price. */
INLINE void window_frames(const rc_mel_plan *p, block *b)
{
    for (int64_t j = 0; j < p->c.n_fft / 2; j++) {
        const float *x = b->span + 2 * j;
        lanes even, odd;
        for (int l = 0; l < LANES; l++) {
            even[l] = x[l * p->c.hop];
            odd[l] = x[l * p->c.hop + 1];
        }
        b->re[j] = even * p->window[2 * j];
        b->im[j] = odd * p->window[2 * j + 1];
    }
}

/* One radix-4 butterfly at distance q, twiddled by w^t, w^2t, w^3t. */
INLINE void butterfly(const rc_mel_plan *p, lanes *re, lanes *im, int64_t q, int64_t t)
{
    const double *c = p->cosine, *s = p->sine;
    lanes ar = re[0] + re[2 * q], ai = im[0] + im[2 * q];
    lanes br = re[0] - re[2 * q], bi = im[0] - im[2 * q];
    lanes cr = re[q] + re[3 * q], ci = im[q] + im[3 * q];
    lanes dr = im[q] - im[3 * q], di = re[3 * q] - re[q]; /* times -i */
    re[0] = ar + cr;
    im[0] = ai + ci;
    lanes xr = br + dr, xi = bi + di;
    re[q] = xr * c[t] - xi * s[t];
    im[q] = xr * s[t] + xi * c[t];
    xr = ar - cr, xi = ai - ci;
    re[2 * q] = xr * c[2 * t] - xi * s[2 * t];
    im[2 * q] = xr * s[2 * t] + xi * c[2 * t];
    xr = br - dr, xi = bi - di;
    re[3 * q] = xr * c[3 * t] - xi * s[3 * t];
    im[3 * q] = xr * s[3 * t] + xi * c[3 * t];
}

/* Decimation in frequency, in place; the bins end up in the order of `place`. */
INLINE void transform(const rc_mel_plan *p, lanes *re, lanes *im)
{
    int64_t half = p->c.n_fft / 2, length = half;
    for (; length >= 4; length /= 4)
        for (int64_t base = 0; base < half; base += length)
            for (int64_t j = 0; j < length / 4; j++)
                butterfly(p, re + base + j, im + base + j, length / 4, j * (p->c.n_fft / length));
    for (int64_t i = 0; length == 2 && i < half; i += 2) {
        lanes r = re[i] - re[i + 1], m = im[i] - im[i + 1];
        re[i] += re[i + 1];
        im[i] += im[i + 1];
        re[i + 1] = r;
        im[i + 1] = m;
    }
}

/* From Z = FFT(even + i odd): X[k] = E + w^k O with E, O the transforms of even and odd samples,
 * X[half - k] = conj(E - w^k O); their squares. */
INLINE void power_spectrum(const rc_mel_plan *p, block *b)
{
    int64_t half = p->c.n_fft / 2;
    lanes first = b->re[0] + b->im[0], last = b->re[0] - b->im[0];
    b->power[0] = first * first;
    b->power[half] = last * last;
    for (int64_t k = 1; k <= half / 2; k++) {
        int64_t i = p->place[k], j = p->place[half - k];
        lanes er = b->re[i] + b->re[j], ei = b->im[i] - b->im[j]; /* 2 E */
        lanes or = b->im[i] + b->im[j], oi = b->re[j] - b->re[i]; /* 2 O */
        lanes tr = or * p->cosine[k] - oi * p->sine[k], ti = or * p->sine[k] + oi * p->cosine[k];
        lanes ur = er + tr, ui = ei + ti, vr = er - tr, vi = ei - ti;
        b->power[k] = (ur * ur + ui * ui) * 0.25;
        b->power[half - k] = (vr * vr + vi * vi) * 0.25;
    }
}

INLINE void mel_bands(const rc_mel_plan *p, block *b)
{
    const double *w = p->weight;
    for (int64_t i = 0; i < p->c.mels; i++) {
        lanes sum = {0};
        for (int64_t k = 0; k < p->width[i]; k++) sum += b->power[p->first[i] + k] * *w++;
        b->band[i] = sum;
    }
}

/* 10 log10(p), within 2e-5 dB: p = 2^e m, ln m = 2 atanh((m - 1) / (m + 1)), m in
 * sqrt(1/2)..sqrt(2). */
INLINE float decibels(float p)
{
    int32_t bits;
    memcpy(&bits, &p, sizeof bits);
    int32_t e = (bits - 0x3f3504f3) >> 23; /* 0x3f3504f3 is sqrt(1/2) */
    bits -= (int32_t)((uint32_t)e << 23);
    float m, s, s2;
    memcpy(&m, &bits, sizeof m);
    s = (m - 1) / (m + 1), s2 = s * s;
    float ln = s * (2 + s2 * (2.0f / 3 + s2 * (2.0f / 5 + s2 * (2.0f / 7 + s2 * (2.0f / 9)))));
    return (float)e * 3.0102999566f + ln * 4.3429448190f;
}

/* y (frames, mels), the first `frames` of the lanes. */
INLINE void store_decibels(float *y, const rc_mel_plan *p, const block *b, int64_t frames)
{
    for (int64_t i = 0; i < p->c.mels; i++) {
        float level[LANES];
        int32_t beyond = 0;
        for (int l = 0; l < LANES; l++) {
            double v = b->band[i][l];
            level[l] = decibels((float)(v > 1e-10 ? v : 1e-10));
            beyond |= !(v < FLT_MAX);
        }
        for (int l = 0; beyond && l < LANES; l++) /* NaN, infinity, or more than a float holds */
            if (!(b->band[i][l] < FLT_MAX)) level[l] = (float)(10 * log10(b->band[i][l]));
        for (int64_t l = 0; l < frames; l++) y[l * p->c.mels + i] = level[l];
    }
}

RC_CLONES static void log_mel_block(float *y, const rc_mel_plan *p, block *b, int64_t frames)
{
    window_frames(p, b);
    transform(p, b->re, b->im);
    power_spectrum(p, b);
    mel_bands(p, b);
    store_decibels(y, p, b, frames);
}

rc_status rc_log_mel(float *y, const rc_mel_plan *plan, const float *x, int64_t samples,
                     void *scratch)
{
    if (samples < 1) return rc_fail(RC_EINVAL, "log_mel: no samples");
    block b = lay_out(plan, scratch);
    int64_t total = rc_mel_frames(plan, samples);
    for (int64_t f = 0; f < total; f += LANES) {
        if (rc_stopped()) return rc_fail(RC_ESTOPPED, "the call was ended");
        fill_span(b.span, x, samples, f * plan->c.hop - plan->c.n_fft / 2, span_length(plan));
        log_mel_block(y + f * plan->c.mels, plan, &b, rc_min(LANES, total - f));
    }
    return RC_OK;
}
