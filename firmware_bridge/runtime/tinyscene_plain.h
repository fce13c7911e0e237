/* What the kernels in plain C99 share. */
#ifndef TINYSCENE_PLAIN_H
#define TINYSCENE_PLAIN_H

#include "tinyscene_kernels.h"

#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#else
#define INLINE static inline
#endif

/* twice / 2 * multiplier / 2^31, rounded half up: with twice as much its upper half is rounded by the bit below. */
INLINE int32_t high_product_of_half(int32_t twice, int32_t multiplier)
{
    const int64_t product = (int64_t)twice * multiplier;
    return (int32_t)(product >> 32) + (int32_t)((uint32_t)product >> 31);
}

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

#endif
