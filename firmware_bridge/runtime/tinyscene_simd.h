/* The vector operations of a host: of AVX-512, AVX2, 64-bit Arm or WebAssembly. tinyscene_simd*.c and
 * tinyscene_frontend_simd.c are written in them, so what is not tested on a processor of its own is these few lines.
 *
 * `vector` has LANES int32. Loads and stores with a count touch that many elements and no more; what is not loaded is 0.
 *
 * For the network, of which up to MOST_PIXELS pixels by AT_ONCE vectors of sums are in registers at a time:
 *   dot         sums + four inputs by four weights a lane. Where it takes the inputs as unsigned they are flipped by
 *               FLIP, x + 128, and the sums begin 128 * sum of weights lower
 *   accumulate  the same for a pointwise convolution, where all lanes have the same inputs: an accumulator `begin`s with
 *               what is to be added, and its `total` are the sums. Inputs come from `prepare_fours`, of which four take
 *               FOUR_BYTES
 *   requantize  sums -> outputs, not clamped; `scaling` is what it needs to know of the LANES channels. By its mode,
 *               halves are rounded away from zero if SYMMETRIC, or UPWARDS, which is the same where what is below 0 is
 *               clamped anyway; or all is done IN_FLOATS, where TINYSCENE_FLOATS is defined and c->factor is there
 *   store_block 16 sums -> 16 int8, clamped, of which `count` are written
 *   store_pair  two pixels' sums of two blocks -> bytes, rescaled and clamped, where HAS_PAIRS
 *   interleave  four rows of 4 * LANES bytes -> four vectors of four bytes a lane; x86 interleaves within 128 bits:
 *               lane i of vector v is channel i / 4 * 16 + v * 4 + i % 4
 *   store_wide  four vectors in that order -> bytes, clamped
 *
 * For the front end:
 *   split           a vector as `times` takes it; split_splat the same of one value
 *   times           64-bit products of all lanes, with 2^31 added; times_negative those of -x * w
 *   upper_sum       the upper halves of two such products, added
 *   multiply_pairs  16-bit lanes multiplied, the two products of a 32-bit lane added
 *   low_halves      lanes with their upper 16 bits cleared
 *   store_powers    (re[i]^2 + im[i]^2) / 2^shift of each lane, rounded to nearest, a tie upwards: for each lane a row
 *                   of 4, 64 bits each
 *   running_sums    such rows -> the sums of all rows before, and of all together behind the last one; the same of powers
 *                   by their weights, modulo 2^64
 *   transpose       LANES vectors, rows of a square -> its columns */
#ifndef TINYSCENE_SIMD_H
#define TINYSCENE_SIMD_H

#include <stdint.h>
#include <string.h>

#include "tinyscene_kernels.h"

enum { UPWARDS, SYMMETRIC, IN_FLOATS };

/* tinyscene_simd_x86.h has what AVX2 and AVX-512 share. */
#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#include "tinyscene_simd_avx512.h"
#elif defined(__AVX2__)
#include "tinyscene_simd_avx2.h"
#elif defined(__wasm_simd128__)
#include "tinyscene_simd_wasm.h"
#else
#include "tinyscene_simd_neon.h"
#endif

#ifndef TINYSCENE_WIDE_INPUTS
enum { FOUR_BYTES = 4 };

INLINE void prepare_fours(const int8_t *restrict x, int32_t fours, uint8_t *restrict out)
{
    for (int32_t i = 0; i < 4 * fours; i++)
        out[i] = (uint8_t)(x[i] ^ FLIP);
}
#endif

#ifndef TINYSCENE_OWN_PRODUCTS
typedef vector four_inputs, four_weights, accumulator;

INLINE four_inputs load_inputs(const uint8_t *from)
{
    int32_t four;
    memcpy(&four, from, sizeof four);
    return splat(four);
}

INLINE four_weights load_weights(const int8_t *from)
{
    return load(from);
}

INLINE accumulator begin(vector start)
{
    return start;
}

INLINE accumulator accumulate(accumulator sums, four_inputs x, four_weights w)
{
    return dot(sums, x, w);
}

INLINE vector total(accumulator sums)
{
    return sums;
}
#endif

#ifndef TINYSCENE_OWN_SUMS
INLINE void running_sums(uint64_t *powers, uint64_t *rising, const uint16_t *weights, int32_t rows)
{
    uint64_t whole_sums[4] = {0}, rising_sums[4] = {0};
    for (; rows > 0; rows--, powers += 4, rising += 4, weights += 4)
        for (int32_t i = 0; i < 4; i++) {
            const uint64_t power = powers[i];
            powers[i] = whole_sums[i];
            rising[i] = rising_sums[i];
            whole_sums[i] += power;
            rising_sums[i] += power * weights[i];
        }
    memcpy(powers, whole_sums, sizeof whole_sums);
    memcpy(rising, rising_sums, sizeof rising_sums);
}
#endif

#ifndef TINYSCENE_MASKED_LOADS /* loads of fewer values than a vector holds, by way of memory; the others are 0 */

INLINE vector load_words(const int32_t *from, int32_t count)
{
    int32_t part[LANES] = {0};
    if (count >= LANES)
        return load(from);
    memcpy(part, from, (size_t)(count > 0 ? count : 0) * sizeof *from);
    return load(part);
}

INLINE wide_bytes load_bytes(const int8_t *from, int32_t count)
{
    int8_t part[4 * LANES] = {0};
    if (count >= 4 * LANES)
        return load_wide(from);
    memcpy(part, from, (size_t)count);
    return load_wide(part);
}

#endif

enum { BLOCK = 16, PARTS = BLOCK / LANES }; /* channels, and vectors of them, that are stored at once */

/* Where the zero point is -128, whatever is below it becomes it. */
INLINE int mode_of(const tinyscene_conv *c)
{
#if defined(TINYSCENE_FLOATS)
    if (c->factor)
        return IN_FLOATS;
#endif
    return c->rounding != 2 * -128 + 1 ? SYMMETRIC : UPWARDS;
}

/* What begins a sum, so that `requantize` takes it. */
INLINE vector biased(vector bias, const int mode)
{
    return mode == IN_FLOATS ? bias : add(bias, splat(BIAS));
}

#endif
