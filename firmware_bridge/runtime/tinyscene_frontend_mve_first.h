/* The first pass for Cortex-M55 and M85: samples -> transforms of RADIX points, of four blocks at a time. Those of 8
 * points with weights for 6, the default front end's, are in assembly: compilers need twice the instructions. */
#ifndef TINYSCENE_FRONTEND_MVE_FIRST_H
#define TINYSCENE_FRONTEND_MVE_FIRST_H

enum {
    FIRST = (TINYSCENE_RADIX - TINYSCENE_SEGMENTS) / 2 * TINYSCENE_SEGMENT /* sample of a frame that has a weight */
            - (TINYSCENE_N_FFT - TINYSCENE_WIN_LENGTH) / 2,                /* from the window's beginning */
    CHUNK = 16 /* blocks whose samples are looked for at once */
};

/* Blocks whose samples have been looked for. */
typedef struct {
    const int16_t *samples[TINYSCENE_SEGMENTS];
    const int32_t *weights; /* in the order of the segments, for four blocks at a time */
    const uint16_t *order;
    uint32_t places[4]; /* addresses of the first of four neighbouring blocks and of the others in relation to it */
} chunk;

#if TINYSCENE_RADIX == 8 && TINYSCENE_SEGMENTS == 6

#define TO_FRACTION "#(" TEXT(TINYSCENE_FRACTION_BITS) " + 1)"
/* Four points of a segment, windowed: even samples are real parts, odd ones imaginary. */
#define WINDOWED(segment, re, im)                                                                                     \
    "vldrh.u16 q0, [r" segment "], #16\n"                                                                             \
    "vshllb.s16 " re ", q0, " TO_FRACTION "\n vldrw.u32 q1, [r6, #32 * " segment "]\n"                                \
    "vrmulh.s32 " re ", " re ", q1\n"                                                                                 \
    "vshllt.s16 " im ", q0, " TO_FRACTION "\n vldrw.u32 q1, [r6, #32 * " segment " + 16]\n"                           \
    "vrmulh.s32 " im ", " im ", q1\n"
/* Vectors on the stack, by their numbers. */
#define PUT(re, im, number) "vstrw.32 " re ", [sp, #32 * " number "]\n vstrw.32 " im ", [sp, #32 * " number " + 16]\n"
#define PUT_TWICE(number) "vshl.i32 q5, q5, #1\n vshl.i32 q6, q6, #1\n" PUT("q5", "q6", number)
/* Points in q2 and q3 with those half a frame later in q4 and q5: sums to the stack, differences to q2 and q3. */
#define PAIR(number)                                                                                                  \
    "vadd.i32 q6, q2, q4\n vadd.i32 q7, q3, q5\n" PUT("q6", "q7", number)                                             \
    "vsub.i32 q2, q2, q4\n vsub.i32 q3, q3, q5\n"

/* Transforms of points on the stack, to places in the blocks at q6: real parts first, imaginary ones a plane further. */
#define OUT(operation, x, y, place) operation " q7, " x ", " y "\n vstrw.32 q7, [q6, #4 * " place "]\n"
#define FOUR_POINTS(a, b, c, d, sign_of_a, to_a, to_b, to_c, to_d)                                                    \
    "vldrw.u32 q0, [sp, #32 * " a "]\n" sign_of_a "vldrw.u32 q1, [sp, #32 * " c "]\n"                                 \
    "vadd.i32 q2, q0, q1\n vsub.i32 q0, q0, q1\n" /* a + c, a - c, real */                                            \
    "vldrw.u32 q1, [sp, #32 * " b "]\n vldrw.u32 q4, [sp, #32 * " d "]\n"                                             \
    "vadd.i32 q3, q1, q4\n vsub.i32 q1, q1, q4\n" /* b + d, b - d, real */                                            \
    "vldrw.u32 q4, [sp, #32 * " b " + 16]\n vldrw.u32 q7, [sp, #32 * " d " + 16]\n"                                   \
    "vadd.i32 q5, q4, q7\n vsub.i32 q4, q4, q7\n" /* the same, imaginary */                                           \
    OUT("vadd.i32", "q2", "q3", to_a) OUT("vsub.i32", "q2", "q3", to_c)                                               \
    OUT("vadd.i32", "q0", "q4", to_b) OUT("vsub.i32", "q0", "q4", to_d)                                               \
    "vldrw.u32 q0, [sp, #32 * " a " + 16]\n" sign_of_a "vldrw.u32 q2, [sp, #32 * " c " + 16]\n"                       \
    "vadd.i32 q3, q0, q2\n vsub.i32 q0, q0, q2\n" /* a + c, a - c, imaginary */                                       \
    "vadd.i32 q6, q6, r11\n"                                                                                          \
    OUT("vadd.i32", "q3", "q5", to_a) OUT("vsub.i32", "q3", "q5", to_c)                                               \
    OUT("vsub.i32", "q0", "q1", to_b) OUT("vadd.i32", "q0", "q1", to_d)
#define PLUS
#define MINUS "vneg.s32 q0, q0\n"

/* Points at odd places of a block are the transform of differences, rotated by eighths of a circle: see
 * tinyscene_frontend_scalar.h. r0 to r5 samples, r6 weights, r7 order, r8 the cosine of 45 degrees, r9 minus that, r10
 * one, r11 bytes of a plane. Vectors on the stack: 0 b, 1 c, 2 d, 3 a (minus it for odd places), 4 to 6 b, c and d for
 * odd places; then the blocks' places. */
ASSEMBLY void eight_points(const chunk *c ARGUMENT, int32_t cosine ARGUMENT, int32_t one ARGUMENT)
{
    __asm__("push {r4, r5, r6, r7, r8, r9, r10, r11, r12, lr}\n"
            "vpush {d8, d9, d10, d11, d12, d13, d14, d15}\n"
            "sub sp, #240\n"
            "add r12, r0, #32\n vldrw.u32 q0, [r12]\n vstrw.32 q0, [sp, #224]\n"
            "mov r8, r1\n rsb r9, r1, #0\n mov r10, r2\n mov r11, #2 * " TEXT(TINYSCENE_N_FFT) "\n"
            "ldm r0, {r0, r1, r2, r3, r4, r5, r6, r7}\n"
            "mov r12, #4\n dls lr, r12\n"
            "0:\n"
            WINDOWED("0", "q2", "q3") WINDOWED("4", "q4", "q5") PAIR("0")
            "vdup.32 q0, r8\n vrmulh.s32 q7, q3, q0\n vrmulh.s32 q5, q2, q0\n"
            "vdup.32 q0, r9\n vrmulh.s32 q6, q2, q0\n vadd.i32 q5, q7, q5\n vadd.i32 q6, q7, q6\n"
            PUT_TWICE("4")
            WINDOWED("1", "q2", "q3") WINDOWED("5", "q4", "q5") PAIR("1")
            "vdup.32 q0, r10\n vneg.s32 q2, q2\n vrmulh.s32 q5, q3, q0\n vrmulh.s32 q6, q2, q0\n"
            PUT_TWICE("5")
            WINDOWED("2", "q2", "q3") PUT("q2", "q3", "2")
            "vdup.32 q0, r9\n vrmulh.s32 q7, q2, q0\n vrmulh.s32 q6, q3, q0\n"
            "vdup.32 q0, r8\n vrmulh.s32 q5, q3, q0\n vadd.i32 q5, q7, q5\n vadd.i32 q6, q7, q6\n"
            PUT_TWICE("6") ::: "memory");
    /* C99 promises strings of 4095 characters only */
    __asm__(WINDOWED("3", "q2", "q3") PUT("q2", "q3", "3")
            "ldrh r12, [r7], #8\n lsl r12, r12, #5\n vldrw.u32 q6, [sp, #224]\n vadd.i32 q6, q6, r12\n"
            FOUR_POINTS("3", "0", "1", "2", PLUS, "0", "2", "4", "6")
            "vsub.i32 q6, q6, r11\n"
            FOUR_POINTS("3", "4", "5", "6", MINUS, "1", "3", "5", "7")
            "add r6, #192\n"
            "le lr, 0b\n"
            "add sp, #240\n"
            "vpop {d8, d9, d10, d11, d12, d13, d14, d15}\n"
            "pop {r4, r5, r6, r7, r8, r9, r10, r11, r12, pc}\n" ::: "memory");
}

INLINE void blocks(const chunk *c)
{
    eight_points(c, tinyscene_cosine[POINTS / 4], tinyscene_cosine[0]);
}

#else

INLINE vector product(vector x, vector w)
{
    return vrmulhq_s32(x, w);
}

INLINE vector product_n(vector x, int32_t w)
{
    return vrmulhq_s32(x, vdupq_n_s32(w));
}

INLINE points twice(points a)
{
    const points doubled = {vshlq_n_s32(a.re, 1), vshlq_n_s32(a.im, 1)};
    return doubled;
}

/* Transforms of four points to every STEP-th place from FROM on of four blocks, whose addresses are given. */
#define FOUR_POINTS(to_re, to_im, FROM, STEP, a, b, c, d)                                                             \
    do {                                                                                                              \
        const points sum_ac_ = add(a, c);                                                                             \
        const points sum_bd_ = add(b, d);                                                                             \
        vstrwq_scatter_base_s32(to_re, 4 * (FROM), vaddq_s32(sum_ac_.re, sum_bd_.re));                                \
        vstrwq_scatter_base_s32(to_im, 4 * (FROM), vaddq_s32(sum_ac_.im, sum_bd_.im));                                \
        vstrwq_scatter_base_s32(to_re, 4 * ((FROM) + (2 * (STEP))), vsubq_s32(sum_ac_.re, sum_bd_.re));               \
        vstrwq_scatter_base_s32(to_im, 4 * ((FROM) + (2 * (STEP))), vsubq_s32(sum_ac_.im, sum_bd_.im));               \
        const points difference_ac_ = subtract(a, c);                                                                 \
        const points difference_bd_ = subtract(b, d);                                                                 \
        vstrwq_scatter_base_s32(to_re, 4 * ((FROM) + (STEP)), vaddq_s32(difference_ac_.re, difference_bd_.im));       \
        vstrwq_scatter_base_s32(to_im, 4 * ((FROM) + (STEP)), vsubq_s32(difference_ac_.im, difference_bd_.re));       \
        vstrwq_scatter_base_s32(to_re, 4 * ((FROM) + (3 * (STEP))), vsubq_s32(difference_ac_.re, difference_bd_.im)); \
        vstrwq_scatter_base_s32(to_im, 4 * ((FROM) + (3 * (STEP))), vaddq_s32(difference_ac_.im, difference_bd_.re)); \
    } while (0)

/* Four points of a segment: even samples are real parts, odd ones imaginary. */
INLINE points windowed(const int16_t *samples, const int32_t *weights)
{
    enum { TO_FRACTION = TINYSCENE_FRACTION_BITS + 1 };
    const int16x8_t both = vldrhq_s16(samples);
    const points z = {product(vshllbq_n_s16(both, TO_FRACTION), vldrwq_s32(weights)),
                      product(vshlltq_n_s16(both, TO_FRACTION), vldrwq_s32(&weights[4]))};
    return z;
}

/* Blocks of four neighbouring n; `i` is the first's sample in the chunk. Weights lie in the order of their segments. */
#if TINYSCENE_RADIX == 4
INLINE void four_blocks(const int16_t *const *samples, int32_t i, const int32_t *weights,
                        uint32x4_t to_re, uint32x4_t to_im)
{
    const points a = windowed(&samples[0][i], weights);
    const points b = windowed(&samples[1][i], &weights[8]);
    const points c = windowed(&samples[2][i], &weights[16]);
    const points d = windowed(&samples[3][i], &weights[24]);
    FOUR_POINTS(to_re, to_im, 0, 1, a, b, c, d);
}
#else
/* z, rotated by eighths of a circle: see tinyscene_frontend_scalar.h. */
INLINE points by_45(points z)
{
    const int32_t cosine = tinyscene_cosine[POINTS / 4];
    const vector both = product_n(z.im, cosine);
    const points half = {vaddq_s32(both, product_n(z.re, cosine)), vaddq_s32(both, product_n(z.re, -cosine))};
    return twice(half);
}

INLINE points by_90(points z)
{
    const int32_t sine = tinyscene_cosine[0];
    const points half = {product_n(z.im, sine), product_n(z.re, -sine)};
    return twice(half);
}

INLINE points by_135(points z)
{
    const int32_t cosine = tinyscene_cosine[POINTS / 4];
    const vector both = product_n(z.re, -cosine);
    const points half = {vaddq_s32(both, product_n(z.im, cosine)), vaddq_s32(both, product_n(z.im, -cosine))};
    return twice(half);
}

INLINE void four_blocks(const int16_t *const *samples, int32_t i, const int32_t *weights,
                        uint32x4_t to_re, uint32x4_t to_im)
{
    const points z0 = windowed(&samples[0][i], weights);
    const points z4 = windowed(&samples[4][i], &weights[32]);
    const points a = add(z0, z4);
    const points a_odd = subtract(z0, z4);
    const points z1 = windowed(&samples[1][i], &weights[8]);
    const points z5 = windowed(&samples[5][i], &weights[40]);
    const points b = add(z1, z5);
    const points b_odd = by_45(subtract(z1, z5));
    const points z2 = windowed(&samples[2][i], &weights[16]);
    const points z6 = windowed(&samples[6][i], &weights[48]);
    const points c = add(z2, z6);
    const points c_odd = by_90(subtract(z2, z6));
    const points z3 = windowed(&samples[3][i], &weights[24]);
    const points z7 = windowed(&samples[7][i], &weights[56]);
    const points d = add(z3, z7);
    const points d_odd = by_135(subtract(z3, z7));
    FOUR_POINTS(to_re, to_im, 0, 2, a, b, c, d);
    FOUR_POINTS(to_re, to_im, 1, 2, a_odd, b_odd, c_odd, d_odd);
}
#endif

INLINE void blocks(const chunk *c)
{
    const uint32x4_t places = vldrwq_u32(c->places);
    const int32_t *weights = c->weights;
    for (int32_t i = 0; i < CHUNK; i += 4) {
        const uint32x4_t to_re = vaddq_n_u32(places, 4 * TINYSCENE_RADIX * (uint32_t)c->order[i]);
        four_blocks(c->samples, 2 * i, weights, to_re, vaddq_n_u32(to_re, 4 * POINTS));
        weights += 8 * TINYSCENE_SEGMENTS;
    }
}

#endif

/* Steps 1 and 2: samples -> transforms of RADIX points. */
STEP void first_pass(const tinyscene_pcm *pcm, int32_t *re)
{
    enum { NEXT = TINYSCENE_BLOCKS / 4 * TINYSCENE_RADIX * 4 }; /* bytes from the block of n to that of n + 1 */
    int16_t copies[TINYSCENE_SEGMENTS][2 * CHUNK];
    const uint32_t place = (uint32_t)(uintptr_t)re;
    chunk c = {{0}, tinyscene_window, tinyscene_order, {place, place + NEXT, place + (2 * NEXT), place + (3 * NEXT)}};
    for (int32_t n = 0; n < TINYSCENE_BLOCKS; n += CHUNK) {
        for (int32_t s = 0; s < TINYSCENE_SEGMENTS; s++) {
            c.samples[s] = tinyscene_samples(pcm, FIRST + (s * TINYSCENE_SEGMENT) + (2 * n), 2 * CHUNK, copies[s]);
        }
        blocks(&c);
        c.weights += 2 * CHUNK * TINYSCENE_SEGMENTS;
        c.order += CHUNK;
    }
}

#endif
