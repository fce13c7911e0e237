/* What the kernels for Cortex-M4, M7 and M33 share: two products of 16 bits at a time, by their DSP instructions. Bytes
 * are loaded four at a time from any address, as these processors do unless told to trap it.
 *
 * The loops are assembly as a whole, for compilers run out of registers here, at any -O. Arguments are r0 to r3, then
 * words on the stack, above the registers that are saved there.
 *
 * Tables of weights hold what rescales the sums, too. Of a rescaled sum TFLite rounds halves away from zero. Where the
 * zero point is -128, what is below zero comes out as that: halves may be rounded up, by fewer instructions. The first
 * word of a table says so.
 */
#ifndef TINYSCENE_DSP_H
#define TINYSCENE_DSP_H

#include "tinyscene_kernels.h"

#if defined(TINYSCENE_DSP)

#include <arm_acle.h>

#define KEEP_ROLLED(count) __asm("" : "+r"(count)) /* compilers that cannot know how often a loop runs leave it */
#define CLOBBERED "r0", "r1", "r2", "r3", "r12", "memory", "cc" /* gcc looks there for what a call leaves alone */

static inline __attribute__((always_inline)) int32_t load4(const int8_t *x)
{
    int32_t word;
    __builtin_memcpy(&word, x, 4);
    return word;
}

/* A sum -> an output, halves rounded up. 256 * a sum is multiplied by `smmla`, with a shift that is 6 more than the
 * channel's; `rounding` has 2^6 for the first of the two roundings. Twice a sum is multiplied by `smmlar`, with a shift
 * that is 1 less. To both, `rounding` has 2 * zero point + 1, shifted by the shift. */
#define PUT_ROUNDED_UP(multiply, sum, multiplier, rounding, shift, store)                                             \
    multiply " " sum ", " sum ", " multiplier ", " rounding "\n"                                                      \
    "asr " sum ", " sum ", " shift "\n"                                                                               \
    "ssat " sum ", #8, " sum ", asr #1\n"                                                                             \
    "strb " sum ", " store "\n"

/* Twice a sum -> an output, by a shift that is 1 less: negative products are lowered by 1. The sum's sign stands for
 * the product's, for where only the product is 0, lowering it changes nothing. */
#define PUT(sum, multiplier, rounding, shift, scratch, store)                                                         \
    "add " scratch ", " rounding ", " sum ", asr #31\n"                                                               \
    "smmlar " sum ", " sum ", " multiplier ", " scratch "\n"                                                          \
    "asr " sum ", " sum ", " shift "\n"                                                                               \
    "ssat " sum ", #8, " sum ", asr #1\n"                                                                             \
    "strb " sum ", " store "\n"

#endif

#endif
