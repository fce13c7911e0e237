/* Pointwise convolutions for hosts.
 *
 * Weights are laid out in blocks of 16 channels: 16 int32, -128 * the sum of a channel's weights, which corrects the sums
 * where inputs are flipped; then for each four inputs [16 channels][4 inputs] int8. Channels and inputs that there are
 * not hold zeros. Weights are -127 to 127.
 */
#include "tinyscene_kernels.h"

#if defined(TINYSCENE_SIMD)

#include "tinyscene_simd.h"

enum { MOST_VECTORS = MOST_BLOCKS * PARTS };

/* A block or two of channels of a pointwise convolution, the last of them perhaps not full. */
typedef struct {
    const int8_t *weights[MOST_BLOCKS]; /* of each block, behind its corrections */
    vector start[MOST_VECTORS];         /* what sums begin with */
    scaling scale[MOST_VECTORS];
    vector left[MOST_VECTORS], restored[MOST_VECTORS]; /* if sums are shifted to the left first: by how much, and BIAS */
    int32_t channels;                   /* from the first of these on to the convolution's last */
} channel_set;

/* Inputs of a row as `accumulate` takes them, each pixel's padded to a multiple of 4. The padding holds anything, for
 * its weights are 0: what follows in x, as long as enough follows. */
static const uint8_t *prepare(const int8_t *x, int32_t pixels, int32_t depth, uint8_t *scratch)
{
    const int32_t left = depth % 4, fours = depth / 4, all = pixels * depth, bytes = (fours + 1) * FOUR_BYTES;
    const int32_t chunks = fours / 4 + 1; /* what is too much is overwritten by the next pixel */
    uint8_t *out = scratch;
    int32_t at = 0;
    if (left == 0 && FLIP == 0 && FOUR_BYTES == 4)
        return (const uint8_t *)x;
    if (left == 0) {
        prepare_fours(x, all / 4, out);
        return scratch;
    }
    for (; all - at >= 16 * chunks; at += depth, out += bytes)
        for (int32_t i = 0; i < chunks; i++)
            prepare_fours(x + at + 16 * i, 4, out + 4 * i * FOUR_BYTES);
    for (; at < all; at += depth, out += bytes) {
        int8_t last[4] = {0};
        for (int32_t i = 0; i < left; i++)
            last[i] = x[at + 4 * fours + i];
        prepare_fours(x + at, fours, out);
        prepare_fours(last, 1, out + fours * FOUR_BYTES);
    }
    return scratch;
}

static int32_t block_bytes(const tinyscene_conv *c)
{
    return BLOCK * 4 + (c->depth + 3) / 4 * 4 * BLOCK;
}

/* Channels that there are not are computed with zeros and not stored. */
INLINE channel_set take_channels(const tinyscene_conv *c, int32_t first, const int32_t vectors, const int mode,
                                 const int shifted)
{
    channel_set out;
    out.channels = c->outputs - first;
    for (int32_t at = 0; at < vectors; at++) {
        const int8_t *w = (const int8_t *)c->weights + (first / BLOCK + at / PARTS) * block_bytes(c);
        const int32_t part = at % PARTS, channel = first + at * LANES, count = c->outputs - channel;
        const int32_t some = count < 0 ? 0 : count; /* a count of 0 reads nothing */
        const vector bias = load_words(c->bias + (some ? channel : 0), some);
        const vector shift = load_int8(c->shift + (some ? channel : 0), some);
        out.weights[at / PARTS] = w + BLOCK * 4;
        out.start[at] = biased(FLIP ? add(bias, load(w + part * LANES * 4)) : bias, mode);
#if defined(TINYSCENE_FLOATS)
        if (mode == IN_FLOATS)
            out.scale[at] = float_scaling(load_words(c->factor + (some ? channel : 0), some),
                                          load_words(c->addend + (some ? channel : 0), some));
        else
#endif
            out.scale[at] = make_scaling(load_words(c->multiplier + (some ? channel : 0), some),
                                         shifted ? larger(shift, splat(0)) : shift, c->rounding, mode);
        out.left[at] = larger(subtract(splat(0), shift), splat(0));
        out.restored[at] = subtract(splat(BIAS), shift_lanes_left(splat(BIAS), out.left[at]));
    }
    return out;
}

/* A few pixels by a few channels: each value that is loaded is used several times, and all sums are in registers. */
INLINE void tile(const channel_set *c, int32_t fours, const uint8_t *x, int8_t *y, int32_t outputs,
                 const int32_t vectors, const int mode, const int shifted, const int32_t pixels)
{
    vector sums[MOST_PIXELS][MOST_VECTORS];
    const int32_t some = vectors < AT_ONCE ? vectors : AT_ONCE;
    const ptrdiff_t row = (ptrdiff_t)fours * FOUR_BYTES;
    for (int32_t first = 0; first < vectors; first += some) {
        accumulator partial[MOST_PIXELS][AT_ONCE];
        for (int32_t pixel = 0; pixel < pixels; pixel++)
            for (int32_t i = 0; i < some; i++)
                partial[pixel][i] = begin(c->start[first + i]);
        for (ptrdiff_t k = 0; k < fours; k++) {
            four_weights weights[AT_ONCE];
            for (int32_t i = 0; i < some; i++)
                weights[i] = load_weights(c->weights[(first + i) / PARTS] + k * 4 * BLOCK +
                                          (first + i) % PARTS * LANES * 4);
            for (int32_t pixel = 0; pixel < pixels; pixel++) {
                const four_inputs four = load_inputs(x + pixel * row + k * FOUR_BYTES);
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
    const int32_t paired = HAS_PAIRS && vectors == 2 * PARTS && c->channels >= 2 * BLOCK;
#pragma GCC unroll 8 /* or clang puts the sums into memory to loop over them */
    for (int32_t pixel = 0; pixel < pixels; pixel++) {
        if (paired && pixel % 2 == 0 && pixel + 1 < pixels)
            store_pair(y + pixel * outputs, y + (pixel + 1) * outputs, c->scale, sums[pixel], sums[pixel + 1],
                       mode);
        else if (!paired || pixel % 2 == 0)
            for (int32_t first = 0; first < vectors; first += PARTS) {
                vector block_sums[PARTS];
                for (int32_t part = 0; part < PARTS; part++)
                    block_sums[part] = first + part < vectors ? requantize(sums[pixel][first + part],
                                                                           &c->scale[first + part], mode)
                                                              : splat(0);
                store_block(y + pixel * outputs + first * LANES, block_sums, c->channels - first * LANES);
            }
    }
}

/* All pixels of a row; the last two tiles are of about the same size. */
INLINE void strip(const channel_set *c, int32_t fours, const uint8_t *x, int32_t pixels, int8_t *y, int32_t outputs,
                  const int32_t vectors, const int mode, const int shifted)
{
    while (pixels > 0) {
        const int32_t half = pixels > MOST_PIXELS ? (pixels + 1) / 2 : pixels;
        const int32_t some = half < MOST_PIXELS ? half : MOST_PIXELS;
        switch (some) {
        case 1: tile(c, fours, x, y, outputs, vectors, mode, shifted, 1); break;
        case 2: tile(c, fours, x, y, outputs, vectors, mode, shifted, 2); break;
        case 3: tile(c, fours, x, y, outputs, vectors, mode, shifted, 3); break;
        case 4: tile(c, fours, x, y, outputs, vectors, mode, shifted, MOST_PIXELS < 4 ? MOST_PIXELS : 4); break;
        case 5: tile(c, fours, x, y, outputs, vectors, mode, shifted, MOST_PIXELS < 5 ? MOST_PIXELS : 5); break;
        default: tile(c, fours, x, y, outputs, vectors, mode, shifted, MOST_PIXELS); break;
        }
        pixels -= some;
        x += some * fours * FOUR_BYTES;
        y += some * outputs;
    }
}

/* The last channels of AVX2 may be one vector, half a block. */
INLINE void all_channels(const tinyscene_conv *c, const uint8_t *x, int32_t pixels, int8_t *y, const int mode,
                         const int shifted)
{
    const int32_t fours = (c->depth + 3) / 4;
    int32_t channel = 0;
    for (; MOST_BLOCKS == 2 && channel + BLOCK < c->outputs; channel += 2 * BLOCK) {
        const channel_set two = take_channels(c, channel, MOST_VECTORS, mode, shifted);
        strip(&two, fours, x, pixels, y + channel, c->outputs, MOST_VECTORS, mode, shifted);
    }
    for (; channel + (PARTS == 2 ? LANES : 0) < c->outputs; channel += BLOCK) {
        const channel_set one = take_channels(c, channel, PARTS, mode, shifted);
        strip(&one, fours, x, pixels, y + channel, c->outputs, PARTS, mode, shifted);
    }
    if (PARTS == 2 && channel < c->outputs) {
        const channel_set half = take_channels(c, channel, 1, mode, shifted);
        strip(&half, fours, x, pixels, y + channel, c->outputs, 1, mode, shifted);
    }
}

void tinyscene_pointwise(const tinyscene_conv *c, const int8_t *x, int32_t pixels, int8_t *y, void *scratch)
{
    const uint8_t *inputs = prepare(x, pixels, c->depth, scratch);
    const int mode = mode_of(c);
    if (mode == SYMMETRIC)
        all_channels(c, inputs, pixels, y, SYMMETRIC, 0);
    else if (mode == UPWARDS)
        all_channels(c, inputs, pixels, y, UPWARDS, 0);
#if defined(TINYSCENE_FLOATS)
    else
        all_channels(c, inputs, pixels, y, IN_FLOATS, 0);
#endif
}

void tinyscene_pointwise_wide(const tinyscene_conv *c, const int8_t *x, int32_t pixels, int8_t *y, void *scratch)
{
    all_channels(c, prepare(x, pixels, c->depth, scratch), pixels, y, SYMMETRIC, 1);
}

#endif
