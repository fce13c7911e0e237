/* The kernels: one row of an operator at a time, int8 in and out, equal to TFLite's reference kernels bit for bit.
 *
 * tinyscene_plain.c is the reference. tinyscene_dsp.c (Cortex-M4, M7, M33), tinyscene_mve.c (Cortex-M55, M85) and
 * tinyscene_simd.c (x86-64, 64-bit Arm) hold faster ones, equal to it bit for bit, of those in which the time goes. The
 * compiler's feature macros choose; -DTINYSCENE_PLAIN overrides them. No kernel reads or writes a byte outside what
 * its comment names, none allocates, and none keeps anything between calls.
 *
 * Every row that is read holds its padding already, so no kernel knows of borders.
 */
#ifndef TINYSCENE_KERNELS_H
#define TINYSCENE_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#if defined(TINYSCENE_PLAIN)
#elif defined(__ARM_FEATURE_MVE)
#define TINYSCENE_MVE
#elif defined(__ARM_FEATURE_DSP) && defined(__arm__)
#define TINYSCENE_DSP
#elif defined(TINYSCENE_HOST) && defined(__GNUC__) && /* which is asked for */ \
    (defined(__AVX2__) || (defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD)))
#define TINYSCENE_SIMD
#else
#define TINYSCENE_PLAIN
#endif

/* C99 leaves it to the compiler what >> does to a negative number. All that we know of shift arithmetically. */
typedef char tinyscene_shifts_are_arithmetic[(-3 >> 1) == -2 ? 1 : -1];

/* A convolution. `weights` lie in the order in which the kernels read them, which their files describe; those of a
 * depthwise one and of the `_any` kernels are int8 (tap, channel) and (output, input). */
typedef struct {
    const void *weights;
    const int32_t *bias;       /* a channel: the input's zero point is folded in */
    const int32_t *multiplier; /* a channel: of TFLite, 2^30 to 2^31 - 1 */
    const int8_t *shift;       /* a channel: to the right; negative is to the left */
    int32_t depth;             /* inputs that one output of a pointwise convolution sums; taps of a depthwise one */
    int32_t outputs;           /* channels out */
    int32_t rounding;          /* 2 * output zero point + 1 */
    int32_t activation_min;            /* of an output: the zero point where there is a ReLU, else -128 */
} tinyscene_conv;

/* The sum of two activations, by TFLite's ADD. Both are shifted left by 20 and brought to twice the larger scale, so
 * that the input of that scale, which is to be the first, is just halved. */
typedef struct {
    int32_t zero_point[2];     /* of the inputs */
    int32_t multiplier, shift; /* of the second; shifts are 0 to 30 */
    int32_t out_multiplier, out_shift, out_zero_point, activation_min;
} tinyscene_sum;

/* The mean over a whole activation. */
typedef struct {
    int32_t offset; /* input zero point * values */
    int32_t multiplier, shift, zero_point;
} tinyscene_average;

/* Bytes of `scratch`, a multiple of 16, that tinyscene_pointwise needs; it is aligned to 16. */
#if defined(TINYSCENE_DSP)
#define TINYSCENE_POINTWISE_SCRATCH(depth, pixels) ((((depth) + 3) / 4 * 24 + 15) / 16 * 16) /* of three pixels */
#elif defined(TINYSCENE_SIMD)
#define TINYSCENE_POINTWISE_SCRATCH(depth, pixels) (((depth) + 3) / 4 * 4 * (pixels) / 16 * 16 + 16)
#elif defined(TINYSCENE_PLAIN)
#define TINYSCENE_POINTWISE_SCRATCH(depth, pixels) (((depth) + 3) / 4 * 32) /* of two pairs of pixels */
#else
#define TINYSCENE_POINTWISE_SCRATCH(depth, pixels) 0
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* x (pixel, depth) -> y (pixel, output). For convolutions where every shift is 1 to 22, `activation_min` is -128 and twice
 * any accumulator, and any rounded product with its rounding term, fits 32 bits: firmware_bridge proves it. */
void tinyscene_pointwise(const tinyscene_conv *c, const int8_t *x, int32_t pixels, int8_t *y, void *scratch);

/* The same for 3 x 3 windows by channel: rows[i] holds the window's row i; the next pixel's window lies `step` bytes
 * further, y is (pixel, output). */
void tinyscene_depthwise(const tinyscene_conv *c, const int8_t *const rows[3], int32_t pixels, int32_t step, int8_t *y);

/* The same two without any condition, for what those cannot take; windows of any size (tall, wide). */
void tinyscene_pointwise_any(const tinyscene_conv *c, const int8_t *x, int32_t pixels, int8_t *y);
void tinyscene_depthwise_any(const tinyscene_conv *c, const int8_t *const *rows, int32_t tall, int32_t wide,
                             int32_t pixels, int32_t step, int8_t *y);

/* Windows side by side, for a convolution of more than one pixel: `pixels` of them from the `first` on, each of `tall`
 * rows of `bytes`, -> patches (pixel, tall, bytes). */
void tinyscene_gather(const int8_t *const *rows, int32_t tall, int32_t bytes, int32_t first, int32_t pixels,
                      int32_t step, int8_t *patches);

/* a and b -> y, all of `count` values. y may be a or b. */
void tinyscene_add(const tinyscene_sum *s, const int8_t *a, const int8_t *b, int32_t count, int8_t *y);

/* Means of windows (tall, wide) by channel, rounded half away from zero: of up to 255 values and four channels or more;
 * of any. */
void tinyscene_pool(const int8_t *const *rows, int32_t tall, int32_t wide, int32_t channels, int32_t pixels,
                    int32_t step, int8_t *y);
void tinyscene_pool_any(const int8_t *const *rows, int32_t tall, int32_t wide, int32_t channels, int32_t pixels,
                        int32_t step, int8_t *y);

/* x (pixel, channel) is added to sums (channel); then sums -> y (channel). */
void tinyscene_mean_row(const int8_t *x, int32_t pixels, int32_t channels, int32_t *sums);
void tinyscene_mean_end(const tinyscene_average *m, const int32_t *sums, int32_t channels, int8_t *y);

/* `count` bytes of the zero point: padding. */
void tinyscene_fill(int8_t *y, int32_t zero_point, int32_t count);

#ifdef __cplusplus
}
#endif

#endif
