/* Steps 5 and 6 for powers in rows of four: row k is of bins k, HALF - k, HALF + k and POINTS - k, for k from 0 to LAST_ROW.
 * All sums over bins are differences of running sums, modulo 2^64: so that no loop ends where a segment does, which
 * no processor could foresee. Included by tinyscene_frontend_simd.c.
 */
#ifndef TINYSCENE_FRONTEND_SIMD_MELS_H
#define TINYSCENE_FRONTEND_SIMD_MELS_H

/* Step 6, as in tinyscene_feature, with a choice in place of the first branch, which none could foresee. */
INLINE int8_t feature(uint64_t energy)
{
    const uint64_t word = energy | 16;
    const int32_t place = 63 - __builtin_clzll(word) - 4;
    int32_t count = tinyscene_cells[16 * place + (int32_t)(word >> place) - 16];
    count += tinyscene_thresholds[count] <= energy;
    if (TINYSCENE_CELL_THRESHOLDS > 1)
        while (tinyscene_thresholds[count] <= energy)
            count++;
    return (int8_t)(count - 128);
}

/* The sums of all bins below each segment's first one: of powers, and of powers by their rising weights. */
typedef struct {
    uint64_t whole[TINYSCENE_MELS + 2], rising[TINYSCENE_MELS + 2];
} edges;

/* Rows of sums, and the sums of all quarters of the bins below. */
typedef struct {
    const uint64_t *whole, *rising;
    uint64_t whole_below, rising_below;
} row_sums;

/* The edges in a quarter of the bins, from number `edge` on. In every second quarter rows count down from its last bin:
 * what they hold is missing from the sum that ends there. */
INLINE int32_t quarter_edges(row_sums *s, const int32_t quarter, int32_t edge, edges *out)
{
    const int32_t down = quarter % 2, last = (quarter + 1) * LAST_ROW;
    const uint64_t *whole = s->whole + quarter, *rising = s->rising + quarter;
    if (down) {
        s->whole_below += whole[4 * LAST_ROW - 1] + whole[4 * LAST_ROW + 4];
        s->rising_below += rising[4 * LAST_ROW - 1] + rising[4 * LAST_ROW + 4];
    }
    for (; edge < TINYSCENE_MELS + 2 && tinyscene_segments[edge] <= last; edge++) {
        const int32_t bin = tinyscene_segments[edge];
        const ptrdiff_t at = 4 * (down ? last + 1 - bin : bin + LAST_ROW - last);
        out->whole[edge] = down ? s->whole_below - whole[at] : s->whole_below + whole[at];
        out->rising[edge] = down ? s->rising_below - rising[at] : s->rising_below + rising[at];
    }
    return edge;
}

/* Steps 5 and 6. The powers become sums, and so do `rising`. */
INLINE void mels_of_rows(uint64_t *whole, uint64_t *rising, int8_t *features, ptrdiff_t stride)
{
    row_sums s = {whole, rising, 0, 0};
    edges e;
    running_sums(whole, rising, tinyscene_row_weights, LAST_ROW + 1);
    int32_t edge = quarter_edges(&s, 0, 0, &e);
    edge = quarter_edges(&s, 1, edge, &e);
    edge = quarter_edges(&s, 2, edge, &e);
    quarter_edges(&s, 3, edge, &e);
    for (int32_t mel = 0; mel < TINYSCENE_MELS; mel++) {
        const uint64_t rose = e.rising[mel + 1] - e.rising[mel], rises = e.rising[mel + 2] - e.rising[mel + 1];
        features[mel * stride] = feature(rose + ((e.whole[mel + 2] - e.whole[mel + 1]) << 16) - rises);
    }
}

#endif
