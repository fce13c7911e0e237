/* Depthwise convolutions in plain C99. */
#include "tinyscene_plain.h"

#if defined(TINYSCENE_PLAIN)

/* A column of a window by one of weights. */
INLINE int32_t column(const int8_t *a, const int8_t *b, const int8_t *d, int32_t u, int32_t v, int32_t w)
{
    return (*a * u) + (*b * v) + (*d * w);
}

/* The weights of a channel's window. */
typedef struct {
    int32_t w[9];
} tinyscene_window;

INLINE tinyscene_window window_of(const tinyscene_conv *c, int32_t channel)
{
    const int8_t *w = &((const int8_t *)c->weights)[channel];
    const int32_t n = c->outputs;
    const tinyscene_window window = {
        {w[0], w[n], w[2 * n], w[3 * n], w[4 * n], w[5 * n], w[6 * n], w[7 * n], w[8 * n]}};
    return window;
}

/* A channel at a time. Windows that are a pixel apart share columns: each is read once, for three outputs. */
TINYSCENE_CODE static void near_windows(const tinyscene_conv *c, const int8_t *const rows[3], int32_t pixels, int8_t *y)
{
    const int32_t n = c->outputs;
    for (int32_t channel = 0; channel < n; channel++) {
        const tinyscene_scale scale = scale_of(c, channel);
        const tinyscene_window window = window_of(c, channel);
        const int32_t *const w = window.w;
        const int8_t *a = &rows[0][channel];
        const int8_t *b = &rows[1][channel];
        const int8_t *d = &rows[2][channel];
        int8_t *to = &y[channel];
        int8_t *const end = &to[pixels * n];
        int32_t sum = scale.bias + column(a, b, d, w[0], w[3], w[6]) + column(&a[n], &b[n], &d[n], w[1], w[4], w[7]);
        int32_t next = scale.bias + column(&a[n], &b[n], &d[n], w[0], w[3], w[6]);
        for (; to != end; to += n) {
            a += n;
            b += n;
            d += n;
            const int32_t i = a[n];
            const int32_t j = b[n];
            const int32_t k = d[n];
            *to = requantize(scale, sum + (i * w[2]) + (j * w[5]) + (k * w[8]));
            sum = next + (i * w[1]) + (j * w[4]) + (k * w[7]);
            next = scale.bias + (i * w[0]) + (j * w[3]) + (k * w[6]);
        }
    }
}

TINYSCENE_CODE static void far_windows(const tinyscene_conv *c, const int8_t *const rows[3], int32_t pixels, int32_t step, int8_t *y)
{
    const int32_t n = c->outputs;
    for (int32_t channel = 0; channel < n; channel++) {
        const tinyscene_scale scale = scale_of(c, channel);
        const tinyscene_window window = window_of(c, channel);
        const int32_t *const w = window.w;
        const int8_t *a = &rows[0][channel];
        const int8_t *b = &rows[1][channel];
        const int8_t *d = &rows[2][channel];
        int8_t *to = &y[channel];
        int8_t *const end = &to[pixels * n];
        for (; to != end; to += n) {
            *to = requantize(scale, scale.bias + column(a, b, d, w[0], w[3], w[6]) +
                                        column(&a[n], &b[n], &d[n], w[1], w[4], w[7]) +
                                        column(&a[2 * n], &b[2 * n], &d[2 * n], w[2], w[5], w[8]));
            a += step;
            b += step;
            d += step;
        }
    }
}

void tinyscene_depthwise(const tinyscene_conv *c, const int8_t *const rows[3], int32_t pixels, int32_t step, int8_t *y,
                         void *scratch)
{
    (void)scratch;
    if (step == c->outputs) {
        near_windows(c, rows, pixels, y);
    } else {
        far_windows(c, rows, pixels, step, y);
    }
}

#endif
