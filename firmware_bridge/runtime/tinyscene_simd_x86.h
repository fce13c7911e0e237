/* What AVX2 and AVX-512 share: the same operations on vectors of another width. The header of an instruction set
 * includes this one after it has defined the types and
 *   X86(op), X86_WHOLE(op)   the intrinsic of an operation on lanes, or on a whole vector
 *   X86_SPLAT64(value)       64-bit lanes that all hold a value
 *   X86_FLOATS(x)            a vector taken for float32
 *   odd_lanes(x)             lanes 1, 3, ... of x at the even places
 *   high_halves(even, odd)   the upper 32 bits of 64-bit products, of even and of odd lanes, in the order of lanes
 *   store_rows(to, even, odd)  lanes i of even[0] to even[3], of odd[0] to odd[3], then lanes i + 1, 64 bits each
 *   weighted_power(power, weight)  64-bit lanes multiplied, modulo 2^64; weights have 32 bits
 */
#ifndef TINYSCENE_SIMD_X86_H
#define TINYSCENE_SIMD_X86_H

typedef struct {
    vector even, odd, even_offset, odd_offset, sign, shift;
    vector factor, addend; /* float32, in place of the others */
} scaling;

INLINE vector load(const void *from)
{
    return X86_WHOLE(loadu)(from);
}

INLINE vector splat(int32_t value)
{
    return X86(set1_epi32)(value);
}

INLINE wide_bytes flip(wide_bytes x)
{
    return X86_WHOLE(xor)(x, X86(set1_epi8)((char)FLIP));
}

INLINE vector add(vector a, vector b)
{
    return X86(add_epi32)(a, b);
}

INLINE vector subtract(vector a, vector b)
{
    return X86(sub_epi32)(a, b);
}

INLINE vector shift_left(vector a, int32_t count)
{
    return X86(sll_epi32)(a, _mm_cvtsi32_si128(count));
}

INLINE vector shift_lanes_left(vector a, vector counts)
{
    return X86(sllv_epi32)(a, counts);
}

INLINE vector larger(vector a, vector b)
{
    return X86(max_epi32)(a, b);
}

/* (sum + BIAS) * 2 * multiplier is without a sign. Its upper half, BIAS's share taken off, is the product; what rounds
 * the shift is added to it beforehand. */
INLINE scaling make_scaling(vector multiplier, vector shift, int32_t rounding, const int mode)
{
    const vector away = X86(min_epi32)(shift, X86(set1_epi32)(mode == SYMMETRIC)); /* from zero are halves rounded */
    const vector term = X86(srai_epi32)(X86(sllv_epi32)(X86(set1_epi32)(rounding), shift), 1);
    const vector odd_term = X86(srli_epi64)(X86(sub_epi32)(term, away), 32);
    const vector twice = X86(slli_epi32)(multiplier, 1), odd_twice = X86(srli_epi64)(twice, 32);
    const vector half = X86_SPLAT64(INT64_C(1) << 31), share = X86(set1_epi32)(BIAS);
    return (scaling){
        twice,
        odd_twice,
        X86(sub_epi64)(X86(add_epi64)(X86(slli_epi64)(X86(sub_epi32)(term, away), 32), half),
                         X86(mul_epu32)(twice, share)),
        X86(sub_epi64)(X86(add_epi64)(X86(slli_epi64)(odd_term, 32), half), X86(mul_epu32)(odd_twice, share)),
        X86(sub_epi32)(X86(set1_epi32)(31), away),
        shift,
        X86(set1_epi32)(0),
        X86(set1_epi32)(0),
    };
}

#if defined(TINYSCENE_FLOATS) /* in the rounding that a processor begins with: to nearest */
INLINE scaling float_scaling(vector factor, vector addend)
{
    const vector none = X86(set1_epi32)(0);
    return (scaling){none, none, none, none, none, none, factor, addend};
}

/* a * factor[0] + addend, rounded; b * factor[1] added, rounded; to a whole number. */
INLINE vector weighted_sum(vector a, vector b, const vector factor[2], vector addend)
{
    return X86(cvtps_epi32)(
        X86(fmadd_ps)(X86(cvtepi32_ps)(b), X86_FLOATS(factor[1]),
                      X86(fmadd_ps)(X86(cvtepi32_ps)(a), X86_FLOATS(factor[0]), X86_FLOATS(addend))));
}
#endif

/* 1 is subtracted from a negative sum. (Its rounded product may be 0 instead of negative: then this has no effect.) */
INLINE vector requantize(vector sums, const scaling *s, const int mode)
{
#if defined(TINYSCENE_FLOATS)
    if (mode == IN_FLOATS)
        return X86(cvtps_epi32)(X86(fmadd_ps)(X86(cvtepi32_ps)(sums), X86_FLOATS(s->factor), X86_FLOATS(s->addend)));
#endif
    const vector even = X86(add_epi64)(X86(mul_epu32)(sums, s->even), s->even_offset);
    const vector odd = X86(add_epi64)(X86(mul_epu32)(odd_lanes(sums), s->odd), s->odd_offset);
    const vector high = high_halves(even, odd);
    const vector rounded = mode == SYMMETRIC ? X86(add_epi32)(high, X86(srlv_epi32)(sums, s->sign)) : high;
    return X86(srav_epi32)(rounded, s->shift);
}

INLINE void interleave(wide_bytes a, wide_bytes b, wide_bytes c, wide_bytes d, vector out[4])
{
    const vector ab_low = X86(unpacklo_epi8)(a, b), ab_high = X86(unpackhi_epi8)(a, b);
    const vector cd_low = X86(unpacklo_epi8)(c, d), cd_high = X86(unpackhi_epi8)(c, d);
    out[0] = X86(unpacklo_epi16)(ab_low, cd_low);
    out[1] = X86(unpackhi_epi16)(ab_low, cd_low);
    out[2] = X86(unpacklo_epi16)(ab_high, cd_high);
    out[3] = X86(unpackhi_epi16)(ab_high, cd_high);
}

typedef struct {
    vector even, odd; /* lanes, at the even places */
} lanes;

typedef struct {
    vector even, odd;
} products;

INLINE void store(int32_t *to, vector x)
{
    X86_WHOLE(storeu)((void *)to, x);
}

INLINE lanes split(vector x)
{
    return (lanes){x, odd_lanes(x)};
}

INLINE lanes split_splat(int32_t value)
{
    return (lanes){splat(value), splat(value)};
}

INLINE products times(lanes x, lanes w)
{
    const vector half = X86_SPLAT64(INT64_C(1) << 31);
    return (products){X86(add_epi64)(X86(mul_epi32)(x.even, w.even), half),
                      X86(add_epi64)(X86(mul_epi32)(x.odd, w.odd), half)};
}

INLINE products times_negative(lanes x, lanes w)
{
    const vector half = X86_SPLAT64(INT64_C(1) << 31);
    return (products){X86(sub_epi64)(half, X86(mul_epi32)(x.even, w.even)),
                      X86(sub_epi64)(half, X86(mul_epi32)(x.odd, w.odd))};
}

INLINE vector upper_sum(products a, products b)
{
    return high_halves(add(a.even, b.even), add(a.odd, b.odd)); /* by 32 bits: nothing is carried from lower halves */
}

INLINE vector multiply_pairs(vector a, vector b)
{
    return X86(madd_epi16)(a, b);
}

INLINE vector low_halves(vector x)
{
    return X86_WHOLE(and)(x, splat(0xffff));
}

INLINE vector shift_right(vector x, int32_t count)
{
    return X86(sra_epi32)(x, _mm_cvtsi32_si128(count));
}

INLINE vector squares(vector re, vector im, int32_t shift)
{
    const vector half = X86_SPLAT64((INT64_C(1) << shift) >> 1);
    const vector sum = X86(add_epi64)(X86(mul_epi32)(re, re), X86(mul_epi32)(im, im));
    return X86(srl_epi64)(X86(add_epi64)(sum, half), _mm_cvtsi32_si128(shift));
}

INLINE void store_powers(uint64_t *to, const vector re[4], const vector im[4], int32_t shift)
{
    vector even[4], odd[4];
    for (int32_t i = 0; i < 4; i++) {
        even[i] = squares(re[i], im[i], shift);
        odd[i] = squares(odd_lanes(re[i]), odd_lanes(im[i]), shift);
    }
    store_rows(to, even, odd);
}

#define TINYSCENE_OWN_SUMS

INLINE void running_sums(uint64_t *powers, uint64_t *rising, const uint16_t *weights, int32_t rows)
{
    __m256i whole_sum = _mm256_setzero_si256(), rising_sum = whole_sum;
    for (; rows > 0; rows--, powers += 4, rising += 4, weights += 4) {
        const __m256i power = _mm256_loadu_si256((const __m256i *)(const void *)powers);
        const __m256i weight = _mm256_cvtepu16_epi64(_mm_loadl_epi64((const __m128i *)(const void *)weights));
        _mm256_storeu_si256((__m256i *)(void *)powers, whole_sum);
        _mm256_storeu_si256((__m256i *)(void *)rising, rising_sum);
        whole_sum = _mm256_add_epi64(whole_sum, power);
        rising_sum = _mm256_add_epi64(rising_sum, weighted_power(power, weight));
    }
    _mm256_storeu_si256((__m256i *)(void *)powers, whole_sum);
    _mm256_storeu_si256((__m256i *)(void *)rising, rising_sum);
}

#endif
