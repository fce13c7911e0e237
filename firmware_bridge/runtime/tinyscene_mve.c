/* Sums, means and patches for Cortex-M55 and M85. */
#include "tinyscene_mve.h"

#if defined(TINYSCENE_MVE)

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
    const int32x4_t sign = vdupq_n_s32((s->shift > 0) ? -31 : -32);
    const int32x4_t out_sign = vdupq_n_s32((s->out_shift > 0) ? -31 : -32);
    const int16x8_t activation_min = vdupq_n_s16((int16_t)s->activation_min);
    const int16_t a_zero = (int16_t)s->zero_point[0];
    const int16_t b_zero = (int16_t)s->zero_point[1];
    const int16_t y_zero = (int16_t)s->out_zero_point;
    for (; count > 0; count -= 8) {
        const mve_pred16_t there = vctp16q((uint32_t)count);
        const int16x8_t first = vshlq_n_s16(vsubq_n_s16(vldrbq_z_s16(a, there), a_zero), 3);
        const int16x8_t second = vshlq_n_s16(vsubq_n_s16(vldrbq_z_s16(b, there), b_zero), 4);
        const int32x4_t even = add_four(s, sign, out_sign, vshllbq_n_s16(first, 16), vshllbq_n_s16(second, 16));
        const int32x4_t odd = add_four(s, sign, out_sign, vshlltq_n_s16(first, 16), vshlltq_n_s16(second, 16));
        int16x8_t values = vqmovntq_s32(vqmovnbq_s32(activation_min, even), odd); /* clamped to 16 bits, then to 8 */
        values = vmaxq_s16(vqaddq_n_s16(values, y_zero), activation_min);
        vstrbq_p_s16(y, vreinterpretq_s16_s8(vqmovnbq_s16(vreinterpretq_s8_s16(values), values)), there);
        a += 8;
        b += 8;
        y += 8;
    }
}

/* Means of up to eight channels. A sum is multiplied by a little more than 2^31 / count: by so little that nothing but a
 * half changes its side, which then is rounded away from zero. */
INLINE void pool_eight(const int8_t *const *rows, int32_t tall, int32_t wide, int32_t channels, int32_t at,
                       int32_t reciprocal, mve_pred16_t there, int8_t *y)
{
    int16x8_t sums = vdupq_n_s16(0);
    for (int32_t row = 0; row < tall; row++) {
        const int8_t *x = &rows[row][at];
        for (int32_t column = 0; column < wide; column++) {
            sums = vaddq_s16(sums, vldrbq_z_s16(x, there));
            x += channels;
        }
    }
    const int32x4_t even = vqrdmulhq_n_s32(vmovlbq_s16(sums), reciprocal);
    const int32x4_t odd = vqrdmulhq_n_s32(vmovltq_s16(sums), reciprocal);
    vstrbq_p_s16(y, vmovntq_s32(vreinterpretq_s16_s32(even), odd), there);
}

void tinyscene_pool(const int8_t *const *rows, int32_t tall, int32_t wide, int32_t channels, int32_t pixels,
                    int32_t step, int8_t *y)
{
    const int32_t count = tall * wide;
    const int32_t reciprocal = (count > 1) ? (int32_t)((0x80000000u / (uint32_t)count) + 1) : INT32_MAX;
    int32_t at = 0;
    for (; pixels > 0; pixels--) {
        for (int32_t channel = 0; channel < channels; channel += 8) {
            pool_eight(rows, tall, wide, channels, at + channel, reciprocal, vctp16q((uint32_t)(channels - channel)),
                       &y[channel]);
        }
        at += step;
        y += channels;
    }
}

/* Rows are copied 16 bytes at a time. */
void tinyscene_gather(const int8_t *const *rows, int32_t tall, int32_t bytes, int32_t first, int32_t pixels,
                      int32_t step, int8_t *patches)
{
    int32_t at = first * step;
    for (; pixels > 0; pixels--) {
        for (int32_t row = 0; row < tall; row++) {
            const int8_t *x = &rows[row][at];
            int32_t left = bytes;
            for (; left > 0; left -= 16) {
                const mve_pred16_t there = vctp8q((uint32_t)left);
                vstrbq_p_s8(patches, vldrbq_z_s8(x, there), there);
                x += 16;
                patches += 16;
            }
            patches += left; /* which is what has been too much */
        }
        at += step;
    }
}

#endif
