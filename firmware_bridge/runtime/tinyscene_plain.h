/* What the kernels in plain C99 share. */
#ifndef TINYSCENE_PLAIN_H
#define TINYSCENE_PLAIN_H

#include "tinyscene_kernels.h"

/* The upper half of a product. Numbers come four times as large: then TFLite's product by 2^-31, before it is rounded,
 * is half of it, and the bit below the point is there to round by. */
INLINE int32_t upper_product(int32_t x, int32_t multiplier)
{
    return (int32_t)(((int64_t)x * multiplier) >> 32);
}

/* What rescales a channel. Accumulators below `least` come out as `activation_min`. */
typedef struct {
    int32_t bias;
    int32_t multiplier;
    int32_t rounding;
    int32_t shift;
    int32_t least;
    int32_t activation_min;
} tinyscene_scale;

/* rounding << shift is twice the half that is added before the shift, and the zero point. `least` is -2^23 for each
 * step from -128 to the zero point: times a multiplier of 2^30 or more and shifted by 22 or less, what is below it
 * comes out as -128. Where the zero point is -128, that is half of all, most often: these need no product. */
INLINE tinyscene_scale scale_of(const tinyscene_conv *c, int32_t channel)
{
    const int32_t shift = c->shift[channel];
    const int32_t doubled = (int32_t)((uint32_t)c->rounding << shift);
    const int32_t least = (c->rounding + 255) * -POWER_OF_2(22);
#if defined(__arm__)
    const tinyscene_scale scale = {c->bias[channel], c->multiplier[channel], doubled >> 1, shift, least, -128};
#else
    const tinyscene_scale scale = {
        c->bias[channel], c->multiplier[channel], doubled + 1, shift + 1, least, c->activation_min};
#endif
    return scale;
}

/* As requantize_any, where an accumulator fits 24 bits. Its sign stands for that of the product: where the product alone
 * is 0, taking 1 off changes nothing. */
INLINE int8_t requantize(tinyscene_scale scale, int32_t accumulator)
{
#if defined(__arm__) /* which gets both halves of a product at once, and clamps to constants by an instruction */
    const int64_t product = (int64_t)(2 * accumulator) * scale.multiplier;
    const int32_t high = (int32_t)(product >> 32) + (int32_t)((uint32_t)product >> 31);
    const int32_t activation_min = -128;
    const int32_t highest = 127;
    int32_t value = (high + (accumulator >> 31) + scale.rounding) >> scale.shift;
#else
    const int32_t activation_min = scale.activation_min; /* the same, in registers */
    const int32_t highest = ~activation_min;
    if (accumulator < scale.least) {
        return (int8_t)activation_min;
    }
    const int32_t halves = upper_product(4 * accumulator, scale.multiplier);
    int32_t value = (halves + (2 * (accumulator >> 31)) + scale.rounding) >> scale.shift;
#endif
    value = (value > activation_min) ? value : activation_min;
    return (int8_t)((value < highest) ? value : highest);
}

#endif
