/* The stages of the front end for Cortex-M55 and M85, by vectors of four: VRMULH is the product of
 * deploy/frontend/fixed_point.py. The work area holds two planes, all real parts and then all imaginary ones; later the
 * lower and the upper words of the powers. */
#include "tinyscene_frontend_stages.h"

#if defined(TINYSCENE_FRONTEND_MVE)

#include <arm_mve.h>

enum { POINTS = TINYSCENE_N_FFT / 2 };

typedef int32x4_t vector;
typedef struct {
    vector re;
    vector im;
} points;

INLINE points add(points a, points b)
{
    const points sum = {vaddq_s32(a.re, b.re), vaddq_s32(a.im, b.im)};
    return sum;
}

INLINE points subtract(points a, points b)
{
    const points difference = {vsubq_s32(a.re, b.re), vsubq_s32(a.im, b.im)};
    return difference;
}

#include "tinyscene_frontend_mve_first.h"

/* The first of each four points of a pass, which are not rotated, for four transforms at a time. */
INLINE points load(const int32_t *re, uint32x4_t places, mve_pred16_t there)
{
    const points z = {vldrwq_gather_offset_z_s32(re, places, there),
                      vldrwq_gather_offset_z_s32(&re[POINTS], places, there)};
    return z;
}

INLINE void store(int32_t *re, uint32x4_t places, vector a, vector b, mve_pred16_t there)
{
    vstrwq_scatter_offset_p_s32(re, places, a, there);
    vstrwq_scatter_offset_p_s32(&re[POINTS], places, b, there);
}

STEP void first_butterflies(int32_t *re, int32_t length)
{
    const uint32x4_t places = vmulq_n_u32(vidupq_n_u32(0, 1), (uint32_t)(16 * length)); /* bytes */
    for (int32_t left = POINTS / 4 / length; left > 0; left -= 4) {
        const mve_pred16_t there = vctp32q((uint32_t)left);
        const points a = load(re, places, there);
        const points c = load(&re[2 * length], places, there);
        const points sum_ac = add(a, c);
        const points difference_ac = subtract(a, c);
        const points b = load(&re[length], places, there);
        const points d = load(&re[3 * length], places, there);
        const points sum_bd = add(b, d);
        const points difference_bd = subtract(b, d);
        store(re, places, vaddq_s32(sum_ac.re, sum_bd.re), vaddq_s32(sum_ac.im, sum_bd.im), there);
        store(&re[2 * length], places, vsubq_s32(sum_ac.re, sum_bd.re), vsubq_s32(sum_ac.im, sum_bd.im), there);
        store(&re[length], places, vaddq_s32(difference_ac.re, difference_bd.im),
              vsubq_s32(difference_ac.im, difference_bd.re), there);
        store(&re[3 * length], places, vsubq_s32(difference_ac.re, difference_bd.im),
              vaddq_s32(difference_ac.im, difference_bd.re), there);
        re += 16 * length;
    }
}

/* Halves of the points at `re` and `im`, rotated, to two registers. q0 to q2 and `spare` are overwritten. */
#define ROTATE(re, im, to_re, to_im, spare)                                                                           \
    "vldrw.u32 q0, [" re "]\n vldrw.u32 q1, [" im "]\n vldrw.u32 q2, [r8], #16\n"                                     \
    "vrmulh.s32 " to_re ", q0, q2\n vrmulh.s32 q2, q1, q2\n vldrw.u32 " spare ", [r8], #16\n"                         \
    "vrmulh.s32 q1, q1, " spare "\n vneg.s32 q0, q0\n vrmulh.s32 q0, q0, " spare "\n"                                 \
    "vadd.i32 " to_re ", " to_re ", q1\n vadd.i32 " to_im ", q2, q0\n"

/* Transforms of four times as many points as are done, but for the first of each four; the loop predicates the last ones
 * of a transform by itself, as there is one less than a whole number of vectors. `a` is the first point to do, `bytes`
 * what a plane of a transform that is done takes, `end` where a ends. The rotated points come halved: VMLA adds them
 * twice, and a difference is the sum less four times the second. Of the eight registers of vectors, sums and differences
 * of b and d need four, which leaves one too few to rotate c. */
ASSEMBLY void radix_4_blocks(int32_t *a ARGUMENT, int32_t bytes ARGUMENT, const int32_t *twiddles ARGUMENT,
                             int32_t *end ARGUMENT)
{
    __asm__("push {r4, r5, r6, r7, r8, r9, r10, r11, r12, lr}\n"
            "vpush {d8, d9, d10, d11, d12, d13, d14, d15}\n"
            "lsr r4, r1, #2\n sub r4, #1\n" /* points of a transform, but for the first */
            "push {r1, r2, r3, r4}\n"
            "sub sp, #16\n" /* a vector */
            "mov r10, #2 * " TEXT(TINYSCENE_N_FFT) "\n"
            "add r1, r0, r10\n" /* a, real and imaginary */
            "mov r10, #-4\n mov r11, #-2\n"
            "0:\n"
            "ldrd r9, r8, [sp, #16]\n ldr r12, [sp, #28]\n" /* bytes, twiddles, points */
            "add r2, r0, r9\n add r3, r1, r9\n add r4, r2, r9\n add r5, r3, r9\n add r6, r4, r9\n add r7, r5, r9\n"
            "dlstp.32 lr, r12\n"
            "mov r9, #2\n mov r12, #4\n"
            "1:\n"
            ROTATE("r6", "r7", "q4", "q5", "q3")
            ROTATE("r2", "r3", "q6", "q7", "q3")
            "vadd.i32 q0, q6, q4\n vadd.i32 q1, q7, q5\n vsub.i32 q2, q6, q4\n vsub.i32 q3, q7, q5\n" /* b + d, b - d */
            "vstrw.u32 q3, [sp]\n"
            "vldrw.u32 q4, [r4]\n vldrw.u32 q5, [r5]\n vldrw.u32 q6, [r8], #16\n vldrw.u32 q7, [r8], #16\n"
            "vrmulh.s32 q3, q4, q6\n vrmulh.s32 q6, q5, q6\n vrmulh.s32 q5, q5, q7\n"
            "vneg.s32 q4, q4\n vrmulh.s32 q4, q4, q7\n"
            "vadd.i32 q3, q3, q5\n vadd.i32 q6, q6, q4\n" /* c */
            "vldrw.u32 q4, [r0]\n vldrw.u32 q5, [r1]\n"
            "vmla.s32 q4, q3, r9\n vmov q7, q4\n vmla.s32 q7, q3, r10\n"     /* a + c and a - c, real */
            "vmla.s32 q4, q0, r9\n vstrw.u32 q4, [r0], #16\n"
            "vmla.s32 q4, q0, r10\n vstrw.u32 q4, [r4], #16\n"
            "vmla.s32 q5, q6, r9\n vmov q0, q5\n vmla.s32 q0, q6, r10\n"     /* the same, imaginary */
            "vmla.s32 q5, q1, r9\n vstrw.u32 q5, [r1], #16\n"
            "vmla.s32 q5, q1, r10\n vstrw.u32 q5, [r5], #16\n"
            "vldrw.u32 q3, [sp]\n"
            "vmla.s32 q7, q3, r9\n vstrw.u32 q7, [r2], #16\n"
            "vmla.s32 q7, q3, r10\n vstrw.u32 q7, [r6], #16\n"
            "vmla.s32 q0, q2, r11\n vstrw.u32 q0, [r3], #16\n"
            "vmla.s32 q0, q2, r12\n vstrw.u32 q0, [r7], #16\n"
            "letp lr, 1b\n"
            "mov r0, r6\n mov r1, r7\n ldr r12, [sp, #24]\n cmp r0, r12\n bne 0b\n" /* a follows d */
            "add sp, #32\n"
            "vpop {d8, d9, d10, d11, d12, d13, d14, d15}\n"
            "pop {r4, r5, r6, r7, r8, r9, r10, r11, r12, pc}\n" ::: "memory");
}

/* Transforms of `length` points -> transforms of four times as many. */
STEP void radix_4_pass(int32_t *re, int32_t length, const int32_t *twiddles)
{
    first_butterflies(re, length);
    radix_4_blocks(re + 1, length * (int32_t)sizeof *re, twiddles, re + POINTS + 1);
}

/* Step 4: powers of the bins in q0 and q1 to two words each, low + high * 2^(32 - POWER_SHIFT). */
#define POWER(store_low, store_high)                                                                                  \
    "vmul.i32 q2, q0, q0\n vmul.i32 q3, q1, q1\n vhadd.u32 q2, q2, q3\n"                                              \
    "vrshr.u32 q2, q2, #" TEXT(TINYSCENE_POWER_SHIFT) " - 1\n" store_low                                              \
    "vmulh.s32 q2, q0, q0\n vmulh.s32 q3, q1, q1\n vadd.i32 q2, q2, q3\n" store_high

/* Steps 3 and 4, of bins from both ends at once: four at `up`, and four at `down` in reverse order, by cosines at
 * `cosine` and sines at `sine`, these in reverse order, too. The last ones in the middle are computed from both ends. */
ASSEMBLY void spectrum_power(int32_t *up ARGUMENT, int32_t *down ARGUMENT, const int32_t *cosine ARGUMENT,
                             const int32_t *sine ARGUMENT)
{
    __asm__("push {r4, r5, r6, r7, r8, lr}\n"
            "vpush {d8, d9, d10, d11, d12, d13, d14, d15}\n"
            "mov r8, #2 * " TEXT(TINYSCENE_N_FFT) "\n add r4, r0, r8\n add r5, r1, r8\n" /* imaginary parts */
            "mov r6, #2\n mov r7, #-4\n"
            "mov r8, #12\n vddup.u32 q7, r8, #4\n" /* places of words in reverse order */
            "mov r8, #" TEXT(TINYSCENE_N_FFT) " / 16\n"
            "dls lr, r8\n"
            "0:\n"
            "vldrw.u32 q0, [r0]\n vldrw.u32 q1, [r4]\n vldrw.u32 q2, [r1, q7]\n vldrw.u32 q3, [r5, q7]\n"
            "vadd.i32 q4, q1, q3\n vsub.i32 q1, q1, q3\n"       /* O real, E imaginary */
            "vsub.i32 q3, q2, q0\n vadd.i32 q0, q0, q2\n"       /* O imaginary, E real */
            "vldrw.u32 q2, [r2], #16\n vrmulh.s32 q5, q4, q2\n vrmulh.s32 q6, q3, q2\n"
            "vldrw.u32 q2, [r3, q7]\n vrmulh.s32 q3, q3, q2\n vneg.s32 q4, q4\n vrmulh.s32 q4, q4, q2\n"
            "vadd.i32 q5, q5, q3\n vadd.i32 q6, q6, q4\n"       /* half of O, rotated */
            "vmla.s32 q0, q5, r6\n vmla.s32 q1, q6, r6\n"
            POWER("vstrw.32 q2, [r0], #16\n", "vstrw.32 q2, [r4], #16\n")
            "vmla.s32 q0, q5, r7\n vmla.s32 q1, q6, r7\n"
            POWER("vstrw.32 q2, [r1, q7]\n", "vstrw.32 q2, [r5, q7]\n")
            "sub r1, #16\n sub r5, #16\n sub r3, #16\n"
            "le lr, 0b\n"
            "vpop {d8, d9, d10, d11, d12, d13, d14, d15}\n"
            "pop {r4, r5, r6, r7, r8, pc}\n" ::: "memory");
}

void tinyscene_powers(const tinyscene_pcm *pcm, void *work)
{
    const int32_t *twiddles = tinyscene_twiddles;
    const int32_t *cosine = tinyscene_cosine;
    int32_t *re = work;
    first_pass(pcm, re);
    for (int32_t length = TINYSCENE_RADIX; length < POINTS; length *= 4) {
        radix_4_pass(re, length, twiddles);
        twiddles += 6 * length;
    }
    spectrum_power(&re[1], &re[POINTS - 4], &cosine[1], &cosine[(POINTS / 2) - 4]);
}

/* The sums of both words of the powers in a segment: as they are, and by the rising weight. In usual sizes the former fit
 * 32 bits, see tinyscene_frontend_mels.h. */
typedef struct {
    uint64_t whole;
    uint64_t rising;
} sums;

INLINE sums segment_sums(const uint32_t *low, const uint16_t *weight, int32_t bins)
{
    enum { UP = 32 - TINYSCENE_POWER_SHIFT };
    const uint32_t *high = &low[POINTS];
    register uint32_t whole_low __asm__("r0") = 0; /* even registers */
    register uint32_t whole_high __asm__("r2") = 0;
    register uint32_t low_0 __asm__("r4") = 0; /* an even and an odd one each */
    register uint32_t low_1 __asm__("r5") = 0;
    register uint32_t high_0 __asm__("r8") = 0;
    register uint32_t high_1 __asm__("r9") = 0;
    __asm__ volatile("wlstp.32 lr, %[bins], 1f\n"
                     "0:\n"
                     "vldrw.u32 q0, [%[low]], #16\n vldrw.u32 q1, [%[high]], #16\n vldrh.u32 q2, [%[weight]], #8\n"
                     "vaddva.u32 r0, q0\n vaddva.u32 r2, q1\n"
                     "vmlaldava.u32 r4, r5, q0, q2\n vmlaldava.u32 r8, r9, q1, q2\n"
                     "letp lr, 0b\n"
                     "1:\n"
                     : "+r"(whole_low), "+r"(whole_high), "+r"(low_0), "+r"(low_1), "+r"(high_0), "+r"(high_1),
                       [low] "+r"(low), [high] "+r"(high), [weight] "+l"(weight)
                     : [bins] "r"(bins) : "lr", "q0", "q1", "q2", "memory", "cc");
    const sums s = {whole_low + ((uint64_t)whole_high << UP),
                    (((uint64_t)low_1 << 32) | low_0) + ((((uint64_t)high_1 << 32) | high_0) << UP)};
    return s;
}

/* Step 6 for four bands, of which some may not be there: see tinyscene_feature. */
INLINE void put_features(const uint32_t low[4], const uint32_t high[4], int32_t bands, int8_t *features, ptrdiff_t stride)
{
    const mve_pred16_t there = vctp32q((uint32_t)bands);
    const uint32x4_t lower = vldrwq_z_u32(low, there);
    const uint32x4_t upper = vldrwq_z_u32(high, there);
    const uint32x4_t middle = vorrq_u32(vshrq_n_u32(lower, 5), vshlq_n_u32(upper, 27));
    const mve_pred16_t large = vcmpcsq_n_u32(upper, 32);
    const uint32x4_t word = vpselq_u32(upper, middle, large);
    const int32x4_t zeros = vreinterpretq_s32_u32(vclzq_u32(word));
    const uint32x4_t leading = vshrq_n_u32(vshlq_u32(word, zeros), 27); /* 16 to 31 */
    const int32x4_t place = vsubq_s32(vpselq_s32(vdupq_n_s32(63), vdupq_n_s32(36), large), zeros);
    int32x4_t cell = vaddq_s32(vshlq_n_s32(vsubq_n_s32(place, 5), 4), vreinterpretq_s32_u32(leading));
    cell = vmaxq_s32(cell, vdupq_n_s32(0));
    uint32x4_t feature = vldrbq_gather_offset_u32(tinyscene_cells, vreinterpretq_u32_s32(cell));
    mve_pred16_t reached;
    do {
        const uint32_t *const thresholds = (const uint32_t *)(const void *)tinyscene_thresholds;
        const uint32x4_t word_of = vshlq_n_u32(feature, 1);
        const uint32x4_t threshold_low = vldrwq_gather_shifted_offset_u32(thresholds, word_of);
        const uint32x4_t threshold_high = vldrwq_gather_shifted_offset_u32(&thresholds[1], word_of);
        reached = vcmpcsq_m_u32(lower, threshold_low, vcmpeqq_u32(upper, threshold_high));
        reached |= vcmphiq_u32(upper, threshold_high);
        feature = vaddq_m_n_u32(feature, feature, 1, reached);
    } while (reached);
    const uint32x4_t places = vmulq_n_u32(vidupq_n_u32(0, 1), (uint32_t)stride);
    vstrbq_scatter_offset_p_u32((uint8_t *)features, places, vsubq_n_u32(feature, 128), there);
}

void tinyscene_mels(const void *work, int8_t *features, ptrdiff_t stride)
{
    const uint16_t *segment = tinyscene_segments;
    const uint32_t *power = (const uint32_t *)work + segment[0];
    const uint16_t *weight = tinyscene_mel_weights;
    int32_t bins = segment[1] - segment[0];
    uint64_t rising_below = segment_sums(power, weight, bins).rising; /* of the segment below */
    for (int32_t mel = 0; mel < TINYSCENE_MELS; mel += 4) {
        const int32_t left = TINYSCENE_MELS - mel;
        const int32_t bands = (left < 4) ? left : 4;
        uint32_t low[4];
        uint32_t high[4];
        for (int32_t band = 0; band < bands; band++) {
            power += bins;
            weight += bins;
            segment++;
            bins = segment[1] - segment[0];
            const sums s = segment_sums(power, weight, bins);
            const uint64_t energy = rising_below + (s.whole << 16) - s.rising;
            low[band] = (uint32_t)energy;
            high[band] = (uint32_t)(energy >> 32);
            rising_below = s.rising;
        }
        put_features(low, high, bands, features, stride);
        features += 4 * stride;
    }
}

#endif
