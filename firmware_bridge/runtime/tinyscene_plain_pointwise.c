/* Pointwise convolutions in plain C99. */
#include "tinyscene_plain.h"

#if defined(TINYSCENE_PLAIN)

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
    const int32_t products = (q * v) + ((p * u) + half);
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
    return (c->rounding & 1) * POWER_OF_2(15);
}

/* Inputs of two pixels -> words: four, the next four `step` further; zeros up to a multiple of four. */
TINYSCENE_CODE static void pack(const int8_t *a, const int8_t *b, int32_t depth, int32_t *words, int32_t step)
{
    for (; depth >= 4; depth -= 4) {
        words[0] = a[0] + (b[0] * 65536);
        words[1] = a[1] + (b[1] * 65536);
        words[2] = a[2] + (b[2] * 65536);
        words[3] = a[3] + (b[3] * 65536);
        a += 4;
        b += 4;
        words += step;
    }
    for (int32_t k = 0; (depth > 0) && (k < 4); k++) {
        words[k] = (k < depth) ? (a[k] + (b[k] * 65536)) : 0;
    }
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
        put_pair(scale, s, halves, y, &y[next]);
        y += next;
        put_pair(scale, t, halves, &y[next], &y[2 * next]);
    }
}

/* Four pixels, two channels at a time: each value that is loaded is used twice. */
TINYSCENE_CODE static void four_pixels(const tinyscene_conv *conv, const int8_t *x, int8_t *y, int32_t *words)
{
    const tinyscene_conv own = *conv; /* which no output that is written can change */
    const tinyscene_conv *const c = &own;
    const int32_t depth = c->depth;
    const int32_t steps = (depth + 3) / 4;
    const int32_t half = half_of(c);
    const int8_t *w = c->weights;
    pack(x, &x[depth], depth, words, 8);
    pack(&x[2 * depth], &x[3 * depth], depth, &words[4], 8);
    for (int32_t channel = 0; channel < c->outputs; channel += 2) {
        tinyscene_pair s0 = {0, 0};
        tinyscene_pair s1 = s0;
        tinyscene_pair t0 = s0;
        tinyscene_pair t1 = s0;
        const int32_t *const end = &words[8 * steps];
        for (const int32_t *p = words; p != end; p += 8) {
            add_four(&s0, p, w, half);
            add_four(&t0, &p[4], w, half);
            add_four(&s1, p, &w[4], half);
            add_four(&t1, &p[4], &w[4], half);
            w += 8;
        }
        put_four(c, channel, 2 * steps * half, s0, t0, y);
        put_four(c, channel + 1, 2 * steps * half, s1, t1, y);
    }
}
#endif

INLINE void put_two(const tinyscene_conv *c, int32_t channel, int32_t halves, tinyscene_pair s, int8_t *y)
{
    if (channel < c->outputs) {
        put_pair(scale_of(c, channel), s, halves, &y[channel], &y[channel + c->outputs]);
    }
}

TINYSCENE_CODE static void two_pixels(const tinyscene_conv *c, const int8_t *x, int8_t *y, int32_t *words)
{
    const int32_t depth = c->depth;
    const int32_t steps = (depth + 3) / 4;
    const int32_t half = half_of(c);
    const int8_t *w = c->weights;
    pack(x, &x[depth], depth, words, 4);
    for (int32_t channel = 0; channel < c->outputs; channel += 2) {
        tinyscene_pair s0 = {0, 0};
        tinyscene_pair s1 = s0;
        const int32_t *const end = &words[4 * steps];
        for (const int32_t *p = words; p != end; p += 4) {
            add_four(&s0, p, w, half);
            add_four(&s1, p, &w[4], half);
            w += 8;
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

TINYSCENE_CODE static void one_pixel(const tinyscene_conv *c, const int8_t *x, int8_t *y)
{
    const int32_t whole = c->depth & -4;
    const int32_t rest = c->depth & 3;
    const int8_t *w = c->weights;
    for (int32_t channel = 0; channel < c->outputs; channel += 2) {
        int32_t s0 = 0;
        int32_t s1 = 0;
        const int8_t *p = x;
        const int8_t *const end = &x[whole];
        for (; p != end; p += 4) {
            s0 += (p[0] * w[0]) + (p[1] * w[1]) + (p[2] * w[2]) + (p[3] * w[3]);
            s1 += (p[0] * w[4]) + (p[1] * w[5]) + (p[2] * w[6]) + (p[3] * w[7]);
            w += 8;
        }
        for (int32_t k = 0; k < rest; k++) {
            s0 += p[k] * w[k];
            s1 += p[k] * w[k + 4];
        }
        put_one(c, channel, s0, y);
        put_one(c, channel + 1, s1, y);
        w += rest ? 8 : 0;
    }
}

void tinyscene_pointwise(const tinyscene_conv *c, const int8_t *x, int32_t pixels, int8_t *y, void *scratch)
{
    const int32_t depth = c->depth;
    const int32_t outputs = c->outputs;
#if !defined(__arm__)
    for (; pixels >= 4; pixels -= 4) {
        four_pixels(c, x, y, scratch);
        x += 4 * depth;
        y += 4 * outputs;
    }
#endif
    for (; pixels >= 2; pixels -= 2) {
        two_pixels(c, x, y, scratch);
        x += 2 * depth;
        y += 2 * outputs;
    }
    if (pixels > 0) {
        one_pixel(c, x, y);
    }
}

#endif
