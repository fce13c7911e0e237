/* The kernels for Cortex-M4, M7 and M33, by their DSP instructions: two products of 16 bits at a time.
 *
 * Weights of two channels share a lane of 16 bits, 256 * first + second, so that flash holds no more than bytes. With
 * inputs x, one sum of products with lanes gives 256 * sum(first) + sum(second), one with the lanes' lower bytes gives
 * sum(second); their difference holds sum(first) exactly while that fits 24 bits, which a depth of 516 or less makes
 * sure of. Bytes are loaded four at a time from any address, as these processors do unless told to trap it.
 */
#include "tinyscene_kernels.h"

#if defined(TINYSCENE_DSP)

#include <arm_acle.h>

#define INLINE static inline __attribute__((always_inline))
#define NOINLINE __attribute__((noinline))         /* one copy: flash is short */
#define KEEP_ROLLED(count) __asm("" : "+r"(count)) /* compilers that cannot know how often a loop runs leave it */

INLINE int32_t load4(const int8_t *x)
{
    int32_t word;
    __builtin_memcpy(&word, x, 4);
    return word;
}

/* Bytes 0 and 2 of a word as lanes of 16 bits; bytes 1 and 3. */
INLINE int32_t even_bytes(int32_t word)
{
    return __sxtb16(word);
}

INLINE int32_t odd_bytes(int32_t word)
{
    return __sxtb16((int32_t)((uint32_t)word >> 8 | (uint32_t)word << 24));
}

/* The lower halves of two words in one; the upper halves. */
INLINE int32_t lower_halves(int32_t first, int32_t second)
{
    return (int32_t)(((uint32_t)first & 0xffff) | (uint32_t)second << 16);
}

INLINE int32_t upper_halves(int32_t first, int32_t second)
{
    return (int32_t)((uint32_t)first >> 16 | ((uint32_t)second & 0xffff0000));
}

/* Inputs of a pixel -> lanes, 2 words for each four at `lanes` and 3 further: three pixels are interleaved. */
static NOINLINE void widen(const int8_t *x, int32_t depth, int32_t *lanes)
{
    for (; depth >= 4; depth -= 4, x += 4, lanes += 6) {
        const int32_t word = load4(x);
        lanes[0] = even_bytes(word);
        lanes[3] = odd_bytes(word);
        KEEP_ROLLED(depth);
    }
    if (depth > 0) {
        const int32_t first = x[0], second = depth > 1 ? x[1] : 0, third = depth > 2 ? x[2] : 0;
        lanes[0] = lower_halves(first, third);
        lanes[3] = second & 0xffff;
    }
}

/* What follows is assembly as a whole, for compilers run out of registers here, at any -O. Arguments are r0 to r3, then
 * words on the stack, above the 9 or 10 that are saved there. */
#define ASSEMBLY static __attribute__((naked, noinline))
#define ARGUMENT __attribute__((unused))
#define CLOBBERED "r0", "r1", "r2", "r3", "r12", "memory", "cc" /* gcc looks there for what a call leaves alone */

/* Four inputs of three pixels by two channels, 24 products: r14 points to weights, r0 to lanes; r4 to r6 are the
 * pixels' sums with whole lanes, r7 to r9 those with lower bytes. */
#define STEP_BYTES 64
#define STEP                                                                                                          \
    "ldrd r10, r11, [r14], #8\n"                                                                                      \
    "ldmia r0!, {r1, r2, r3}\n"                                                                                       \
    "sxtb16 r12, r10\n"                                                                                               \
    "smlad r4, r1, r10, r4\n smlad r5, r2, r10, r5\n smlad r6, r3, r10, r6\n"                                         \
    "smlad r7, r1, r12, r7\n smlad r8, r2, r12, r8\n smlad r9, r3, r12, r9\n"                                         \
    "ldmia r0!, {r1, r2, r3}\n"                                                                                       \
    "sxtb16 r12, r11\n"                                                                                               \
    "smlad r4, r1, r11, r4\n smlad r5, r2, r11, r5\n smlad r6, r3, r11, r6\n"                                         \
    "smlad r7, r1, r12, r7\n smlad r8, r2, r12, r8\n smlad r9, r3, r12, r9\n"

/* 256 * sums of three pixels: of one channel, then of the other. A loop of four steps is entered `entry` bytes after
 * its beginning and left when the lanes are at their end. Returns the weights that come next. */
ASSEMBLY const int32_t *sum_products(const int32_t *w ARGUMENT, const int32_t *lanes ARGUMENT,
                                     const int32_t *end ARGUMENT, int32_t entry ARGUMENT, int32_t sums[6] ARGUMENT)
{
    __asm("push {r2, r4, r5, r6, r7, r8, r9, r10, r11, lr}\n"
          "mov r14, r0\n"
          "mov r0, r1\n"
          "movs r4, #0\n movs r5, #0\n movs r6, #0\n movs r7, #0\n mov r8, r4\n mov r9, r4\n"
          "add pc, r3\n" /* counted from after the nop */
          "nop\n"
          "1:\n" STEP STEP STEP STEP
          "ldr r1, [sp]\n"
          "cmp r0, r1\n"
          "bne 1b\n"
          "subs r4, r4, r7\n subs r5, r5, r8\n subs r6, r6, r9\n"
          "lsl r7, r7, #8\n lsl r8, r8, #8\n lsl r9, r9, #8\n"
          "ldr r1, [sp, #40]\n"
          "stmia r1, {r4, r5, r6, r7, r8, r9}\n"
          "mov r0, r14\n"
          "pop {r2, r4, r5, r6, r7, r8, r9, r10, r11, pc}" : : : CLOBBERED);
}

/* A sum -> an output: r8 is twice the bias, r9 multiplier, r10 shift, r11 what rounds and adds the zero point. TFLite
 * rounds away from zero, so negative products are lowered by 1; the sum's sign stands for the product's, for where
 * only the product is 0, lowering it changes nothing. */
#define RESCALE(load, store)                                                                                          \
    "ldr r12, " load "\n"                                                                                             \
    "add r12, r8, r12, asr #7\n"                                                                                      \
    "add r14, r11, r12, asr #31\n"                                                                                    \
    "smmlar r14, r12, r9, r14\n"                                                                                      \
    "asr r14, r14, r10\n"                                                                                             \
    "ssat r14, #8, r14\n"                                                                                             \
    "strb r14, " store "\n"

/* Sums of channels by three pixels -> outputs. The pixels' lie `second` and `third` bytes further; those that there are
 * not lie at 0, too, and are written over. */
ASSEMBLY void put(const int32_t *bias ARGUMENT, const int32_t *multiplier ARGUMENT, const int8_t *shift ARGUMENT,
                  const int32_t *sums ARGUMENT, int8_t *y ARGUMENT, int32_t second ARGUMENT, int32_t third ARGUMENT,
                  int32_t rounding ARGUMENT, const int8_t *last_shift ARGUMENT)
{
    __asm("push {r4, r5, r6, r7, r8, r9, r10, r11, lr}\n"
          "ldrd r4, r5, [sp, #36]\n" /* y, second */
          "ldrd r6, r7, [sp, #44]\n" /* third, rounding */
          "1:\n"
          "ldr r8, [r0], #4\n"
          "ldr r9, [r1], #4\n"
          "ldrsb r10, [r2], #1\n"
          "lsl r8, r8, #1\n"
          "lsl r11, r7, r10\n"
          "asr r11, r11, #1\n"
          RESCALE("[r3, #8]", "[r4, r6]")
          RESCALE("[r3, #4]", "[r4, r5]")
          RESCALE("[r3], #12", "[r4], #1")
          "ldr r12, [sp, #52]\n"
          "cmp r2, r12\n"
          "bne 1b\n"
          "pop {r4, r5, r6, r7, r8, r9, r10, r11, pc}" : : : CLOBBERED);
}

enum { BATCH = 16 }; /* channels that are summed before they are rescaled */

/* One to three pixels. */
static NOINLINE void three_pixels(const tinyscene_conv *c, const int32_t *lanes, int32_t pixels, int8_t *y)
{
    const int32_t steps = (c->depth + 3) / 4, entry = (-steps & 3) * STEP_BYTES;
    const int32_t outputs = c->outputs, second = pixels > 1 ? outputs : 0, third = pixels > 2 ? 2 * outputs : 0;
    const int32_t *w = c->weights, *const end = lanes + 6 * steps;
    int32_t sums[BATCH][3];
    for (int32_t channel = 0; channel < outputs; channel += BATCH) {
        const int32_t last = channel + BATCH < outputs ? channel + BATCH : outputs;
        for (int32_t i = 0; i < last - channel; i += 2)
            w = sum_products(w, lanes, end, entry, sums[i]);
        put(c->bias + channel, c->multiplier + channel, c->shift + channel, sums[0], y + channel, second, third,
            c->rounding, c->shift + last);
    }
}

void tinyscene_pointwise(const tinyscene_conv *c, const int8_t *x, int32_t pixels, int8_t *y, void *scratch)
{
    for (int32_t taken; pixels > 0; pixels -= taken, y += taken * c->outputs) {
        int32_t *lanes = scratch;
        taken = pixels < 3 ? pixels : 3;
        for (int32_t pixel = 0; pixel < taken; pixel++, x += c->depth) {
            widen(x, c->depth, lanes + pixel);
            KEEP_ROLLED(pixel);
        }
        three_pixels(c, lanes, taken, y);
    }
}

/* What a row of four channels needs, in the order that it is read. Weights and biases are doubled, which sums have to
 * be; taps 0 to 7 are lanes of two for each channel, the last one's are channels 0 and 2, then 1 and 3. */
typedef struct {
    int32_t bias[4], taps[18];
    struct {
        int32_t multiplier, rounding, shift;
    } scales[4];
} tinyscene_four;

INLINE int32_t twice(int32_t lanes)
{
    return __sadd16(lanes, lanes);
}

static NOINLINE void prepare(const tinyscene_conv *c, int32_t channel, tinyscene_four *four)
{
    const int32_t n = c->outputs;
    const int8_t *w = (const int8_t *)c->weights + channel;
    int32_t *taps = four->taps;
    for (int32_t pairs = 4; pairs > 0; pairs--, w += 2 * n) {
        const int32_t lower = lower_halves(load4(w), load4(w + n)), upper = upper_halves(load4(w), load4(w + n));
        *taps++ = twice(even_bytes(lower));
        *taps++ = twice(odd_bytes(lower));
        *taps++ = twice(even_bytes(upper));
        *taps++ = twice(odd_bytes(upper));
        KEEP_ROLLED(pairs);
    }
    *taps++ = twice(even_bytes(load4(w)));
    *taps = twice(odd_bytes(load4(w)));
    for (int32_t i = 0; i < 4; i++) {
        const int32_t shift = c->shift[channel + i];
        four->bias[i] = 2 * c->bias[channel + i];
        four->scales[i].multiplier = c->multiplier[channel + i];
        four->scales[i].rounding = (int32_t)((uint32_t)c->rounding << shift) >> 1;
        four->scales[i].shift = shift;
        KEEP_ROLLED(i);
    }
}

/* Two taps of four channels, 8 products: r0 points to weights, r1 to r4 are sums, r8 is the distance of pixels. */
#define TWO_TAPS(first, second)                                                                                       \
    "ldr r11, " first "\n"                                                                                            \
    "ldr r12, " second "\n"                                                                                           \
    "ldrd r9, r10, [r0], #8\n"                                                                                        \
    "pkhbt r14, r11, r12, lsl #16\n"                                                                                  \
    "pkhtb r12, r12, r11, asr #16\n"                                                                                  \
    "sxtb16 r11, r14\n"                                                                                               \
    "smlad r1, r11, r9, r1\n"                                                                                         \
    "sxtb16 r14, r14, ror #8\n"                                                                                       \
    "smlad r2, r14, r10, r2\n"                                                                                        \
    "ldrd r9, r10, [r0], #8\n"                                                                                        \
    "sxtb16 r11, r12\n"                                                                                               \
    "smlad r3, r11, r9, r3\n"                                                                                         \
    "sxtb16 r12, r12, ror #8\n"                                                                                       \
    "smlad r4, r12, r10, r4\n"

/* Twice a sum -> an output. */
#define PUT(sum, place)                                                                                               \
    "ldmia r0!, {r9, r10, r11}\n"                                                                                     \
    "add r12, r10, " sum ", asr #31\n"                                                                                \
    "smmlar r12, " sum ", r9, r12\n"                                                                                  \
    "asr r12, r12, r11\n"                                                                                             \
    "ssat r12, #8, r12\n"                                                                                             \
    "strb r12, [r14, #" place "]\n"

/* A row of four channels, one pixel at least; a, b and d are rows of the input, n the channels of a pixel. */
ASSEMBLY void multiply_four(const tinyscene_four *four ARGUMENT, const int8_t *a ARGUMENT, const int8_t *b ARGUMENT,
                            const int8_t *d ARGUMENT, int32_t n ARGUMENT, int32_t step ARGUMENT,
                            int32_t pixels ARGUMENT, int8_t *y ARGUMENT)
{
    __asm("push {r0, r4, r5, r6, r7, r8, r9, r10, r11, lr}\n"
          "mov r5, r1\n mov r6, r2\n mov r7, r3\n"
          "ldr r8, [sp, #40]\n" /* n */
          "1:\n"
          "ldr r0, [sp]\n"
          "ldmia r0!, {r1, r2, r3, r4}\n"
          TWO_TAPS("[r5]", "[r5, r8]")
          TWO_TAPS("[r5, r8, lsl #1]", "[r6]")
          TWO_TAPS("[r6, r8]", "[r6, r8, lsl #1]")
          TWO_TAPS("[r7]", "[r7, r8]")
          "ldr r12, [r7, r8, lsl #1]\n"
          "ldrd r9, r10, [r0], #8\n"
          "sxtb16 r11, r12\n"
          "sxtb16 r12, r12, ror #8\n"
          "smlabb r1, r11, r9, r1\n smlabb r2, r12, r10, r2\n smlatt r3, r11, r9, r3\n smlatt r4, r12, r10, r4\n"
          "ldr r14, [sp, #52]\n" /* y */
          PUT("r1", "0") PUT("r2", "1") PUT("r3", "2") PUT("r4", "3")
          "add r14, r14, r8\n"
          "str r14, [sp, #52]\n"
          "ldrd r9, r10, [sp, #44]\n" /* step, pixels */
          "add r5, r5, r9\n add r6, r6, r9\n add r7, r7, r9\n"
          "subs r10, r10, #1\n"
          "str r10, [sp, #48]\n"
          "bne 1b\n"
          "pop {r0, r4, r5, r6, r7, r8, r9, r10, r11, pc}" : : : CLOBBERED);
}

static NOINLINE void four_channels(const tinyscene_conv *c, int32_t channel, const int8_t *const rows[3],
                                   int32_t pixels, int32_t step, int8_t *y)
{
    const int8_t *const a = rows[0] + channel, *const b = rows[1] + channel, *const d = rows[2] + channel;
    tinyscene_four four;
    prepare(c, channel, &four);
    multiply_four(&four, a, b, d, c->outputs, step, pixels, y + channel);
}

/* Where there are fewer than four. */
static NOINLINE void one_channel(const tinyscene_conv *c, int32_t channel, const int8_t *const rows[3], int32_t pixels,
                                 int32_t step, int8_t *y)
{
    const int32_t n = c->outputs, shift = c->shift[channel];
    const int32_t rounding = (int32_t)((uint32_t)c->rounding << shift) >> 1;
    for (int32_t at = channel; pixels > 0; pixels--, at += step, y += n) {
        const int8_t *w = (const int8_t *)c->weights + channel;
        int32_t sum = c->bias[channel];
        for (int32_t row = 0; row < 3; row++)
            for (int32_t column = 0; column < 3; column++, w += n) {
                sum += rows[row][at + column * n] * *w;
                KEEP_ROLLED(column);
            }
        const int32_t high = (int32_t)(((int64_t)sum * c->multiplier[channel] + (1 << 30)) >> 31);
        const int32_t value = (high - (high < 0) + rounding) >> shift;
        y[channel] = (int8_t)(value < -128 ? -128 : value > 127 ? 127 : value);
    }
}

void tinyscene_depthwise(const tinyscene_conv *c, const int8_t *const rows[3], int32_t pixels, int32_t step, int8_t *y)
{
    const int32_t n = c->outputs, last = n - 4; /* where the last four begin, of which some may be done already */
    if (last < 0)
        for (int32_t channel = 0; channel < n; channel++)
            one_channel(c, channel, rows, pixels, step, y);
    else
        for (int32_t channel = 0; channel < n; channel += 4)
            four_channels(c, channel < last ? channel : last, rows, pixels, step, y);
}

/* What an addition needs, in the order that it is read. Inputs are taken twice as large, for the instruction that
 * multiplies gives the upper half of a product. What comes of it is doubled, as `half` and `shift` are made for: then a
 * shift of 0 needs no care, for which lowering what is below 0 by 1 would be wrong. */
typedef struct {
    struct {
        int32_t zero_point, multiplier, half, shift;
    } second, sum;
    int32_t out_zero_point;
} tinyscene_addition;

/* Twice a number in r0 -> r14, rescaled. */
#define ADD_RESCALE(multiplier, half, shift)                                                                          \
    "add r14, " half ", r0, asr #31\n"                                                                                \
    "smmulr r0, r0, " multiplier "\n"                                                                                 \
    "add r14, r14, r0, lsl #1\n"                                                                                      \
    "asr r14, r14, " shift "\n"

/* One value at least. */
ASSEMBLY void add_values(const tinyscene_addition *s ARGUMENT, const int8_t *a ARGUMENT, const int8_t *b ARGUMENT,
                         int8_t *y ARGUMENT, const int8_t *end ARGUMENT)
{
    __asm("push {r4, r5, r6, r7, r8, r9, r10, r11, lr}\n"
          "ldmia r0, {r4, r5, r6, r7, r8, r9, r10, r11, r12}\n"
          "1:\n"
          "ldrsb r0, [r2], #1\n"
          "rsb r0, r4, r0, lsl #21\n"
          ADD_RESCALE("r5", "r6", "r7")
          "ldrsb r0, [r1], #1\n"
          "rsb r0, r8, r0, lsl #20\n"
          "add r0, r0, r14, lsl #1\n"
          ADD_RESCALE("r9", "r10", "r11")
          "add r14, r14, r12\n"
          "ssat r14, #8, r14\n"
          "strb r14, [r3], #1\n"
          "ldr r0, [sp, #36]\n"
          "cmp r3, r0\n"
          "bne 1b\n"
          "pop {r4, r5, r6, r7, r8, r9, r10, r11, pc}" : : : CLOBBERED);
}

void tinyscene_add(const tinyscene_sum *s, const int8_t *a, const int8_t *b, int32_t count, int8_t *y)
{
    const tinyscene_addition addition = {
        {s->zero_point[1] * (1 << 21), s->multiplier, 1 << s->shift, s->shift + 1},
        {s->zero_point[0] * (1 << 20), s->out_multiplier, 1 << s->out_shift, s->out_shift + 1},
        s->out_zero_point,
    };
    if (count <= 0)
        return;
    add_values(&addition, a, b, y, y + count);
    if (s->activation_min > -128)
        for (; count > 0; count--, y++) {
            *y = (int8_t)(*y < s->activation_min ? s->activation_min : *y);
            KEEP_ROLLED(count);
        }
}

INLINE int32_t mean(int32_t sum, int32_t count)
{
    return (sum > 0 ? sum + count / 2 : sum - count / 2) / count;
}

/* The last four channels may begin among those that are done already. Sums of bytes fit 16 bits. */
static NOINLINE void pool_four(const int8_t *const *rows, int32_t tall, int32_t wide, int32_t channels, int32_t at,
                               int8_t *y)
{
    int32_t even = 0, odd = 0;
    for (int32_t row = 0; row < tall; row++) {
        const int8_t *x = rows[row] + at;
        for (int32_t left = wide; left > 0; left--, x += channels) {
            const int32_t word = load4(x);
            even = __sxtab16(even, word);
            odd = __sxtab16(odd, (int32_t)((uint32_t)word >> 8 | (uint32_t)word << 24));
            KEEP_ROLLED(left);
        }
    }
    y[0] = (int8_t)mean((int16_t)even, tall * wide);
    y[1] = (int8_t)mean((int16_t)odd, tall * wide);
    y[2] = (int8_t)mean(even >> 16, tall * wide);
    y[3] = (int8_t)mean(odd >> 16, tall * wide);
}

void tinyscene_pool(const int8_t *const *rows, int32_t tall, int32_t wide, int32_t channels, int32_t pixels,
                    int32_t step, int8_t *y)
{
    const int32_t last = channels - 4;
    for (int32_t at = 0; pixels > 0; pixels--, at += step, y += channels)
        for (int32_t channel = 0; channel < channels; channel += 4) {
            const int32_t first = channel < last ? channel : last;
            pool_four(rows, tall, wide, channels, at + first, y + first);
        }
}

#endif
