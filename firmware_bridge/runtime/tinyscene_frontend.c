/* The fixed-point log-mel front end: what all kinds of processor share. */
#include "tinyscene_frontend.h"

#include "tinyscene_frontend_stages.h"

#if defined(__ARM_FEATURE_CLZ) || defined(__x86_64__) || defined(__aarch64__) || defined(__riscv_zbb)
#define LEADING_ZEROS(word) ((int32_t)__builtin_clz(word)) /* one instruction */
#else
#define LEADING_ZEROS(word) leading_zeros(word)

TINYSCENE_CODE static int32_t leading_zeros(uint32_t word)
{
    int32_t zeros = 0;
    for (int32_t step = 16; step > 0; step /= 2) {
        if ((word >> (32 - step)) == 0) {
            word <<= step;
            zeros += step;
        }
    }
    return zeros;
}
#endif

int8_t tinyscene_feature(uint64_t energy)
{
    /* The position of the leading bit and the four bits after it tell the cell, whose lowest energy has the feature
     * that the table holds. Energies too small for four more bits share the first cell. */
    const uint32_t upper = (uint32_t)(energy >> 32);
    const uint32_t middle = (uint32_t)(energy >> 5);
    int32_t cell = 0;
    if ((upper >= 32) || (middle != 0)) {
        const uint32_t word = (upper >= 32) ? upper : middle;
        const int32_t zeros = LEADING_ZEROS(word);
        const int32_t place = ((upper >= 32) ? 63 : 36) - zeros;
        cell = (16 * (place - 4)) + (int32_t)(((word << zeros) >> 27) & 15);
    }
    int32_t feature = tinyscene_cells[cell];
    while (tinyscene_thresholds[feature] <= energy) { /* the last one is above every energy */
        feature++;
    }
    return (int8_t)(feature - 128);
}

void tinyscene_copy_samples(const tinyscene_pcm *pcm, int32_t first, int32_t count, int16_t *copy)
{
    int32_t k = pcm->at + first;
    for (; count > 0; count--) {
        const int32_t after = (k < 0) ? -k : k;
        const int32_t sample = (after < TINYSCENE_CLIP_SAMPLES) ? after : ((2 * (TINYSCENE_CLIP_SAMPLES - 1)) - after);
        *copy++ = pcm->ring[(pcm->start + sample) % TINYSCENE_RING_SAMPLES];
        k++;
    }
}

void tinyscene_frame(const int16_t *ring, int32_t start, int32_t at, void *work, int8_t *features, ptrdiff_t stride)
{
    const tinyscene_pcm pcm = {ring, start, at};
    tinyscene_powers(&pcm, work);
    tinyscene_mels(work, features, stride);
}
