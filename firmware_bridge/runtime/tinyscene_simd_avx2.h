/* x86-64 with AVX2, with or without AVX-VNNI: what tinyscene_simd.c is written in. */
#ifndef TINYSCENE_SIMD_AVX2_H
#define TINYSCENE_SIMD_AVX2_H

#include <immintrin.h>

#if defined(__AVXVNNI__)
enum { LANES = 8, FLIP = 0x80, BIAS = 1 << 30, MOST_PIXELS = 6, MOST_BLOCKS = 1, AT_ONCE = 2, HAS_PAIRS = 0 };
#else
enum { LANES = 8, FLIP = 0, BIAS = 1 << 30, MOST_PIXELS = 4, MOST_BLOCKS = 1, AT_ONCE = 2, HAS_PAIRS = 0 };
#endif
typedef __m256i vector;
typedef __m256i wide_bytes;

#define X86(op) _mm256_##op
#define X86_WHOLE(op) _mm256_##op##_si256
#define X86_SPLAT64(value) _mm256_set1_epi64x(value)

INLINE vector odd_lanes(vector x)
{
    return _mm256_srli_epi64(x, 32);
}

INLINE vector high_halves(vector even, vector odd)
{
    return _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA);
}

INLINE void store_alternating(uint64_t *to, vector even, vector odd)
{
    const vector low = _mm256_unpacklo_epi64(even, odd), high = _mm256_unpackhi_epi64(even, odd);
    _mm256_storeu_si256((__m256i *)(void *)to, _mm256_permute2x128_si256(low, high, 0x20));
    _mm256_storeu_si256((__m256i *)(void *)(to + 4), _mm256_permute2x128_si256(low, high, 0x31));
}

#include "tinyscene_simd_x86.h"

INLINE vector load_int8(const int8_t *from, int32_t count)
{
    int8_t part[LANES] = {0};
    if (count >= LANES)
        return _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)from));
    memcpy(part, from, (size_t)(count > 0 ? count : 0));
    return _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)part));
}

INLINE wide_bytes load_wide(const int8_t *from)
{
    return load(from);
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

INLINE void store_wide(int8_t *y, const vector v[4], int32_t count)
{
    const __m256i packed = _mm256_packs_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3]));
    if (count >= 4 * LANES)
        _mm256_storeu_si256((__m256i *)y, packed);
    else
        memcpy(y, &packed, (size_t)count);
}

INLINE vector reversed(vector x)
{
    return _mm256_permutevar8x32_epi32(x, _mm256_setr_epi32(7, 6, 5, 4, 3, 2, 1, 0));
}

INLINE void transpose(vector x[8])
{
    vector pairs[8], fours[8];
    for (int32_t i = 0; i < 8; i += 2) {
        pairs[i] = _mm256_unpacklo_epi32(x[i], x[i + 1]);
        pairs[i + 1] = _mm256_unpackhi_epi32(x[i], x[i + 1]);
    }
    for (int32_t i = 0; i < 8; i += 4)
        for (int32_t j = 0; j < 2; j++) {
            fours[i + 2 * j] = _mm256_unpacklo_epi64(pairs[i + j], pairs[i + j + 2]);
            fours[i + 2 * j + 1] = _mm256_unpackhi_epi64(pairs[i + j], pairs[i + j + 2]);
        }
    for (int32_t i = 0; i < 4; i++) {
        x[i] = _mm256_permute2x128_si256(fours[i], fours[i + 4], 0x20);
        x[i + 4] = _mm256_permute2x128_si256(fours[i], fours[i + 4], 0x31);
    }
}

#endif
