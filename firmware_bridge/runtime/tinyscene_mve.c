/* The kernels for Cortex-M55 and M85, by their vectors of 16 bytes (Helium). Weights of a pointwise convolution are
 * laid out for four channels and 16 inputs at a time, with zeros for what there is not; inputs are not read beyond
 * their last byte. */
#include "tinyscene_kernels.h"

#if defined(TINYSCENE_MVE)

#include <arm_mve.h>

#define INLINE static inline __attribute__((always_inline))
#define NOINLINE __attribute__((noinline))

/* What rescales four channels: shifts are to the right, as negative numbers. */
typedef struct {
    int32x4_t bias, multiplier, shift;
    int32_t zero_point;
} tinyscene_scales;

/* Four sums -> outputs, not clamped. Shifts round half away from zero: those below it are 1 less before they round
 * half up. */
INLINE int32x4_t requantize(const tinyscene_scales *scales, int32x4_t sums)
{
    const int32x4_t high = vqrdmulhq_s32(vaddq_s32(sums, scales->bias), scales->multiplier);
    const int32x4_t rounded = vrshlq_s32(vaddq_s32(high, vshrq_n_s32(high, 31)), scales->shift);
    return vaddq_n_s32(rounded, scales->zero_point);
}

/* Products of 16 inputs of two pixels, in q0 and q1, by four channels. The instruction adds to even registers only:
 * there are eight, which is why no compiler does this without moves. */
#define STEP                                                                                                          \
    "vldrb.u8 q2, [r7], #16\n vmladava.s8 r0, q0, q2\n vmladava.s8 r8, q1, q2\n"                                      \
    "vldrb.u8 q2, [r7], #16\n vmladava.s8 r2, q0, q2\n vmladava.s8 r10, q1, q2\n"                                     \
    "vldrb.u8 q2, [r7], #16\n vmladava.s8 r4, q0, q2\n vmladava.s8 r12, q1, q2\n"                                     \
    "vldrb.u8 q2, [r7], #16\n vmladava.s8 r6, q0, q2\n vmladava.s8 r14, q1, q2\n"

/* Sums of two pixels by four channels: those of p, then those of q. */
static __attribute__((naked, noinline)) void sum_products(const int8_t *p __attribute__((unused)),
                                                          const int8_t *q __attribute__((unused)),
                                                          const int8_t *w __attribute__((unused)),
                                                          int32_t depth __attribute__((unused)),
                                                          int32_t sums[8] __attribute__((unused)))
{
    __asm("push {r4, r5, r6, r7, r8, r9, r10, lr}\n"
          "mov r5, r0\n mov r7, r2\n"
          "movs r0, #0\n movs r2, #0\n movs r4, #0\n movs r6, #0\n"
          "mov r8, r0\n mov r10, r0\n mov r12, r0\n mov r14, r0\n"
          "subs r3, #16\n"
          "blt 2f\n"
          "1:\n"
          "vldrb.u8 q0, [r5], #16\n vldrb.u8 q1, [r1], #16\n" STEP
          "subs r3, #16\n"
          "bge 1b\n"
          "2:\n"
          "adds r3, #16\n"
          "beq 3f\n"
          "vctp.8 r3\n"
          "vpstt\n vldrbt.u8 q0, [r5]\n vldrbt.u8 q1, [r1]\n" STEP
          "3:\n"
          "ldr r1, [sp, #32]\n"
          "stmia r1, {r0, r2, r4, r6, r8, r10, r12, r14}\n"
          "pop {r4, r5, r6, r7, r8, r9, r10, pc}"
          : : : "r0", "r1", "r2", "r3", "r12", "q0", "q1", "q2", "memory", "cc"); /* for gcc, which looks there */
}

INLINE void put_four(const tinyscene_scales *scales, const int32_t sums[4], mve_pred16_t there, int8_t *y)
{
    const int32x4_t values = requantize(scales, vldrwq_s32(sums));
    const int16x8_t halves = vqmovnbq_s32(vreinterpretq_s16_s32(values), values); /* clamped, in the lower halves */
    const int8x16_t bytes = vqmovnbq_s16(vreinterpretq_s8_s16(halves), halves);
    vstrbq_p_s32(y, vreinterpretq_s32_s8(bytes), there);
}

void tinyscene_pointwise(const tinyscene_conv *c, const int8_t *x, int32_t pixels, int8_t *y, void *scratch)
{
    const int32_t depth = c->depth, outputs = c->outputs;
    const int8_t *weights = c->weights;
    (void)scratch;
    for (int32_t channel = 0; channel < outputs; channel += 4, weights += (depth + 15) / 16 * 64) {
        const mve_pred16_t there = vctp32q((uint32_t)(outputs - channel));
        const tinyscene_scales scales = {
            vldrwq_z_s32(c->bias + channel, there),
            vldrwq_z_s32(c->multiplier + channel, there),
            vnegq_s32(vldrbq_z_s32(c->shift + channel, there)),
            c->rounding >> 1, /* it is odd */
        };
        const int8_t *from = x;
        int8_t *to = y + channel;
        for (int32_t left = pixels; left > 0; left -= 2, from += 2 * depth, to += 2 * outputs) {
            int32_t sums[8];
            sum_products(from, left > 1 ? from + depth : from, weights, depth, sums);
            put_four(&scales, sums, there, to);
            if (left > 1)
                put_four(&scales, sums + 4, there, to + outputs);
        }
    }
}

/* Products of two taps by eight channels: one has 15 bits, so that their sum fits 16. */
INLINE int16x8_t two_taps(const int8_t *x, const int8_t *next_x, const int8_t *w, int32_t n)
{
    return vaddq_s16(vmulq_s16(vldrbq_s16(x), vldrbq_s16(w)), vmulq_s16(vldrbq_s16(next_x), vldrbq_s16(w + n)));
}

/* Sums of eight channels: those of even number, those of odd number, which is how vectors are widened. */
typedef struct {
    int32x4_t even, odd;
} tinyscene_eight;

INLINE tinyscene_eight add_products(tinyscene_eight sums, int16x8_t products)
{
    const tinyscene_eight more = {vaddq_s32(sums.even, vmovlbq_s16(products)),
                                  vaddq_s32(sums.odd, vmovltq_s16(products))};
    return more;
}

static NOINLINE void eight_channels(const tinyscene_conv *c, int32_t channel, const int8_t *const rows[3],
                                    int32_t pixels, int32_t step, int8_t *y)
{
    const int32_t n = c->outputs;
    const int8_t *a = rows[0] + channel, *b = rows[1] + channel, *d = rows[2] + channel;
    const int8_t *w = (const int8_t *)c->weights + channel;
    const int32x4x2_t bias = vld2q_s32(c->bias + channel), multiplier = vld2q_s32(c->multiplier + channel);
    const int16x8_t shift = vnegq_s16(vldrbq_s16(c->shift + channel));
    const tinyscene_scales even = {bias.val[0], multiplier.val[0], vmovlbq_s16(shift), c->rounding >> 1};
    const tinyscene_scales odd = {bias.val[1], multiplier.val[1], vmovltq_s16(shift), c->rounding >> 1};
    for (y += channel; pixels > 0; pixels--, a += step, b += step, d += step, y += n) {
        const int16x8_t products = two_taps(a, a + n, w, n);
        tinyscene_eight sums = {vmovlbq_s16(products), vmovltq_s16(products)};
        sums = add_products(sums, two_taps(a + 2 * n, b, w + 2 * n, n));
        sums = add_products(sums, two_taps(b + n, b + 2 * n, w + 4 * n, n));
        sums = add_products(sums, two_taps(d, d + n, w + 6 * n, n));
        sums = add_products(sums, vmulq_s16(vldrbq_s16(d + 2 * n), vldrbq_s16(w + 8 * n)));
        const int32x4_t even_values = requantize(&even, sums.even), odd_values = requantize(&odd, sums.odd);
        int16x8_t halves = vqmovnbq_s32(vreinterpretq_s16_s32(even_values), even_values); /* clamped */
        halves = vqmovntq_s32(halves, odd_values);
        vstrbq_s16(y, vreinterpretq_s16_s8(vqmovnbq_s16(vreinterpretq_s8_s16(halves), halves)));
    }
}

void tinyscene_depthwise(const tinyscene_conv *c, const int8_t *const rows[3], int32_t pixels, int32_t step, int8_t *y)
{
    const int32_t n = c->outputs, last = n - 8; /* where the last eight begin, of which some may be done already */
    if (last < 0)
        tinyscene_depthwise_any(c, rows, 3, 3, pixels, step, y);
    else
        for (int32_t channel = 0; channel < n; channel += 8)
            eight_channels(c, channel < last ? channel : last, rows, pixels, step, y);
}

#endif
