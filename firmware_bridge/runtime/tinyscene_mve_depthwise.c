/* Depthwise convolutions for Cortex-M55 and M85: 16 channels at a time. */
#include "tinyscene_mve.h"

#if defined(TINYSCENE_MVE)

/* What 16 channels need, in the order that it is read. Tables are of every fourth channel, from the first, second,
 * third and fourth on, which is how vectors are widened. */
typedef struct {
    int32_t bias[4][4];
    int32_t multiplier[4][4];
    int32_t shift[4][4];
    int8_t weights[9][16];
    int32_t step;
    int32_t n;
    int8_t *y;
    int32_t zero_point;
    int32_t pixels;
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

#define RESCALE_BY(rescale, sums, multiplier, shift)                                                                  \
    "vldrw.u32 q4, [r0, #" multiplier "]\n vldrw.u32 q5, [r0, #" shift "]\n" rescale(sums, "q4", "q5", "q6")

/* A row of 16 channels, one pixel at least; a, b and d are rows of the input. */
#define PIXELS(rescale)                                                                                               \
    "push {r4, r5, r6, r7, r8, r9, r10, lr}\n"                                                                        \
    "vpush {d8, d9, d10, d11, d12, d13, d14, d15}\n"                                                                  \
    "add r7, r0, #336\n"                                                                                              \
    "ldmia r7, {r4, r5, r6, r9, r14}\n" /* step, n, y, zero point, pixels */                                          \
    "1:\n"                                                                                                            \
    "vldrw.u32 q0, [r0]\n vldrw.u32 q1, [r0, #16]\n vldrw.u32 q2, [r0, #32]\n vldrw.u32 q3, [r0, #48]\n"              \
    "add r7, r1, r5\n" TWO_TAPS("r1", "192", "r7", "208")                                                             \
    "add r7, r7, r5\n" TWO_TAPS("r7", "224", "r2", "240")                                                             \
    "add r7, r2, r5\n add r8, r7, r5\n" TWO_TAPS("r7", "256", "r8", "272")                                            \
    "add r7, r3, r5\n" TWO_TAPS("r3", "288", "r7", "304")                                                             \
    "add r7, r7, r5\n" ONE_TAP("r7", "320") ADD_PRODUCTS                                                              \
    RESCALE_BY(rescale, "q0", "64", "128") RESCALE_BY(rescale, "q1", "80", "144")                                     \
    RESCALE_BY(rescale, "q2", "96", "160") RESCALE_BY(rescale, "q3", "112", "176")                                    \
    "vqmovnb.s32 q0, q0\n vqmovnt.s32 q0, q2\n vqadd.s16 q0, q0, r9\n" /* even channels */                            \
    "vqmovnb.s32 q1, q1\n vqmovnt.s32 q1, q3\n vqadd.s16 q1, q1, r9\n" /* odd ones */                                 \
    "vqmovnb.s16 q0, q0\n vqmovnt.s16 q0, q1\n"                                                                       \
    "vstrb.8 q0, [r6]\n"                                                                                              \
    "add r6, r6, r5\n"                                                                                                \
    "add r1, r1, r4\n add r2, r2, r4\n add r3, r3, r4\n"                                                              \
    "le lr, 1b\n"                                                                                                     \
    "vpop {d8, d9, d10, d11, d12, d13, d14, d15}\n"                                                                   \
    "pop {r4, r5, r6, r7, r8, r9, r10, pc}"

ASSEMBLY void pixels_rounded_up(const tinyscene_sixteen *s ARGUMENT, const int8_t *a ARGUMENT, const int8_t *b ARGUMENT,
                                const int8_t *d ARGUMENT)
{
    __asm(PIXELS(RESCALE_ROUNDED_UP) : : : CLOBBERED);
}

ASSEMBLY void pixels(const tinyscene_sixteen *s ARGUMENT, const int8_t *a ARGUMENT, const int8_t *b ARGUMENT,
                     const int8_t *d ARGUMENT)
{
    __asm(PIXELS(RESCALE) : : : CLOBBERED);
}

static NOINLINE void sixteen_channels(const tinyscene_conv *c, int32_t channel, const int8_t *const rows[3],
                                      int32_t count, int32_t step, int8_t *y)
{
    const int32_t n = c->outputs;
    const int32x4x4_t bias = vld4q_s32(&c->bias[channel]);
    const int32x4x4_t multiplier = vld4q_s32(&c->multiplier[channel]);
    const int8x16_t right = vnegq_s8(vldrbq_s8(&c->shift[channel])); /* shifts to the right are negative numbers */
    const int16x8_t even = vmovlbq_s8(right);
    const int16x8_t odd = vmovltq_s8(right);
    const int32x4_t shift[4] = {vmovlbq_s16(even), vmovlbq_s16(odd), vmovltq_s16(even), vmovltq_s16(odd)};
    tinyscene_sixteen sixteen;
    sixteen.step = step;
    sixteen.n = n;
    sixteen.y = &y[channel];
    sixteen.zero_point = (c->rounding - 1) / 2;
    sixteen.pixels = count;
    for (int32_t i = 0; i < 4; i++) {
        vstrwq_s32(sixteen.bias[i], bias.val[i]);
        vstrwq_s32(sixteen.multiplier[i], multiplier.val[i]);
        vstrwq_s32(sixteen.shift[i], shift[i]);
    }
    for (int32_t tap = 0; tap < 9; tap++) {
        vstrbq_s8(sixteen.weights[tap], vldrbq_s8(&((const int8_t *)c->weights)[(tap * n) + channel]));
    }
    ((c->rounding == LEAST_ROUNDING) ? pixels_rounded_up : pixels)(&sixteen, &rows[0][channel], &rows[1][channel],
                                                                   &rows[2][channel]);
}

void tinyscene_depthwise(const tinyscene_conv *c, const int8_t *const rows[3], int32_t count, int32_t step, int8_t *y,
                         void *scratch)
{
    const int32_t n = c->outputs;
    const int32_t last = n - 16; /* where the last 16 begin, of which some may be done already */
    (void)scratch;
    if (last < 0) {
        tinyscene_depthwise_any(c, rows, 3, 3, count, step, y);
    } else {
        for (int32_t channel = 0; channel < n; channel += 16) {
            sixteen_channels(c, (channel < last) ? channel : last, rows, count, step, y);
        }
    }
}

#endif
