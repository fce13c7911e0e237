/* The stages of the front end for Cortex-M4, M7 and M33, by SMMULR and its kind, which are the products of
 * deploy/frontend/fixed_point.py in one instruction. The inner loops are in assembly: they need every register. */
#include "tinyscene_frontend_stages.h"

#if defined(TINYSCENE_FRONTEND_DSP)

typedef struct {
    int32_t re;
    int32_t im;
} point;

/* Volatile keeps them in the order that is written here, in which few values are alive at a time. */
INLINE int32_t product(int32_t x, int32_t w)
{
    int32_t result;
    __asm__ volatile("smmulr %0, %1, %2" : "=r"(result) : "r"(x), "r"(w));
    return result;
}

INLINE int32_t add_product(int32_t sum, int32_t x, int32_t w)
{
    int32_t result;
    __asm__ volatile("smmlar %0, %1, %2, %3" : "=r"(result) : "r"(x), "r"(w), "r"(sum));
    return result;
}

INLINE int32_t subtract_product(int32_t sum, int32_t x, int32_t w)
{
    int32_t result;
    __asm__ volatile("smmlsr %0, %1, %2, %3" : "=r"(result) : "r"(x), "r"(w), "r"(sum));
    return result;
}

/* sample * w is needed in units of 2^(16 + SHIFT), rounded. SMLAW gives it in units of 2^16, rounded down. */
INLINE point weighted(const int16_t *samples, int32_t re, int32_t im)
{
    enum { SHIFT = 15 - TINYSCENE_FRACTION_BITS };
    const int32_t half = POWER_OF_2(SHIFT - 1);
    int32_t both;
    point z;
    __builtin_memcpy(&both, samples, 4);
    __asm__ volatile("smlawb %0, %1, %2, %3" : "=r"(z.re) : "r"(re), "r"(both), "r"(half));
    __asm__ volatile("smlawt %0, %1, %2, %3" : "=r"(z.im) : "r"(im), "r"(both), "r"(half));
    z.re >>= SHIFT;
    z.im >>= SHIFT;
    return z;
}

#if TINYSCENE_RADIX == 8 && TINYSCENE_SEGMENTS == 6
#define OWN_BLOCKS
#endif
#include "tinyscene_frontend_scalar.h"

#if defined(OWN_BLOCKS)
#define SHIFT "#(15 - " TEXT(TINYSCENE_FRACTION_BITS) ")"
/* Products with the weights in re and im of the two samples at r3 of a segment, rounded, but not shifted yet. */
#define WEIGHTED(segment, re, im)                                                                                     \
    "ldr r4, [sp, #4 * " #segment "]\n ldr r4, [r4, r3]\n"                                                            \
    "smlawb " re ", " re ", r4, r12\n smlawt " im ", " im ", r4, r12\n"
/* The sum of a point, whose products are in re and im, and one half a frame later, in r4 and r11; their difference in re
 * and im. The later one's weights are at r2. */
#define PAIR(segment, weight_re, weight_im, re, im)                                                                   \
    "ldr r11, [r2, #" weight_re "]\n ldr lr, [r2, #" weight_im "]\n" WEIGHTED(segment, "r11", "lr")                   \
    "asr r11, r11, " SHIFT "\n asr lr, lr, " SHIFT "\n"                                                               \
    "add r4, r11, " re ", asr " SHIFT "\n rsb " re ", r11, " re ", asr " SHIFT "\n"                                   \
    "add r11, lr, " im ", asr " SHIFT "\n rsb " im ", lr, " im ", asr " SHIFT "\n"

/* On the stack: 0 samples of the segments, 24 order, 28 points, 32 the cosine of 45 degrees, 36 one; then points of two
 * words: 40 b, 48 odd b, 56 odd c, 64 z3 (d, odd or not), 72 z4 (a; minus it, if odd). r1 and r2 are rows of weights,
 * r3 is the place in a segment in bytes, r12 half a unit. */
ASSEMBLY void eight_points(const chunk *c ARGUMENT, const int32_t constants[2] ARGUMENT)
{
    __asm__("push {r4, r5, r6, r7, r8, r9, r10, r11, lr}\n"
            "sub sp, #84\n"
            "ldrd r2, r3, [r1]\n strd r2, r3, [sp, #32]\n"
            "ldm r0!, {r4, r5, r6, r7, r8, r9, r10, r11}\n stm sp, {r4, r5, r6, r7, r8, r9, r10, r11}\n"
            "ldm r0, {r1, r2}\n mov r3, #0\n mov r12, #1 << (14 - " TEXT(TINYSCENE_FRACTION_BITS) ")\n"
            "0:\n"
            "ldm r1!, {r5, r6, r7, r8, r9, r10}\n"
            WEIGHTED(0, "r5", "r8") WEIGHTED(1, "r6", "r9") WEIGHTED(2, "r7", "r10")
            PAIR(4, "4", "-8", "r5", "r8")
            "strd r4, r11, [sp, #40]\n strd r5, r8, [sp, #48]\n"
            PAIR(5, "0", "-12", "r6", "r9")
            "strd r6, r9, [sp, #56]\n"
            "mov r5, r4\n" /* c is in r5 and r11 */
            "ldr r6, [r2, #8]\n ldr r8, [r2, #-4]\n" WEIGHTED(3, "r6", "r8")
            "asr r6, r6, " SHIFT "\n asr r8, r8, " SHIFT "\n strd r6, r8, [sp, #72]\n"
            "asr r7, r7, " SHIFT "\n asr r10, r10, " SHIFT "\n strd r7, r10, [sp, #64]\n"
            /* the transform of a, b, c, d: points at even places */
            "add lr, r6, r5\n sub r4, r6, r5\n add r6, r8, r11\n sub r11, r8, r11\n" /* a + c, a - c */
            "ldrd r5, r9, [sp, #40]\n"
            "add r8, r5, r7\n sub r5, r5, r7\n add r7, r9, r10\n sub r9, r9, r10\n" /* b + d, b - d */
            "ldr r10, [sp, #24]\n ldrh r0, [r10], #2\n str r10, [sp, #24]\n"
            "ldr r10, [sp, #28]\n add r0, r10, r0, lsl #6\n" /* where the block is */
            "add r10, lr, r8\n sub lr, lr, r8\n add r8, r6, r7\n sub r6, r6, r7\n"
            "strd r10, r8, [r0]\n strd lr, r6, [r0, #32]\n"
            "add r10, r4, r9\n sub r4, r4, r9\n sub r8, r11, r5\n add r11, r11, r5\n"
            "strd r10, r8, [r0, #16]\n strd r4, r11, [r0, #48]\n"
            /* halves of the odd b, d and c, rotated by one, three and two eighths of a circle */
            "ldrd r4, r5, [sp, #48]\n ldr r6, [sp, #32]\n"
            "smmulr r7, r5, r6\n smmlar r8, r4, r6, r7\n smmlsr r9, r4, r6, r7\n"
            "ldrd r4, r5, [sp, #64]\n mov r7, #0\n"
            "smmlsr r7, r4, r6, r7\n smmlar r10, r5, r6, r7\n smmlsr r11, r5, r6, r7\n"
            "add r4, r8, r10\n add r5, r9, r11\n sub r8, r8, r10\n sub r9, r9, r11\n" /* b + d, b - d */
            "ldrd r10, r11, [sp, #56]\n ldr r6, [sp, #36]\n mov r7, #0\n"
            "smmulr lr, r11, r6\n smmlsr r7, r10, r6, r7\n"
            "ldrd r10, r11, [sp, #72]\n"
            "rsb r6, r10, lr, lsl #1\n rsb r10, r11, r7, lsl #1\n"         /* a + c */
            "sub lr, r6, lr, lsl #2\n sub r7, r10, r7, lsl #2\n"           /* a - c */
            "add r6, r6, r4, lsl #1\n add r10, r10, r5, lsl #1\n strd r6, r10, [r0, #8]\n"
            "sub r6, r6, r4, lsl #2\n sub r10, r10, r5, lsl #2\n strd r6, r10, [r0, #40]\n"
            "add lr, lr, r9, lsl #1\n sub r7, r7, r8, lsl #1\n strd lr, r7, [r0, #24]\n"
            "sub lr, lr, r9, lsl #2\n add r7, r7, r8, lsl #2\n strd lr, r7, [r0, #56]\n"
            "add r3, r3, #4\n sub r2, r2, #24\n cmp r3, #64\n bne 0b\n"
            "add sp, #84\n"
            "pop {r4, r5, r6, r7, r8, r9, r10, r11, pc}\n" ::: "memory");
}

INLINE void blocks(const chunk *c)
{
    const int32_t constants[2] = {tinyscene_cosine[POINTS / 4], tinyscene_cosine[0]};
    eight_points(c, constants);
}
#endif

/* Halves of a point in r4 and r5, rotated, to two registers; the cosine is in r6. */
#define ROTATE(re, im, sine)                                                                                          \
    "smmulr " re ", r4, r6\n smmulr " im ", r5, r6\n smmlar " re ", r5, " sine ", " re "\n"                           \
    "smmlsr " im ", r4, " sine ", " im "\n"
/* By a right angle less the one that is given, and by three. */
#define ROTATE_MIRRORED(re, im, sine)                                                                                 \
    "smmulr " re ", r4, " sine "\n smmulr " im ", r5, " sine "\n smmlar " re ", r5, r6, " re "\n"                     \
    "smmlsr " im ", r4, r6, " im "\n"
#define ROTATE_MIRRORED_3(re, im, sine)                                                                               \
    "mov " re ", #0\n smmulr " im ", r4, r6\n smmlsr " re ", r4, " sine ", " re "\n"                                  \
    "smmlsr " im ", r5, " sine ", " im "\n smmlsr " re ", r5, r6, " re "\n"

/* The same of c, which is in r9 and r10, to r11 and lr; there is one register for its twiddles. By two right angles less
 * the one that is given. */
#define ROTATE_C                                                                                                      \
    "ldr r6, [r12, #16]\n smmulr r11, r9, r6\n smmulr lr, r10, r6\n"                                                  \
    "ldr r6, [r12, #20]\n smmlar r11, r10, r6, r11\n smmlsr lr, r9, r6, lr\n"
#define ROTATE_C_MIRRORED                                                                                             \
    "ldr r6, [r12, #20]\n mov lr, #0\n smmulr r11, r10, r6\n smmlsr lr, r9, r6, lr\n"                                 \
    "ldr r6, [r12, #16]\n smmlsr r11, r9, r6, r11\n smmlsr lr, r10, r6, lr\n"

/* Four points at r0 to r3, by the twiddles at r12 in the order of d, b, c. A difference is the sum less twice the
 * second, for then the first need not be kept. Goes on by a point and by the twiddles' stride, and round again until a
 * ends. */
#define BUTTERFLIES(rotate_d, rotate_b, rotate_c)                                                                     \
    "0:\n"                                                                                                            \
    "ldrd r4, r5, [r3]\n ldrd r6, r9, [r12]\n" rotate_d("r7", "r8", "r9")                                             \
    "ldrd r4, r5, [r1]\n ldrd r6, r11, [r12, #8]\n" rotate_b("r9", "r10", "r11")                                      \
    "add r4, r9, r7\n add r5, r10, r8\n sub r7, r9, r7\n sub r8, r10, r8\n" /* b + d, b - d */                        \
    "ldrd r9, r10, [r2]\n" rotate_c                                                                                   \
    "ldrd r9, r10, [r0]\n"                                                                                            \
    "add r9, r9, r11, lsl #1\n add r10, r10, lr, lsl #1\n"     /* a + c */                                            \
    "sub r11, r9, r11, lsl #2\n sub lr, r10, lr, lsl #2\n"     /* a - c */                                            \
    "add r9, r9, r4, lsl #1\n add r10, r10, r5, lsl #1\n strd r9, r10, [r0], #8\n"                                    \
    "sub r9, r9, r4, lsl #2\n sub r10, r10, r5, lsl #2\n strd r9, r10, [r2], #8\n"                                    \
    "add r11, r11, r8, lsl #1\n sub lr, lr, r7, lsl #1\n strd r11, lr, [r1], #8\n"                                    \
    "sub r11, r11, r8, lsl #2\n add lr, lr, r7, lsl #2\n strd r11, lr, [r3], #8\n"                                    \
    "ldrd r4, r5, [sp]\n add r12, r12, r5\n cmp r0, r4\n bne 0b\n"

/* One transform of four times `bytes`: the first of each four points as they are, those up to the middle by rising
 * twiddles, those after it by falling ones. `twiddles` are those of the second point, `stride` is in bytes. */
ASSEMBLY void radix_4_block(point *first ARGUMENT, int32_t bytes ARGUMENT, const int32_t *twiddles ARGUMENT,
                            int32_t stride ARGUMENT)
{
    __asm__("push {r4, r5, r6, r7, r8, r9, r10, r11, lr}\n"
            "mov r12, r2\n"
            "add r4, r0, r1, lsr #1\n add r4, r4, #8\n add r5, r0, r1\n" /* after the middle, and where a ends */
            "push {r3, r5}\n push {r3, r4}\n"
            "str r4, [sp]\n str r3, [sp, #4]\n str r5, [sp, #8]\n rsb r3, r3, #0\n str r3, [sp, #12]\n"
            "mov r4, r1\n add r1, r0, r4\n add r2, r1, r4\n add r3, r2, r4\n"
            "ldrd r4, r5, [r1]\n ldrd r6, r7, [r3]\n"
            "add r8, r4, r6\n add r9, r5, r7\n sub r4, r4, r6\n sub r5, r5, r7\n" /* b + d, b - d */
            "ldrd r6, r7, [r2]\n ldrd r10, r11, [r0]\n"
            "add r10, r10, r6\n add r11, r11, r7\n"
            "sub r6, r10, r6, lsl #1\n sub r7, r11, r7, lsl #1\n" /* a - c */
            "add r10, r10, r8\n add r11, r11, r9\n strd r10, r11, [r0], #8\n"
            "sub r10, r10, r8, lsl #1\n sub r11, r11, r9, lsl #1\n strd r10, r11, [r2], #8\n"
            "add r6, r6, r5\n sub r7, r7, r4\n strd r6, r7, [r1], #8\n"
            "sub r6, r6, r5, lsl #1\n add r7, r7, r4, lsl #1\n strd r6, r7, [r3], #8\n"
            BUTTERFLIES(ROTATE, ROTATE, ROTATE_C)
            "ldrd r4, r5, [sp, #8]\n strd r4, r5, [sp]\n"
            "add r12, r12, r5, lsl #1\n"
            BUTTERFLIES(ROTATE_MIRRORED_3, ROTATE_MIRRORED, ROTATE_C_MIRRORED)
            "add sp, sp, #16\n"
            "pop {r4, r5, r6, r7, r8, r9, r10, r11, pc}\n" ::: "memory");
}

STEP void radix_4_pass(point *points, int32_t length)
{
    const int32_t stride = POINTS / 4 / length * 6; /* words of the twiddles, which are those of the last pass */
    for (point *first = points; first < &points[POINTS]; first += 4 * length) {
        radix_4_block(first, length * (int32_t)sizeof(point), &tinyscene_twiddles[stride - 6], 4 * stride);
    }
}

/* Steps 3 and 4 of bins k and N - k, from `up` and `down` on until they meet. A power takes the place of its bin, as two
 * words: low + high * 2^UP. */
#define POWER(re, im, to)                                                                                             \
    "smull r4, r5, " re ", " re "\n smlal r4, r5, " im ", " im "\n"                                                   \
    "lsrs r4, r4, #" TEXT(TINYSCENE_POWER_SHIFT) "\n adc r4, r4, #0\n strd r4, r5, " to "\n"
ASSEMBLY void spectrum_power(point *up ARGUMENT, point *down ARGUMENT, const int32_t *cosine ARGUMENT,
                             const int32_t *sine ARGUMENT)
{
    __asm__("push {r4, r5, r6, r7, r8, r9, r10, r11, lr}\n"
            "0:\n"
            "ldrd r4, r5, [r0]\n ldrd r6, r7, [r1]\n"
            "add r8, r4, r6\n sub r9, r5, r7\n add r10, r5, r7\n sub r11, r6, r4\n" /* E and O */
            "ldr r6, [r2], #4\n smmulr r4, r10, r6\n smmulr r5, r11, r6\n"
            "ldr r6, [r3], #-4\n smmlar r4, r11, r6, r4\n smmlsr r5, r10, r6, r5\n"
            "add r8, r8, r4, lsl #1\n add r9, r9, r5, lsl #1\n"
            "sub r10, r8, r4, lsl #2\n sub r11, r9, r5, lsl #2\n"
            POWER("r8", "r9", "[r0], #8") POWER("r10", "r11", "[r1], #-8")
            "cmp r0, r1\n bne 0b\n"
            "ldrd r8, r9, [r0]\n lsl r8, r8, #1\n lsl r9, r9, #1\n" /* bin N / 2 */
            POWER("r8", "r9", "[r0]")
            "pop {r4, r5, r6, r7, r8, r9, r10, r11, pc}\n" ::: "memory");
}

void tinyscene_powers(const tinyscene_pcm *pcm, void *work)
{
    point *points = work;
    first_pass(pcm, points);
    for (int32_t length = TINYSCENE_RADIX; length < POINTS; length *= 4) {
        radix_4_pass(points, length);
    }
    spectrum_power(&points[1], &points[POINTS - 1], &tinyscene_cosine[1], &tinyscene_cosine[QUARTER - 1]);
}

/* The sums of a segment, from the power at r0 and the weight at r1 on to the end that the segment after it, at r12,
 * tells: in r4 those of the lower words and in r5 those of the upper ones, which fit 32 bits in usual sizes (see
 * tinyscene_frontend_mels.h); in r6 and r7 that of the powers by their weights. */
#define UP "#(32 - " TEXT(TINYSCENE_POWER_SHIFT) ")"
#define LEFT "#" TEXT(TINYSCENE_POWER_SHIFT) /* bits of a word that is shifted up by UP and leaves its word */
#define SEGMENT                                                                                                       \
    "ldrh r11, [r12], #2\n ldr r2, [sp, #8]\n add r11, r2, r11, lsl #3\n"                                             \
    "mov r4, #0\n mov r5, #0\n mov r6, #0\n mov r7, #0\n mov r8, #0\n mov r9, #0\n"                                   \
    "cmp r0, r11\n beq 3f\n"                                                                                          \
    "2:\n"                                                                                                            \
    "ldrd r2, r3, [r0], #8\n ldrh r10, [r1], #2\n"                                                                    \
    "add r4, r4, r2\n umlal r6, r7, r2, r10\n add r5, r5, r3\n umlal r8, r9, r3, r10\n"                               \
    "cmp r0, r11\n bne 2b\n"                                                                                          \
    "3:\n"                                                                                                            \
    "adds r6, r6, r8, lsl " UP "\n lsl r9, r9, " UP "\n orr r9, r9, r8, lsr " LEFT "\n adc r7, r7, r9\n"

/* Steps 5 and 6; tinyscene_feature explains the cells. On the stack: 0 the rising sum of the segment below, 8 powers,
 * 12 thresholds, 16 cells, 20 the feature, 24 the stride, 28 where the segments end. */
ASSEMBLY void all_mels(const uintptr_t arguments[5] ARGUMENT, const uint16_t *segment ARGUMENT,
                       const uint16_t *weight ARGUMENT, const uint16_t *end ARGUMENT)
{
    __asm__("push {r4, r5, r6, r7, r8, r9, r10, r11, lr}\n"
            "sub sp, #36\n"
            "ldm r0, {r4, r5, r6, r7, r8}\n add r9, sp, #8\n stm r9, {r4, r5, r6, r7, r8}\n str r3, [sp, #28]\n"
            "mov r12, r1\n mov r1, r2\n"
            "ldrh r0, [r12], #2\n add r0, r4, r0, lsl #3\n"
            SEGMENT
            "strd r6, r7, [sp]\n"
            "1:\n" SEGMENT
            "adds r4, r4, r5, lsl " UP "\n lsr r5, r5, " LEFT "\n adc r5, r5, #0\n" /* all powers of the segment */
            "lsl r5, r5, #16\n orr r5, r5, r4, lsr #16\n"
            "ldrd r2, r3, [sp]\n adds r2, r2, r4, lsl #16\n adc r3, r3, r5\n" /* and those that rose below */
            "subs r2, r2, r6\n sbc r3, r3, r7\n"                              /* less those that rise here: energy */
            "strd r6, r7, [sp]\n"
            "ldrd r10, r11, [sp, #12]\n"
            "cmp r3, #32\n"
            "itte hs\n movhs r5, r3\n movhs r6, #59\n movlo r6, #32\n"
            "itt lo\n lsrlo r5, r2, #5\n orrlo r5, r5, r3, lsl #27\n"
            "clz r4, r5\n lsl r5, r5, r4\n sub r6, r6, r4\n ubfx r5, r5, #27, #4\n add r5, r5, r6, lsl #4\n" /* cell */
            "ldrb r4, [r11, r5]\n add r10, r10, r4, lsl #3\n"
            "4:\n" /* while the threshold does not exceed the energy */
            "ldrd r6, r7, [r10], #8\n cmp r2, r6\n sbcs r6, r3, r7\n it hs\n addhs r4, r4, #1\n bhs 4b\n"
            "ldrd r6, r7, [sp, #20]\n sub r4, r4, #128\n strb r4, [r6]\n add r6, r6, r7\n str r6, [sp, #20]\n"
            "ldr r2, [sp, #28]\n cmp r12, r2\n bne 1b\n"
            "add sp, #36\n"
            "pop {r4, r5, r6, r7, r8, r9, r10, r11, pc}\n" ::: "memory");
}

void tinyscene_mels(const void *work, int8_t *features, ptrdiff_t stride)
{
    const uintptr_t arguments[5] = {(uintptr_t)work, (uintptr_t)tinyscene_thresholds, (uintptr_t)tinyscene_cells,
                                    (uintptr_t)features, (uintptr_t)stride};
    all_mels(arguments, tinyscene_segments, tinyscene_mel_weights, &tinyscene_segments[TINYSCENE_MELS + 2]);
}

#endif
