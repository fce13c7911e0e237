/* The kernels in plain C99: the reference for all others. */
#include "tinyscene_kernels.h"

#include <string.h>

/* Compilers optimize cold functions for size. */
#if defined(__GNUC__)
#define SELDOM_CALLED __attribute__((cold))
#define INLINE static inline __attribute__((always_inline))
#else
#define SELDOM_CALLED
#define INLINE static inline
#endif

/* x * multiplier / 2^31, rounded half up: the upper half of the doubled product. */
static int32_t high_product(int32_t x, int32_t multiplier)
{
    return (int32_t)(((int64_t)x * multiplier + (1 << 30)) >> 31);
}

/* x / 2^shift, rounded half away from zero, 0 <= shift <= 31. */
static int32_t divide_by_power(int32_t x, int32_t shift)
{
    const int32_t mask = (int32_t)((UINT32_C(1) << shift) - 1u);
    return (x >> shift) + ((x & mask) > (mask >> 1) + (x < 0));
}

/* x * multiplier / 2^31 / 2^shift, rounded twice as TFLite does. */
static int32_t rescale(int32_t x, int32_t multiplier, int32_t shift)
{
    return shift >= 0 ? divide_by_power(high_product(x, multiplier), shift)
                      : high_product((int32_t)((uint32_t)x << -shift), multiplier);
}

static int8_t clamp(int32_t value, int32_t activation_min)
{
    return (int8_t)(value < activation_min ? activation_min : value > 127 ? 127 : value);
}

static int8_t requantize_any(const tinyscene_conv *c, int32_t channel, uint32_t accumulator)
{
    const int32_t value = rescale((int32_t)accumulator, c->multiplier[channel], c->shift[channel]);
    return clamp(value + (c->rounding >> 1), c->activation_min); /* rounding is odd: half of it is the zero point */
}

/* Sums wrap around: with the zero point folded in, a partial sum may exceed 32 bits. */
void tinyscene_pointwise_any(const tinyscene_conv *c, const int8_t *x, int32_t pixels, int8_t *y)
{
    for (; pixels > 0; pixels--, x += c->depth) {
        const int8_t *w = c->weights;
        for (int32_t channel = 0; channel < c->outputs; channel++) {
            uint32_t sum = (uint32_t)c->bias[channel];
            for (int32_t k = 0; k < c->depth; k++)
                sum += (uint32_t)(x[k] * *w++);
            *y++ = requantize_any(c, channel, sum);
        }
    }
}

void tinyscene_depthwise_any(const tinyscene_conv *c, const int8_t *const *rows, int32_t tall, int32_t wide,
                             int32_t pixels, int32_t step, int8_t *y)
{
    for (int32_t at = 0; pixels > 0; pixels--, at += step)
        for (int32_t channel = 0; channel < c->outputs; channel++) {
            const int8_t *w = (const int8_t *)c->weights + channel;
            uint32_t sum = (uint32_t)c->bias[channel];
            for (int32_t row = 0; row < tall; row++)
                for (int32_t column = 0; column < wide; column++, w += c->outputs)
                    sum += (uint32_t)(rows[row][at + column * c->outputs + channel] * *w);
            *y++ = requantize_any(c, channel, sum);
        }
}

/* sum / count, rounded half away from zero. */
static int8_t mean_of(int32_t sum, int32_t count)
{
    return (int8_t)((sum > 0 ? sum + count / 2 : sum - count / 2) / count);
}

void tinyscene_pool_any(const int8_t *const *rows, int32_t tall, int32_t wide, int32_t channels, int32_t pixels,
                        int32_t step, int8_t *y)
{
    const int32_t count = tall * wide;
    for (int32_t at = 0; pixels > 0; pixels--, at += step)
        for (int32_t channel = 0; channel < channels; channel++) {
            int32_t sum = 0;
            for (int32_t row = 0; row < tall; row++)
                for (int32_t column = 0; column < wide; column++)
                    sum += rows[row][at + column * channels + channel];
            *y++ = mean_of(sum, count);
        }
}

#if !defined(TINYSCENE_SIMD) && !defined(TINYSCENE_MVE) /* which have their own of this */

void tinyscene_gather(const int8_t *const *rows, int32_t tall, int32_t bytes, int32_t first, int32_t pixels,
                      int32_t step, int8_t *patches)
{
    for (int32_t at = first * step; pixels > 0; pixels--, at += step)
        for (int32_t row = 0; row < tall; row++, patches += bytes)
            memcpy(patches, rows[row] + at, (size_t)bytes);
}

#endif

#if defined(TINYSCENE_PLAIN)

/* high_product(twice / 2, multiplier): with twice as much its upper half is rounded by the bit below. */
INLINE int32_t high_product_of_half(int32_t twice, int32_t multiplier)
{
    const int64_t product = (int64_t)twice * multiplier;
    return (int32_t)(product >> 32) + (int32_t)((uint32_t)product >> 31);
}

/* All sums stay below 2^29: deploy/graph/graph.py rejects other graphs. */
void tinyscene_add(const tinyscene_sum *sum_of, const int8_t *a, const int8_t *b, int32_t count, int8_t *y)
{
    const tinyscene_sum own = *sum_of, *const s = &own; /* which no output that is written can change */
    const int32_t shift = s->shift, half = (1 << shift) >> 1, nudge = shift > 0 ? -1 : 0;
    const int32_t out_shift = s->out_shift, out_half = (1 << out_shift) >> 1, out_nudge = out_shift > 0 ? -1 : 0;
    for (int32_t i = 0; i < count; i++) {
        const int32_t high = high_product_of_half((b[i] - s->zero_point[1]) * (1 << 21), s->multiplier);
        const int32_t sum = (a[i] - s->zero_point[0]) * (1 << 19) + ((high + ((high >> 31) & nudge) + half) >> shift);
        const int32_t out = high_product_of_half(2 * sum, s->out_multiplier);
        const int32_t value = ((out + ((out >> 31) & out_nudge) + out_half) >> out_shift) + s->out_zero_point;
        y[i] = clamp(value, s->activation_min);
    }
}

void tinyscene_pool(const int8_t *const *rows, int32_t tall, int32_t wide, int32_t channels, int32_t pixels,
                    int32_t step, int8_t *y)
{
    if (tall != 3 || wide != 3) {
        tinyscene_pool_any(rows, tall, wide, channels, pixels, step, y);
        return;
    }
    const int32_t n = channels;
    for (int32_t first = 0; pixels > 0; pixels--, first += step)
        for (int32_t at = first; at < first + n; at++) {
            const int8_t *a = rows[0] + at, *b = rows[1] + at, *d = rows[2] + at;
            const int32_t upper = a[0] + a[n] + a[2 * n], middle = b[0] + b[n] + b[2 * n];
            *y++ = mean_of(upper + middle + d[0] + d[n] + d[2 * n], 9);
        }
}

#endif

SELDOM_CALLED
void tinyscene_mean_row(const int8_t *x, int32_t pixels, int32_t channels, int32_t *sums)
{
    for (; pixels > 0; pixels--)
        for (int32_t channel = 0; channel < channels; channel++)
            sums[channel] += *x++;
}

SELDOM_CALLED
void tinyscene_mean_end(const tinyscene_average *m, const int32_t *sums, int32_t channels, int8_t *y)
{
    for (int32_t channel = 0; channel < channels; channel++)
        y[channel] = clamp(rescale(sums[channel] - m->offset, m->multiplier, m->shift) + m->zero_point, -128);
}

void tinyscene_fill(int8_t *y, int32_t zero_point, int32_t count)
{
    memset(y, zero_point, (size_t)count);
}

#if defined(TINYSCENE_PLAIN)

/* What rescales a channel. Accumulators below `least` come out as `activation_min`. */
typedef struct {
    int32_t bias, multiplier, rounding, shift, least, activation_min;
} tinyscene_scale;

/* rounding << shift is twice the half that is added before the shift, and the zero point. `least` is -2^23 for each
 * step from -128 to the zero point: times a multiplier of 2^30 or more and shifted by 22 or less, what is below it
 * comes out as -128. Where the zero point is -128, that is half of all, most often: these need no product. */
INLINE tinyscene_scale scale_of(const tinyscene_conv *c, int32_t channel)
{
    const int32_t shift = c->shift[channel];
    const int32_t rounding = (int32_t)((uint32_t)c->rounding << shift) >> 1;
    const int32_t least = (c->rounding + 255) * -(1 << 22);
    const tinyscene_scale scale = {c->bias[channel], c->multiplier[channel], rounding, shift, least, c->activation_min};
    return scale;
}

/* As requantize_any, where twice an accumulator fits 32 bits. Its sign stands for that of the product: where the
 * product alone is 0, taking 1 off changes nothing. */
INLINE int8_t requantize(tinyscene_scale scale, int32_t accumulator)
{
#if defined(__arm__) /* which clamps to constants by an instruction */
    const int32_t activation_min = -128, highest = 127;
#else
    const int32_t activation_min = scale.activation_min, highest = ~activation_min; /* the same, in registers */
    if (accumulator < scale.least)
        return (int8_t)activation_min;
#endif
    const int32_t high = high_product_of_half(2 * accumulator, scale.multiplier);
    int32_t value = (high + (accumulator >> 31) + scale.rounding) >> scale.shift;
    value = value > activation_min ? value : activation_min;
    return (int8_t)(value < highest ? value : highest);
}

/* Two pixels are multiplied at once. Their inputs a and b make a word, a + 65536 * b, and two such words by their
 * weights add up to a sum of two a's and one of two b's, each of which 16 bits hold: 2 * 128 * 127 < 2^15. With 2^15
 * added, so that the lower one does not borrow from the upper one, the latter is what a shift leaves. The lower one is
 * never taken out: words are summed as they are, modulo 2^32, and what is not of the sum of b's is that of a's. */
typedef struct {
    uint32_t words; /* sum of a + 65536 * sum of b + 2^15 for each two inputs */
    int32_t upper;  /* sum of b */
} tinyscene_pair;

INLINE void add_two(tinyscene_pair *s, int32_t p, int32_t u, int32_t q, int32_t v, int32_t half)
{
    const int32_t products = q * v + (p * u + half);
    s->words += (uint32_t)products;
    s->upper += products >> 16;
}

INLINE void add_four(tinyscene_pair *s, const int32_t words[4], const int8_t w[4], int32_t half)
{
    add_two(s, words[0], w[0], words[1], w[1], half);
    add_two(s, words[2], w[2], words[3], w[3], half);
}

/* 2^15, for `rounding` is odd: a compiler that knew it would not start a multiply-accumulate with it. */
INLINE int32_t half_of(const tinyscene_conv *c)
{
    return (c->rounding & 1) << 15;
}

/* Inputs of two pixels -> words: four, the next four `step` further; zeros up to a multiple of four. */
static void pack(const int8_t *a, const int8_t *b, int32_t depth, int32_t *words, int32_t step)
{
    for (; depth >= 4; depth -= 4, a += 4, b += 4, words += step) {
        words[0] = a[0] + b[0] * 65536;
        words[1] = a[1] + b[1] * 65536;
        words[2] = a[2] + b[2] * 65536;
        words[3] = a[3] + b[3] * 65536;
    }
    for (int32_t k = 0; depth > 0 && k < 4; k++)
        words[k] = k < depth ? a[k] + b[k] * 65536 : 0;
}

/* A pair's sums -> an output of both pixels. `halves` is all of the 2^15. */
INLINE void put_pair(tinyscene_scale scale, tinyscene_pair s, int32_t halves, int8_t *first, int8_t *second)
{
    *first = requantize(scale, scale.bias - halves + (int32_t)(s.words - ((uint32_t)s.upper << 16)));
    *second = requantize(scale, scale.bias + s.upper);
}

#if !defined(__arm__) /* which has registers for half as many sums */
INLINE void put_four(const tinyscene_conv *c, int32_t channel, int32_t halves, tinyscene_pair s,
                            tinyscene_pair t, int8_t *y)
{
    if (channel < c->outputs) {
        const tinyscene_scale scale = scale_of(c, channel);
        const int32_t next = c->outputs;
        y += channel;
        put_pair(scale, s, halves, y, y + next);
        y += next;
        put_pair(scale, t, halves, y + next, y + next + next);
    }
}

/* Four pixels, two channels at a time: each value that is loaded is used twice. */
static void four_pixels(const tinyscene_conv *conv, const int8_t *x, int8_t *y, int32_t *words)
{
    const tinyscene_conv own = *conv, *const c = &own; /* which no output that is written can change */
    const int32_t depth = c->depth, steps = (depth + 3) / 4, half = half_of(c);
    const int8_t *w = c->weights;
    pack(x, x + depth, depth, words, 8);
    pack(x + 2 * depth, x + 3 * depth, depth, words + 4, 8);
    for (int32_t channel = 0; channel < c->outputs; channel += 2) {
        tinyscene_pair s0 = {0, 0}, s1 = s0, t0 = s0, t1 = s0;
        for (const int32_t *p = words, *const end = words + 8 * steps; p != end; p += 8, w += 8) {
            add_four(&s0, p, w, half);
            add_four(&t0, p + 4, w, half);
            add_four(&s1, p, w + 4, half);
            add_four(&t1, p + 4, w + 4, half);
        }
        put_four(c, channel, 2 * steps * half, s0, t0, y);
        put_four(c, channel + 1, 2 * steps * half, s1, t1, y);
    }
}
#endif

INLINE void put_two(const tinyscene_conv *c, int32_t channel, int32_t halves, tinyscene_pair s, int8_t *y)
{
    if (channel < c->outputs)
        put_pair(scale_of(c, channel), s, halves, y + channel, y + channel + c->outputs);
}

static void two_pixels(const tinyscene_conv *c, const int8_t *x, int8_t *y, int32_t *words)
{
    const int32_t depth = c->depth, steps = (depth + 3) / 4, half = half_of(c);
    const int8_t *w = c->weights;
    pack(x, x + depth, depth, words, 4);
    for (int32_t channel = 0; channel < c->outputs; channel += 2) {
        tinyscene_pair s0 = {0, 0}, s1 = s0;
        for (const int32_t *p = words, *const end = words + 4 * steps; p != end; p += 4, w += 8) {
            add_four(&s0, p, w, half);
            add_four(&s1, p, w + 4, half);
        }
        put_two(c, channel, 2 * steps * half, s0, y);
        put_two(c, channel + 1, 2 * steps * half, s1, y);
    }
}

INLINE void put_one(const tinyscene_conv *c, int32_t channel, int32_t sum, int8_t *y)
{
    if (channel < c->outputs) {
        const tinyscene_scale scale = scale_of(c, channel);
        y[channel] = requantize(scale, scale.bias + sum);
    }
}

static void one_pixel(const tinyscene_conv *c, const int8_t *x, int8_t *y)
{
    const int32_t whole = c->depth & -4, rest = c->depth & 3;
    const int8_t *w = c->weights;
    for (int32_t channel = 0; channel < c->outputs; channel += 2, w += rest ? 8 : 0) {
        int32_t s0 = 0, s1 = 0;
        const int8_t *p = x;
        for (const int8_t *const end = x + whole; p != end; p += 4, w += 8) {
            s0 += p[0] * w[0] + p[1] * w[1] + p[2] * w[2] + p[3] * w[3];
            s1 += p[0] * w[4] + p[1] * w[5] + p[2] * w[6] + p[3] * w[7];
        }
        for (int32_t k = 0; k < rest; k++) {
            s0 += p[k] * w[k];
            s1 += p[k] * w[k + 4];
        }
        put_one(c, channel, s0, y);
        put_one(c, channel + 1, s1, y);
    }
}

void tinyscene_pointwise(const tinyscene_conv *c, const int8_t *x, int32_t pixels, int8_t *y, void *scratch)
{
    const int32_t depth = c->depth, outputs = c->outputs;
#if !defined(__arm__)
    for (; pixels >= 4; pixels -= 4, x += 4 * depth, y += 4 * outputs)
        four_pixels(c, x, y, scratch);
#endif
    for (; pixels >= 2; pixels -= 2, x += 2 * depth, y += 2 * outputs)
        two_pixels(c, x, y, scratch);
    if (pixels > 0)
        one_pixel(c, x, y);
}

/* A column of a window by one of weights. */
INLINE int32_t column(const int8_t *a, const int8_t *b, const int8_t *d, int32_t u, int32_t v, int32_t w)
{
    return *a * u + *b * v + *d * w;
}

/* The weights of a channel's window. */
typedef struct {
    int32_t w[9];
} tinyscene_window;

INLINE tinyscene_window window_of(const tinyscene_conv *c, int32_t channel)
{
    const int8_t *w = (const int8_t *)c->weights + channel;
    const int32_t n = c->outputs;
    const tinyscene_window window = {
        {w[0], w[n], w[2 * n], w[3 * n], w[4 * n], w[5 * n], w[6 * n], w[7 * n], w[8 * n]}};
    return window;
}

/* A channel at a time. Windows that are a pixel apart share columns: each is read once, for three outputs. */
static void near_windows(const tinyscene_conv *c, const int8_t *const rows[3], int32_t pixels, int8_t *y)
{
    const int32_t n = c->outputs;
    for (int32_t channel = 0; channel < n; channel++) {
        const tinyscene_scale scale = scale_of(c, channel);
        const tinyscene_window window = window_of(c, channel);
        const int32_t *const w = window.w;
        const int8_t *a = rows[0] + channel, *b = rows[1] + channel, *d = rows[2] + channel;
        int8_t *to = y + channel, *const end = to + pixels * n;
        int32_t sum = scale.bias + column(a, b, d, w[0], w[3], w[6]) + column(a + n, b + n, d + n, w[1], w[4], w[7]);
        int32_t next = scale.bias + column(a + n, b + n, d + n, w[0], w[3], w[6]);
        for (; to != end; to += n) {
            a += n;
            b += n;
            d += n;
            const int32_t i = a[n], j = b[n], k = d[n];
            *to = requantize(scale, sum + i * w[2] + j * w[5] + k * w[8]);
            sum = next + i * w[1] + j * w[4] + k * w[7];
            next = scale.bias + i * w[0] + j * w[3] + k * w[6];
        }
    }
}

static void far_windows(const tinyscene_conv *c, const int8_t *const rows[3], int32_t pixels, int32_t step, int8_t *y)
{
    const int32_t n = c->outputs;
    for (int32_t channel = 0; channel < n; channel++) {
        const tinyscene_scale scale = scale_of(c, channel);
        const tinyscene_window window = window_of(c, channel);
        const int32_t *const w = window.w;
        const int8_t *a = rows[0] + channel, *b = rows[1] + channel, *d = rows[2] + channel;
        int8_t *to = y + channel, *const end = to + pixels * n;
        for (; to != end; to += n, a += step, b += step, d += step)
            *to = requantize(scale, scale.bias + column(a, b, d, w[0], w[3], w[6]) +
                                        column(a + n, b + n, d + n, w[1], w[4], w[7]) +
                                        column(a + 2 * n, b + 2 * n, d + 2 * n, w[2], w[5], w[8]));
    }
}

void tinyscene_depthwise(const tinyscene_conv *c, const int8_t *const rows[3], int32_t pixels, int32_t step, int8_t *y)
{
    if (step == c->outputs)
        near_windows(c, rows, pixels, y);
    else
        far_windows(c, rows, pixels, step, y);
}

#endif
