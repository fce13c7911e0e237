/* WebAssembly with 128-bit vectors (SIMD128): what tinyscene_simd*.c and tinyscene_frontend_simd.c are written
 * in.
 *
 * Its 8-bit products must be widened first, and a product of pairs is the only one that adds. So a pointwise
 * convolution sums pairs of inputs, for a vector of outputs in two vectors, and adds the two sums of an output last.
 * Shifts have no counts by lane: a shift to the right is a product by a power of two, of which the upper half counts. */
#ifndef TINYSCENE_SIMD_WASM_H
#define TINYSCENE_SIMD_WASM_H

#include <wasm_simd128.h>

#define TINYSCENE_OWN_PRODUCTS

enum { LANES = 4, FLIP = 0, BIAS = 0, MOST_PIXELS = 3, MOST_BLOCKS = 1, AT_ONCE = 2, HAS_PAIRS = 0 };
typedef v128_t vector;
typedef v128_t wide_bytes;
typedef v128_t four_inputs; /* 16 bits each, twice */
typedef struct {
    vector low, high; /* of two outputs each: the weights of four inputs, 16 bits; or two sums */
} four_weights, accumulator;
typedef struct {
    vector multiplier, offset, power, away; /* 2^(30 - shift); all ones where there is a shift */
} scaling;

INLINE vector load(const void *from)
{
    return wasm_v128_load(from);
}

INLINE void store(int32_t *to, vector x)
{
    wasm_v128_store(to, x);
}

INLINE vector load_int8(const int8_t *from, int32_t count)
{
    int8_t part[LANES] = {0};
    if (count < LANES) {
        memcpy(part, from, (size_t)(count > 0 ? count : 0));
        from = part;
    }
    return wasm_i32x4_extend_low_i16x8(wasm_i16x8_extend_low_i8x16(wasm_v128_load32_zero(from)));
}

INLINE wide_bytes load_wide(const int8_t *from)
{
    return load(from);
}

INLINE vector splat(int32_t value)
{
    return wasm_i32x4_splat(value);
}

INLINE wide_bytes flip(wide_bytes x)
{
    return x; /* FLIP is 0 */
}

INLINE vector add(vector a, vector b)
{
    return wasm_i32x4_add(a, b);
}

INLINE vector subtract(vector a, vector b)
{
    return wasm_i32x4_sub(a, b);
}

INLINE vector shift_left(vector a, int32_t count)
{
    return wasm_i32x4_shl(a, (uint32_t)count);
}

INLINE vector shift_right(vector x, int32_t count)
{
    return wasm_i32x4_shr(x, (uint32_t)count);
}

/* 2^count of each lane, 0 to 30, as the exponent of a float. */
INLINE vector power_of_two(vector count)
{
    return wasm_i32x4_trunc_sat_f32x4(shift_left(add(count, splat(127)), 23));
}

INLINE vector shift_lanes_left(vector a, vector counts)
{
    return wasm_i32x4_mul(a, power_of_two(counts));
}

INLINE vector larger(vector a, vector b)
{
    return wasm_i32x4_max(a, b);
}

/* Of two vectors of pairs: the first and the second of each, added. */
INLINE vector add_neighbours(vector a, vector b)
{
    return add(wasm_i32x4_shuffle(a, b, 0, 2, 4, 6), wasm_i32x4_shuffle(a, b, 1, 3, 5, 7));
}

INLINE four_inputs load_inputs(const uint8_t *from)
{
    return wasm_i16x8_extend_low_i8x16(wasm_v128_load32_splat(from));
}

INLINE four_weights load_weights(const int8_t *from)
{
    return (four_weights){wasm_i16x8_load8x8(from), wasm_i16x8_load8x8(from + 8)};
}

INLINE accumulator begin(vector start)
{
    const vector zero = splat(0);
    return (accumulator){wasm_i32x4_shuffle(start, zero, 0, 4, 1, 4), wasm_i32x4_shuffle(start, zero, 2, 4, 3, 4)};
}

INLINE accumulator accumulate(accumulator sums, four_inputs x, four_weights w)
{
    return (accumulator){add(sums.low, wasm_i32x4_dot_i16x8(x, w.low)), add(sums.high, wasm_i32x4_dot_i16x8(x, w.high))};
}

INLINE vector total(accumulator sums)
{
    return add_neighbours(sums.low, sums.high);
}

INLINE vector dot(vector sums, vector x, vector weights)
{
    const vector low = wasm_i32x4_dot_i16x8(wasm_i16x8_extend_low_i8x16(x), wasm_i16x8_extend_low_i8x16(weights));
    const vector high = wasm_i32x4_dot_i16x8(wasm_i16x8_extend_high_i8x16(x), wasm_i16x8_extend_high_i8x16(weights));
    return add(sums, add_neighbours(low, high));
}

INLINE scaling make_scaling(vector multiplier, vector shift, int32_t rounding, const int mode)
{
    const vector offset = shift_right(wasm_i32x4_mul(splat(rounding), power_of_two(shift)), 1);
    const vector away = mode == SYMMETRIC ? wasm_i32x4_ne(shift, splat(0)) : splat(0);
    return (scaling){multiplier, offset, power_of_two(subtract(splat(30), shift)), away};
}

/* The upper halves of 64-bit products. */
INLINE vector uppers(vector low, vector high)
{
    return wasm_i32x4_shuffle(low, high, 1, 3, 5, 7);
}

INLINE vector requantize(vector sums, const scaling *s, const int mode)
{
    const vector half = wasm_i64x2_splat(INT64_C(1) << 31), doubled = shift_left(sums, 1);
    const vector high = uppers(wasm_i64x2_add(wasm_i64x2_extmul_low_i32x4(doubled, s->multiplier), half),
                               wasm_i64x2_add(wasm_i64x2_extmul_high_i32x4(doubled, s->multiplier), half));
    const vector away = wasm_v128_and(shift_right(high, 31), s->away); /* -1 if it is negative and there is a shift */
    const vector rounded = add(mode == SYMMETRIC ? add(high, away) : high, s->offset);
    return uppers(wasm_i64x2_shl(wasm_i64x2_extmul_low_i32x4(rounded, s->power), 2),
                  wasm_i64x2_shl(wasm_i64x2_extmul_high_i32x4(rounded, s->power), 2));
}

INLINE void store_wide(int8_t *y, const vector v[4], int32_t count)
{
    const vector low = wasm_i16x8_narrow_i32x4(v[0], v[1]), high = wasm_i16x8_narrow_i32x4(v[2], v[3]);
    const vector packed = wasm_i8x16_narrow_i16x8(low, high);
    if (count >= 16)
        wasm_v128_store(y, packed);
    else
        memcpy(y, &packed, (size_t)count);
}

INLINE void store_block(int8_t *y, const vector sums[4], int32_t count)
{
    store_wide(y, sums, count);
}

INLINE void store_pair(int8_t *first, int8_t *second, const scaling *s, const vector *a, const vector *b,
                       const int mode)
{
    (void)first, (void)second, (void)s, (void)a, (void)b, (void)mode; /* stores by blocks are as good */
}

INLINE void interleave(wide_bytes a, wide_bytes b, wide_bytes c, wide_bytes d, vector out[4])
{
    const vector ab_low = wasm_i8x16_shuffle(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const vector ab_high = wasm_i8x16_shuffle(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    const vector cd_low = wasm_i8x16_shuffle(c, d, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const vector cd_high = wasm_i8x16_shuffle(c, d, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    out[0] = wasm_i16x8_shuffle(ab_low, cd_low, 0, 8, 1, 9, 2, 10, 3, 11);
    out[1] = wasm_i16x8_shuffle(ab_low, cd_low, 4, 12, 5, 13, 6, 14, 7, 15);
    out[2] = wasm_i16x8_shuffle(ab_high, cd_high, 0, 8, 1, 9, 2, 10, 3, 11);
    out[3] = wasm_i16x8_shuffle(ab_high, cd_high, 4, 12, 5, 13, 6, 14, 7, 15);
}

typedef vector lanes;
typedef struct {
    vector low, high;
} products;

INLINE lanes split(vector x)
{
    return x;
}

INLINE lanes split_splat(int32_t value)
{
    return splat(value);
}

INLINE products times(lanes x, lanes w)
{
    const vector half = wasm_i64x2_splat(INT64_C(1) << 31);
    return (products){wasm_i64x2_add(wasm_i64x2_extmul_low_i32x4(x, w), half),
                      wasm_i64x2_add(wasm_i64x2_extmul_high_i32x4(x, w), half)};
}

INLINE products times_negative(lanes x, lanes w)
{
    const vector half = wasm_i64x2_splat(INT64_C(1) << 31);
    return (products){wasm_i64x2_sub(half, wasm_i64x2_extmul_low_i32x4(x, w)),
                      wasm_i64x2_sub(half, wasm_i64x2_extmul_high_i32x4(x, w))};
}

INLINE vector upper_sum(products a, products b)
{
    return uppers(add(a.low, b.low), add(a.high, b.high)); /* by 32 bits: nothing is carried from lower halves */
}

INLINE vector multiply_pairs(vector a, vector b)
{
    return wasm_i32x4_dot_i16x8(a, b);
}

INLINE vector low_halves(vector x)
{
    return wasm_v128_and(x, splat(0xffff));
}

INLINE vector scaled_down(vector squares, int32_t shift)
{
    const vector half = wasm_i64x2_splat((INT64_C(1) << shift) >> 1);
    return wasm_u64x2_shr(wasm_i64x2_add(squares, half), (uint32_t)shift);
}

INLINE void store_powers(uint64_t *to, const vector re[4], const vector im[4], int32_t shift)
{
    vector low[4], high[4];
    for (int32_t i = 0; i < 4; i++) {
        low[i] = scaled_down(wasm_i64x2_add(wasm_i64x2_extmul_low_i32x4(re[i], re[i]),
                                            wasm_i64x2_extmul_low_i32x4(im[i], im[i])), shift);
        high[i] = scaled_down(wasm_i64x2_add(wasm_i64x2_extmul_high_i32x4(re[i], re[i]),
                                             wasm_i64x2_extmul_high_i32x4(im[i], im[i])), shift);
    }
    for (int32_t i = 0; i < 4; i += 2) {
        wasm_v128_store(to + i, wasm_i64x2_shuffle(low[i], low[i + 1], 0, 2));
        wasm_v128_store(to + 4 + i, wasm_i64x2_shuffle(low[i], low[i + 1], 1, 3));
        wasm_v128_store(to + 8 + i, wasm_i64x2_shuffle(high[i], high[i + 1], 0, 2));
        wasm_v128_store(to + 12 + i, wasm_i64x2_shuffle(high[i], high[i + 1], 1, 3));
    }
}

INLINE vector reversed(vector x)
{
    return wasm_i32x4_shuffle(x, x, 3, 2, 1, 0);
}

INLINE void transpose(vector x[4])
{
    const vector a = wasm_i32x4_shuffle(x[0], x[1], 0, 4, 1, 5), b = wasm_i32x4_shuffle(x[0], x[1], 2, 6, 3, 7);
    const vector c = wasm_i32x4_shuffle(x[2], x[3], 0, 4, 1, 5), d = wasm_i32x4_shuffle(x[2], x[3], 2, 6, 3, 7);
    x[0] = wasm_i64x2_shuffle(a, c, 0, 2);
    x[1] = wasm_i64x2_shuffle(a, c, 1, 3);
    x[2] = wasm_i64x2_shuffle(b, d, 0, 2);
    x[3] = wasm_i64x2_shuffle(b, d, 1, 3);
}

#endif
