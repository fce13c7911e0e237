/* Sums and means for Cortex-M4, M7 and M33. */
#include "tinyscene_dsp.h"

#if defined(TINYSCENE_DSP)

/* What an addition needs, in the order that it is read. Inputs are taken twice as large, for the instruction that
 * multiplies gives the upper half of a product. */
typedef struct {
    int32_t zero_point;
    int32_t multiplier;
    int32_t half;
    int32_t shift;
} tinyscene_term;

typedef struct {
    tinyscene_term second;
    tinyscene_term sum;
} tinyscene_addition;

/* Twice a number in r0 -> r14, rescaled. */
#define RESCALE(multiplier, half, shift)                                                                              \
    "add r14, " half ", r0, asr #31\n"                                                                                \
    "smmlar r14, r0, " multiplier ", r14\n"                                                                           \
    "asr r14, r14, " shift "\n"

#define VALUE_BYTES 52
#define VALUE                                                                                                         \
    "ldrsb r0, [r2], #1\n"                                                                                            \
    "rsb r0, r4, r0, lsl #21\n" RESCALE("r5", "r6", "r7")                                                             \
    "ldrsb r0, [r1], #1\n"                                                                                            \
    "rsb r0, r8, r0, lsl #20\n"                                                                                       \
    "add r0, r0, r14, lsl #1\n" RESCALE("r9", "r10", "r11")                                                           \
    "ssat r14, #8, r14\n"                                                                                             \
    "strb r14, [r3], #1\n"

/* One value at least. A loop of four is entered `entry` bytes after its beginning. */
ASSEMBLY void add_values(const tinyscene_addition *s ARGUMENT, const int8_t *a ARGUMENT, const int8_t *b ARGUMENT,
                         int8_t *y ARGUMENT, const int8_t *end ARGUMENT, int32_t entry ARGUMENT)
{
    __asm("push {r4, r5, r6, r7, r8, r9, r10, r11, lr}\n"
          "ldrd r12, r14, [sp, #36]\n" /* end, entry */
          "ldmia r0, {r4, r5, r6, r7, r8, r9, r10, r11}\n"
          "add pc, r14\n" /* counted from after the nop */
          "nop\n"
          "1:\n" VALUE VALUE VALUE VALUE
          "cmp r3, r12\n"
          "bne 1b\n"
          "pop {r4, r5, r6, r7, r8, r9, r10, r11, pc}" : : : CLOBBERED);
}

void tinyscene_add(const tinyscene_sum *s, const int8_t *a, const int8_t *b, int32_t count, int8_t *y)
{
    const int32_t out_half = (s->out_zero_point * 2) + 1; /* of what is shifted out, and the zero point */
    const tinyscene_addition addition = {
        {s->zero_point[1] * POWER_OF_2(21), s->multiplier, POWER_OF_2(s->shift) >> 1, s->shift},
        {s->zero_point[0] * POWER_OF_2(20), s->out_multiplier, out_half * POWER_OF_2(s->out_shift - 1), s->out_shift},
    };
    if (count <= 0) {
        return;
    }
    add_values(&addition, a, b, y, &y[count], (-count & 3) * VALUE_BYTES);
    if (s->activation_min > -128) {
        for (; count > 0; count--) {
            *y = (int8_t)((*y < s->activation_min) ? s->activation_min : *y);
            KEEP_ROLLED(count);
            y++;
        }
    }
}

/* The last four channels may begin among those that are done already. Sums of bytes fit 16 bits. */
static NOINLINE void pool_four(const int8_t *const *rows, int32_t tall, int32_t wide, int32_t channels, int32_t at,
                               int32_t reciprocal, int8_t *y)
{
    const int32_t half = POWER_OF_2(14);
    int32_t even = 0;
    int32_t odd = 0;
    for (int32_t row = 0; row < tall; row++) {
        const int8_t *x = &rows[row][at];
        for (int32_t left = wide; left > 0; left--) {
            const int32_t word = load4(x);
            even = __sxtab16(even, word);
            odd = __sxtab16(odd, (int32_t)(((uint32_t)word >> 8) | ((uint32_t)word << 24)));
            KEEP_ROLLED(left);
            x += channels;
        }
    }
    y[0] = (int8_t)(__smlawb(reciprocal, even, half) >> 15);
    y[1] = (int8_t)(__smlawb(reciprocal, odd, half) >> 15);
    y[2] = (int8_t)(__smlawt(reciprocal, even, half) >> 15);
    y[3] = (int8_t)(__smlawt(reciprocal, odd, half) >> 15);
}

/* A sum is multiplied by a little more than 2^31 / count: by so little that nothing but a half changes its side, which
 * then is rounded away from zero. */
void tinyscene_pool(const int8_t *const *rows, int32_t tall, int32_t wide, int32_t channels, int32_t pixels,
                    int32_t step, int8_t *y)
{
    const int32_t last = channels - 4;
    const int32_t count = tall * wide;
    const int32_t reciprocal = (count > 1) ? (int32_t)((0x80000000u / (uint32_t)count) + 1) : INT32_MAX;
    int32_t at = 0;
    for (; pixels > 0; pixels--) {
        for (int32_t channel = 0; channel < channels; channel += 4) {
            const int32_t first = (channel < last) ? channel : last;
            pool_four(rows, tall, wide, channels, at + first, reciprocal, &y[first]);
        }
        at += step;
        y += channels;
    }
}

#endif
