/* x86-64 with AVX-512 VNNI: what tinyscene_simd*.c are written in. */
#ifndef TINYSCENE_SIMD_AVX512_H
#define TINYSCENE_SIMD_AVX512_H

#include <immintrin.h>

#define TINYSCENE_MASKED_LOADS

enum { LANES = 16, FLIP = 0x80, BIAS = 1 << 30, MOST_PIXELS = 6, MOST_BLOCKS = 2, AT_ONCE = 2, HAS_PAIRS = 1 };
typedef __m512i vector;
typedef __m512i wide_bytes;

#define X86(op) _mm512_##op
#define X86_WHOLE(op) _mm512_##op##_si512
#define X86_FLOATS(x) _mm512_castsi512_ps(x)
#define X86_SPLAT64(value) _mm512_set1_epi64(value)

INLINE vector odd_lanes(vector x)
{
    return _mm512_shuffle_epi32(x, _MM_PERM_DDBB);
}

INLINE vector high_halves(vector even, vector odd)
{
    return _mm512_mask_shuffle_epi32(odd, 0x5555, even, _MM_PERM_DDBB);
}

/* Quarters of a, b, c and d -> the first quarters of all, the second ones and so on. */
INLINE void turn_quarters(vector a, vector b, vector c, vector d, vector out[4])
{
    const vector ab_low = _mm512_shuffle_i32x4(a, b, 0x44), ab_high = _mm512_shuffle_i32x4(a, b, 0xee);
    const vector cd_low = _mm512_shuffle_i32x4(c, d, 0x44), cd_high = _mm512_shuffle_i32x4(c, d, 0xee);
    out[0] = _mm512_shuffle_i32x4(ab_low, cd_low, 0x88);
    out[1] = _mm512_shuffle_i32x4(ab_low, cd_low, 0xdd);
    out[2] = _mm512_shuffle_i32x4(ab_high, cd_high, 0x88);
    out[3] = _mm512_shuffle_i32x4(ab_high, cd_high, 0xdd);
}

INLINE void store_rows(uint64_t *to, const vector even[4], const vector odd[4])
{
    vector rows[8];
    turn_quarters(_mm512_unpacklo_epi64(even[0], even[1]), _mm512_unpacklo_epi64(even[2], even[3]),
                  _mm512_unpacklo_epi64(odd[0], odd[1]), _mm512_unpacklo_epi64(odd[2], odd[3]), rows);
    turn_quarters(_mm512_unpackhi_epi64(even[0], even[1]), _mm512_unpackhi_epi64(even[2], even[3]),
                  _mm512_unpackhi_epi64(odd[0], odd[1]), _mm512_unpackhi_epi64(odd[2], odd[3]), rows + 4);
    for (int32_t i = 0; i < 4; i++, to += 16) {
        _mm512_storeu_si512((void *)to, rows[i]);
        _mm512_storeu_si512((void *)(to + 8), rows[i + 4]);
    }
}

INLINE __m256i weighted_power(__m256i power, __m256i weight)
{
    return _mm256_mullo_epi64(power, weight);
}

#include "tinyscene_simd_x86.h"

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

INLINE vector dot(vector sums, vector x, vector weights)
{
    return _mm512_dpbusd_epi32(sums, x, weights);
}

INLINE void store_block(int8_t *y, const vector sums[1], int32_t count)
{
    _mm_mask_storeu_epi8(y, (__mmask16)mask_of(count), _mm512_cvtsepi32_epi8(sums[0]));
}

INLINE void store_pair(int8_t *first, int8_t *second, const scaling *s, const vector *a, const vector *b,
                       const int mode)
{
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i a0 = requantize(a[0], &s[0], mode), a1 = requantize(a[1], &s[1], mode);
    const __m512i b0 = requantize(b[0], &s[0], mode), b1 = requantize(b[1], &s[1], mode);
    const __m512i packed = _mm512_packs_epi16(_mm512_packs_epi32(a0, a1), _mm512_packs_epi32(b0, b1));
    const __m512i bytes = _mm512_permutexvar_epi32(order, packed);
    _mm256_storeu_si256((__m256i *)(void *)first, _mm512_castsi512_si256(bytes));
    _mm256_storeu_si256((__m256i *)(void *)second, _mm512_extracti64x4_epi64(bytes, 1));
}

INLINE void store_wide(int8_t *y, const vector v[4], int32_t count)
{
    const __m512i packed = _mm512_packs_epi16(_mm512_packs_epi32(v[0], v[1]), _mm512_packs_epi32(v[2], v[3]));
    _mm512_mask_storeu_epi8(y, mask_of(count), packed);
}

INLINE vector reversed(vector x)
{
    const __m512i order = _mm512_setr_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    return _mm512_permutexvar_epi32(order, x);
}

/* Each 128 bits of x[4 * i + j] is a row's four words: first these 4 x 4 squares are turned, then the squares among each
 * other. */
INLINE void transpose(vector x[16])
{
    vector turned[16];
    for (int32_t i = 0; i < 16; i += 4) {
        const vector a = _mm512_unpacklo_epi32(x[i], x[i + 1]), b = _mm512_unpackhi_epi32(x[i], x[i + 1]);
        const vector c = _mm512_unpacklo_epi32(x[i + 2], x[i + 3]), d = _mm512_unpackhi_epi32(x[i + 2], x[i + 3]);
        turned[i] = _mm512_unpacklo_epi64(a, c);
        turned[i + 1] = _mm512_unpackhi_epi64(a, c);
        turned[i + 2] = _mm512_unpacklo_epi64(b, d);
        turned[i + 3] = _mm512_unpackhi_epi64(b, d);
    }
    for (int32_t i = 0; i < 4; i++) {
        vector columns[4];
        turn_quarters(turned[i], turned[i + 4], turned[i + 8], turned[i + 12], columns);
        for (int32_t j = 0; j < 4; j++)
            x[i + 4 * j] = columns[j];
    }
}

#endif
