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

/* All sums stay below 2^29: deploy/graph.py admits no others. */
void tinyscene_add(const tinyscene_sum *s, const int8_t *a, const int8_t *b, int32_t count, int8_t *y)
{
    const int32_t shift = s->shift, half = (1 << shift) >> 1, nudge = shift > 0 ? -1 : 0;
    const int32_t out_shift = s->out_shift, out_half = (1 << out_shift) >> 1, out_nudge = out_shift > 0 ? -1 : 0;
    for (int32_t i = 0; i < count; i++) {
        const int32_t high = high_product((b[i] - s->zero_point[1]) * (1 << 20), s->multiplier);
        const int32_t sum = (a[i] - s->zero_point[0]) * (1 << 19) + ((high + ((high >> 31) & nudge) + half) >> shift);
        const int32_t out = high_product(sum, s->out_multiplier);
        const int32_t value = ((out + ((out >> 31) & out_nudge) + out_half) >> out_shift) + s->out_zero_point;
        y[i] = clamp(value, s->lowest);
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

/* What rescales a channel. */
typedef struct {
    int32_t bias, multiplier, rounding, shift;
} tinyscene_scale;

/* rounding << shift is twice the half that is added before the shift, and the zero point. */
static tinyscene_scale scale_of(const tinyscene_conv *c, int32_t channel)
{
    const int32_t shift = c->shift[channel];
    const int32_t rounding = (int32_t)((uint32_t)c->rounding << shift) >> 1;
    const tinyscene_scale scale = {c->bias[channel], c->multiplier[channel], rounding, shift};
    return scale;
}

/* As requantize_any, where twice an accumulator fits 32 bits: its product with the multiplier is rounded by the bit
 * below. Its sign stands for that of the product: where the product alone is 0, taking 1 off changes nothing. */
static int8_t requantize(tinyscene_scale scale, int32_t accumulator)
{
    const int64_t product = (int64_t)(2 * accumulator) * scale.multiplier;
    const int32_t high = (int32_t)(product >> 32) + (int32_t)((uint32_t)product >> 31);
    return clamp((high + (accumulator >> 31) + scale.rounding) >> scale.shift, -128);
}

/* Sums of two pixels by two channels. */
typedef struct {
    int32_t pu, pv, qu, qv;
} tinyscene_sums;

/* One input of both pixels by both channels: each value that is loaded is used twice. */
static void add_products(tinyscene_sums *s, int32_t p, int32_t q, int32_t u, int32_t v)
{
    s->pu += p * u;
    s->pv += p * v;
    s->qu += q * u;
    s->qv += q * v;
}

static tinyscene_sums sum_products(const int8_t *p, const int8_t *q, const int8_t *u, const int8_t *v, int32_t depth)
{
    tinyscene_sums s = {0, 0, 0, 0};
    for (; depth >= 4; depth -= 4, p += 4, q += 4, u += 4, v += 4) {
        add_products(&s, p[0], q[0], u[0], v[0]);
        add_products(&s, p[1], q[1], u[1], v[1]);
        add_products(&s, p[2], q[2], u[2], v[2]);
        add_products(&s, p[3], q[3], u[3], v[3]);
    }
    for (; depth > 0; depth--)
        add_products(&s, *p++, *q++, *u++, *v++);
    return s;
}

/* A second pixel or channel that there is not is the first once more. */
void tinyscene_pointwise(const tinyscene_conv *c, const int8_t *x, int32_t pixels, int8_t *y, void *scratch)
{
    const int32_t depth = c->depth, outputs = c->outputs;
    (void)scratch;
    for (; pixels > 0; pixels -= 2, x += 2 * depth, y += 2 * outputs) {
        const int8_t *w = c->weights, *const next_x = pixels > 1 ? x + depth : x;
        int8_t *const next_y = pixels > 1 ? y + outputs : y;
        for (int32_t channel = 0; channel < outputs; channel += 2, w += 2 * depth) {
            const int32_t next = channel + 1 < outputs ? channel + 1 : channel;
            const tinyscene_sums s = sum_products(x, next_x, w, next > channel ? w + depth : w, depth);
            tinyscene_scale scale = scale_of(c, channel);
            y[channel] = requantize(scale, scale.bias + s.pu);
            next_y[channel] = requantize(scale, scale.bias + s.qu);
            scale = scale_of(c, next);
            y[next] = requantize(scale, scale.bias + s.pv);
            next_y[next] = requantize(scale, scale.bias + s.qv);
        }
    }
}

/* A channel at a time, with its weights in registers. */
void tinyscene_depthwise(const tinyscene_conv *c, const int8_t *const rows[3], int32_t pixels, int32_t step, int8_t *y)
{
    const int32_t n = c->outputs;
    for (int32_t channel = 0; channel < n; channel++) {
        const tinyscene_scale scale = scale_of(c, channel);
        const int8_t *w = (const int8_t *)c->weights + channel;
        const int32_t w0 = w[0], w1 = w[n], w2 = w[2 * n], w3 = w[3 * n], w4 = w[4 * n], w5 = w[5 * n], w6 = w[6 * n],
                      w7 = w[7 * n], w8 = w[8 * n];
        int8_t *to = y + channel;
        for (int32_t pixel = 0, at = channel; pixel < pixels; pixel++, at += step, to += n) {
            const int8_t *a = rows[0] + at, *b = rows[1] + at, *d = rows[2] + at;
            int32_t sum = scale.bias + a[0] * w0 + a[n] * w1 + a[2 * n] * w2;
            sum += b[0] * w3 + b[n] * w4 + b[2 * n] * w5;
            sum += d[0] * w6 + d[n] * w7 + d[2 * n] * w8;
            *to = requantize(scale, sum);
        }
    }
}

#endif
