/* The kernels for Cortex-M55 and M85, by their vectors of 16 bytes (Helium). Weights of a pointwise convolution are
 * laid out for four channels and 16 inputs at a time, 8 for the last ones where these do; inputs are not read beyond
 * their last byte. */
#include "tinyscene_kernels.h"

#if defined(TINYSCENE_MVE)

#include <arm_mve.h>

#define INLINE static inline __attribute__((always_inline))
#define NOINLINE __attribute__((noinline))
#define CLOBBERED "r0", "r1", "r2", "r3", "r12", "q0", "q1", "q2", "q3", "memory", "cc" /* gcc looks there */

/* What four channels need, in the order that it is read. */
typedef struct {
    int32_t bias[8]; /* for two pixels */
    int32_t multiplier[4], shift[4];
    const int8_t *x, *weights;
    int8_t *y;
    int32_t depth, outputs, there; /* which of the channels are, as a predicate */
    int32_t zero_point, pixels;
} tinyscene_four;

/* Products of 16 inputs of two pixels, in q0 and q1, by four channels. The instruction adds to even registers only:
 * there are eight, which is why no compiler does this without moves. */
#define STEP(bytes)                                                                                                   \
    "vldrb.u8 q2, [r7], #" bytes "\n vmladava.s8 r0, q0, q2\n vmladava.s8 r8, q1, q2\n"                               \
    "vldrb.u8 q2, [r7], #" bytes "\n vmladava.s8 r2, q0, q2\n vmladava.s8 r10, q1, q2\n"                              \
    "vldrb.u8 q2, [r7], #" bytes "\n vmladava.s8 r4, q0, q2\n vmladava.s8 r12, q1, q2\n"                              \
    "vldrb.u8 q2, [r7], #" bytes "\n vmladava.s8 r6, q0, q2\n vmladava.s8 r14, q1, q2\n"

/* Four sums -> outputs less their zero point. Shifts are to the right, as negative numbers, and round half up: to round
 * half away from zero, numbers below it are first made 1 less. */
#define RESCALE(sums, multiplier, shift, scratch)                                                                     \
    "vqrdmulh.s32 " sums ", " sums ", " multiplier "\n"                                                               \
    "vshr.s32 " scratch ", " sums ", #31\n"                                                                           \
    "vadd.i32 " sums ", " sums ", " scratch "\n"                                                                      \
    "vrshl.s32 " sums ", " sums ", " shift "\n"

/* Pixels by four channels, two at a time; where there is but one, it is the second, too. Pixels are those of r9, places
 * are kept in r11. Returns the weights that come next. */
static __attribute__((naked, noinline)) const int8_t *four_channels(tinyscene_four *four __attribute__((unused)))
{
    __asm("push {r4, r5, r6, r7, r8, r9, r10, r11, lr}\n"
          "vpush {d8, d9, d10, d11}\n"
          "mov r11, r0\n"
          "vldrw.u32 q3, [r11, #32]\n"
          "vldrw.u32 q4, [r11, #48]\n"
          "ldrd r0, r9, [r11, #88]\n" /* zero point, pixels */
          "vdup.16 q5, r0\n"
          "1:\n"
          "ldmia r11, {r0, r2, r4, r6, r8, r10, r12, r14}\n"
          "ldrd r5, r7, [r11, #64]\n" /* x, weights */
          "ldr r3, [r11, #76]\n"      /* depth */
          "mov r1, r5\n"
          "cmp r9, #1\n"
          "it ne\n"
          "addne r1, r1, r3\n"
          "subs r3, #16\n"
          "blt 3f\n"
          "2:\n"
          "vldrb.u8 q0, [r5], #16\n vldrb.u8 q1, [r1], #16\n" STEP("16")
          "subs r3, #16\n"
          "bge 2b\n"
          "3:\n"
          "adds r3, #16\n"
          "beq 5f\n"
          "vctp.8 r3\n"
          "vpstt\n vldrbt.u8 q0, [r5]\n vldrbt.u8 q1, [r1]\n"
          "cmp r3, #8\n"
          "bgt 4f\n" STEP("8")
          "b 5f\n"
          "4:\n" STEP("16")
          "5:\n"
          "vmov q0[2], q0[0], r0, r4\n vmov q0[3], q0[1], r2, r6\n"
          "vmov q1[2], q1[0], r8, r12\n vmov q1[3], q1[1], r10, r14\n"
          RESCALE("q0", "q3", "q4", "q2") RESCALE("q1", "q3", "q4", "q2")
          "vqmovnb.s32 q0, q0\n" /* halves of words: the first pixel's are the lower ones */
          "vqmovnt.s32 q0, q1\n"
          "vqadd.s16 q0, q0, q5\n"
          "vqmovnb.s16 q0, q0\n"
          "vshr.u32 q1, q0, #16\n"
          "ldrd r2, r3, [r11, #72]\n" /* y, depth */
          "ldrd r4, r6, [r11, #80]\n" /* outputs, there */
          "vmsr p0, r6\n"
          "mov r5, r2\n"
          "cmp r9, #1\n"
          "it ne\n"
          "addne r5, r5, r4\n"
          "vpstt\n vstrbt.32 q0, [r2]\n vstrbt.32 q1, [r5]\n"
          "add r2, r2, r4, lsl #1\n"
          "str r2, [r11, #72]\n"
          "ldr r0, [r11, #64]\n"
          "add r0, r0, r3, lsl #1\n"
          "str r0, [r11, #64]\n"
          "subs r9, #2\n"
          "bgt 1b\n"
          "mov r0, r7\n"
          "vpop {d8, d9, d10, d11}\n"
          "pop {r4, r5, r6, r7, r8, r9, r10, r11, pc}"
          : : : CLOBBERED);
}

void tinyscene_pointwise(const tinyscene_conv *c, const int8_t *x, int32_t pixels, int8_t *y, void *scratch)
{
    const int8_t *weights = c->weights;
    (void)scratch;
    for (int32_t channel = 0; channel < c->outputs; channel += 4) {
        const mve_pred16_t there = vctp32q((uint32_t)(c->outputs - channel));
        const int32x4_t bias = vldrwq_z_s32(c->bias + channel, there);
        tinyscene_four four = {
            .x = x,
            .weights = weights,
            .y = y + channel,
            .depth = c->depth,
            .outputs = c->outputs,
            .there = there,
            .zero_point = c->rounding >> 1, /* it is odd */
            .pixels = pixels,
        };
        vstrwq_s32(four.bias, bias);
        vstrwq_s32(four.bias + 4, bias);
        vstrwq_s32(four.multiplier, vldrwq_z_s32(c->multiplier + channel, there));
        vstrwq_s32(four.shift, vnegq_s32(vldrbq_z_s32(c->shift + channel, there)));
        weights = four_channels(&four);
    }
}

/* What 16 channels need, in the order that it is read. Tables are of every fourth channel, from the first, second,
 * third and fourth on, which is how vectors are widened. */
typedef struct {
    int32_t bias[4][4], multiplier[4][4], shift[4][4];
    int8_t weights[9][16];
    int32_t step, n;
    int8_t *y;
    int32_t zero_point, pixels;
} tinyscene_sixteen;

/* Sums q0 to q3 of every fourth channel are added products: q6 has those of even channels, q7 those of odd ones. */
#define ADD_PRODUCTS                                                                                                  \
    "vmovlb.s16 q4, q6\n vadd.i32 q0, q0, q4\n vmovlb.s16 q4, q7\n vadd.i32 q1, q1, q4\n"                             \
    "vmovlt.s16 q4, q6\n vadd.i32 q2, q2, q4\n vmovlt.s16 q4, q7\n vadd.i32 q3, q3, q4\n"

#define ONE_TAP(x, weights)                                                                                           \
    "vldrb.u8 q4, [" x "]\n"                                                                                          \
    "vldrw.u32 q5, [r0, #" weights "]\n"                                                                              \
    "vmullb.s8 q6, q4, q5\n"                                                                                          \
    "vmullt.s8 q7, q4, q5\n"

/* A product has 15 bits, so that the sum of two fits 16. No register is left, so one is loaded again. */
#define TWO_TAPS(x, weights, next_x, next_weights)                                                                    \
    ONE_TAP(x, weights)                                                                                               \
    "vldrb.u8 q4, [" next_x "]\n"                                                                                     \
    "vldrw.u32 q5, [r0, #" next_weights "]\n"                                                                         \
    "vmullb.s8 q4, q4, q5\n"                                                                                          \
    "vadd.i16 q6, q6, q4\n"                                                                                           \
    "vldrb.u8 q4, [" next_x "]\n"                                                                                     \
    "vmullt.s8 q4, q4, q5\n"                                                                                          \
    "vadd.i16 q7, q7, q4\n"                                                                                           \
    ADD_PRODUCTS

#define RESCALE_BY(sums, multiplier, shift)                                                                           \
    "vldrw.u32 q4, [r0, #" multiplier "]\n vldrw.u32 q5, [r0, #" shift "]\n" RESCALE(sums, "q4", "q5", "q6")

/* A row of 16 channels, one pixel at least; a, b and d are rows of the input. */
static __attribute__((naked, noinline)) void multiply_sixteen(const tinyscene_sixteen *s __attribute__((unused)),
                                                              const int8_t *a __attribute__((unused)),
                                                              const int8_t *b __attribute__((unused)),
                                                              const int8_t *d __attribute__((unused)))
{
    __asm("push {r4, r5, r6, r7, r8, r9, r10, lr}\n"
          "vpush {d8, d9, d10, d11, d12, d13, d14, d15}\n"
          "add r7, r0, #336\n"
          "ldmia r7, {r4, r5, r6, r9, r14}\n" /* step, n, y, zero point, pixels */
          "1:\n"
          "vldrw.u32 q0, [r0]\n vldrw.u32 q1, [r0, #16]\n vldrw.u32 q2, [r0, #32]\n vldrw.u32 q3, [r0, #48]\n"
          "add r7, r1, r5\n" TWO_TAPS("r1", "192", "r7", "208")
          "add r7, r7, r5\n" TWO_TAPS("r7", "224", "r2", "240")
          "add r7, r2, r5\n add r8, r7, r5\n" TWO_TAPS("r7", "256", "r8", "272")
          "add r7, r3, r5\n" TWO_TAPS("r3", "288", "r7", "304")
          "add r7, r7, r5\n" ONE_TAP("r7", "320") ADD_PRODUCTS
          RESCALE_BY("q0", "64", "128") RESCALE_BY("q1", "80", "144")
          RESCALE_BY("q2", "96", "160") RESCALE_BY("q3", "112", "176")
          "vqmovnb.s32 q0, q0\n vqmovnt.s32 q0, q2\n vqadd.s16 q0, q0, r9\n" /* even channels */
          "vqmovnb.s32 q1, q1\n vqmovnt.s32 q1, q3\n vqadd.s16 q1, q1, r9\n" /* odd ones */
          "vqmovnb.s16 q0, q0\n vqmovnt.s16 q0, q1\n"
          "vstrb.8 q0, [r6]\n"
          "add r6, r6, r5\n"
          "add r1, r1, r4\n add r2, r2, r4\n add r3, r3, r4\n"
          "subs r14, r14, #1\n"
          "bne 1b\n"
          "vpop {d8, d9, d10, d11, d12, d13, d14, d15}\n"
          "pop {r4, r5, r6, r7, r8, r9, r10, pc}"
          : : : CLOBBERED);
}

static NOINLINE void sixteen_channels(const tinyscene_conv *c, int32_t channel, const int8_t *const rows[3],
                                      int32_t pixels, int32_t step, int8_t *y)
{
    const int32_t n = c->outputs;
    const int32x4x4_t bias = vld4q_s32(c->bias + channel), multiplier = vld4q_s32(c->multiplier + channel);
    const int8x16_t right = vnegq_s8(vldrbq_s8(c->shift + channel)); /* shifts to the right are negative numbers */
    const int16x8_t even = vmovlbq_s8(right), odd = vmovltq_s8(right);
    const int32x4_t shift[4] = {vmovlbq_s16(even), vmovlbq_s16(odd), vmovltq_s16(even), vmovltq_s16(odd)};
    tinyscene_sixteen sixteen;
    sixteen.step = step;
    sixteen.n = n;
    sixteen.y = y + channel;
    sixteen.zero_point = c->rounding >> 1; /* it is odd */
    sixteen.pixels = pixels;
    for (int32_t i = 0; i < 4; i++) {
        vstrwq_s32(sixteen.bias[i], bias.val[i]);
        vstrwq_s32(sixteen.multiplier[i], multiplier.val[i]);
        vstrwq_s32(sixteen.shift[i], shift[i]);
    }
    for (int32_t tap = 0; tap < 9; tap++)
        vstrbq_s8(sixteen.weights[tap], vldrbq_s8((const int8_t *)c->weights + tap * n + channel));
    multiply_sixteen(&sixteen, rows[0] + channel, rows[1] + channel, rows[2] + channel);
}

void tinyscene_depthwise(const tinyscene_conv *c, const int8_t *const rows[3], int32_t pixels, int32_t step, int8_t *y)
{
    const int32_t n = c->outputs, last = n - 16; /* where the last 16 begin, of which some may be done already */
    if (last < 0)
        tinyscene_depthwise_any(c, rows, 3, 3, pixels, step, y);
    else
        for (int32_t channel = 0; channel < n; channel += 16)
            sixteen_channels(c, channel < last ? channel : last, rows, pixels, step, y);
}

/* As RESCALE, but where there is no shift, numbers below zero must stay: `sign` is -32 then, else -31. */
INLINE int32x4_t rescale(int32x4_t sums, int32_t multiplier, int32x4_t sign, int32_t shift)
{
    const int32x4_t high = vqrdmulhq_n_s32(sums, multiplier);
    const uint32x4_t below = vshlq_u32(vreinterpretq_u32_s32(high), sign);
    return vrshlq_n_s32(vsubq_s32(high, vreinterpretq_s32_u32(below)), -shift);
}

/* Four values: `a` shifted by 19, `b` by 20. */
INLINE int32x4_t add_four(const tinyscene_sum *s, int32x4_t sign, int32x4_t out_sign, int32x4_t a, int32x4_t b)
{
    const int32x4_t sums = vaddq_s32(a, rescale(b, s->multiplier, sign, s->shift));
    return rescale(sums, s->out_multiplier, out_sign, s->out_shift);
}

/* Eight values at a time: inputs are shifted by 3 and 4 as 16 bits, and the rest as they are widened. */
void tinyscene_add(const tinyscene_sum *s, const int8_t *a, const int8_t *b, int32_t count, int8_t *y)
{
    const int32x4_t sign = vdupq_n_s32(s->shift > 0 ? -31 : -32), out_sign = vdupq_n_s32(s->out_shift > 0 ? -31 : -32);
    const int16x8_t activation_min = vdupq_n_s16((int16_t)s->activation_min);
    const int16_t a_zero = (int16_t)s->zero_point[0], b_zero = (int16_t)s->zero_point[1];
    const int16_t y_zero = (int16_t)s->out_zero_point;
    for (; count > 0; count -= 8, a += 8, b += 8, y += 8) {
        const mve_pred16_t there = vctp16q((uint32_t)count);
        const int16x8_t first = vshlq_n_s16(vsubq_n_s16(vldrbq_z_s16(a, there), a_zero), 3);
        const int16x8_t second = vshlq_n_s16(vsubq_n_s16(vldrbq_z_s16(b, there), b_zero), 4);
        const int32x4_t even = add_four(s, sign, out_sign, vshllbq_n_s16(first, 16), vshllbq_n_s16(second, 16));
        const int32x4_t odd = add_four(s, sign, out_sign, vshlltq_n_s16(first, 16), vshlltq_n_s16(second, 16));
        int16x8_t values = vqmovntq_s32(vqmovnbq_s32(activation_min, even), odd); /* clamped to 16 bits, then to 8 */
        values = vmaxq_s16(vqaddq_n_s16(values, y_zero), activation_min);
        vstrbq_p_s16(y, vreinterpretq_s16_s8(vqmovnbq_s16(vreinterpretq_s8_s16(values), values)), there);
    }
}

/* Four channels at a time. A processor divides a vector number by number. */
void tinyscene_pool(const int8_t *const *rows, int32_t tall, int32_t wide, int32_t channels, int32_t pixels,
                    int32_t step, int8_t *y)
{
    const int32_t count = tall * wide;
    for (int32_t at = 0; pixels > 0; pixels--, at += step, y += channels)
        for (int32_t channel = 0; channel < channels; channel += 4) {
            const mve_pred16_t there = vctp32q((uint32_t)(channels - channel));
            int32x4_t sums = vdupq_n_s32(0);
            int32_t values[4];
            for (int32_t row = 0; row < tall; row++) {
                const int8_t *x = rows[row] + at + channel;
                for (int32_t column = 0; column < wide; column++, x += channels)
                    sums = vaddq_s32(sums, vldrbq_z_s32(x, there));
            }
            const int32x4_t half = vdupq_n_s32(count / 2), raised = vaddq_s32(sums, half);
            vstrwq_s32(values, vsubq_m_s32(raised, sums, half, vcmpltq_n_s32(sums, 0)));
            for (int32_t i = 0; i < 4; i++)
                values[i] /= count;
            vstrbq_p_s32(y + channel, vldrwq_s32(values), there);
        }
}

/* Rows are copied 16 bytes at a time. */
void tinyscene_gather(const int8_t *const *rows, int32_t tall, int32_t bytes, int32_t first, int32_t pixels,
                      int32_t step, int8_t *patches)
{
    for (int32_t at = first * step; pixels > 0; pixels--, at += step)
        for (int32_t row = 0; row < tall; row++) {
            const int8_t *x = rows[row] + at;
            int32_t left = bytes;
            for (; left > 0; left -= 16, x += 16, patches += 16) {
                const mve_pred16_t there = vctp8q((uint32_t)left);
                vstrbq_p_s8(patches, vldrbq_z_s8(x, there), there);
            }
            patches += left; /* which is what has been too much */
        }
}

#endif
