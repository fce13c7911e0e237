/* Depthwise convolutions for Cortex-M4, M7 and M33.
 *
 * Four channels at a time. Bytes of the two upper rows of a window are paired once, column by column, and then read by
 * each of the windows that cover the column. Weights are 256 times as large, as they come out of their bytes, and so
 * are the biases.
 */
#include "tinyscene_dsp.h"

#if defined(TINYSCENE_DSP)

enum {
    STRIP = 26,      /* columns that are packed at once: the working memory has no more */
    COLUMN = 6,      /* words of a packed column: rows 0 and 1 of each channel, row 2 of channels 0 and 2, of 1 and 3 */
    TABLE_WORDS = 18 /* of four channels: biases, weights, multipliers, shifts */
};
#define HIGHER_BYTES 0xff00ff00u

/* What four channels need, in the order that it is read. */
typedef struct {
    int32_t bias[4];
    int32_t taps[3 * COLUMN];
    struct {
        int32_t multiplier;
        int32_t rounding;
        int32_t shift;
    } scales[4];
} tinyscene_four;

static NOINLINE void prepare(const tinyscene_conv *c, const int32_t *table, tinyscene_four *four)
{
    const uint32_t *w = &((const uint32_t *)table)[4];
    const uint32_t half = *(const int32_t *)c->weights ? 64 : 0; /* of the first rounding */
    uint32_t shifts = w[13];
    for (int32_t i = 0; i < 4; i++) {
        four->bias[i] = table[i];
        four->scales[i].multiplier = (int32_t)w[9 + i];
        four->scales[i].rounding = (int32_t)(((uint32_t)c->rounding << (shifts & 0xff)) + half);
        four->scales[i].shift = shifts & 0xff;
        shifts >>= 8;
        KEEP_ROLLED(i);
    }
    for (int32_t i = 0; i < (3 * COLUMN); i += 2) {
        four->taps[i] = (int32_t)((*w << 8) & HIGHER_BYTES);
        four->taps[i + 1] = (int32_t)(*w & HIGHER_BYTES);
        w++;
    }
}

/* Columns of four channels -> lanes; a, b and d are the rows, n the channels of a pixel. */
ASSEMBLY void pack(const int8_t *a ARGUMENT, const int8_t *b ARGUMENT, const int8_t *d ARGUMENT, int32_t n ARGUMENT,
                   int32_t *lanes ARGUMENT, const int32_t *end ARGUMENT)
{
    __asm("push {r4, r5, r6, r7, r8, r9, r10, r11, lr}\n"
          "ldrd r4, r5, [sp, #36]\n" /* lanes, end */
          "movs r6, #0\n"
          "1:\n"
          "ldr r10, [r0, r6]\n"
          "ldr r11, [r1, r6]\n"
          "ldr r12, [r2, r6]\n"
          "add r6, r6, r3\n"
          "pkhbt r8, r10, r11, lsl #16\n"
          "pkhtb r10, r11, r10, asr #16\n"
          "sxtb16 r7, r8\n sxtb16 r8, r8, ror #8\n"
          "sxtb16 r9, r10\n sxtb16 r10, r10, ror #8\n"
          "sxtb16 r11, r12\n sxtb16 r12, r12, ror #8\n"
          "stmia r4!, {r7, r8, r9, r10, r11, r12}\n"
          "cmp r4, r5\n"
          "bne 1b\n"
          "pop {r4, r5, r6, r7, r8, r9, r10, r11, pc}" : : : CLOBBERED);
}

/* A column of four channels, 12 products: r14 points to lanes, r0 to weights, r1 to r4 are sums. */
#define ADD_COLUMN                                                                                                    \
    "ldmia r14!, {r5, r6, r7, r8}\n"                                                                                  \
    "ldmia r0!, {r9, r10, r11, r12}\n"                                                                                \
    "smlad r1, r5, r9, r1\n smlad r2, r6, r10, r2\n smlad r3, r7, r11, r3\n smlad r4, r8, r12, r4\n"                  \
    "ldmia r14!, {r5, r6}\n"                                                                                          \
    "ldmia r0!, {r9, r10}\n"                                                                                          \
    "smlabb r1, r5, r9, r1\n smlabb r2, r6, r10, r2\n smlatt r3, r5, r9, r3\n smlatt r4, r6, r10, r4\n"

/* Windows of four channels until the lanes' end. On the stack: what four channels need, the way from the end of a window
 * to the beginning of the next, the end, saved registers, then y and n. `rescale` has y in r7. */
#define WINDOWS(rescale)                                                                                              \
    "push {r0, r2, r3, r4, r5, r6, r7, r8, r9, r10, r11, lr}\n"                                                       \
    "mov r14, r1\n"                                                                                                   \
    "1:\n"                                                                                                            \
    "ldr r0, [sp]\n"                                                                                                  \
    "ldmia r0!, {r1, r2, r3, r4}\n" ADD_COLUMN ADD_COLUMN ADD_COLUMN                                                  \
    "ldrd r7, r8, [sp, #48]\n"                                                                                        \
    rescale                                                                                                           \
    "add r7, r7, r8\n"                                                                                                \
    "str r7, [sp, #48]\n"                                                                                             \
    "ldrd r9, r10, [sp, #4]\n"                                                                                        \
    "add r14, r14, r9\n"                                                                                              \
    "cmp r14, r10\n"                                                                                                  \
    "bne 1b\n"                                                                                                        \
    "add sp, sp, #12\n"                                                                                               \
    "pop {r4, r5, r6, r7, r8, r9, r10, r11, pc}"

#define SCALE "ldmia r0!, {r9, r10, r11}\n"
#define CHANNEL_ROUNDED_UP(sum, place)                                                                                \
    SCALE PUT_ROUNDED_UP("smmla", sum, "r9", "r10", "r11", "[r7, #" place "]")
#define CHANNEL(sum, place)                                                                                           \
    SCALE "asr " sum ", " sum ", #7\n" PUT(sum, "r9", "r10", "r11", "r12", "[r7, #" place "]")

ASSEMBLY void windows_rounded_up(const tinyscene_four *four ARGUMENT, const int32_t *lanes ARGUMENT,
                                 int32_t way ARGUMENT, const int32_t *end ARGUMENT, int8_t *y ARGUMENT,
                                 int32_t n ARGUMENT)
{
    __asm(WINDOWS(CHANNEL_ROUNDED_UP("r1", "0") CHANNEL_ROUNDED_UP("r2", "1")
                  CHANNEL_ROUNDED_UP("r3", "2") CHANNEL_ROUNDED_UP("r4", "3"))
          : : : CLOBBERED);
}

ASSEMBLY void windows(const tinyscene_four *four ARGUMENT, const int32_t *lanes ARGUMENT, int32_t way ARGUMENT,
                      const int32_t *end ARGUMENT, int8_t *y ARGUMENT, int32_t n ARGUMENT)
{
    __asm(WINDOWS(CHANNEL("r1", "0") CHANNEL("r2", "1") CHANNEL("r3", "2") CHANNEL("r4", "3")) : : : CLOBBERED);
}

/* A strip: windows that are `apart` columns from each other; `x` is where it begins in the rows. */
static NOINLINE void strip(const tinyscene_conv *c, const int8_t *const rows[3], int32_t x, int32_t pixels,
                           int32_t apart, int8_t *y, tinyscene_four *four)
{
    const int32_t n = c->outputs;
    const int32_t words = COLUMN * apart;
    const int32_t *table = c->weights;
    int32_t *const lanes = (int32_t *)(void *)&four[1];
    int32_t *const end = &lanes[((pixels - 1) * words) + (3 * COLUMN)];
    for (int32_t channel = 0; channel < n; channel += 4) {
        const int32_t first = ((channel + 4) <= n) ? channel : (n - 4); /* the last four may begin among those before */
        const int32_t at = x + first;
        const int32_t way = 4 * (words - (3 * COLUMN));
        pack(&rows[0][at], &rows[1][at], &rows[2][at], n, lanes, end);
        prepare(c, &table[1], four);
        (*(const int32_t *)c->weights ? windows_rounded_up : windows)(four, lanes, way, &lanes[pixels * words],
                                                                        &y[first], n);
        table += TABLE_WORDS;
    }
}

void tinyscene_depthwise(const tinyscene_conv *c, const int8_t *const rows[3], int32_t pixels, int32_t step, int8_t *y,
                         void *scratch)
{
    const int32_t apart = step / c->outputs;
    const int32_t most = (apart < (STRIP - 3)) ? (((STRIP - 3) / apart) + 1) : 1;
    for (int32_t pixel = 0; pixel < pixels; pixel += most) {
        const int32_t count = ((pixel + most) <= pixels) ? most : (pixels - pixel);
        strip(c, rows, pixel * step, count, apart, &y[pixel * c->outputs], scratch);
    }
}

#endif
