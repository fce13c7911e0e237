/* x86-64 with AVX-512 VNNI: what tinyscene_simd.c is written in. */
#ifndef TINYSCENE_SIMD_AVX512_H
#define TINYSCENE_SIMD_AVX512_H

#include <immintrin.h>

enum { LANES = 16, FLIP = 0x80, BIAS = 1 << 30, MOST_PIXELS = 6, MOST_BLOCKS = 2, HAS_PAIRS = 1 };
typedef __m512i vector;
typedef __m512i wide_bytes;
typedef struct {
    vector even, odd, even_offset, odd_offset, sign, shift;
} scaling;

INLINE vector load(const void *from)
{
    return _mm512_loadu_si512(from);
}

INLINE __mmask64 mask_of(int32_t count)
{
    return count >= 64 ? ~UINT64_C(0) : (UINT64_C(1) << count) - 1;
}

INLINE vector load_words(const int32_t *from, int32_t count)
{
    return _mm512_maskz_loadu_epi32((__mmask16)mask_of(count), from);
}

INLINE vector load_int8(const int8_t *from, int32_t count)
{
    return _mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8((__mmask16)mask_of(count), from));
}

INLINE wide_bytes load_bytes(const int8_t *from, int32_t count)
{
    return _mm512_maskz_loadu_epi8(mask_of(count), from);
}

INLINE vector splat(int32_t value)
{
    return _mm512_set1_epi32(value);
}

INLINE wide_bytes flip(wide_bytes x)
{
    return _mm512_xor_si512(x, _mm512_set1_epi8((char)FLIP));
}

INLINE vector add(vector a, vector b)
{
    return _mm512_add_epi32(a, b);
}

INLINE vector subtract(vector a, vector b)
{
    return _mm512_sub_epi32(a, b);
}

INLINE vector shift_left(vector a, int32_t count)
{
    return _mm512_sll_epi32(a, _mm_cvtsi32_si128(count));
}

INLINE vector larger(vector a, vector b)
{
    return _mm512_max_epi32(a, b);
}

INLINE vector dot(vector sums, vector x, vector weights)
{
    return _mm512_dpbusd_epi32(sums, x, weights);
}

/* (sum + BIAS) * 2 * multiplier is without a sign. Its upper half, BIAS's share taken off, is the product; what rounds
 * the shift is added to it beforehand. */
INLINE scaling make_scaling(vector multiplier, vector shift, int32_t rounding, const int symmetric)
{
    const __m512i away = _mm512_min_epi32(shift, _mm512_set1_epi32(symmetric)); /* from zero are halves rounded */
    const __m512i term = _mm512_srai_epi32(_mm512_sllv_epi32(_mm512_set1_epi32(rounding), shift), 1);
    const __m512i odd_term = _mm512_srli_epi64(_mm512_sub_epi32(term, away), 32);
    const __m512i twice = _mm512_slli_epi32(multiplier, 1), odd_twice = _mm512_srli_epi64(twice, 32);
    const __m512i half = _mm512_set1_epi64(INT64_C(1) << 31), share = _mm512_set1_epi32(BIAS);
    return (scaling){
        twice,
        odd_twice,
        _mm512_sub_epi64(_mm512_add_epi64(_mm512_slli_epi64(_mm512_sub_epi32(term, away), 32), half),
                         _mm512_mul_epu32(twice, share)),
        _mm512_sub_epi64(_mm512_add_epi64(_mm512_slli_epi64(odd_term, 32), half), _mm512_mul_epu32(odd_twice, share)),
        _mm512_sub_epi32(_mm512_set1_epi32(31), away),
        shift,
    };
}

/* Of a negative sum 1 is taken off. (Its product, rounded, may be 0 and not negative: then that changes nothing.) */
INLINE vector requantize(vector sums, const scaling *s, const int symmetric)
{
    const __m512i even = _mm512_add_epi64(_mm512_mul_epu32(sums, s->even), s->even_offset);
    const __m512i odd_sums = _mm512_shuffle_epi32(sums, _MM_PERM_DDBB);
    const __m512i odd = _mm512_add_epi64(_mm512_mul_epu32(odd_sums, s->odd), s->odd_offset);
    const __m512i high = _mm512_mask_shuffle_epi32(odd, 0x5555, even, _MM_PERM_DDBB);
    const __m512i rounded = symmetric ? _mm512_add_epi32(high, _mm512_srlv_epi32(sums, s->sign)) : high;
    return _mm512_srav_epi32(rounded, s->shift);
}

INLINE void store_block(int8_t *y, const vector sums[1], int32_t count)
{
    _mm_mask_storeu_epi8(y, (__mmask16)mask_of(count), _mm512_cvtsepi32_epi8(sums[0]));
}

INLINE void store_pair(int8_t *first, int8_t *second, const scaling *s, const vector *a, const vector *b,
                       const int symmetric)
{
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i a0 = requantize(a[0], &s[0], symmetric), a1 = requantize(a[1], &s[1], symmetric);
    const __m512i b0 = requantize(b[0], &s[0], symmetric), b1 = requantize(b[1], &s[1], symmetric);
    const __m512i packed = _mm512_packs_epi16(_mm512_packs_epi32(a0, a1), _mm512_packs_epi32(b0, b1));
    const __m512i bytes = _mm512_permutexvar_epi32(order, packed);
    _mm256_storeu_si256((__m256i *)(void *)first, _mm512_castsi512_si256(bytes));
    _mm256_storeu_si256((__m256i *)(void *)second, _mm512_extracti64x4_epi64(bytes, 1));
}

INLINE void interleave(wide_bytes a, wide_bytes b, wide_bytes c, wide_bytes d, vector out[4])
{
    const __m512i ab_low = _mm512_unpacklo_epi8(a, b), ab_high = _mm512_unpackhi_epi8(a, b);
    const __m512i cd_low = _mm512_unpacklo_epi8(c, d), cd_high = _mm512_unpackhi_epi8(c, d);
    out[0] = _mm512_unpacklo_epi16(ab_low, cd_low);
    out[1] = _mm512_unpackhi_epi16(ab_low, cd_low);
    out[2] = _mm512_unpacklo_epi16(ab_high, cd_high);
    out[3] = _mm512_unpackhi_epi16(ab_high, cd_high);
}

INLINE void store_wide(int8_t *y, const vector v[4], int32_t count)
{
    const __m512i packed = _mm512_packs_epi16(_mm512_packs_epi32(v[0], v[1]), _mm512_packs_epi32(v[2], v[3]));
    _mm512_mask_storeu_epi8(y, mask_of(count), packed);
}

#endif
