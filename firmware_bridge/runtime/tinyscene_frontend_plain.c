/* The stages of the front end in C99, for every processor without a file of its own. The steps are those of
 * deploy/frontend/fixed_point.py, which explains why none overflows. */
#include "tinyscene_frontend_stages.h"

#if defined(TINYSCENE_FRONTEND_PLAIN)

#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline)) /* at -Os too, where calls would cost a third */
#define STEP static __attribute__((noinline))               /* so that each has all registers for itself */
#else
#define INLINE static inline
#define STEP static
#endif

enum {
    POINTS = TINYSCENE_N_FFT / 2,  /* of the complex transform */
    QUARTER = TINYSCENE_N_FFT / 4, /* of a circle */
    WINDOW_START = (TINYSCENE_N_FFT - TINYSCENE_WIN_LENGTH) / 2,
    WINDOW_END = WINDOW_START + TINYSCENE_WIN_LENGTH,
    BLOCK = TINYSCENE_PLACE_LOW, /* samples that share their place_high */
    TO_FRACTION = 1 << (TINYSCENE_FRACTION_BITS + 1)
};

typedef struct {
    int32_t re, im;
} point;

typedef struct {
    point *a, *b, *c, *d;
} quad;

typedef struct {
    int32_t cosine, sine; /* Q31 */
} rotation;

/* product: x * w / 2^32, rounded to nearest, a tie upwards; the others add it to a sum or take it from one. */
#if defined(__ARM_FEATURE_SIMD32) && defined(__arm__) && defined(__GNUC__) && !defined(TINYSCENE_PLAIN)
/* Volatile keeps them in the order that is written here, in which few values are alive at a time. */
INLINE int32_t product(int32_t x, int32_t w)
{
    int32_t result;
    __asm__ volatile("smmulr %0, %1, %2" : "=r"(result) : "r"(x), "r"(w));
    return result;
}

INLINE int32_t add_product(int32_t sum, int32_t x, int32_t w)
{
    int32_t result;
    __asm__ volatile("smmlar %0, %1, %2, %3" : "=r"(result) : "r"(x), "r"(w), "r"(sum));
    return result;
}

INLINE int32_t subtract_product(int32_t sum, int32_t x, int32_t w)
{
    int32_t result;
    __asm__ volatile("smmlsr %0, %1, %2, %3" : "=r"(result) : "r"(x), "r"(w), "r"(sum));
    return result;
}

/* The same address, in a register: compilers would rather derive every load and store from the loop's variable. */
INLINE point *held(point *address)
{
    __asm__("" : "+r"(address));
    return address;
}
#else
INLINE int32_t product(int32_t x, int32_t w)
{
    return (int32_t)(((int64_t)x * w + (INT64_C(1) << 31)) >> 32);
}

INLINE int32_t add_product(int32_t sum, int32_t x, int32_t w)
{
    return sum + product(x, w);
}

INLINE int32_t subtract_product(int32_t sum, int32_t x, int32_t w)
{
    return sum + product(x, -w); /* at a tie not the same as sum - product(x, w) */
}

INLINE point *held(point *address)
{
    return address;
}
#endif

static int32_t least(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

/* Zeros to all blocks that reach beyond the window. */
STEP void load_zeros(int32_t *work)
{
    for (int32_t first = 0; first < TINYSCENE_N_FFT; first += BLOCK)
        if (first < WINDOW_START || first + BLOCK > WINDOW_END) {
            int32_t *to = work + tinyscene_place_high[first / BLOCK];
            for (int32_t i = 0; i < BLOCK; i++)
                to[tinyscene_place_low[i]] = 0;
        }
}

/* Step 1. The window's samples, weighted, go to where the transform wants them. This is done in stretches as long as
 * everything goes on in even steps: until the sound turns round at an end of the clip, the ring ends, the window
 * begins to fall, or a new block begins. */
STEP void load_window(const tinyscene_pcm *pcm, int32_t *work)
{
    const int16_t *const ring = pcm->ring;
    const int32_t start = pcm->start, at = pcm->at;
    for (int32_t i = 0, length; i < TINYSCENE_WIN_LENGTH; i += length) {
        const int32_t k = at + i, place = WINDOW_START + i;
        const int before = k < 0, after = k >= TINYSCENE_CLIP_SAMPLES, falling = i > TINYSCENE_WIN_LENGTH / 2;
        const int32_t sample = before ? -k : after ? 2 * (TINYSCENE_CLIP_SAMPLES - 1) - k : k;
        const int32_t slot = (start + sample) % TINYSCENE_RING_SAMPLES;
        const ptrdiff_t step = before || after ? -1 : 1, weight_step = falling ? -1 : 1;
        const int16_t *from = ring + slot;
        const int32_t *weight = tinyscene_window + (falling ? TINYSCENE_WIN_LENGTH - i : i);
        const uint16_t *low = tinyscene_place_low + place % BLOCK;
        int32_t *to = work + tinyscene_place_high[place / BLOCK];

        length = least(BLOCK - place % BLOCK, falling ? TINYSCENE_WIN_LENGTH - i : TINYSCENE_WIN_LENGTH / 2 + 1 - i);
        length = least(length, before || after ? slot + 1 : TINYSCENE_RING_SAMPLES - slot);
        if (!after)
            length = least(length, before ? -k : TINYSCENE_CLIP_SAMPLES - k);
        for (int32_t n = length;; from += step, weight += weight_step) {
            to[*low++] = product(*from * TO_FRACTION, *weight);
            if (--n == 0)
                break; /* before a pointer leaves its array */
        }
    }
}

/* By 2 pi angle / N_FFT, 0 <= angle < 3 / 4 N_FFT. */
static inline rotation rotation_by(int32_t angle)
{
    const int32_t *cosine = tinyscene_cosine;
    rotation r;
    if (angle <= QUARTER) {
        r.cosine = cosine[angle];
        r.sine = cosine[QUARTER - angle];
    } else if (angle <= 2 * QUARTER) {
        r.cosine = -cosine[2 * QUARTER - angle];
        r.sine = cosine[angle - QUARTER];
    } else {
        r.cosine = -cosine[angle - 2 * QUARTER];
        r.sine = -cosine[3 * QUARTER - angle];
    }
    return r;
}

/* Half of z, rotated. */
INLINE point rotated(point z, rotation by)
{
    point half;
    half.re = add_product(product(z.re, by.cosine), z.im, by.sine);
    half.im = subtract_product(product(z.im, by.cosine), z.re, by.sine);
    return half;
}

INLINE quad quad_at(point *first, int32_t length)
{
    quad q;
    q.a = first;
    q.b = held(q.a + length);
    q.c = held(q.b + length);
    q.d = held(q.c + length);
    return q;
}

/* The transform of four points, where b, c and d come divided by `factor`. A difference is the sum less twice the
 * second, for then the first need not be kept; even doubled, nothing here leaves 32 bits. */
INLINE void butterfly(quad to, point b, point c, point d, int32_t factor)
{
    const int32_t twice = 2 * factor;
    const point a = *to.a;
    const point sum_ac = {a.re + factor * c.re, a.im + factor * c.im};
    const point difference_ac = {sum_ac.re - twice * c.re, sum_ac.im - twice * c.im};
    const point sum_bd = {b.re + d.re, b.im + d.im};
    const point difference_bd = {sum_bd.re - 2 * d.re, sum_bd.im - 2 * d.im};
    const point first = {sum_ac.re + factor * sum_bd.re, sum_ac.im + factor * sum_bd.im};
    const point second = {difference_ac.re + factor * difference_bd.im, difference_ac.im - factor * difference_bd.re};
    const point third = {first.re - twice * sum_bd.re, first.im - twice * sum_bd.im};
    const point fourth = {second.re - twice * difference_bd.im, second.im + twice * difference_bd.re};
    *to.a = first;
    *to.b = second;
    *to.c = third;
    *to.d = fourth;
}

/* Step 2, the points being in their places. */
STEP void transform(point *points)
{
    int32_t length = 1; /* of the transforms that are done */
    if (POINTS % 3 == 2) { /* an odd power of two */
        for (point *z = points; z < points + POINTS; z += 2) {
            const point a = z[0], b = z[1];
            z[0].re = a.re + b.re;
            z[0].im = a.im + b.im;
            z[1].re = a.re - b.re;
            z[1].im = a.im - b.im;
        }
        length = 2;
    }
    for (; length < POINTS; length *= 4) {
        const point *last = points + POINTS - length; /* the last block's d are from here on */
        for (point *z = points;;) {
            const quad q = quad_at(z, length);
            butterfly(q, *q.b, *q.c, *q.d, 1);
            if (q.d >= last)
                break;
            z = q.d + length;
        }
        for (int32_t k = 1; k < length; k++) {
            const int32_t angle = k * (POINTS / 2 / length);
            const rotation one = rotation_by(angle), two = rotation_by(2 * angle), three = rotation_by(3 * angle);
            for (point *z = points + k;;) {
                const quad q = quad_at(z, length);
                const point b = rotated(*q.b, one), d = rotated(*q.d, three), c = rotated(*q.c, two);
                butterfly(q, b, c, d, 2);
                if (q.d >= last)
                    break;
                z = q.d + length;
            }
        }
    }
}

/* Step 4. The power takes the place of its bin: the lower word, then the upper one. */
INLINE void put_power(point *bin, int32_t re, int32_t im)
{
    const uint64_t half = (UINT64_C(1) << TINYSCENE_POWER_SHIFT) >> 1;
    const uint64_t sum = (uint64_t)((int64_t)re * re) + (uint64_t)((int64_t)im * im);
    const uint64_t power = (sum + half) >> TINYSCENE_POWER_SHIFT;
    uint32_t *words = (uint32_t *)bin;
    words[0] = (uint32_t)power;
    words[1] = (uint32_t)(power >> 32);
}

/* Steps 3 and 4. */
STEP void spectrum_power(point *z)
{
    for (int32_t k = 1; k < POINTS / 2; k++) {
        const point a = z[k], b = z[POINTS - k];
        const point even = {a.re + b.re, a.im - b.im}, odd = {a.im + b.im, b.re - a.re};
        const rotation by = {tinyscene_cosine[k], tinyscene_cosine[QUARTER - k]};
        const point turned = rotated(odd, by);
        put_power(z + k, even.re + 2 * turned.re, even.im + 2 * turned.im);
        put_power(z + POINTS - k, even.re - 2 * turned.re, even.im - 2 * turned.im);
    }
    put_power(z + POINTS / 2, 2 * z[POINTS / 2].re, 2 * z[POINTS / 2].im);
}

void tinyscene_powers(const tinyscene_pcm *pcm, void *work)
{
    load_zeros(work);
    load_window(pcm, work);
    transform(work);
    spectrum_power(work);
}

void tinyscene_mels(const void *work, int8_t *features, ptrdiff_t stride)
{
    const uint32_t *power = work;
    const uint16_t *segment = tinyscene_segments, *weight = tinyscene_mel_weights;
    uint64_t rising_below = 0; /* of the segment below */
    power += 2 * (ptrdiff_t)segment[0];
    for (int32_t mel = -1; mel < TINYSCENE_MELS; mel++, segment++) {
        uint64_t whole = 0, rising = 0;
        for (const uint32_t *end = power + 2 * (ptrdiff_t)(segment[1] - segment[0]); power < end; power += 2) {
            const uint64_t p = (uint64_t)power[1] << 32 | power[0];
            whole += p;
            rising += p * *weight++;
        }
        if (mel >= 0)
            features[mel * stride] = tinyscene_feature(rising_below + (whole << 16) - rising);
        rising_below = rising;
    }
}

#endif
