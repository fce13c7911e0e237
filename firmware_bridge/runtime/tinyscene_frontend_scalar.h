/* What plain C and DSP share of the stages: points one after the other, and the first pass of the transform, which
 * weighs the samples, too. The file that includes this has the products first:
 *
 *   product(x, w)                    x * w / 2^32, rounded to nearest, a tie upwards
 *   add_product(sum, x, w)           sum + product(x, w)
 *   subtract_product(sum, x, w)      sum + product(x, -w), at a tie not the same as sum - product(x, w)
 *   weighted(samples, re, im)        the point of two samples and their weights
 *
 * and may have its own blocks of 8 points with weights for 6, defining OWN_BLOCKS.
 */
#ifndef TINYSCENE_FRONTEND_SCALAR_H
#define TINYSCENE_FRONTEND_SCALAR_H

enum {
    POINTS = TINYSCENE_N_FFT / 2,  /* of the complex transform */
    QUARTER = TINYSCENE_N_FFT / 4, /* of a circle */
    RISING = TINYSCENE_SEGMENTS / 2,
    FIRST = ((TINYSCENE_RADIX - TINYSCENE_SEGMENTS) / 2 * TINYSCENE_SEGMENT) /* sample of a frame that has a weight */
            - ((TINYSCENE_N_FFT - TINYSCENE_WIN_LENGTH) / 2),                /* from the window's beginning */
    CHUNK = (TINYSCENE_BLOCKS < 16) ? TINYSCENE_BLOCKS : 16 /* blocks whose samples are looked for at once */
};

typedef struct {
    int32_t cosine; /* Q31 */
    int32_t sine;
} rotation;

INLINE point add(point a, point b)
{
    const point sum = {a.re + b.re, a.im + b.im};
    return sum;
}

INLINE point subtract(point a, point b)
{
    const point difference = {a.re - b.re, a.im - b.im};
    return difference;
}

/* Half of z, rotated. */
INLINE point rotated(point z, rotation by)
{
    point half;
    half.re = add_product(product(z.re, by.cosine), z.im, by.sine);
    half.im = subtract_product(product(z.im, by.cosine), z.re, by.sine);
    return half;
}

/* The transform of four points, where b, c and d come divided by `factor`. Even doubled, nothing leaves 32 bits. */
INLINE void four_points(point *to_a, point *to_b, point *to_c, point *to_d, point a, point b, point c, point d,
                        int32_t factor)
{
    const point sum_ac = {a.re + (factor * c.re), a.im + (factor * c.im)};
    const point difference_ac = {a.re - (factor * c.re), a.im - (factor * c.im)};
    const point sum_bd = add(b, d);
    const point difference_bd = subtract(b, d);
    to_a->re = sum_ac.re + (factor * sum_bd.re);
    to_a->im = sum_ac.im + (factor * sum_bd.im);
    to_c->re = sum_ac.re - (factor * sum_bd.re);
    to_c->im = sum_ac.im - (factor * sum_bd.im);
    to_b->re = difference_ac.re + (factor * difference_bd.im);
    to_b->im = difference_ac.im - (factor * difference_bd.re);
    to_d->re = difference_ac.re - (factor * difference_bd.im);
    to_d->im = difference_ac.im + (factor * difference_bd.re);
}

/* The point of segment s; its samples are `i` and `i + 1` of the chunk. `rising` and `falling` are the rows of their
 * weights in the window, of which the falling half is the rising one read backwards. */
INLINE point windowed(const int16_t *const *samples, int32_t s, ptrdiff_t i, const int32_t *rising,
                      const int32_t *falling)
{
    if (s < RISING) {
        return weighted(&samples[s][i], rising[s], rising[s + RISING]);
    }
    falling += (2 * RISING) - 1 - s;
    return weighted(&samples[s][i], falling[0], falling[-RISING]);
}

#if TINYSCENE_RADIX == 4
INLINE void block(const int16_t *const *samples, ptrdiff_t i, const int32_t *rising, const int32_t *falling, point *to)
{
    const point a = windowed(samples, 0, i, rising, falling);
    const point b = windowed(samples, 1, i, rising, falling);
    const point c = windowed(samples, 2, i, rising, falling);
    const point d = windowed(samples, 3, i, rising, falling);
    four_points(to, &to[1], &to[2], &to[3], a, b, c, d, 1);
}
#else
/* Halves of z, rotated by eighths of a circle; what follows from equal cosine and sine, or from a cosine of zero. */
INLINE point by_45(point z)
{
    const int32_t cosine = tinyscene_cosine[POINTS / 4];
    const int32_t both = product(z.im, cosine);
    const point half = {add_product(both, z.re, cosine), subtract_product(both, z.re, cosine)};
    return half;
}

INLINE point by_90(point z)
{
    const int32_t sine = tinyscene_cosine[0];
    const point half = {product(z.im, sine), subtract_product(0, z.re, sine)};
    return half;
}

INLINE point by_135(point z)
{
    const int32_t cosine = tinyscene_cosine[POINTS / 4];
    const int32_t both = subtract_product(0, z.re, cosine);
    const point half = {add_product(both, z.im, cosine), subtract_product(both, z.im, cosine)};
    return half;
}

/* Pairs of points, half a frame apart, become their sum and difference; four of each make the points at even and at odd
 * places. */
INLINE void block(const int16_t *const *samples, ptrdiff_t i, const int32_t *rising, const int32_t *falling, point *to)
{
    enum { S = (TINYSCENE_SEGMENTS == 6) ? -1 : 0 }; /* the first segment that has a weight is number 0 */
    const point nought = {0, 0};
    const point z1 = windowed(samples, 1 + S, i, rising, falling);
    const point z5 = windowed(samples, 5 + S, i, rising, falling);
    const point b = add(z1, z5);
    const point b_odd = subtract(z1, z5);
    const point z2 = windowed(samples, 2 + S, i, rising, falling);
    const point z6 = windowed(samples, 6 + S, i, rising, falling);
    const point c = add(z2, z6);
    const point c_odd = subtract(z2, z6);
    const point z3 = windowed(samples, 3 + S, i, rising, falling);
    const point z7 = (TINYSCENE_SEGMENTS == 6) ? nought : windowed(samples, 7 + S, i, rising, falling);
    const point d = add(z3, z7);
    const point d_odd = subtract(z3, z7);
    const point z0 = (TINYSCENE_SEGMENTS == 6) ? nought : windowed(samples, 0, i, rising, falling);
    const point z4 = windowed(samples, 4 + S, i, rising, falling);
    four_points(to, &to[2], &to[4], &to[6], add(z0, z4), b, c, d, 1);
    four_points(&to[1], &to[3], &to[5], &to[7], subtract(z0, z4), by_45(b_odd), by_90(c_odd), by_135(d_odd), 2);
}
#endif

/* Blocks whose samples have been looked for. */
typedef struct {
    const int16_t *samples[TINYSCENE_SEGMENTS];
    const uint16_t *order;
    point *points;
    const int32_t *rising; /* the first block's weights */
    const int32_t *falling;
} chunk;

#if defined(OWN_BLOCKS)
INLINE void blocks(const chunk *c);
#else
INLINE void blocks(const chunk *c)
{
    const uint16_t *order = c->order;
    const int32_t *rising = c->rising;
    const int32_t *falling = c->falling;
    for (ptrdiff_t i = 0; i < (2 * CHUNK); i += 2) {
        block(c->samples, i, rising, falling, &c->points[TINYSCENE_RADIX * (ptrdiff_t)*order++]);
        rising += 2 * RISING;
        falling -= 2 * RISING;
    }
}
#endif

/* Step 1 and the beginning of step 2: samples -> transforms of RADIX points. */
STEP void first_pass(const tinyscene_pcm *pcm, point *points)
{
    enum { ROW = 2 * RISING * CHUNK };
    int16_t copies[TINYSCENE_SEGMENTS][2 * CHUNK];
    const int32_t *falling = &tinyscene_window[RISING * (TINYSCENE_SEGMENT - (TINYSCENE_WIN_LENGTH % 2))];
    chunk c = {{0}, tinyscene_order, points, tinyscene_window, falling};
    for (int32_t n = 0; n < TINYSCENE_BLOCKS; n += CHUNK) {
        for (int32_t s = 0; s < TINYSCENE_SEGMENTS; s++) {
            c.samples[s] = tinyscene_samples(pcm, FIRST + (s * TINYSCENE_SEGMENT) + (2 * n), 2 * CHUNK, copies[s]);
        }
        blocks(&c);
        c.order += CHUNK;
        c.rising += ROW;
        c.falling -= ROW;
    }
}

#endif
