/* The kernels: one row of an operator at a time, int8 in and out, equal to TFLite's reference kernels bit for bit.
 *
 * tinyscene_plain*.c are the reference. tinyscene_dsp*.c (Cortex-M4, M7, M33), tinyscene_mve*.c (Cortex-M55, M85) and
 * tinyscene_simd*.c (x86-64, 64-bit Arm) replace the most expensive kernels by faster ones that are equal bit for bit.
 * tinyscene_processor.h selects them. A kernel accesses only the memory that its comment names, allocates nothing, and
 * has no state.
 *
 * Rows include their padding, so kernels need no special cases at borders.
 */
#ifndef TINYSCENE_KERNELS_H
#define TINYSCENE_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "tinyscene_processor.h"

/* A convolution. `weights` are in the order in which the kernels read them (see their files); most depthwise kernels
 * take int8 (tap, channel), as does tinyscene_depthwise_any; tinyscene_pointwise_any takes (output, input). The tables by
 * channel are NULL where the kernels find them among the weights. */
typedef struct {
    const void *weights;
    const int32_t *bias;       /* by channel, with the input's zero point folded in */
    const int32_t *multiplier; /* by channel: TFLite's, 2^30 to 2^31 - 1 */
    const int8_t *shift;       /* by channel: to the right; negative is to the left */
    int32_t depth;             /* inputs that one output of a pointwise convolution sums; taps of a depthwise one */
    int32_t outputs;           /* channels out */
    int32_t rounding;          /* 2 * output zero point + 1 */
    int32_t activation_min;            /* least output: the zero point with a ReLU, else -128 */
#if defined(TINYSCENE_FLOATS)
    const int32_t *factor; /* by channel, or NULL: the bits of float32, so that sum * factor + addend, rounded once and */
    const int32_t *addend; /* then to a whole number, is the output before it is clamped */
#endif
} tinyscene_conv;

/* The sum of two activations, as in TFLite's ADD. Both are shifted left by 20 and rescaled to twice the larger scale,
 * so that the input of the larger scale, which must be the first, is only halved. */
typedef struct {
    int32_t zero_point[2]; /* of the inputs */
    int32_t multiplier;    /* of the second */
    int32_t shift;         /* 0 to 30, as out_shift */
    int32_t out_multiplier;
    int32_t out_shift;
    int32_t out_zero_point;
    int32_t activation_min;
#if defined(TINYSCENE_FLOATS)
    int32_t factor[2]; /* or of 0: the same for a * factor[0] + addend, to which b * factor[1] is added */
    int32_t addend;
#endif
} tinyscene_sum;

/* The mean over a whole activation. */
typedef struct {
    int32_t offset; /* input zero point * values */
    int32_t multiplier;
    int32_t shift;
    int32_t zero_point;
} tinyscene_average;

/* The windows of a maximum on an activation, whose padding they pass over. */
typedef struct {
    int32_t tall; /* of a window */
    int32_t wide;
    int32_t down; /* from a window to the next */
    int32_t across;
    int32_t top; /* padding before the activation */
    int32_t left;
    int32_t height; /* of the activation, without padding */
    int32_t width;
    int32_t channels;
    int32_t pixels; /* windows in a row */
} tinyscene_windows;

/* Bytes of `scratch`, a multiple of 16, that tinyscene_pointwise needs; it is aligned to 16. */
#if defined(TINYSCENE_DSP)
#define TINYSCENE_POINTWISE_SCRATCH(depth, pixels) (((((((depth) + 3) / 4) * 24) + 15) / 16) * 16) /* of three pixels */
#elif defined(TINYSCENE_SIMD)
#define TINYSCENE_POINTWISE_SCRATCH(depth, pixels) ((((((depth) + 3) / 4) * 8 * (pixels)) / 16 * 16) + 16)
#elif defined(TINYSCENE_PLAIN)
#define TINYSCENE_POINTWISE_SCRATCH(depth, pixels) ((((depth) + 3) / 4) * 32) /* of two pairs of pixels */
#else
#define TINYSCENE_POINTWISE_SCRATCH(depth, pixels) 0
#endif

/* The same of tinyscene_depthwise, where a row of windows covers so many columns of the input. */
#if defined(TINYSCENE_DSP)
#define TINYSCENE_DEPTHWISE_SCRATCH(columns) ((((((columns) < 26) ? (columns) : 26) * 24) + 136 + 15) / 16 * 16)
#else
#define TINYSCENE_DEPTHWISE_SCRATCH(columns) 0
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* x (pixel, depth) -> y (pixel, output). For convolutions where every shift is 1 to 22, `activation_min` is -128 and any
 * accumulator fits 24 bits. The code generator checks it. */
TINYSCENE_CODE void tinyscene_pointwise(const tinyscene_conv *c, const int8_t *x, int32_t pixels, int8_t *y, void *scratch);

/* The same for 3 x 3 windows by channel, of four channels at least: rows[i] holds the window's row i; the next pixel's
 * window lies `step` bytes further, y is (pixel, output). */
TINYSCENE_CODE void tinyscene_depthwise(const tinyscene_conv *c, const int8_t *const rows[3], int32_t pixels, int32_t step, int8_t *y,
                         void *scratch);

/* The same two under wider conditions, which are fast on hosts; elsewhere they do what those of any convolution do, and
 * have weights in that order. Twice any accumulator, shifted to the left where a shift is negative, and any rounded
 * product with its rounding term fit 32 bits; shifts are -6 to 22, of depthwise convolutions 1 to 22. */
TINYSCENE_CODE void tinyscene_pointwise_wide(const tinyscene_conv *c, const int8_t *x, int32_t pixels, int8_t *y, void *scratch);
TINYSCENE_CODE void tinyscene_depthwise_wide(const tinyscene_conv *c, const int8_t *const rows[3], int32_t pixels, int32_t step,
                              int8_t *y);

/* The same two without these conditions; windows of any size (tall, wide). */
TINYSCENE_CODE void tinyscene_pointwise_any(const tinyscene_conv *c, const int8_t *x, int32_t pixels, int8_t *y);
TINYSCENE_CODE void tinyscene_depthwise_any(const tinyscene_conv *c, const int8_t *const *rows, int32_t tall, int32_t wide,
                             int32_t pixels, int32_t step, int8_t *y);

/* im2col for windows of more than one pixel: `pixels` windows from the `first` on, each of `tall` rows of `bytes`,
 * -> patches (pixel, tall, bytes). */
TINYSCENE_CODE void tinyscene_gather(const int8_t *const *rows, int32_t tall, int32_t bytes, int32_t first, int32_t pixels,
                      int32_t step, int8_t *patches);

/* a and b -> y, all of `count` values. y may be a or b. tinyscene_add: where both shifts are at least 1, and the output's
 * is 21 at most; tinyscene_add_any: any. */
TINYSCENE_CODE void tinyscene_add(const tinyscene_sum *s, const int8_t *a, const int8_t *b, int32_t count, int8_t *y);
TINYSCENE_CODE void tinyscene_add_any(const tinyscene_sum *s, const int8_t *a, const int8_t *b, int32_t count, int8_t *y);

/* Means of windows (tall, wide) by channel, rounded half away from zero. tinyscene_pool: up to 255 values and at least
 * four channels; tinyscene_pool_any: any. */
TINYSCENE_CODE void tinyscene_pool(const int8_t *const *rows, int32_t tall, int32_t wide, int32_t channels, int32_t pixels,
                    int32_t step, int8_t *y);
TINYSCENE_CODE void tinyscene_pool_any(const int8_t *const *rows, int32_t tall, int32_t wide, int32_t channels, int32_t pixels,
                        int32_t step, int8_t *y);

/* The largest values of the windows in row `row` of the output, by channel. rows[i] holds the windows' row i; rows and
 * pixels of padding are there, but not looked at. */
TINYSCENE_CODE void tinyscene_max_pool(const tinyscene_windows *w, const int8_t *const *rows, int32_t row, int8_t *y);

/* Bring `count` values to least..most. */
TINYSCENE_CODE void tinyscene_clamp(int8_t *y, int32_t count, int32_t least, int32_t most);

/* Copy `count` values to y, which lies elsewhere. */
TINYSCENE_CODE void tinyscene_copy(const int8_t *x, int32_t count, int8_t *y);

/* Add x (pixel, channel) to sums (channel); finally convert sums to y (channel). */
TINYSCENE_CODE void tinyscene_mean_row(const int8_t *x, int32_t pixels, int32_t channels, int32_t *sums);
TINYSCENE_CODE void tinyscene_mean_end(const tinyscene_average *m, const int32_t *sums, int32_t channels, int8_t *y);

/* The same of the last columns: sums (1 + columns, channel) hold those of all columns and of each, which are zero at first;
 * x takes the place of column `slot`. */
TINYSCENE_CODE void tinyscene_mean_slide(const int8_t *x, int32_t pixels, int32_t channels, int32_t *sums, int32_t slot);

/* Fill `count` bytes with the zero point: padding. */
TINYSCENE_CODE void tinyscene_fill(int8_t *y, int32_t zero_point, int32_t count);

#ifdef __cplusplus
}
#endif

#endif
