/* The stages of the front end, each equal to those of deploy/frontend/fixed_point.py bit for bit. One file for each kind
 * of processor (tinyscene_frontend_plain.c and so on) has tinyscene_powers and tinyscene_mels; tinyscene_frontend.c has
 * the rest. The layout of the powers in `work` is the kind's own.
 */
#ifndef TINYSCENE_FRONTEND_STAGES_H
#define TINYSCENE_FRONTEND_STAGES_H

#include "tinyscene_frontend.h"
#include "tinyscene_processor.h"

/* The file that is compiled. The faster ones leave unusual sizes to the plain one: sums of powers must fit their 32-bit
 * words (see mels there), and vectors need several points. */
#if TINYSCENE_N_FFT >= 128 && TINYSCENE_N_FFT <= 8192 && TINYSCENE_POWER_SHIFT >= 13 && TINYSCENE_POWER_SHIFT <= 17
#define TINYSCENE_USUAL_SIZE
#endif
#if defined(TINYSCENE_DSP) && defined(TINYSCENE_USUAL_SIZE) && defined(__GNUC__)
#define TINYSCENE_FRONTEND_DSP
#elif defined(TINYSCENE_SIMD) && defined(TINYSCENE_ROTATIONS) /* which are generated for the sizes that it supports */
#define TINYSCENE_FRONTEND_SIMD
#elif defined(TINYSCENE_MVE) && defined(TINYSCENE_USUAL_SIZE) && defined(__GNUC__)
#define TINYSCENE_FRONTEND_MVE
#else
#define TINYSCENE_FRONTEND_PLAIN
#endif

#define STEP static NOINLINE
#define TEXT(number) TEXT_OF(number) /* in assembly */
#define TEXT_OF(number) #number

#ifdef __cplusplus
extern "C" {
#endif

/* Where the samples of a frame's window are: the arguments of tinyscene_frame. */
typedef struct {
    const int16_t *ring;
    int32_t start;
    int32_t at;
} tinyscene_pcm;

/* Steps 1 to 4: samples -> the power of every bin, in `work` of TINYSCENE_WORK_BYTES. */
TINYSCENE_CODE void tinyscene_powers(const tinyscene_pcm *pcm, void *work);

/* Steps 5 and 6: powers in `work` -> the feature of mel band m at features[m * stride]. */
TINYSCENE_CODE void tinyscene_mels(const void *work, int8_t *features, ptrdiff_t stride);

/* `count` samples, the first of them `first` samples after the window's beginning -> `copy`. Those before the clip or
 * after its end are reflected. */
TINYSCENE_CODE void tinyscene_copy_samples(const tinyscene_pcm *pcm, int32_t first, int32_t count, int16_t *copy);

/* The same where they lie in the ring, or else copied. */
static inline const int16_t *tinyscene_samples(const tinyscene_pcm *pcm, int32_t first, int32_t count, int16_t *copy)
{
    const int32_t k = pcm->at + first;
    if ((k >= 0) && (k <= (TINYSCENE_CLIP_SAMPLES - count))) {
        const int32_t slot = (pcm->start + k) % TINYSCENE_RING_SAMPLES;
        if (slot <= (TINYSCENE_RING_SAMPLES - count)) {
            return &pcm->ring[slot];
        }
    }
    tinyscene_copy_samples(pcm, first, count, copy);
    return copy;
}

#if defined(TINYSCENE_FRONTEND_SIMD)
/* Generated, in tinyscene_tables_simd.c. */
extern const int16_t tinyscene_window_high[TINYSCENE_N_FFT];
extern const int16_t tinyscene_window_low[TINYSCENE_N_FFT];
extern const int32_t tinyscene_rotations[TINYSCENE_ROTATIONS];
extern const uint16_t tinyscene_row_weights[TINYSCENE_N_FFT / 2 + 4];
#endif

/* Step 6: the feature of a mel band's energy, which is below 2^63. */
TINYSCENE_CODE int8_t tinyscene_feature(uint64_t energy);

#ifdef __cplusplus
}
#endif

#endif
