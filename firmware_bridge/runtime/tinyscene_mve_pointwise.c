/* Pointwise convolutions for Cortex-M55 and M85.
 *
 * A table has, for four channels, biases, multipliers and shifts, and weights for 16 inputs at a time, 8 for the last
 * ones where these do. Inputs are not read beyond their last byte.
 */
#include "tinyscene_mve.h"

#if defined(TINYSCENE_MVE)

/* What the loops need: it is copied to their stack, for no register is left. */
typedef struct {
    const int8_t *x;
    int8_t *y;
    const int8_t *table;
    int32_t next;       /* bytes from the first pixel of a pair to the second; 0 where there is but one */
    int32_t whole;      /* steps of 16 inputs */
    int32_t rest;       /* inputs after these */
    int32_t y_next;     /* as `next` */
    int32_t channels;   /* that are left */
    int32_t pairs; /* of pixels */
    int32_t odd;   /* whether one is left over */
    int32_t zero_point;
} tinyscene_job;

/* Products of 16 inputs of two pixels, in q0 and q1, by four channels. The instruction adds to even registers only:
 * there are eight, which is why no compiler does this without moves. */
#define STEP(bytes)                                                                                                   \
    "vldrb.u8 q2, [r7], #" bytes "\n vmladava.s8 r0, q0, q2\n vmladava.s8 r8, q1, q2\n"                               \
    "vldrb.u8 q2, [r7], #" bytes "\n vmladava.s8 r2, q0, q2\n vmladava.s8 r10, q1, q2\n"                              \
    "vldrb.u8 q2, [r7], #" bytes "\n vmladava.s8 r4, q0, q2\n vmladava.s8 r12, q1, q2\n"                              \
    "vldrb.u8 q2, [r7], #" bytes "\n vmladava.s8 r6, q0, q2\n vmladava.s8 r14, q1, q2\n"

/* On the stack: the biases for two pixels, the job from #32 on, and what is saved. Pixels are taken two at a time; one
 * that is left over is taken again with the one before. r5 and r11 point to inputs, r7 to weights, r1 to outputs. */
#define FOUR_CHANNELS_AT_A_TIME(rescale)                                                                              \
    "push {r4, r5, r6, r7, r8, r9, r10, r11, lr}\n"                                                                   \
    "vpush {d8, d9, d10, d11, d12, d13}\n"                                                                            \
    "ldmia r0, {r1, r2, r3, r4, r5, r6, r7, r8, r9, r10, r11}\n"                                                      \
    "push {r1, r2, r3, r4, r5, r6, r7, r8, r9, r10, r11}\n"                                                           \
    "sub sp, sp, #32\n"                                                                                               \
    "ldr r0, [sp, #72]\n" /* zero point */                                                                            \
    "vdup.16 q5, r0\n"                                                                                                \
    "0:\n"                                                                                                            \
    "ldr r7, [sp, #40]\n"                                                                                             \
    "vldrw.u32 q0, [r7], #16\n vldrw.u32 q3, [r7], #16\n vldrw.u32 q4, [r7], #16\n"                                   \
    "str r7, [sp, #40]\n"                                                                                             \
    "vstrw.32 q0, [sp]\n vstrw.32 q0, [sp, #16]\n"                                                                    \
    "ldrd r5, r1, [sp, #32]\n"                                                                                        \
    "ldr r9, [sp, #64]\n"                                                                                             \
    "1:\n"                                                                                                            \
    "ldmia sp, {r0, r2, r4, r6, r8, r10, r12, r14}\n"                                                                 \
    "ldrd r11, r3, [sp, #44]\n" /* next, whole */                                                                     \
    "ldr r7, [sp, #40]\n"                                                                                             \
    "add r11, r11, r5\n"                                                                                              \
    "cbz r3, 3f\n"                                                                                                    \
    "2:\n"                                                                                                            \
    "vldrb.u8 q0, [r5], #16\n vldrb.u8 q1, [r11], #16\n" STEP("16")                                                   \
    "subs r3, r3, #1\n"                                                                                               \
    "bne 2b\n"                                                                                                        \
    "3:\n"                                                                                                            \
    "ldr r3, [sp, #52]\n" /* rest */                                                                                  \
    "cmp r3, #0\n"                                                                                                    \
    "beq 5f\n"                                                                                                        \
    "vctp.8 r3\n"                                                                                                     \
    "vpstt\n vldrbt.u8 q0, [r5]\n vldrbt.u8 q1, [r11]\n"                                                              \
    "cmp r3, #8\n"                                                                                                    \
    "bgt 4f\n" STEP("8")                                                                                              \
    "b 5f\n"                                                                                                          \
    "4:\n" STEP("16")                                                                                                 \
    "5:\n"                                                                                                            \
    "add r5, r11, r3\n"                                                                                               \
    "vmov q0[2], q0[0], r0, r4\n vmov q0[3], q0[1], r2, r6\n"                                                         \
    "vmov q1[2], q1[0], r8, r12\n vmov q1[3], q1[1], r10, r14\n"                                                      \
    rescale("q0", "q3", "q4", "q2") rescale("q1", "q3", "q4", "q2")                                                   \
    "vqmovnb.s32 q0, q0\n" /* halves of words: the first pixel's are the lower ones */                                \
    "vqmovnt.s32 q0, q1\n"                                                                                            \
    "vqadd.s16 q0, q0, q5\n"                                                                                          \
    "vqmovnb.s16 q0, q0\n"                                                                                            \
    "vshr.u32 q1, q0, #16\n"                                                                                          \
    "ldrd r4, r6, [sp, #56]\n" /* y_next, channels */                                                                 \
    "add r2, r1, r4\n"                                                                                                \
    "vctp.32 r6\n"                                                                                                    \
    "vpstt\n vstrbt.32 q0, [r1]\n vstrbt.32 q1, [r2]\n"                                                               \
    "add r1, r2, r4\n"                                                                                                \
    "subs r9, r9, #1\n"                                                                                               \
    "bgt 1b\n"                                                                                                        \
    "bmi 6f\n"                                                                                                        \
    "ldr r0, [sp, #68]\n" /* odd */                                                                                   \
    "cmp r0, #0\n"                                                                                                    \
    "beq 6f\n"                                                                                                        \
    "ldr r0, [sp, #44]\n"                                                                                             \
    "sub r5, r5, r0\n"                                                                                                \
    "sub r1, r1, r4\n"                                                                                                \
    "b 1b\n"                                                                                                          \
    "6:\n"                                                                                                            \
    "ldr r0, [sp, #36]\n"                                                                                                  \
    "add r0, r0, #4\n"                                                                                                \
    "strd r0, r7, [sp, #36]\n"                                                                                        \
    "subs r6, r6, #4\n"                                                                                               \
    "str r6, [sp, #60]\n"                                                                                             \
    "bgt 0b\n"                                                                                                        \
    "add sp, sp, #76\n"                                                                                               \
    "vpop {d8, d9, d10, d11, d12, d13}\n"                                                                             \
    "pop {r4, r5, r6, r7, r8, r9, r10, r11, pc}"

ASSEMBLY void multiply_rounded_up(const tinyscene_job *job ARGUMENT)
{
    __asm(FOUR_CHANNELS_AT_A_TIME(RESCALE_ROUNDED_UP) : : : CLOBBERED);
}

ASSEMBLY void multiply(const tinyscene_job *job ARGUMENT)
{
    __asm(FOUR_CHANNELS_AT_A_TIME(RESCALE) : : : CLOBBERED);
}

void tinyscene_pointwise(const tinyscene_conv *c, const int8_t *x, int32_t pixels, int8_t *y, void *scratch)
{
    const int32_t several = pixels > 1;
    const int32_t pairs = several ? (pixels / 2) : 1;
    const tinyscene_job job = {
        .x = x,
        .y = y,
        .table = c->weights,
        .next = several ? c->depth : 0,
        .whole = c->depth / 16,
        .rest = c->depth % 16,
        .y_next = several ? c->outputs : 0,
        .channels = c->outputs,
        .pairs = pairs,
        .odd = several && (pixels % 2),
        .zero_point = (c->rounding - 1) / 2,
    };
    (void)scratch;
    if (c->rounding == LEAST_ROUNDING) {
        multiply_rounded_up(&job);
    } else {
        multiply(&job);
    }
}

#endif
