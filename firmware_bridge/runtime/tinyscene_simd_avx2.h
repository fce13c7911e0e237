/* x86-64 with AVX2, with or without AVX-VNNI: what tinyscene_simd*.c are written in. */
#ifndef TINYSCENE_SIMD_AVX2_H
#define TINYSCENE_SIMD_AVX2_H

#include <immintrin.h>

#if defined(__AVXVNNI__)
enum { LANES = 8, FLIP = 0x80, BIAS = 1 << 30, MOST_PIXELS = 6, MOST_BLOCKS = 1, AT_ONCE = 2, HAS_PAIRS = 0 };
#else /* ten sums, four vectors of weights and two of inputs are in registers */
enum { LANES = 8, FLIP = 0, BIAS = 1 << 30, MOST_PIXELS = 5, MOST_BLOCKS = 1, AT_ONCE = 2, HAS_PAIRS = 0 };
#endif
typedef __m256i vector;
typedef __m256i wide_bytes;

#define X86(op) _mm256_##op
#define X86_WHOLE(op) _mm256_##op##_si256
#define X86_FLOATS(x) _mm256_castsi256_ps(x)
#define X86_SPLAT64(value) _mm256_set1_epi64x(value)

INLINE vector odd_lanes(vector x)
{
    return _mm256_srli_epi64(x, 32);
}

INLINE vector high_halves(vector even, vector odd)
{
    return _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA);
}

INLINE void store_rows(uint64_t *to, const vector even[4], const vector odd[4])
{
    for (int32_t i = 0; i < 2; i++, to += 4) {
        const vector *x = i ? odd : even;
        const vector a = _mm256_unpacklo_epi64(x[0], x[1]), b = _mm256_unpackhi_epi64(x[0], x[1]);
        const vector c = _mm256_unpacklo_epi64(x[2], x[3]), d = _mm256_unpackhi_epi64(x[2], x[3]);
        _mm256_storeu_si256((__m256i *)(void *)to, _mm256_permute2x128_si256(a, c, 0x20));
        _mm256_storeu_si256((__m256i *)(void *)(to + 8), _mm256_permute2x128_si256(b, d, 0x20));
        _mm256_storeu_si256((__m256i *)(void *)(to + 16), _mm256_permute2x128_si256(a, c, 0x31));
        _mm256_storeu_si256((__m256i *)(void *)(to + 24), _mm256_permute2x128_si256(b, d, 0x31));
    }
}

INLINE __m256i weighted_power(__m256i power, __m256i weight)
{
    const __m256i high = _mm256_mul_epu32(_mm256_srli_epi64(power, 32), weight);
    return _mm256_add_epi64(_mm256_mul_epu32(power, weight), _mm256_slli_epi64(high, 32));
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

#if !defined(__AVXVNNI__)
/* A pointwise convolution multiplies 16 bits: its inputs are widened once, and then as fast as 8 bits with their signs.
 * Of four, inputs and weights 0 and 2 make pairs, and 1 and 3. */
#define TINYSCENE_WIDE_INPUTS
#define TINYSCENE_OWN_PRODUCTS

enum { FOUR_BYTES = 8 };
typedef vector accumulator;
typedef struct {
    vector even, odd;
} four_inputs, four_weights;

INLINE void prepare_fours(const int8_t *x, int32_t fours, uint8_t *out)
{
    const __m128i order = _mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15);
    for (; fours >= 4; fours -= 4, x += 16, out += 32) {
        const __m256i wide = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)x));
        store((int32_t *)(void *)out, _mm256_shuffle_epi8(wide, _mm256_broadcastsi128_si256(order)));
    }
    for (; fours > 0; fours--, x += 4, out += 8) {
        int32_t four;
        memcpy(&four, x, sizeof four);
        _mm_storel_epi64((__m128i *)out, _mm_shuffle_epi8(_mm_cvtepi8_epi16(_mm_cvtsi32_si128(four)), order));
    }
}

INLINE four_inputs load_inputs(const uint8_t *from)
{
    int32_t pairs[2];
    memcpy(pairs, from, sizeof pairs);
    return (four_inputs){splat(pairs[0]), splat(pairs[1])};
}

INLINE four_weights load_weights(const int8_t *from)
{
    const vector four = load(from);
    return (four_weights){_mm256_srai_epi16(_mm256_slli_epi16(four, 8), 8), _mm256_srai_epi16(four, 8)};
}

INLINE accumulator begin(vector start)
{
    return start;
}

INLINE accumulator accumulate(accumulator sums, four_inputs x, four_weights w)
{
    return add(add(sums, _mm256_madd_epi16(x.even, w.even)), _mm256_madd_epi16(x.odd, w.odd));
}

INLINE vector total(accumulator sums)
{
    return sums;
}
#endif

INLINE void store_block(int8_t *y, const vector sums[2], int32_t count)
{
    const __m256i words = _mm256_packs_epi32(sums[0], sums[1]), order = _mm256_setr_epi32(0, 4, 1, 5, 0, 4, 1, 5);
    const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(words, words), order);
    const __m128i packed = _mm256_castsi256_si128(bytes);
    if (count >= 16)
        _mm_storeu_si128((__m128i *)y, packed);
    else if (count == 8)
        _mm_storel_epi64((__m128i *)y, packed);
    else {
        int8_t part[16];
        _mm_storeu_si128((__m128i *)part, packed);
        memcpy(y, part, (size_t)count);
    }
}

INLINE void store_pair(int8_t *first, int8_t *second, const scaling *s, const vector *a, const vector *b,
                       const int mode)
{
    (void)first, (void)second, (void)s, (void)a, (void)b, (void)mode; /* stores by blocks are as good */
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
