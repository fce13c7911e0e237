/* Steps 5 and 6 for powers of two words, low + high * 2^(32 - POWER_SHIFT), one bin after the other. */
#ifndef TINYSCENE_FRONTEND_MELS_H
#define TINYSCENE_FRONTEND_MELS_H

/* What powers and weights have come to, and the sums of both words of a segment, as they are and by weight. In usual
 * sizes the former fit 32 bits: a lower word is at most 2^(32 - POWER_SHIFT), and POWER_SHIFT, which Parseval's bound
 * on all powers together decides, leaves the upper ones 15 + POWER_SHIFT bits. */
typedef struct {
    const uint32_t *power;
    const uint16_t *weight;
#if defined(TINYSCENE_USUAL_SIZE)
    uint32_t low;
    uint32_t high;
#else
    uint64_t low;
    uint64_t high;
#endif
    uint64_t rising_low;
    uint64_t rising_high;
} sums;

INLINE void add_segment(sums *s, int32_t bins)
{
    const uint32_t *const end = &s->power[2 * (ptrdiff_t)bins];
    s->low = 0;
    s->high = 0;
    s->rising_low = 0;
    s->rising_high = 0;
    for (; s->power < end; s->power += 2) {
        s->low += s->power[0];
        s->high += s->power[1];
        s->rising_low += (uint64_t)s->power[0] * *s->weight;
        s->rising_high += (uint64_t)s->power[1] * *s->weight;
        s->weight++;
    }
}

void tinyscene_mels(const void *work, int8_t *features, ptrdiff_t stride)
{
    enum { UP = 32 - TINYSCENE_POWER_SHIFT };
    const uint16_t *segment = tinyscene_segments;
    sums s = {&((const uint32_t *)work)[2 * (ptrdiff_t)segment[0]], tinyscene_mel_weights, 0, 0, 0, 0};
    uint64_t rising_below = 0; /* of the segment below */
    for (int32_t mel = -1; mel < TINYSCENE_MELS; mel++) {
        add_segment(&s, segment[1] - segment[0]);
        const uint64_t rising = s.rising_low + (s.rising_high << UP);
        if (mel >= 0) {
            const uint64_t whole = s.low + ((uint64_t)s.high << UP);
            *features = tinyscene_feature(rising_below + (whole << 16) - rising);
            features += stride;
        }
        rising_below = rising;
        segment++;
    }
}

#endif
