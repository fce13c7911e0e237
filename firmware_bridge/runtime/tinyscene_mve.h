/* What the kernels for Cortex-M55 and M85 share. Their loops are assembly where compilers move vectors and registers
 * too often.
 *
 * Of a rescaled sum TFLite rounds halves away from zero, and the instruction that shifts rounds them up: numbers below
 * zero are made 1 less before. Where the zero point is -128, these come out as that: there it is left out.
 */
#ifndef TINYSCENE_MVE_H
#define TINYSCENE_MVE_H

#include "tinyscene_kernels.h"

#if defined(TINYSCENE_MVE)

#include <arm_mve.h>

#define CLOBBERED "r0", "r1", "r2", "r3", "r12", "q0", "q1", "q2", "q3", "memory", "cc" /* gcc looks there */

/* Four sums -> outputs less their zero point. Shifts are to the right, as negative numbers. */
#define RESCALE_ROUNDED_UP(sums, multiplier, shift, scratch)                                                          \
    "vqrdmulh.s32 " sums ", " sums ", " multiplier "\n"                                                               \
    "vrshl.s32 " sums ", " sums ", " shift "\n"
#define RESCALE(sums, multiplier, shift, scratch)                                                                     \
    "vqrdmulh.s32 " sums ", " sums ", " multiplier "\n"                                                               \
    "vshr.s32 " scratch ", " sums ", #31\n"                                                                           \
    "vadd.i32 " sums ", " sums ", " scratch "\n"                                                                      \
    "vrshl.s32 " sums ", " sums ", " shift "\n"

/* 2 * zero point + 1, where it is -128. */
enum { LEAST_ROUNDING = -255 };

#endif

#endif
