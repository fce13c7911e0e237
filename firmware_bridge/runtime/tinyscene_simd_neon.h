/* 64-bit Arm with dot products: what tinyscene_simd*.c are written in. */
#ifndef TINYSCENE_SIMD_NEON_H
#define TINYSCENE_SIMD_NEON_H

#include <arm_neon.h>

enum { LANES = 4, FLIP = 0, BIAS = 0, MOST_PIXELS = 5, MOST_BLOCKS = 1, AT_ONCE = 4, HAS_PAIRS = 0 };
typedef int32x4_t vector;
typedef int8x16_t wide_bytes;
typedef struct {
    vector multiplier, offset, shift; /* to the left */
} scaling;

INLINE vector load(const void *from)
{
    return vreinterpretq_s32_s8(vld1q_s8(from));
}

INLINE vector load_int8(const int8_t *from, int32_t count)
{
    int32_t part[LANES] = {0};
    for (int32_t i = 0; i < LANES && i < count; i++)
        part[i] = from[i];
    return vld1q_s32(part);
}

INLINE wide_bytes load_wide(const int8_t *from)
{
    return vld1q_s8(from);
}

INLINE vector splat(int32_t value)
{
    return vdupq_n_s32(value);
}

INLINE wide_bytes flip(wide_bytes x)
{
    return x; /* FLIP is 0 */
}

INLINE vector add(vector a, vector b)
{
    return vaddq_s32(a, b);
}

INLINE vector subtract(vector a, vector b)
{
    return vsubq_s32(a, b);
}

INLINE vector shift_left(vector a, int32_t count)
{
    return vshlq_s32(a, vdupq_n_s32(count));
}

INLINE vector shift_lanes_left(vector a, vector counts)
{
    return vshlq_s32(a, counts);
}

INLINE vector larger(vector a, vector b)
{
    return vmaxq_s32(a, b);
}

INLINE vector dot(vector sums, vector x, vector weights)
{
    return vdotq_s32(sums, vreinterpretq_s8_s32(x), vreinterpretq_s8_s32(weights));
}

INLINE scaling make_scaling(vector multiplier, vector shift, int32_t rounding, const int mode)
{
    (void)mode;
    return (scaling){multiplier, vshrq_n_s32(vshlq_s32(vdupq_n_s32(rounding), shift), 1), vnegq_s32(shift)};
}

INLINE vector requantize(vector sums, const scaling *s, const int mode)
{
    const int32x4_t high = vqrdmulhq_s32(sums, s->multiplier);
    const int32x4_t away = vshrq_n_s32(vandq_s32(high, s->shift), 31); /* -1 if it is negative and there is a shift */
    return vshlq_s32(vaddq_s32(mode == SYMMETRIC ? vaddq_s32(high, away) : high, s->offset), s->shift);
}

INLINE void store_wide(int8_t *y, const vector v[4], int32_t count)
{
    const int16x8_t low = vcombine_s16(vqmovn_s32(v[0]), vqmovn_s32(v[1]));
    const int16x8_t high = vcombine_s16(vqmovn_s32(v[2]), vqmovn_s32(v[3]));
    const int8x16_t packed = vcombine_s8(vqmovn_s16(low), vqmovn_s16(high));
    if (count >= 16)
        vst1q_s8(y, packed);
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
    const int16x8_t ab_low = vreinterpretq_s16_s8(vzip1q_s8(a, b)), ab_high = vreinterpretq_s16_s8(vzip2q_s8(a, b));
    const int16x8_t cd_low = vreinterpretq_s16_s8(vzip1q_s8(c, d)), cd_high = vreinterpretq_s16_s8(vzip2q_s8(c, d));
    out[0] = vreinterpretq_s32_s16(vzip1q_s16(ab_low, cd_low));
    out[1] = vreinterpretq_s32_s16(vzip2q_s16(ab_low, cd_low));
    out[2] = vreinterpretq_s32_s16(vzip1q_s16(ab_high, cd_high));
    out[3] = vreinterpretq_s32_s16(vzip2q_s16(ab_high, cd_high));
}

typedef vector lanes;
typedef vector products; /* their upper halves */

INLINE void store(int32_t *to, vector x)
{
    vst1q_s32(to, x);
}

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
    const int32x2_t low = vrshrn_n_s64(vmull_s32(vget_low_s32(x), vget_low_s32(w)), 32);
    return vrshrn_high_n_s64(low, vmull_high_s32(x, w), 32);
}

INLINE products times_negative(lanes x, lanes w)
{
    return times(x, vnegq_s32(w)); /* weights are above -2^31 */
}

INLINE vector upper_sum(products a, products b)
{
    return vaddq_s32(a, b);
}

INLINE vector multiply_pairs(vector a, vector b)
{
    const int16x8_t x = vreinterpretq_s16_s32(a), y = vreinterpretq_s16_s32(b);
    return vpaddq_s32(vmull_s16(vget_low_s16(x), vget_low_s16(y)), vmull_high_s16(x, y));
}

INLINE vector low_halves(vector x)
{
    return vandq_s32(x, splat(0xffff));
}

INLINE vector shift_right(vector x, int32_t count)
{
    return vshlq_s32(x, splat(-count));
}

INLINE uint64x2_t scaled_down(int64x2_t squares, int32_t shift)
{
    return vrshlq_u64(vreinterpretq_u64_s64(squares), vdupq_n_s64(-shift));
}

INLINE void store_powers(uint64_t *to, const vector re[4], const vector im[4], int32_t shift)
{
    uint64x2_t low[4], high[4];
    for (int32_t i = 0; i < 4; i++) {
        const int32x2_t re_low = vget_low_s32(re[i]), im_low = vget_low_s32(im[i]);
        low[i] = scaled_down(vmlal_s32(vmull_s32(re_low, re_low), im_low, im_low), shift);
        high[i] = scaled_down(vmlal_high_s32(vmull_high_s32(re[i], re[i]), im[i], im[i]), shift);
    }
    for (int32_t i = 0; i < 4; i += 2) {
        vst1q_u64(to + i, vzip1q_u64(low[i], low[i + 1]));
        vst1q_u64(to + 4 + i, vzip2q_u64(low[i], low[i + 1]));
        vst1q_u64(to + 8 + i, vzip1q_u64(high[i], high[i + 1]));
        vst1q_u64(to + 12 + i, vzip2q_u64(high[i], high[i + 1]));
    }
}

INLINE vector reversed(vector x)
{
    const vector swapped = vrev64q_s32(x);
    return vextq_s32(swapped, swapped, 2);
}

INLINE void transpose(vector x[4])
{
    const int64x2_t a = vreinterpretq_s64_s32(vtrn1q_s32(x[0], x[1])), b = vreinterpretq_s64_s32(vtrn2q_s32(x[0], x[1]));
    const int64x2_t c = vreinterpretq_s64_s32(vtrn1q_s32(x[2], x[3])), d = vreinterpretq_s64_s32(vtrn2q_s32(x[2], x[3]));
    x[0] = vreinterpretq_s32_s64(vtrn1q_s64(a, c));
    x[1] = vreinterpretq_s32_s64(vtrn1q_s64(b, d));
    x[2] = vreinterpretq_s32_s64(vtrn2q_s64(a, c));
    x[3] = vreinterpretq_s32_s64(vtrn2q_s64(b, d));
}

#endif
