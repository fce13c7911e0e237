/* The kernels in plain C99 that take anything, and those that are seldom called: the reference for all others. */
#include <string.h>

#include "tinyscene_plain.h"

/* Compilers optimize cold functions for size. */
#if defined(__GNUC__)
#define SELDOM_CALLED __attribute__((cold))
#define KEEP_ROLLED(count) __asm("" : "+r"(count)) /* compilers that cannot know how often a loop runs leave it */
#else
#define SELDOM_CALLED
#define KEEP_ROLLED(count) ((void)0)
#endif

/* x * multiplier / 2^31, rounded half up: the upper half of the doubled product. */
TINYSCENE_CODE static int32_t high_product(int32_t x, int32_t multiplier)
{
    return (int32_t)((((int64_t)x * multiplier) + POWER_OF_2(30)) >> 31);
}

/* x / 2^shift, rounded half away from zero, 0 <= shift <= 31. */
TINYSCENE_CODE static int32_t divide_by_power(int32_t x, int32_t shift)
{
    const int32_t mask = (int32_t)((UINT32_C(1) << shift) - 1u);
    return (x >> shift) + ((x & mask) > ((mask >> 1) + (x < 0)));
}

/* x * multiplier / 2^31 / 2^shift, rounded twice as TFLite does. */
TINYSCENE_CODE static int32_t rescale(int32_t x, int32_t multiplier, int32_t shift)
{
    return (shift >= 0) ? divide_by_power(high_product(x, multiplier), shift)
                      : high_product((int32_t)((uint32_t)x << -shift), multiplier);
}

TINYSCENE_CODE static int8_t clamp(int32_t value, int32_t activation_min)
{
    return (int8_t)((value < activation_min) ? activation_min : ((value > 127) ? 127 : value));
}

TINYSCENE_CODE static int8_t requantize_any(const tinyscene_conv *c, int32_t channel, uint32_t accumulator)
{
    const int32_t value = rescale((int32_t)accumulator, c->multiplier[channel], c->shift[channel]);
    return clamp(value + (c->rounding >> 1), c->activation_min); /* rounding is odd: half of it is the zero point */
}

/* Sums wrap around: with the zero point folded in, a partial sum may exceed 32 bits. */
void tinyscene_pointwise_any(const tinyscene_conv *c, const int8_t *x, int32_t pixels, int8_t *y)
{
    for (; pixels > 0; pixels--) {
        const int8_t *w = c->weights;
        for (int32_t channel = 0; channel < c->outputs; channel++) {
            uint32_t sum = (uint32_t)c->bias[channel];
            for (int32_t k = 0; k < c->depth; k++) {
                sum += (uint32_t)(x[k] * *w++);
            }
            *y++ = requantize_any(c, channel, sum);
        }
        x += c->depth;
    }
}

void tinyscene_depthwise_any(const tinyscene_conv *c, const int8_t *const *rows, int32_t tall, int32_t wide,
                             int32_t pixels, int32_t step, int8_t *y)
{
    int32_t at = 0;
    for (; pixels > 0; pixels--) {
        for (int32_t channel = 0; channel < c->outputs; channel++) {
            const int8_t *w = &((const int8_t *)c->weights)[channel];
            uint32_t sum = (uint32_t)c->bias[channel];
            for (int32_t row = 0; row < tall; row++) {
                for (int32_t column = 0; column < wide; column++) {
                    sum += (uint32_t)(rows[row][at + (column * c->outputs) + channel] * *w);
                    w += c->outputs;
                }
            }
            *y++ = requantize_any(c, channel, sum);
        }
        at += step;
    }
}

#if !defined(TINYSCENE_SIMD) /* which has faster ones */

void tinyscene_pointwise_wide(const tinyscene_conv *c, const int8_t *x, int32_t pixels, int8_t *y, void *scratch)
{
    (void)scratch;
    tinyscene_pointwise_any(c, x, pixels, y);
}

void tinyscene_depthwise_wide(const tinyscene_conv *c, const int8_t *const rows[3], int32_t pixels, int32_t step,
                              int8_t *y)
{
    tinyscene_depthwise_any(c, rows, 3, 3, pixels, step, y);
}

#endif

/* sum / count, rounded half away from zero. */
TINYSCENE_CODE static int8_t mean_of(int32_t sum, int32_t count)
{
    return (int8_t)(((sum > 0) ? (sum + (count / 2)) : (sum - (count / 2))) / count);
}

void tinyscene_pool_any(const int8_t *const *rows, int32_t tall, int32_t wide, int32_t channels, int32_t pixels,
                        int32_t step, int8_t *y)
{
    const int32_t count = tall * wide;
    int32_t at = 0;
    for (; pixels > 0; pixels--) {
        for (int32_t channel = 0; channel < channels; channel++) {
            int32_t sum = 0;
            for (int32_t row = 0; row < tall; row++) {
                for (int32_t column = 0; column < wide; column++) {
                    sum += rows[row][at + (column * channels) + channel];
                }
            }
            *y++ = mean_of(sum, count);
        }
        at += step;
    }
}

/* All sums stay below 2^29: deploy/graph/graph.py rejects other graphs. */
SELDOM_CALLED
void tinyscene_add_any(const tinyscene_sum *sum_of, const int8_t *a, const int8_t *b, int32_t count, int8_t *y)
{
    const tinyscene_sum own = *sum_of; /* which no output that is written can change */
    const tinyscene_sum *const s = &own;
    const int32_t shift = s->shift;
    const int32_t half = POWER_OF_2(shift) >> 1;
    const int32_t nudge = (shift > 0) ? -1 : 0;
    const int32_t out_shift = s->out_shift;
    const int32_t out_half = POWER_OF_2(out_shift) >> 1;
    const int32_t out_nudge = (out_shift > 0) ? -1 : 0;
    for (int32_t i = 0; i < count; i++) {
        const int32_t high = high_product((b[i] - s->zero_point[1]) * POWER_OF_2(20), s->multiplier);
        const int32_t first = (a[i] - s->zero_point[0]) * POWER_OF_2(19);
        const int32_t sum = first + ((high + ((high >> 31) & nudge) + half) >> shift);
        const int32_t out = high_product(sum, s->out_multiplier);
        const int32_t value = ((out + ((out >> 31) & out_nudge) + out_half) >> out_shift) + s->out_zero_point;
        y[i] = clamp(value, s->activation_min);
    }
}

#if !defined(TINYSCENE_SIMD) && !defined(TINYSCENE_MVE) /* which have their own of this */

/* A call takes longer than a few bytes do. */
INLINE int8_t *copy(const int8_t *from, int32_t bytes, int8_t *to)
{
#if defined(TINYSCENE_DSP) /* where words may lie at any address */
    for (; bytes >= 4; bytes -= 4) {
        __builtin_memcpy(to, from, 4);
        KEEP_ROLLED(bytes);
        from += 4;
        to += 4;
    }
#else
    if (bytes >= 8) {
        (void)memcpy(to, from, (size_t)bytes);
        return &to[bytes];
    }
#endif
    for (; bytes > 0; bytes--) {
        *to++ = *from++;
        KEEP_ROLLED(bytes);
    }
    return to;
}

void tinyscene_gather(const int8_t *const *rows, int32_t tall, int32_t bytes, int32_t first, int32_t pixels,
                      int32_t step, int8_t *patches)
{
    int32_t at = first * step;
    for (; pixels > 0; pixels--) {
        for (int32_t row = 0; row < tall; row++) {
            patches = copy(&rows[row][at], bytes, patches);
        }
        at += step;
    }
}

#endif

#if defined(TINYSCENE_PLAIN)

/* As tinyscene_add_any: `half` has twice what is added before a shift, and 1 to round the product. */
void tinyscene_add(const tinyscene_sum *sum_of, const int8_t *a, const int8_t *b, int32_t count, int8_t *y)
{
    const tinyscene_sum own = *sum_of;
    const tinyscene_sum *const s = &own;
    const int32_t half = POWER_OF_2(s->shift) + 1;
    const int32_t out_half = (((2 * s->out_zero_point) + 1) * POWER_OF_2(s->out_shift)) + 1;
    const int32_t shift = s->shift + 1;
    const int32_t out_shift = s->out_shift + 1;
    for (int32_t i = 0; i < count; i++) {
        const int32_t second = (b[i] - s->zero_point[1]) * POWER_OF_2(22);
        const int32_t scaled = (upper_product(second, s->multiplier) + (2 * (second >> 31)) + half) >> shift;
        const int32_t sum = ((a[i] - s->zero_point[0]) * POWER_OF_2(21)) + (4 * scaled);
        y[i] = clamp((upper_product(sum, s->out_multiplier) + (2 * (sum >> 31)) + out_half) >> out_shift,
                     s->activation_min);
    }
}

void tinyscene_pool(const int8_t *const *rows, int32_t tall, int32_t wide, int32_t channels, int32_t pixels,
                    int32_t step, int8_t *y)
{
    if ((tall != 3) || (wide != 3)) {
        tinyscene_pool_any(rows, tall, wide, channels, pixels, step, y);
        return;
    }
    const int32_t n = channels;
    int32_t first = 0;
    for (; pixels > 0; pixels--) {
        for (int32_t at = first; at < (first + n); at++) {
            const int8_t *a = &rows[0][at];
            const int8_t *b = &rows[1][at];
            const int8_t *d = &rows[2][at];
            const int32_t upper = a[0] + a[n] + a[2 * n];
            const int32_t middle = b[0] + b[n] + b[2 * n];
            *y++ = mean_of(upper + middle + d[0] + d[n] + d[2 * n], 9);
        }
        first += step;
    }
}

#endif

SELDOM_CALLED
void tinyscene_mean_row(const int8_t *x, int32_t pixels, int32_t channels, int32_t *sums)
{
    for (; pixels > 0; pixels--) {
        for (int32_t channel = 0; channel < channels; channel++) {
            sums[channel] += *x++;
        }
    }
}

void tinyscene_mean_slide(const int8_t *x, int32_t pixels, int32_t channels, int32_t *sums, int32_t slot)
{
    int32_t *column = &sums[(1 + slot) * channels];
    for (int32_t channel = 0; channel < channels; channel++) {
        sums[channel] -= column[channel];
        column[channel] = 0;
    }
    tinyscene_mean_row(x, pixels, channels, column);
    for (int32_t channel = 0; channel < channels; channel++) {
        sums[channel] += column[channel];
    }
}

SELDOM_CALLED
void tinyscene_mean_end(const tinyscene_average *m, const int32_t *sums, int32_t channels, int8_t *y)
{
    for (int32_t channel = 0; channel < channels; channel++) {
        y[channel] = clamp(rescale(sums[channel] - m->offset, m->multiplier, m->shift) + m->zero_point, -128);
    }
}

void tinyscene_fill(int8_t *y, int32_t zero_point, int32_t count)
{
    (void)memset(y, zero_point, (size_t)count);
}

