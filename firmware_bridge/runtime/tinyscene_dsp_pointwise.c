/* Pointwise convolutions for Cortex-M4, M7 and M33.
 *
 * Weights of two channels share a lane of 16 bits, 256 * first + second, so that flash holds no more than bytes. With
 * inputs x, one sum of products with lanes gives 256 * sum(first) + sum(second), one with the lanes' lower bytes gives
 * sum(second); their difference holds 256 * sum(first) exactly, for sums are below 2^23. Three pixels are multiplied at
 * a time; what they share is loaded once.
 */
#include "tinyscene_dsp.h"

#if defined(TINYSCENE_DSP)

/* Inputs of three pixels, `depth` bytes apart -> lanes: of each four, bytes 0 and 2 of each pixel, then 1 and 3. At
 * least four inputs, of which a multiple of four is taken. */
ASSEMBLY void widen(const int8_t *x ARGUMENT, int32_t depth ARGUMENT, const int8_t *end ARGUMENT,
                    int32_t *lanes ARGUMENT)
{
    __asm("push {r4, r5, r6, r7, r8, r9, r10, r11, lr}\n"
          "1:\n"
          "ldr r8, [r0, r1]\n"
          "ldr r9, [r0, r1, lsl #1]\n"
          "ldr r7, [r0], #4\n"
          "sxtb16 r4, r7\n sxtb16 r5, r8\n sxtb16 r6, r9\n"
          "sxtb16 r7, r7, ror #8\n sxtb16 r8, r8, ror #8\n sxtb16 r9, r9, ror #8\n"
          "stmia r3!, {r4, r5, r6, r7, r8, r9}\n"
          "cmp r0, r2\n"
          "bne 1b\n"
          "pop {r4, r5, r6, r7, r8, r9, r10, r11, pc}" : : : CLOBBERED);
}

static NOINLINE void widen_three(const int8_t *x, int32_t depth, int32_t next, int32_t *lanes)
{
    const int32_t whole = depth & ~3;
    const int32_t rest = depth & 3;
    if (whole > 0) {
        widen(x, next, &x[whole], lanes);
    }
    if (rest > 0) {
        lanes += whole / 4 * 6;
        x += whole;
        for (int32_t pixel = 0; pixel < 3; pixel++) {
            const int32_t third = (rest > 2) ? x[2] : 0;
            lanes[0] = (x[0] & 0xffff) | (int32_t)((uint32_t)third << 16);
            lanes[3] = (rest > 1) ? (x[1] & 0xffff) : 0;
            KEEP_ROLLED(pixel);
            x += next;
            lanes++;
        }
    }
}

/* Four inputs of three pixels by two channels, 24 products: r14 points to weights, r0 to lanes; r4 to r6 are the
 * pixels' sums with whole lanes, r7 to r9 those with lower bytes. */
#define STEP_BYTES 64
#define STEP                                                                                                          \
    "ldrd r10, r11, [r14], #8\n"                                                                                      \
    "ldmia r0!, {r1, r2, r3}\n"                                                                                       \
    "sxtb16 r12, r10\n"                                                                                               \
    "smlad r4, r1, r10, r4\n smlad r5, r2, r10, r5\n smlad r6, r3, r10, r6\n"                                         \
    "smlad r7, r1, r12, r7\n smlad r8, r2, r12, r8\n smlad r9, r3, r12, r9\n"                                         \
    "ldmia r0!, {r1, r2, r3}\n"                                                                                       \
    "sxtb16 r12, r11\n"                                                                                               \
    "smlad r4, r1, r11, r4\n smlad r5, r2, r11, r5\n smlad r6, r3, r11, r6\n"                                         \
    "smlad r7, r1, r12, r7\n smlad r8, r2, r12, r8\n smlad r9, r3, r12, r9\n"

/* Pairs of channels until the weights' end. A loop of four steps is entered `entry` bytes after its beginning and left
 * when the lanes are at their end. A pair's sums begin with its biases, and it ends with `rescale`. On the stack: lanes,
 * entry, the lanes' end, the weights' end, saved registers, then outputs from #52 on. */
#define PAIRS(rescale)                                                                                                \
    "push {r0, r1, r2, r3, r4, r5, r6, r7, r8, r9, r10, r11, lr}\n"                                                   \
    "ldr r14, [sp, #64]\n" /* weights */                                                                              \
    "0:\n"                                                                                                            \
    "ldrd r4, r7, [r14], #8\n"                                                                                        \
    "ldrd r0, r1, [sp]\n"                                                                                             \
    "mov r5, r4\n mov r6, r4\n mov r8, r7\n mov r9, r7\n"                                                             \
    "add pc, r1\n" /* counted from after the nop */                                                                   \
    "nop\n"                                                                                                           \
    "1:\n" STEP STEP STEP STEP                                                                                        \
    "ldr r1, [sp, #8]\n"                                                                                              \
    "cmp r0, r1\n"                                                                                                    \
    "bne 1b\n"                                                                                                        \
    "sub r4, r4, r7\n sub r5, r5, r8\n sub r6, r6, r9\n"                                                              \
    "ldrd r0, r11, [sp, #52]\n" /* y, rounding */                                                                     \
    "ldr r1, [sp, #60]\n"       /* bytes from a pixel of y to the next */                                             \
    rescale                                                                                                           \
    "str r0, [sp, #52]\n"                                                                                             \
    "ldr r1, [sp, #12]\n"                                                                                             \
    "cmp r14, r1\n"                                                                                                   \
    "bne 0b\n"                                                                                                        \
    "add sp, sp, #16\n"                                                                                               \
    "pop {r4, r5, r6, r7, r8, r9, r10, r11, pc}"

/* r2 and r10 are the multipliers, r3 has both shifts; r4 to r6 are 256 * the first channel's sums, r7 to r9 the second
 * one's. The first pixel comes last: where there is but one, all three lie there. */
ASSEMBLY void pairs_rounded_up(const int32_t *lanes ARGUMENT, int32_t entry ARGUMENT, const int32_t *end ARGUMENT,
                               const int32_t *weights_end ARGUMENT, int8_t *y ARGUMENT, int32_t rounding ARGUMENT,
                               int32_t next ARGUMENT, const int32_t *weights ARGUMENT)
{
    __asm(PAIRS("ldmia r14!, {r2, r3, r10}\n"
                "lsl r12, r11, r3\n"
                "add r12, r12, #64\n"
                PUT_ROUNDED_UP("smmla", "r5", "r2", "r12", "r3", "[r0, r1]")
                PUT_ROUNDED_UP("smmla", "r6", "r2", "r12", "r3", "[r0, r1, lsl #1]")
                PUT_ROUNDED_UP("smmla", "r4", "r2", "r12", "r3", "[r0], #1")
                "lsr r3, r3, #8\n"
                "lsl r12, r11, r3\n"
                "lsl r8, r8, #1\n" PUT_ROUNDED_UP("smmlar", "r8", "r10", "r12", "r3", "[r0, r1]")
                "lsl r9, r9, #1\n" PUT_ROUNDED_UP("smmlar", "r9", "r10", "r12", "r3", "[r0, r1, lsl #1]")
                "lsl r7, r7, #1\n" PUT_ROUNDED_UP("smmlar", "r7", "r10", "r12", "r3", "[r0], #1"))
          : : : CLOBBERED);
}

ASSEMBLY void pairs(const int32_t *lanes ARGUMENT, int32_t entry ARGUMENT, const int32_t *end ARGUMENT,
                    const int32_t *weights_end ARGUMENT, int8_t *y ARGUMENT, int32_t rounding ARGUMENT,
                    int32_t next ARGUMENT, const int32_t *weights ARGUMENT)
{
    __asm(PAIRS("ldrd r2, r3, [r14], #8\n"
                "lsl r12, r11, r3\n"
                "asr r5, r5, #7\n" PUT("r5", "r2", "r12", "r3", "r10", "[r0, r1]")
                "asr r6, r6, #7\n" PUT("r6", "r2", "r12", "r3", "r10", "[r0, r1, lsl #1]")
                "asr r4, r4, #7\n" PUT("r4", "r2", "r12", "r3", "r10", "[r0], #1")
                "ldr r2, [r14], #4\n"
                "lsr r3, r3, #8\n"
                "lsl r12, r11, r3\n"
                "lsl r8, r8, #1\n" PUT("r8", "r2", "r12", "r3", "r10", "[r0, r1]")
                "lsl r9, r9, #1\n" PUT("r9", "r2", "r12", "r3", "r10", "[r0, r1, lsl #1]")
                "lsl r7, r7, #1\n" PUT("r7", "r2", "r12", "r3", "r10", "[r0], #1"))
          : : : CLOBBERED);
}

/* Some pairs of channels of three pixels: y is the first pixel's output of the first of them. */
static NOINLINE void multiply(const tinyscene_conv *c, const int32_t *lanes, int32_t first, int32_t count,
                              int32_t next, int8_t *y)
{
    const int32_t steps = (c->depth + 3) / 4;
    const int32_t entry = (-steps & 3) * STEP_BYTES;
    const int32_t words = (2 * steps) + 5;
    const int32_t *table = c->weights;
    const int32_t *const w = &table[1 + (first * words)];
    (*table ? pairs_rounded_up : pairs)(lanes, entry, &lanes[6 * steps], &w[count * words], y, c->rounding, next, w);
}

/* The last channel of an odd number: it comes with a second one that there is not. */
static NOINLINE void last_channel(const tinyscene_conv *c, const int32_t *lanes, int32_t pixels, int8_t *y)
{
    int8_t both[6];
    multiply(c, lanes, c->outputs / 2, 1, 2, both);
    for (int32_t pixel = 0; pixel < pixels; pixel++) {
        y[(pixel * c->outputs) + c->outputs - 1] = both[2 * pixel];
        KEEP_ROLLED(pixel);
    }
}

/* Three pixels at a time, of which the last ones may be done already; else one, as all three of them. */
void tinyscene_pointwise(const tinyscene_conv *c, const int8_t *x, int32_t pixels, int8_t *y, void *scratch)
{
    const int32_t depth = c->depth;
    const int32_t outputs = c->outputs;
    const int32_t taken = (pixels < 3) ? 1 : 3;
    int32_t *const lanes = scratch;
    for (int32_t pixel = 0; pixel < pixels; pixel += taken) {
        const int32_t at = ((pixel + taken) <= pixels) ? pixel : (pixels - taken);
        widen_three(&x[at * depth], depth, (taken > 1) ? depth : 0, lanes);
        if (outputs > 1) {
            multiply(c, lanes, 0, outputs / 2, (taken > 1) ? outputs : 0, &y[at * outputs]);
        }
        if ((outputs & 1) != 0) {
            last_channel(c, lanes, taken, &y[at * outputs]);
        }
    }
}

#endif
