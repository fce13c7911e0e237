/* The kernels for hosts: x86-64 with AVX-512 VNNI, or AVX2 with or without AVX-VNNI; 64-bit Arm with dot products.
 *
 * All rest on one instruction that multiplies four bytes by four and adds the products to a 32-bit lane. Where it
 * takes the inputs as unsigned they are flipped, x + 128, and the sums begin 128 * sum of weights lower.
 *
 * Weights of a pointwise convolution are laid out in blocks of 16 channels: 16 int32 that are that correction, then
 * for each four inputs [16 channels][4 inputs] int8; channels and inputs that there are not hold zeros. Weights are
 * -127 to 127. Those of a depthwise convolution are int8 (tap, channel).
 */
#include "tinyscene_kernels.h"

#if defined(TINYSCENE_SIMD)

#include <string.h>

#include "tinyscene_simd.h"

enum { BLOCK = 16, PARTS = BLOCK / LANES, MOST_VECTORS = MOST_BLOCKS * PARTS }; /* parts: vectors of a block */

/* A block or two of channels of a pointwise convolution, the last of them perhaps not full. */
typedef struct {
    const int8_t *weights[MOST_BLOCKS]; /* of each block, behind its corrections */
    vector start[MOST_VECTORS];         /* what sums begin with */
    scaling scale[MOST_VECTORS];
    vector left[MOST_VECTORS], restored[MOST_VECTORS]; /* if sums are shifted to the left first: by how much, and BIAS */
    int32_t channels;                   /* from the first of these on to the convolution's last */
} channel_set;

INLINE void flip_fours(const int8_t *restrict x, int32_t fours, uint8_t *restrict out)
{
    for (int32_t i = 0; i < 4 * fours; i++)
        out[i] = (uint8_t)(x[i] ^ FLIP);
}

/* Inputs of a row as `dot` takes them: flipped, each pixel's padded to a multiple of 4. The padding holds anything, for
 * its weights are 0: what follows in x, as long as enough follows. */
static const uint8_t *prepare(const int8_t *x, int32_t pixels, int32_t depth, uint8_t *scratch)
{
    const int32_t left = depth % 4, whole = depth - left, all = pixels * depth;
    uint8_t *out = scratch;
    int32_t at = 0;
    if (left == 0 && FLIP == 0)
        return (const uint8_t *)x;
    if (left == 0) {
        flip_fours(x, all / 4, out);
        return scratch;
    }
    for (; all - at >= (depth + 15) / 16 * 16; at += depth, out += whole + 4)
        for (int32_t i = 0; i < depth; i += 16)
            flip_fours(x + at + i, 4, out + i);
    for (; at < all; at += depth, out += whole + 4) {
        int8_t last[4] = {0};
        for (int32_t i = 0; i < left; i++)
            last[i] = x[at + whole + i];
        flip_fours(x + at, whole / 4, out);
        flip_fours(last, 1, out + whole);
    }
    return scratch;
}

static int32_t block_bytes(const tinyscene_conv *c)
{
    return BLOCK * 4 + (c->depth + 3) / 4 * 4 * BLOCK;
}

/* Channels that there are not are computed with zeros and not stored. */
INLINE channel_set take_channels(const tinyscene_conv *c, int32_t first, const int32_t blocks, const int symmetric,
                                 const int shifted)
{
    channel_set out;
    out.channels = c->outputs - first;
    for (int32_t block = 0; block < blocks; block++) {
        const int8_t *w = (const int8_t *)c->weights + (first / BLOCK + block) * block_bytes(c);
        out.weights[block] = w + BLOCK * 4;
        for (int32_t part = 0; part < PARTS; part++) {
            const int32_t at = block * PARTS + part, channel = first + at * LANES, count = c->outputs - channel;
            const int32_t some = count < 0 ? 0 : count; /* a count of 0 reads nothing */
            const vector bias = load_words(c->bias + (some ? channel : 0), some);
            out.start[at] = add(FLIP ? add(bias, load(w + part * LANES * 4)) : bias, splat(BIAS));
            const vector shift = load_int8(c->shift + (some ? channel : 0), some);
            out.scale[at] = make_scaling(load_words(c->multiplier + (some ? channel : 0), some),
                                         shifted ? larger(shift, splat(0)) : shift, c->rounding, symmetric);
            out.left[at] = larger(subtract(splat(0), shift), splat(0));
            out.restored[at] = subtract(splat(BIAS), shift_lanes_left(splat(BIAS), out.left[at]));
        }
    }
    return out;
}

/* A few pixels by a few channels: each value that is loaded is used several times, and all sums are in registers. */
INLINE void tile(const channel_set *c, int32_t depth, const uint8_t *x, int8_t *y, int32_t outputs,
                 const int32_t blocks, const int symmetric, const int shifted, const int32_t pixels)
{
    const int32_t vectors = blocks * PARTS;
    vector sums[MOST_PIXELS][MOST_VECTORS];
    const int32_t some = vectors < AT_ONCE ? vectors : AT_ONCE;
    for (int32_t first = 0; first < vectors; first += some) {
        accumulator partial[MOST_PIXELS][AT_ONCE];
        for (int32_t pixel = 0; pixel < pixels; pixel++)
            for (int32_t i = 0; i < some; i++)
                partial[pixel][i] = begin(c->start[first + i]);
        for (int32_t k = 0; k < depth; k += 4) {
            four_weights weights[AT_ONCE];
            for (int32_t i = 0; i < some; i++)
                weights[i] = load_weights(c->weights[(first + i) / PARTS] + k * BLOCK +
                                          (first + i) % PARTS * LANES * 4);
            for (int32_t pixel = 0; pixel < pixels; pixel++) {
                const four_inputs four = load_inputs(x + pixel * depth + k);
                for (int32_t i = 0; i < some; i++)
                    partial[pixel][i] = accumulate(partial[pixel][i], four, weights[i]);
            }
        }
        for (int32_t pixel = 0; pixel < pixels; pixel++)
            for (int32_t i = 0; i < some; i++) {
                const vector sum = total(partial[pixel][i]);
                const int32_t at = first + i;
                sums[pixel][at] = shifted ? add(shift_lanes_left(sum, c->left[at]), c->restored[at]) : sum;
            }
    }
    const int32_t paired = HAS_PAIRS && blocks == 2 && c->channels >= 2 * BLOCK;
#pragma GCC unroll 8 /* or clang puts the sums into memory to loop over them */
    for (int32_t pixel = 0; pixel < pixels; pixel++) {
        if (paired && pixel % 2 == 0 && pixel + 1 < pixels)
            store_pair(y + pixel * outputs, y + (pixel + 1) * outputs, c->scale, sums[pixel], sums[pixel + 1],
                       symmetric);
        else if (!paired || pixel % 2 == 0)
            for (int32_t block = 0; block < blocks; block++) {
                vector block_sums[PARTS];
                for (int32_t part = 0; part < PARTS; part++)
                    block_sums[part] = requantize(sums[pixel][block * PARTS + part], &c->scale[block * PARTS + part],
                                                  symmetric);
                store_block(y + pixel * outputs + block * BLOCK, block_sums, c->channels - block * BLOCK);
            }
    }
}

/* All pixels of a row, by tiles of about the same size. */
INLINE void strip(const channel_set *c, int32_t depth, const uint8_t *x, int32_t pixels, int8_t *y, int32_t outputs,
                  const int32_t blocks, const int symmetric, const int shifted)
{
    for (int32_t tiles = (pixels + MOST_PIXELS - 1) / MOST_PIXELS; tiles > 0; tiles--) {
        const int32_t some = (pixels + tiles - 1) / tiles;
        switch (some) {
        case 1: tile(c, depth, x, y, outputs, blocks, symmetric, shifted, 1); break;
        case 2: tile(c, depth, x, y, outputs, blocks, symmetric, shifted, 2); break;
        case 3: tile(c, depth, x, y, outputs, blocks, symmetric, shifted, 3); break;
        case 4: tile(c, depth, x, y, outputs, blocks, symmetric, shifted, MOST_PIXELS < 4 ? MOST_PIXELS : 4); break;
        case 5: tile(c, depth, x, y, outputs, blocks, symmetric, shifted, MOST_PIXELS < 5 ? MOST_PIXELS : 5); break;
        default: tile(c, depth, x, y, outputs, blocks, symmetric, shifted, MOST_PIXELS); break;
        }
        pixels -= some;
        x += some * depth;
        y += some * outputs;
    }
}

INLINE void all_channels(const tinyscene_conv *c, const uint8_t *x, int32_t pixels, int8_t *y, const int symmetric,
                         const int shifted)
{
    const int32_t depth = (c->depth + 3) / 4 * 4;
    int32_t channel = 0;
    for (; MOST_BLOCKS == 2 && channel + BLOCK < c->outputs; channel += 2 * BLOCK) {
        const channel_set two = take_channels(c, channel, MOST_BLOCKS, symmetric, shifted);
        strip(&two, depth, x, pixels, y + channel, c->outputs, MOST_BLOCKS, symmetric, shifted);
    }
    for (; channel < c->outputs; channel += BLOCK) {
        const channel_set one = take_channels(c, channel, 1, symmetric, shifted);
        strip(&one, depth, x, pixels, y + channel, c->outputs, 1, symmetric, shifted);
    }
}

/* Where the zero point is -128, whatever is below it becomes it. */
static int is_symmetric(const tinyscene_conv *c)
{
    return c->rounding != 2 * -128 + 1;
}

void tinyscene_pointwise(const tinyscene_conv *c, const int8_t *x, int32_t pixels, int8_t *y, void *scratch)
{
    const uint8_t *inputs = prepare(x, pixels, c->depth, scratch);
    if (is_symmetric(c))
        all_channels(c, inputs, pixels, y, 1, 0);
    else
        all_channels(c, inputs, pixels, y, 0, 0);
}

void tinyscene_pointwise_wide(const tinyscene_conv *c, const int8_t *x, int32_t pixels, int8_t *y, void *scratch)
{
    all_channels(c, prepare(x, pixels, c->depth, scratch), pixels, y, 1, 1);
}

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

INLINE void finish(const vector sums[4], const scaling scale[4], int32_t count, int8_t *y, const int symmetric)
{
    vector values[4];
    for (int32_t i = 0; i < 4; i++)
        values[i] = requantize(sums[i], &scale[i], symmetric);
    store_wide(y, values, count);
}

/* `count` channels of a row. */
INLINE void depthwise_channels(const tinyscene_conv *c, const int8_t *const rows[3], int32_t first, int32_t count,
                               int32_t pixels, int32_t step, int8_t *y, const int symmetric)
{
    const int32_t n = c->outputs;
    vector weights[3][4], column[4], start[4], multiplier[4], shift[4];
    scaling scale[4];
    for (int32_t i = 0; i < 4; i++) {
        const int32_t left = count - i * LANES, some = left > 0 ? left : 0;
        const int32_t channel = first + (some ? i * LANES : 0);
        start[i] = add(load_words(c->bias + channel, some), splat(BIAS));
        multiplier[i] = load_words(c->multiplier + channel, some);
        shift[i] = load_int8(c->shift + channel, some);
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
        scale[i] = make_scaling(multiplier[i], shift[i], c->rounding, symmetric);
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
                finish(sums, scale, count, y + at * n, symmetric);
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
            finish(sums, scale, count, y + pixel * n, symmetric);
        }
}

/* The last channels are taken with some that were had before, so as to be WIDE. */
INLINE void all_depthwise(const tinyscene_conv *c, const int8_t *const rows[3], int32_t pixels, int32_t step, int8_t *y,
                          const int symmetric)
{
    const int32_t n = c->outputs, count = n < WIDE ? n : WIDE;
    for (int32_t first = 0; first < n; first += WIDE)
        depthwise_channels(c, rows, first + count <= n ? first : n - count, count, pixels, step, y, symmetric);
}

void tinyscene_depthwise_wide(const tinyscene_conv *c, const int8_t *const rows[3], int32_t pixels, int32_t step,
                              int8_t *y)
{
    if (is_symmetric(c))
        all_depthwise(c, rows, pixels, step, y, 1);
    else
        all_depthwise(c, rows, pixels, step, y, 0);
}

void tinyscene_depthwise(const tinyscene_conv *c, const int8_t *const rows[3], int32_t pixels, int32_t step, int8_t *y,
                         void *scratch)
{
    (void)scratch;
    tinyscene_depthwise_wide(c, rows, pixels, step, y);
}

/* All sums stay below 2^29: deploy/graph/graph.py admits no others. Not `clamped`: by the stores alone, at -128. */
INLINE void add_values(const tinyscene_sum *s, const int8_t *a, const int8_t *b, int32_t count, int8_t *y,
                       const int clamped)
{
    const vector first = splat(BIAS - s->zero_point[0] * (1 << 19));
    const vector second = splat(BIAS - s->zero_point[1] * (1 << 20));
    const vector out_zero_point = splat(s->out_zero_point), activation_min = splat(s->activation_min);
    const scaling scale = make_scaling(splat(s->multiplier), splat(s->shift), 1, 1);
    const scaling out_scale = make_scaling(splat(s->out_multiplier), splat(s->out_shift),
                                           clamped ? 1 : 2 * -128 + 1, clamped);
    for (int32_t at = 0; at < count; at += BLOCK) {
        vector sums[PARTS];
        for (int32_t part = 0; part < PARTS; part++) {
            const int32_t from = at + part * LANES, left = count - from, some = left > 0 ? left : 0;
            const int32_t i = some ? from : 0;
            const vector halved = add(shift_left(load_int8(a + i, some), 19), first);
            const vector scaled = requantize(add(shift_left(load_int8(b + i, some), 20), second), &scale, 1);
            sums[part] = requantize(add(halved, scaled), &out_scale, clamped);
            if (clamped)
                sums[part] = larger(add(sums[part], out_zero_point), activation_min);
        }
        store_block(y + at, sums, count - at);
    }
}

void tinyscene_add(const tinyscene_sum *s, const int8_t *a, const int8_t *b, int32_t count, int8_t *y)
{
    if (s->out_zero_point == -128 && s->out_shift <= 22) /* then the zero point can be added with what rounds */
        add_values(s, a, b, count, y, 0);
    else
        add_values(s, a, b, count, y, 1);
}

/* Sums are taken eightfold and multiplied by 1 / (8 * count): that is exact for ties, and keeps all others further away
 * from them than it can be wrong. Windows have fewer than 2^20 values. */
void tinyscene_pool(const int8_t *const *rows, int32_t tall, int32_t wide, int32_t channels, int32_t pixels,
                    int32_t step, int8_t *y)
{
    const int64_t count = (int64_t)tall * wide;
    int32_t shift = 2;
    while (INT64_C(1) << shift < 4 * count)
        shift++;
    const scaling scale = make_scaling(splat((int32_t)(((INT64_C(1) << (31 + shift)) + 4 * count) / (8 * count))),
                                       splat(shift), 1, 1);
    for (int32_t at = 0; pixels > 0; pixels--, at += step, y += channels)
        for (int32_t block = 0; block < channels; block += BLOCK) {
            vector sums[PARTS];
            for (int32_t part = 0; part < PARTS; part++) {
                const int32_t from = block + part * LANES, some = channels - from;
                sums[part] = splat(0);
                for (int32_t row = 0; row < tall && some > 0; row++)
                    for (int32_t column = 0; column < wide; column++)
                        sums[part] = add(sums[part], load_int8(rows[row] + at + column * channels + from, some));
                sums[part] = requantize(add(shift_left(sums[part], 3), splat(BIAS)), &scale, 1);
            }
            store_block(y + block, sums, channels - block);
        }
}

/* In pieces of a fixed size, for memcpy is a call where the size is not known; the last overlaps the one before. */
INLINE void copy(int8_t *to, const int8_t *from, int32_t bytes)
{
    int32_t at = 0;
    if (bytes >= 16) {
        for (; at < bytes - 16; at += 16)
            memcpy(to + at, from + at, 16);
        memcpy(to + bytes - 16, from + bytes - 16, 16);
    } else if (bytes >= 4) {
        for (; at < bytes - 4; at += 4)
            memcpy(to + at, from + at, 4);
        memcpy(to + bytes - 4, from + bytes - 4, 4);
    } else
        for (; at < bytes; at++)
            to[at] = from[at];
}

/* Of narrow windows 4 bytes are copied, but of the last one: what is too much is there, and is overwritten. */
void tinyscene_gather(const int8_t *const *rows, int32_t tall, int32_t bytes, int32_t first, int32_t pixels,
                      int32_t step, int8_t *patches)
{
    const int32_t more = 4 - bytes;
    int32_t at = first * step;
    if (more > 0 && more <= step && more <= tall * bytes)
        for (; pixels > 1; pixels--, at += step)
            for (int32_t row = 0; row < tall; row++, patches += bytes)
                memcpy(patches, rows[row] + at, 4);
    for (; pixels > 0; pixels--, at += step)
        for (int32_t row = 0; row < tall; row++, patches += bytes)
            copy(patches, rows[row] + at, bytes);
}

#endif
