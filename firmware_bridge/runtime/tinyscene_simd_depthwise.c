/* Depthwise convolutions for hosts; their weights are int8 (tap, channel). */
#include "tinyscene_kernels.h"

#if defined(TINYSCENE_SIMD)

#include "tinyscene_simd.h"

enum { WIDE = 4 * LANES }; /* channels that a depthwise convolution takes at once */

/* Values of WIDE channels in order -> in that of `interleave`. */
INLINE void reorder(vector values[4])
{
    int32_t ordered[WIDE];
    memcpy(ordered, values, sizeof ordered);
    for (int32_t i = 0; i < WIDE / 4; i++)
        memcpy((int32_t *)(void *)values + i % 4 * LANES + i / 4 * 4, ordered + i * 4, 16);
}

/* A column of windows: three rows, and one that counts for nothing. */
INLINE void take_column(const int8_t *const rows[3], int32_t at, int32_t count, vector column[4])
{
    const wide_bytes last = flip(load_bytes(rows[2] + at, count));
    interleave(flip(load_bytes(rows[0] + at, count)), flip(load_bytes(rows[1] + at, count)), last, last, column);
}

INLINE void finish(const vector sums[4], const scaling scale[4], int32_t count, int8_t *y, const int mode)
{
    vector values[4];
#pragma GCC unroll 4 /* or clang puts the values into memory to loop over them */
    for (int32_t i = 0; i < 4; i++)
        values[i] = requantize(sums[i], &scale[i], mode);
    store_wide(y, values, count);
}

/* `count` channels of a row. */
INLINE void depthwise_channels(const tinyscene_conv *c, const int8_t *const rows[3], int32_t first, int32_t count,
                               int32_t pixels, int32_t step, int8_t *y, const int mode)
{
    const int32_t n = c->outputs;
    vector weights[3][4], column[4], start[4], multiplier[4], shift[4];
    scaling scale[4];
    for (int32_t i = 0; i < 4; i++) {
        const int32_t left = count - i * LANES, some = left > 0 ? left : 0;
        const int32_t channel = first + (some ? i * LANES : 0);
        start[i] = biased(load_words(c->bias + channel, some), mode);
        multiplier[i] = load_words(c->multiplier + channel, some);
        shift[i] = load_int8(c->shift + channel, some);
#if defined(TINYSCENE_FLOATS)
        if (mode == IN_FLOATS) {
            multiplier[i] = load_words(c->factor + channel, some);
            shift[i] = load_words(c->addend + channel, some);
        }
#endif
    }
    reorder(start);
    reorder(multiplier);
    reorder(shift);
    for (int32_t i = 0; i < 3; i++) {
        const int8_t *w = (const int8_t *)c->weights + i * n + first;
        interleave(load_bytes(w, count), load_bytes(w + 3 * n, count), load_bytes(w + 6 * n, count),
                   load_bytes(w, 0), weights[i]);
        for (int32_t j = 0; j < 4; j++)
            start[j] = subtract(start[j], dot(splat(0), splat((int32_t)(FLIP * 0x01010101u)), weights[i][j]));
    }
    for (int32_t i = 0; i < 4; i++)
#if defined(TINYSCENE_FLOATS)
        if (mode == IN_FLOATS)
            scale[i] = float_scaling(multiplier[i], shift[i]);
        else
#endif
            scale[i] = make_scaling(multiplier[i], shift[i], c->rounding, mode);
    y += first;
    if (step == n) { /* a column counts for three windows: of the last one, the next and the one after it */
        vector last[4], next[4], sums[4];
        memcpy(last, start, sizeof last);
        memcpy(next, start, sizeof next);
        for (int32_t at = -2; at < pixels; at++) {
            take_column(rows, first + (at + 2) * n, count, column);
            for (int32_t i = 0; i < 4; i++) {
                sums[i] = dot(last[i], column[i], weights[2][i]);
                last[i] = dot(next[i], column[i], weights[1][i]);
                next[i] = dot(start[i], column[i], weights[0][i]);
            }
            if (at >= 0)
                finish(sums, scale, count, y + at * n, mode);
        }
    } else
        for (int32_t pixel = 0; pixel < pixels; pixel++) {
            vector sums[4];
            memcpy(sums, start, sizeof sums);
            for (int32_t i = 0; i < 3; i++) {
                take_column(rows, first + pixel * step + i * n, count, column);
                for (int32_t j = 0; j < 4; j++)
                    sums[j] = dot(sums[j], column[j], weights[i][j]);
            }
            finish(sums, scale, count, y + pixel * n, mode);
        }
}

/* The last channels are taken with some that were had before, so as to be WIDE. */
INLINE void all_depthwise(const tinyscene_conv *c, const int8_t *const rows[3], int32_t pixels, int32_t step, int8_t *y,
                          const int mode)
{
    const int32_t n = c->outputs, count = n < WIDE ? n : WIDE;
    for (int32_t first = 0; first < n; first += WIDE)
        depthwise_channels(c, rows, first + count <= n ? first : n - count, count, pixels, step, y, mode);
}

void tinyscene_depthwise_wide(const tinyscene_conv *c, const int8_t *const rows[3], int32_t pixels, int32_t step,
                              int8_t *y)
{
    const int mode = mode_of(c);
    if (mode == SYMMETRIC)
        all_depthwise(c, rows, pixels, step, y, SYMMETRIC);
    else if (mode == UPWARDS)
        all_depthwise(c, rows, pixels, step, y, UPWARDS);
#if defined(TINYSCENE_FLOATS)
    else
        all_depthwise(c, rows, pixels, step, y, IN_FLOATS);
#endif
}

void tinyscene_depthwise(const tinyscene_conv *c, const int8_t *const rows[3], int32_t pixels, int32_t step, int8_t *y,
                         void *scratch)
{
    (void)scratch;
    tinyscene_depthwise_wide(c, rows, pixels, step, y);
}

#endif
