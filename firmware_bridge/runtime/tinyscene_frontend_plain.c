/* The stages of the front end in C99, for every processor without a file of its own. The steps are those of
 * deploy/frontend/fixed_point.py, which explains why none overflows. */
#include "tinyscene_frontend_stages.h"

#if defined(TINYSCENE_FRONTEND_PLAIN)

typedef struct {
    int32_t re;
    int32_t im;
} point;

/* On 32-bit processors, adding the uppermost bit of the lower word is cheaper than a carry. In assembly where that has
 * been measured: `volatile` keeps the products in the order that is written, in which few values are alive at a time. */
INLINE int32_t product(int32_t x, int32_t w)
{
#if defined(__GNUC__) && defined(__riscv_mul) && UINTPTR_MAX == 0xffffffff
    int32_t upper;
    int32_t lower;
    __asm__ volatile("mulh %0, %2, %3\n mul %1, %2, %3\n srli %1, %1, 31\n add %0, %0, %1"
                     : "=&r"(upper), "=&r"(lower) : "r"(x), "r"(w));
    return upper;
#elif defined(__GNUC__) && defined(__thumb2__)
    int32_t upper;
    int32_t lower;
    __asm__ volatile("smull %1, %0, %2, %3\n add %0, %0, %1, lsr #31"
                     : "=&r"(upper), "=&r"(lower) : "r"(x), "r"(w));
    return upper;
#elif UINTPTR_MAX == 0xffffffff
    return (int32_t)(((int64_t)x * w) >> 32) + (int32_t)(((uint32_t)x * (uint32_t)w) >> 31);
#else
    return (int32_t)((((int64_t)x * w) + (INT64_C(1) << 31)) >> 32);
#endif
}

INLINE int32_t add_product(int32_t sum, int32_t x, int32_t w)
{
    return sum + product(x, w);
}

INLINE int32_t subtract_product(int32_t sum, int32_t x, int32_t w)
{
    return sum + product(x, -w);
}

INLINE point weighted(const int16_t *samples, int32_t re, int32_t im)
{
    enum { TO_FRACTION = POWER_OF_2(TINYSCENE_FRACTION_BITS + 1) };
    const point z = {product(samples[0] * TO_FRACTION, re), product(samples[1] * TO_FRACTION, im)};
    return z;
}

#include "tinyscene_frontend_scalar.h"

/* Rotations of three points by one, two and three times an angle, in the order 3, 1, 2 in which they are stored. */
typedef struct {
    rotation three;
    rotation one;
    rotation two;
} rotations;

/* For point k of a transform of 4 * length, of those for point length - k: a right angle less these. */
INLINE rotations mirrored(const rotations *by)
{
    const rotations r = {{-by->three.sine, -by->three.cosine}, {by->one.sine, by->one.cosine},
                         {-by->two.cosine, by->two.sine}};
    return r;
}

/* Where four points are that become one transform's. */
typedef struct {
    point *a;
    point *b;
    point *c;
    point *d;
} quad;

INLINE quad next(quad q)
{
    q.a++;
    q.b++;
    q.c++;
    q.d++;
    return q;
}

INLINE void butterfly(quad q, rotations by)
{
    const point d = rotated(*q.d, by.three);
    const point b = rotated(*q.b, by.one);
    const point c = rotated(*q.c, by.two);
    four_points(q.a, q.b, q.c, q.d, *q.a, b, c, d, 2);
}

/* Transforms of `length` points -> transforms of four times as many. The twiddles are those of the last pass; every
 * `stride`-th is for this one. */
STEP void radix_4_pass(point *points, ptrdiff_t length)
{
    const ptrdiff_t stride = POINTS / 4 / length;
    for (point *first = points; first < &points[POINTS]; first += 4 * length) {
        const rotations *by = &((const rotations *)(const void *)tinyscene_twiddles)[stride - 1];
        const point *const middle = &first[length / 2];
        const point *const end = &first[length];
        quad q = {first, &first[length], &first[2 * length], &first[3 * length]};
        four_points(q.a, q.b, q.c, q.d, *q.a, *q.b, *q.c, *q.d, 1);
        for (q = next(q); q.a <= middle; q = next(q)) {
            butterfly(q, *by);
            by += stride;
        }
        by -= 2 * stride;
        for (; q.a < end; q = next(q)) {
            butterfly(q, mirrored(by));
            by -= stride;
        }
    }
}

/* Step 4. A power takes the place of its bin, as two words: low + high * 2^(32 - POWER_SHIFT). */
INLINE void put_power(point *bin, int32_t re, int32_t im)
{
    const uint64_t sum = (uint64_t)((int64_t)re * re) + (uint64_t)((int64_t)im * im);
    const uint32_t lower = (uint32_t)sum;
    uint32_t *words = (uint32_t *)bin;
    words[0] = (TINYSCENE_POWER_SHIFT > 0) ? (((lower >> (TINYSCENE_POWER_SHIFT - 1)) + 1) >> 1) : lower;
    words[1] = (uint32_t)(sum >> 32);
}

/* Steps 3 and 4. */
STEP void spectrum_power(point *z)
{
    const int32_t *cosine = &tinyscene_cosine[1];
    const int32_t *sine = &tinyscene_cosine[QUARTER - 1];
    point *up = &z[1];
    point *down = &z[POINTS - 1];
    for (; up < down; up++) {
        const point even = {up->re + down->re, up->im - down->im};
        const point odd = {up->im + down->im, down->re - up->re};
        const rotation by = {*cosine, *sine};
        const point turned = rotated(odd, by);
        put_power(up, even.re + (2 * turned.re), even.im + (2 * turned.im));
        put_power(down, even.re - (2 * turned.re), even.im - (2 * turned.im));
        down--;
        cosine++;
        sine--;
    }
    put_power(up, 2 * up->re, 2 * up->im);
}

void tinyscene_powers(const tinyscene_pcm *pcm, void *work)
{
    first_pass(pcm, work);
    for (ptrdiff_t length = TINYSCENE_RADIX; length < POINTS; length *= 4) {
        radix_4_pass(work, length);
    }
    spectrum_power(work);
}

#include "tinyscene_frontend_mels.h"

#endif
