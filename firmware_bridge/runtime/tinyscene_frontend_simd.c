/* The stages of the front end in vectors, for hosts: x86-64 with AVX2 or AVX-512, 64-bit Arm, WebAssembly.
 *
 * The transform is Stockham's, in planes: real parts, then imaginary parts. After the transforms of `length` points
 * are done, row k of POINTS / length points has bin k of each of them: of points n, n + POINTS / length and so on. So
 * every pass reads and writes whole vectors, and the last one leaves the bins in order. While a row is longer than
 * ROW, vectors lie along rows and a rotation is the same for all lanes. Then rows and columns are exchanged, vectors
 * lie along k, and each lane has its own rotation. The arithmetic of every point is that of the plain transform.
 */
#include "tinyscene_frontend_stages.h"

#if defined(TINYSCENE_FRONTEND_SIMD)

#include <string.h>

#include "tinyscene_simd.h"

enum {
    POINTS = TINYSCENE_N_FFT / 2,
    HALF = POINTS / 2,
    LAST_ROW = POINTS / 4, /* of powers */
    PLANE = POINTS + 16,           /* words; not a power of two, so that planes differ in their place in the cache */
    IS_ODD = POINTS % 3 == 2,      /* an odd power of two: the first pass is of eight points, else of four */
    FIRST = IS_ODD ? 8 : 4,
    ROW = 16,
    WINDOW_START = (TINYSCENE_N_FFT - TINYSCENE_WIN_LENGTH) / 2,
    WINDOW_END = WINDOW_START + TINYSCENE_WIN_LENGTH,
    WEIGHT_SHIFT = 31 - TINYSCENE_FRACTION_BITS,
    SWAPS = POINTS / FIRST % 5 == 4 /* an odd number of passes follows the first, each by 4 */
};

#include "tinyscene_frontend_simd_mels.h"

typedef struct {
    int32_t planes[2][2 * PLANE]; /* what a pass reads and what it writes; finally the powers are in the other one, then sums in both */
    int16_t samples[TINYSCENE_N_FFT];
} workspace;

typedef char tinyscene_workspace_fits[sizeof(workspace) + 63 <= TINYSCENE_WORK_BYTES ? 1 : -1];

typedef struct {
    vector re, im;
} points; /* as many as a vector has lanes */

typedef struct {
    points y[4];
} quad;

typedef struct {
    lanes cosine, sine;
} rotation;

static const workspace *aligned_workspace(const void *work)
{
    return (const workspace *)(const void *)((const char *)work + (64 - (uintptr_t)work % 64) % 64);
}

INLINE points get(const int32_t *from)
{
    return (points){load(from), load(from + PLANE)};
}

INLINE void put(int32_t *to, points z)
{
    store(to, z.re);
    store(to + PLANE, z.im);
}

INLINE points plus(points a, points b)
{
    return (points){add(a.re, b.re), add(a.im, b.im)};
}

INLINE points minus(points a, points b)
{
    return (points){subtract(a.re, b.re), subtract(a.im, b.im)};
}

INLINE points twice(points z)
{
    return (points){add(z.re, z.re), add(z.im, z.im)};
}

/* Half of z, rotated. */
INLINE points rotated(points z, rotation by)
{
    const lanes re = split(z.re), im = split(z.im);
    return (points){upper_sum(times(re, by.cosine), times(im, by.sine)),
                    upper_sum(times(im, by.cosine), times_negative(re, by.sine))};
}

/* The transform of four points; of the second, the third and the fourth come halves if `halves`. */
INLINE quad butterfly(points a, points b, points c, points d, const int halves)
{
    const points whole_c = halves ? twice(c) : c, bd = plus(b, d), b_d = minus(b, d);
    const points sum = plus(a, whole_c), difference = minus(a, whole_c);
    const points sum_bd = halves ? twice(bd) : bd, difference_bd = halves ? twice(b_d) : b_d;
    const points turned = {difference_bd.im, difference_bd.re}; /* -i (b - d), but for the sign of its imaginary part */
    return (quad){{plus(sum, sum_bd),
                   {add(difference.re, turned.re), subtract(difference.im, turned.im)},
                   minus(sum, sum_bd),
                   {subtract(difference.re, turned.re), add(difference.im, turned.im)}}};
}

INLINE void put_four(int32_t *to, ptrdiff_t apart, quad q)
{
    for (int32_t i = 0; i < 4; i++)
        put(to + i * apart, q.y[i]);
}

/* Samples lie in the ring one after the other, forwards or backwards (step -1) from `slot` on. */
static int16_t *take(const int16_t *ring, int32_t slot, int32_t step, int32_t count, int16_t *to)
{
    while (count > 0) {
        const int32_t left = step > 0 ? TINYSCENE_RING_SAMPLES - slot : slot + 1, some = left < count ? left : count;
        if (step > 0)
            memcpy(to, ring + slot, (size_t)some * sizeof *to);
        else
            for (int32_t i = 0; i < some; i++)
                to[i] = ring[slot - i];
        to += some;
        count -= some;
        slot = step > 0 ? 0 : TINYSCENE_RING_SAMPLES - 1;
    }
    return to;
}

/* A frame's samples in order. Where it has none its weights are 0, and anything will do. */
STEP void take_samples(const tinyscene_pcm *pcm, int16_t *to)
{
    const int32_t last = TINYSCENE_CLIP_SAMPLES - 1, end = pcm->at + TINYSCENE_WIN_LENGTH;
    const int32_t first = pcm->at > 0 ? pcm->at : 0, stop = end <= last ? end : last + 1;
    memset(to, 0, WINDOW_START * sizeof *to);
    to += WINDOW_START;
    if (pcm->at < 0)
        to = take(pcm->ring, (pcm->start - pcm->at) % TINYSCENE_RING_SAMPLES, -1, end < 0 ? end - pcm->at : -pcm->at, to);
    to = take(pcm->ring, (pcm->start + first) % TINYSCENE_RING_SAMPLES, 1, stop - first, to);
    if (end > last + 1)
        to = take(pcm->ring, (pcm->start + last - 1) % TINYSCENE_RING_SAMPLES, -1, end - last - 1, to);
    memset(to, 0, (TINYSCENE_N_FFT - WINDOW_END) * sizeof *to);
}

/* A point is two samples. A weight is -(high * 65536 + low), so that both fit 16 bits; the products' shifts add up. */
INLINE vector weighted(vector samples, vector high, vector low)
{
    const vector rest = subtract(splat(1 << (WEIGHT_SHIFT - 1)), multiply_pairs(samples, low));
    return shift_right(subtract(shift_right(rest, 16), multiply_pairs(samples, high)), WEIGHT_SHIFT - 16);
}

/* Points from the first of an eighth or a quarter of the frame on, `part` of `of`; parts beyond the window are 0. */
INLINE points windowed(const int16_t *samples, int32_t n, const int32_t part, const int32_t of)
{
    const int32_t length = TINYSCENE_N_FFT / of, first = part * length, at = first + 2 * n;
    if (first + length <= WINDOW_START || first >= WINDOW_END)
        return (points){splat(0), splat(0)};
    const vector z = load(samples + at), high = load(tinyscene_window_high + at), low = load(tinyscene_window_low + at);
    const vector re = low_halves(z), im = subtract(z, re);
    return (points){weighted(re, high, low), weighted(im, high, low)};
}

INLINE rotation rotation_of(int32_t cosine, int32_t sine)
{
    return (rotation){split_splat(cosine), split_splat(sine)};
}

/* Steps 1 and the first of 2: of an odd power of two, a pass by 2 and one by 4 at once. */
STEP void first_pass(const int16_t *samples, int32_t *out)
{
    const int32_t one = tinyscene_cosine[0], diagonal = tinyscene_cosine[POINTS / 4];
    const int32_t wide = POINTS / FIRST;
    for (int32_t n = 0; n < wide; n += LANES, out += LANES) {
        points z[8];
        for (int32_t part = 0; part < FIRST; part++)
            z[part] = windowed(samples, n, part, FIRST);
        if (!IS_ODD) {
            put_four(out, wide, butterfly(z[0], z[1], z[2], z[3], 0));
            continue;
        }
        put_four(out, 2 * wide, butterfly(plus(z[0], z[4]), plus(z[1], z[5]), plus(z[2], z[6]), plus(z[3], z[7]), 0));
        const points b = rotated(minus(z[1], z[5]), rotation_of(diagonal, diagonal));
        const points c = rotated(minus(z[2], z[6]), rotation_of(0, one));
        const points d = rotated(minus(z[3], z[7]), rotation_of(-diagonal, diagonal));
        put_four(out + wide, 2 * wide, butterfly(minus(z[0], z[4]), b, c, d, 1));
    }
}

/* Rows of 4 * wide points become four of `wide`, each a whole number of vectors. */
STEP void row_pass(const int32_t *in, int32_t *out, int32_t length, const int32_t *twiddle)
{
    const int32_t wide = POINTS / length / 4, apart = POINTS / 4;
    for (int32_t n = 0; n < wide; n += LANES) {
        const int32_t *z = in + n;
        put_four(out + n, apart, butterfly(get(z), get(z + wide), get(z + 2 * wide), get(z + 3 * wide), 0));
    }
    for (int32_t k = 1; k < length; k++, twiddle += 6) {
        const rotation one = rotation_of(twiddle[0], twiddle[1]), two = rotation_of(twiddle[2], twiddle[3]);
        const rotation three = rotation_of(twiddle[4], twiddle[5]);
        in += 4 * wide;
        out += wide;
        for (int32_t n = 0; n < wide; n += LANES) {
            const int32_t *z = in + n;
            const points b = rotated(get(z + wide), one), c = rotated(get(z + 2 * wide), two);
            put_four(out + n, apart, butterfly(get(z), b, c, rotated(get(z + 3 * wide), three), 1));
        }
    }
}

/* A butterfly without rotations, of single points. */
static void first_column(const int32_t *in, ptrdiff_t apart, int32_t *out, ptrdiff_t out_apart)
{
    for (int32_t i = 0; i < 2; i++) {
        const int32_t *z = in + i * PLANE, *other = in + (1 - i) * PLANE;
        const int32_t a = z[0], b = z[apart], c = z[2 * apart], d = z[3 * apart];
        const int32_t turned = i ? other[3 * apart] - other[apart] : other[apart] - other[3 * apart];
        int32_t *to = out + i * PLANE;
        to[0] = (a + c) + (b + d);
        to[out_apart] = (a - c) + turned;
        to[2 * out_apart] = (a + c) - (b + d);
        to[3 * out_apart] = (a - c) - turned;
    }
}

INLINE rotation rotations_at(const int32_t *twiddle, int32_t length)
{
    return (rotation){split(load(twiddle)), split(load(twiddle + length))};
}

INLINE quad turned_butterfly(points a, points b, points c, points d, const int32_t *twiddle, int32_t length)
{
    const points turned_b = rotated(b, rotations_at(twiddle, length));
    const points turned_c = rotated(c, rotations_at(twiddle + 2 * length, length));
    return butterfly(a, turned_b, turned_c, rotated(d, rotations_at(twiddle + 4 * length, length)), 1);
}

/* Rows of ROW points become four columns, each four times as long: 4 * LENGTH points one after the other. */
STEP void exchanging_pass(const int32_t *in, int32_t *out, const int32_t *twiddle)
{
    enum { LENGTH = POINTS / ROW };
    for (int32_t k = 0; k < LENGTH; k += LANES) {
        vector re[ROW], im[ROW];
        for (int32_t column = 0; column < ROW; column += LANES) {
            for (int32_t row = 0; row < LANES; row++) {
                const points z = get(in + (k + row) * ROW + column);
                re[column + row] = z.re;
                im[column + row] = z.im;
            }
            transpose(re + column);
            transpose(im + column);
        }
        for (int32_t n = 0; n < 4; n++) {
            const points a = {re[n], im[n]}, b = {re[n + 4], im[n + 4]};
            const points c = {re[n + 8], im[n + 8]}, d = {re[n + 12], im[n + 12]};
            put_four(out + 4 * n * LENGTH + k, LENGTH, turned_butterfly(a, b, c, d, twiddle + k, LENGTH));
        }
    }
    for (int32_t n = 0; n < 4; n++) /* where k is 0, nothing is rotated */
        first_column(in + n, 4, out + 4 * n * LENGTH, LENGTH);
}

STEP void last_pass(const int32_t *in, int32_t *out, const int32_t *twiddle)
{
    enum { LENGTH = POINTS / 4 };
    for (int32_t k = 0; k < LENGTH; k += LANES) {
        const int32_t *z = in + k;
        put_four(out + k, LENGTH,
                 turned_butterfly(get(z), get(z + LENGTH), get(z + 2 * LENGTH), get(z + 3 * LENGTH), twiddle + k,
                                  LENGTH));
    }
    first_column(in, LENGTH, out, LENGTH);
}

/* A bin and its mirror image from what the transform has for both. */
typedef struct {
    points bin, mirror;
} pair;

INLINE pair unfolded(points a, points b, vector cosine, vector sine)
{
    const points even = {add(a.re, b.re), subtract(a.im, b.im)}, odd = {add(a.im, b.im), subtract(b.re, a.re)};
    const points turned = twice(rotated(odd, (rotation){split(cosine), split(sine)}));
    return (pair){plus(even, turned), minus(even, turned)};
}

INLINE points get_reversed(const int32_t *from)
{
    return (points){reversed(load(from)), reversed(load(from + PLANE))};
}

/* Steps 3 and 4: the transform -> the powers, row k of bins k, HALF - k, HALF + k and POINTS - k. The last row has two
 * bins twice. The first is made with the vector of rows that begins with it, and of it only bin HALF is of use. */
STEP void spectrum_power(const int32_t *z, uint64_t *power)
{
    for (int32_t i = 0; i <= LAST_ROW / LANES; i++) {
        const int32_t k = i ? (i - 1) * LANES + 1 : 0, left = 1 - LANES - k;
        const vector cosine = load(tinyscene_cosine + k), sine = reversed(load(tinyscene_cosine + HALF + left));
        const pair outer = unfolded(get(z + k), get_reversed(z + POINTS + left), cosine, sine);
        const pair inner = unfolded(get_reversed(z + HALF + left), get(z + HALF + k), sine, cosine);
        const vector re[4] = {outer.bin.re, inner.bin.re, inner.mirror.re, outer.mirror.re};
        const vector im[4] = {outer.bin.im, inner.bin.im, inner.mirror.im, outer.mirror.im};
        store_powers(power + 4 * k, re, im, TINYSCENE_POWER_SHIFT);
    }
    power[0] = power[2] = power[3] = 0;
}

void tinyscene_powers(const tinyscene_pcm *pcm, void *work)
{
    workspace *w = (workspace *)(uintptr_t)aligned_workspace(work);
    int32_t *in = w->planes[0], *out = w->planes[1], *swap;
    const int32_t *twiddle = tinyscene_rotations;
    int32_t length = FIRST;
    take_samples(pcm, w->samples);
    first_pass(w->samples, in);
    for (; length < POINTS / ROW; length *= 4) {
        row_pass(in, out, length, twiddle);
        twiddle += 6 * (length - 1);
        swap = in, in = out, out = swap;
    }
    exchanging_pass(in, out, twiddle);
    last_pass(out, in, twiddle + 6 * length);
    spectrum_power(in, (uint64_t *)(void *)out);
}

void tinyscene_mels(const void *work, int8_t *features, ptrdiff_t stride)
{
    workspace *w = (workspace *)(uintptr_t)aligned_workspace(work);
    mels_of_rows((uint64_t *)(void *)w->planes[1 - SWAPS], (uint64_t *)(void *)w->planes[SWAPS], features, stride);
}

#endif
