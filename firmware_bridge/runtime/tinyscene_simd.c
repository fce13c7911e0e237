/* Addition, pooling and gathering for hosts. */
#include "tinyscene_kernels.h"

#if defined(TINYSCENE_SIMD)

#include "tinyscene_simd.h"

/* What a sum's values are computed with. */
typedef struct {
    vector first, second, out_zero_point, activation_min; /* what the shifted inputs are added to; of the output */
    scaling scale, out_scale;
} addition;

/* Up to BLOCK values. All sums stay below 2^29: deploy/graph/graph.py admits no others. */
INLINE void add_block(const addition *s, const int8_t *a, const int8_t *b, int32_t count, int8_t *y, const int clamped)
{
    vector sums[PARTS];
#pragma GCC unroll 4 /* or clang puts the sums into memory to loop over them */
    for (int32_t part = 0; part < PARTS; part++) {
        const int32_t from = part * LANES, left = count - from, some = left > 0 ? left : 0, i = some ? from : 0;
        const vector halved = add(shift_left(load_int8(a + i, some), 19), s->first);
        const vector scaled = requantize(add(shift_left(load_int8(b + i, some), 20), s->second), &s->scale, 1);
        sums[part] = requantize(add(halved, scaled), &s->out_scale, clamped);
        if (clamped)
            sums[part] = larger(add(sums[part], s->out_zero_point), s->activation_min);
    }
    store_block(y, sums, count);
}

/* Not `clamped`: by the stores alone, at -128. */
INLINE void add_values(const tinyscene_sum *s, const int8_t *a, const int8_t *b, int32_t count, int8_t *y,
                       const int clamped)
{
    const addition each = {
        splat(BIAS - s->zero_point[0] * (1 << 19)),
        splat(BIAS - s->zero_point[1] * (1 << 20)),
        splat(s->out_zero_point),
        splat(s->activation_min),
        make_scaling(splat(s->multiplier), splat(s->shift), 1, 1),
        make_scaling(splat(s->out_multiplier), splat(s->out_shift), clamped ? 1 : 2 * -128 + 1, clamped),
    };
    int32_t at = 0;
    for (; at <= count - BLOCK; at += BLOCK)
        add_block(&each, a + at, b + at, BLOCK, y + at, clamped);
    if (at < count)
        add_block(&each, a + at, b + at, count - at, y + at, clamped);
}

#if defined(TINYSCENE_FLOATS)
INLINE void add_floats(const tinyscene_sum *s, const int8_t *a, const int8_t *b, int32_t count, int8_t *y)
{
    const vector factor[2] = {splat(s->factor[0]), splat(s->factor[1])};
    vector sums[PARTS];
    for (int32_t part = 0; part < PARTS; part++) {
        const int32_t from = part * LANES, left = count - from, some = left > 0 ? left : 0, i = some ? from : 0;
        sums[part] = weighted_sum(load_int8(a + i, some), load_int8(b + i, some), factor, splat(s->addend));
    }
    store_block(y, sums, count);
}
#endif

void tinyscene_add(const tinyscene_sum *s, const int8_t *a, const int8_t *b, int32_t count, int8_t *y)
{
#if defined(TINYSCENE_FLOATS)
    if (s->factor[0]) {
        int32_t at = 0;
        for (; at <= count - BLOCK; at += BLOCK)
            add_floats(s, a + at, b + at, BLOCK, y + at);
        if (at < count)
            add_floats(s, a + at, b + at, count - at, y + at);
        return;
    }
#endif
    if (s->out_zero_point == -128 && s->out_shift <= 22) /* then the zero point can be added with what rounds */
        add_values(s, a, b, count, y, 0);
    else
        add_values(s, a, b, count, y, 1);
}

/* Windows of neighbouring pixels. */
typedef struct {
    const int8_t *const *rows;
    int32_t tall, wide, channels, pixels, step;
} windows;

/* The means of up to BLOCK channels, from `block` on. */
INLINE void pool_block(const windows *w, const scaling *scale, int32_t block, int32_t count, int8_t *y)
{
    int32_t at = block;
    for (int32_t pixel = 0; pixel < w->pixels; pixel++, at += w->step) {
        vector sums[PARTS];
        for (int32_t part = 0; part < PARTS; part++)
            sums[part] = splat(0);
        for (int32_t row = 0; row < w->tall; row++)
            for (int32_t column = 0; column < w->wide; column++)
                for (int32_t part = 0; part < PARTS; part++)
                    if (part * LANES < count)
                        sums[part] = add(sums[part],
                                         load_int8(w->rows[row] + at + column * w->channels + part * LANES,
                                                   count - part * LANES));
        for (int32_t part = 0; part < PARTS; part++)
            sums[part] = requantize(add(shift_left(sums[part], 3), splat(BIAS)), scale, 1);
        store_block(y + block + pixel * w->channels, sums, count);
    }
}

/* Sums are taken eightfold and multiplied by 1 / (8 * count): that is exact for ties, and keeps all others further away
 * from them than it can be wrong. Windows have fewer than 2^20 values. */
void tinyscene_pool(const int8_t *const *rows, int32_t tall, int32_t wide, int32_t channels, int32_t pixels,
                    int32_t step, int8_t *y)
{
    const windows all = {rows, tall, wide, channels, pixels, step};
    const int64_t count = (int64_t)tall * wide;
    int32_t shift = 2, block = 0;
    while (INT64_C(1) << shift < 4 * count)
        shift++;
    const scaling scale = make_scaling(splat((int32_t)(((INT64_C(1) << (31 + shift)) + 4 * count) / (8 * count))),
                                       splat(shift), 1, 1);
    for (; block <= channels - BLOCK; block += BLOCK)
        pool_block(&all, &scale, block, BLOCK, y);
    if (block < channels)
        pool_block(&all, &scale, block, channels - block, y);
}

/* In pieces of a fixed size, for memcpy is a call where the size is not known; the last overlaps the one before. */
INLINE void copy(int8_t *to, const int8_t *from, int32_t bytes)
{
    int32_t at = 0;
    if (bytes >= 16) {
        for (; at < bytes - 16; at += 16)
            memcpy(to + at, from + at, 16);
        memcpy(to + bytes - 16, from + bytes - 16, 16);
    } else if (bytes >= 4) {
        for (; at < bytes - 4; at += 4)
            memcpy(to + at, from + at, 4);
        memcpy(to + bytes - 4, from + bytes - 4, 4);
    } else
        for (; at < bytes; at++)
            to[at] = from[at];
}

/* Of narrow windows 4 bytes are copied, but of the last one: what is too much is there, and is overwritten. */
void tinyscene_gather(const int8_t *const *rows, int32_t tall, int32_t bytes, int32_t first, int32_t pixels,
                      int32_t step, int8_t *patches)
{
    const int32_t more = 4 - bytes;
    int32_t at = first * step;
    if (more > 0 && more <= step && more <= tall * bytes)
        for (; pixels > 1; pixels--, at += step)
            for (int32_t row = 0; row < tall; row++, patches += bytes)
                memcpy(patches, rows[row] + at, 4);
    for (; pixels > 0; pixels--, at += step)
        for (int32_t row = 0; row < tall; row++, patches += bytes)
            copy(patches, rows[row] + at, bytes);
}

#endif
