/* x86-64 with AVX2, with or without AVX-VNNI: what tinyscene_simd.c is written in. */
#ifndef TINYSCENE_SIMD_AVX2_H
#define TINYSCENE_SIMD_AVX2_H

#include <immintrin.h>

#if defined(__AVXVNNI__)
enum { LANES = 8, FLIP = 0x80, BIAS = 1 << 30, MOST_PIXELS = 6, MOST_BLOCKS = 1, HAS_PAIRS = 0 };
#else
enum { LANES = 8, FLIP = 0, BIAS = 1 << 30, MOST_PIXELS = 4, MOST_BLOCKS = 1, HAS_PAIRS = 0 };
#endif
typedef __m256i vector;
typedef __m256i wide_bytes;
typedef struct {
    vector even, odd, even_offset, odd_offset, sign, shift;
} scaling;

INLINE vector load(const void *from)
{
    return _mm256_loadu_si256(from);
}

INLINE vector load_words(const int32_t *from, int32_t count)
{
    int32_t part[LANES] = {0};
    if (count >= LANES)
        return load(from);
    memcpy(part, from, (size_t)(count > 0 ? count : 0) * sizeof *from);
    return load(part);
}

INLINE vector load_int8(const int8_t *from, int32_t count)
{
    int8_t part[LANES] = {0};
    if (count >= LANES)
        return _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)from));
    memcpy(part, from, (size_t)(count > 0 ? count : 0));
    return _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)part));
}

INLINE wide_bytes load_bytes(const int8_t *from, int32_t count)
{
    int8_t part[4 * LANES] = {0};
    if (count >= 4 * LANES)
        return load(from);
    memcpy(part, from, (size_t)count);
    return load(part);
}

INLINE vector splat(int32_t value)
{
    return _mm256_set1_epi32(value);
}

INLINE wide_bytes flip(wide_bytes x)
{
    return _mm256_xor_si256(x, _mm256_set1_epi8((char)FLIP));
}

INLINE vector add(vector a, vector b)
{
    return _mm256_add_epi32(a, b);
}

INLINE vector subtract(vector a, vector b)
{
    return _mm256_sub_epi32(a, b);
}

INLINE vector shift_left(vector a, int32_t count)
{
    return _mm256_sll_epi32(a, _mm_cvtsi32_si128(count));
}

INLINE vector larger(vector a, vector b)
{
    return _mm256_max_epi32(a, b);
}

INLINE vector dot(vector sums, vector x, vector weights)
{
#if defined(__AVXVNNI__)
    return _mm256_dpbusd_avx_epi32(sums, x, weights);
#else
    /* Sums of two products saturate at 32767, which 128 * 127 * 2 does not reach. */
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(x), _mm256_sign_epi8(weights, x));
    return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
#endif
}

/* (sum + BIAS) * 2 * multiplier is without a sign. Its upper half, BIAS's share taken off, is the product; what rounds
 * the shift is added to it beforehand. */
INLINE scaling make_scaling(vector multiplier, vector shift, int32_t rounding, const int symmetric)
{
    const __m256i away = _mm256_min_epi32(shift, _mm256_set1_epi32(symmetric)); /* from zero are halves rounded */
    const __m256i term = _mm256_srai_epi32(_mm256_sllv_epi32(_mm256_set1_epi32(rounding), shift), 1);
    const __m256i odd_term = _mm256_srli_epi64(_mm256_sub_epi32(term, away), 32);
    const __m256i twice = _mm256_slli_epi32(multiplier, 1), odd_twice = _mm256_srli_epi64(twice, 32);
    const __m256i half = _mm256_set1_epi64x(INT64_C(1) << 31), share = _mm256_set1_epi32(BIAS);
    return (scaling){
        twice,
        odd_twice,
        _mm256_sub_epi64(_mm256_add_epi64(_mm256_slli_epi64(_mm256_sub_epi32(term, away), 32), half),
                         _mm256_mul_epu32(twice, share)),
        _mm256_sub_epi64(_mm256_add_epi64(_mm256_slli_epi64(odd_term, 32), half), _mm256_mul_epu32(odd_twice, share)),
        _mm256_sub_epi32(_mm256_set1_epi32(31), away),
        shift,
    };
}

/* Of a negative sum 1 is taken off. (Its product, rounded, may be 0 and not negative: then that changes nothing.) */
INLINE vector requantize(vector sums, const scaling *s, const int symmetric)
{
    const __m256i even = _mm256_add_epi64(_mm256_mul_epu32(sums, s->even), s->even_offset);
    const __m256i odd_sums = _mm256_srli_epi64(sums, 32);
    const __m256i odd = _mm256_add_epi64(_mm256_mul_epu32(odd_sums, s->odd), s->odd_offset);
    const __m256i high = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA);
    const __m256i rounded = symmetric ? _mm256_add_epi32(high, _mm256_srlv_epi32(sums, s->sign)) : high;
    return _mm256_srav_epi32(rounded, s->shift);
}

INLINE void store_block(int8_t *y, const vector sums[2], int32_t count)
{
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(sums[0], sums[1]), 0xD8);
    const __m128i packed = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    if (count >= 16)
        _mm_storeu_si128((__m128i *)y, packed);
    else
        memcpy(y, &packed, (size_t)count);
}

INLINE void store_pair(int8_t *first, int8_t *second, const scaling *s, const vector *a, const vector *b,
                       const int symmetric)
{
    (void)first, (void)second, (void)s, (void)a, (void)b, (void)symmetric; /* stores by blocks are as good */
}

INLINE void interleave(wide_bytes a, wide_bytes b, wide_bytes c, wide_bytes d, vector out[4])
{
    const __m256i ab_low = _mm256_unpacklo_epi8(a, b), ab_high = _mm256_unpackhi_epi8(a, b);
    const __m256i cd_low = _mm256_unpacklo_epi8(c, d), cd_high = _mm256_unpackhi_epi8(c, d);
    out[0] = _mm256_unpacklo_epi16(ab_low, cd_low);
    out[1] = _mm256_unpackhi_epi16(ab_low, cd_low);
    out[2] = _mm256_unpacklo_epi16(ab_high, cd_high);
    out[3] = _mm256_unpackhi_epi16(ab_high, cd_high);
}

INLINE void store_wide(int8_t *y, const vector v[4], int32_t count)
{
    const __m256i packed = _mm256_packs_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3]));
    if (count >= 4 * LANES)
        _mm256_storeu_si256((__m256i *)y, packed);
    else
        memcpy(y, &packed, (size_t)count);
}

#endif
