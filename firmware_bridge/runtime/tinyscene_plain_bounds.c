/* Kernels that compare or copy: largest values, clamps and crops. Linkers drop them from libraries whose networks have
 * none. */
#include <string.h>

#include "tinyscene_kernels.h"

TINYSCENE_CODE static void take_larger(const int8_t *x, int32_t channels, int8_t *y)
{
    for (int32_t channel = 0; channel < channels; channel++) {
        y[channel] = (x[channel] > y[channel]) ? x[channel] : y[channel];
    }
}

/* Every window has a value that is no padding: deploy/graph/graph.py rejects other graphs. */
void tinyscene_max_pool(const tinyscene_windows *w, const int8_t *const *rows, int32_t row, int8_t *y)
{
    const int32_t above = w->top - (row * w->down);
    const int32_t below = above + w->height;
    /* The window's rows, and below its columns, that are on the activation. */
    const int32_t first_row = (above > 0) ? above : 0;
    const int32_t last_row = (below < w->tall) ? below : w->tall;
    for (int32_t pixel = 0; pixel < w->pixels; pixel++) {
        const int32_t at = pixel * w->across;
        const int32_t before = w->left - at;
        const int32_t after = before + w->width;
        const int32_t first = (before > 0) ? before : 0;
        const int32_t last = (after < w->wide) ? after : w->wide;
        tinyscene_fill(y, -128, w->channels);
        for (int32_t i = first_row; i < last_row; i++) {
            for (int32_t j = first; j < last; j++) {
                take_larger(&rows[i][(at + j) * w->channels], w->channels, y);
            }
        }
        y += w->channels;
    }
}

void tinyscene_clamp(int8_t *y, int32_t count, int32_t least, int32_t most)
{
    for (int32_t i = 0; i < count; i++) {
        y[i] = (int8_t)((y[i] < least) ? least : ((y[i] > most) ? most : y[i]));
    }
}

void tinyscene_copy(const int8_t *x, int32_t count, int8_t *y)
{
    memcpy(y, x, (size_t)count);
}
