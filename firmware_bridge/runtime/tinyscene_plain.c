/* The kernels in plain C99: what all others are held to. */
#include "tinyscene_kernels.h"

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

static int8_t clamp(int32_t value, int32_t lowest)
{
    return (int8_t)(value < lowest ? lowest : value > 127 ? 127 : value);
}

static int8_t requantize_any(const tinyscene_conv *c, int32_t channel, uint32_t accumulator)
{
    const int32_t value = rescale((int32_t)accumulator, c->multiplier[channel], c->shift[channel]);
    return clamp(value + (c->rounding >> 1), c->lowest); /* rounding is odd: half of it is the zero point */
}

/* Sums wrap around, for with the zero point folded in one may leave 32 bits before it comes back. */
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

#if !defined(TINYSCENE_SIMD) /* which has its own of these */

void tinyscene_gather(const int8_t *const *rows, int32_t tall, int32_t bytes, int32_t first, int32_t pixels,
                      int32_t step, int8_t *patches)
{
    for (int32_t at = first * step; pixels > 0; pixels--, at += step)
        for (int32_t row = 0; row < tall; row++)
            for (int32_t i = 0; i < bytes; i++)
                *patches++ = rows[row][at + i];
}

void tinyscene_add(const tinyscene_sum *s, const int8_t *a, const int8_t *b, int32_t count, int8_t *y)
{
    for (int32_t i = 0; i < count; i++) {
        const int32_t first = rescale((a[i] - s->zero_point[0]) * (1 << 20), s->multiplier[0], s->shift[0]);
        const int32_t second = rescale((b[i] - s->zero_point[1]) * (1 << 20), s->multiplier[1], s->shift[1]);
        y[i] = clamp(rescale(first + second, s->out_multiplier, s->out_shift) + s->out_zero_point, s->lowest);
    }
}

void tinyscene_pool(const int8_t *const *rows, int32_t tall, int32_t wide, int32_t channels, int32_t pixels,
                    int32_t step, int8_t *y)
{
    const int32_t count = tall * wide;
    for (int32_t at = 0; pixels > 0; pixels--, at += step)
        for (int32_t channel = 0; channel < channels; channel++) {
            int32_t sum = 0;
            for (int32_t row = 0; row < tall; row++)
                for (int32_t column = 0; column < wide; column++)
                    sum += rows[row][at + column * channels + channel];
            *y++ = (int8_t)((sum > 0 ? sum + count / 2 : sum - count / 2) / count);
        }
}

#endif

void tinyscene_mean_row(const int8_t *x, int32_t pixels, int32_t channels, int32_t *sums)
{
    for (; pixels > 0; pixels--)
        for (int32_t channel = 0; channel < channels; channel++)
            sums[channel] += *x++;
}

void tinyscene_mean_end(const tinyscene_average *m, const int32_t *sums, int32_t channels, int8_t *y)
{
    for (int32_t channel = 0; channel < channels; channel++)
        y[channel] = clamp(rescale(sums[channel] - m->offset, m->multiplier, m->shift) + m->zero_point, -128);
}

void tinyscene_fill(int8_t *y, int32_t zero_point, int32_t count)
{
    for (; count > 0; count--)
        *y++ = (int8_t)zero_point;
}

#if defined(TINYSCENE_PLAIN)

/* The accumulator of a channel, rescaled, with the zero point added: rounding << shift is twice the half that is
 * added before the shift, and the zero point. */
static int8_t requantize(const tinyscene_conv *c, int32_t channel, int32_t accumulator)
{
    const int32_t shift = c->shift[channel], high = high_product(accumulator, c->multiplier[channel]);
    const int32_t rounded = high - (high < 0) + (((int32_t)((uint32_t)c->rounding << shift)) >> 1);
    return clamp(rounded >> shift, -128);
}

/* Two pixels by two channels: each value that is loaded is used twice. */
void tinyscene_pointwise(const tinyscene_conv *c, const int8_t *x, int32_t pixels, int8_t *y, void *scratch)
{
    const int32_t depth = c->depth, outputs = c->outputs;
    (void)scratch;
    for (; pixels >= 2; pixels -= 2, x += 2 * depth, y += 2 * outputs) {
        const int8_t *w = c->weights;
        int32_t channel = 0;
        for (; channel + 2 <= outputs; channel += 2, w += 2 * depth) {
            int32_t sum00 = c->bias[channel], sum10 = sum00, sum01 = c->bias[channel + 1], sum11 = sum01;
            for (int32_t k = 0; k < depth; k++) {
                const int32_t x0 = x[k], x1 = x[depth + k], w0 = w[k], w1 = w[depth + k];
                sum00 += x0 * w0;
                sum01 += x0 * w1;
                sum10 += x1 * w0;
                sum11 += x1 * w1;
            }
            y[channel] = requantize(c, channel, sum00);
            y[channel + 1] = requantize(c, channel + 1, sum01);
            y[outputs + channel] = requantize(c, channel, sum10);
            y[outputs + channel + 1] = requantize(c, channel + 1, sum11);
        }
        for (; channel < outputs; channel++, w += depth) {
            int32_t sum0 = c->bias[channel], sum1 = sum0;
            for (int32_t k = 0; k < depth; k++) {
                sum0 += x[k] * w[k];
                sum1 += x[depth + k] * w[k];
            }
            y[channel] = requantize(c, channel, sum0);
            y[outputs + channel] = requantize(c, channel, sum1);
        }
    }
    if (pixels > 0) {
        const int8_t *w = c->weights;
        for (int32_t channel = 0; channel < outputs; channel++, w += depth) {
            int32_t sum = c->bias[channel];
            for (int32_t k = 0; k < depth; k++)
                sum += x[k] * w[k];
            y[channel] = requantize(c, channel, sum);
        }
    }
}

void tinyscene_depthwise(const tinyscene_conv *c, const int8_t *const rows[3], int32_t pixels, int32_t step, int8_t *y)
{
    const int32_t n = c->outputs;
    const int8_t *a = rows[0], *b = rows[1], *d = rows[2];
    for (; pixels > 0; pixels--, a += step, b += step, d += step, y += n)
        for (int32_t i = 0; i < n; i++) {
            const int8_t *w = (const int8_t *)c->weights + i;
            int32_t sum = c->bias[i];
            sum += a[i] * w[0] + a[n + i] * w[n] + a[2 * n + i] * w[2 * n];
            sum += b[i] * w[3 * n] + b[n + i] * w[4 * n] + b[2 * n + i] * w[5 * n];
            sum += d[i] * w[6 * n] + d[n + i] * w[7 * n] + d[2 * n + i] * w[8 * n];
            y[i] = requantize(c, i, sum);
        }
}

#endif
