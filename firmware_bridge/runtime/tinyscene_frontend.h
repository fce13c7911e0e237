/* The fixed-point log-mel front end: int16 PCM in, int8 features out, integers only, no FPU.
 *
 * deploy/frontend/fixed_point.py defines the result bit for bit. Sizes are constants of tinyscene_layout.h, tables are
 * in tinyscene_tables.c; both are generated.
 */
#ifndef TINYSCENE_FRONTEND_H
#define TINYSCENE_FRONTEND_H

#include <stddef.h>
#include <stdint.h>

#include "tinyscene_layout.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Bytes of `work`, aligned to 8. */
#if defined(TINYSCENE_ROTATIONS) /* a library for hosts: two buffers of the transform, and the samples */
#define TINYSCENE_WORK_BYTES ((10 * TINYSCENE_N_FFT) + 320)
#else
#define TINYSCENE_WORK_BYTES (4 * TINYSCENE_N_FFT)
#endif

/* One frame. The clip's sample k, 0 <= k < TINYSCENE_CLIP_SAMPLES, lies at ring[(start + k) % TINYSCENE_RING_SAMPLES],
 * 0 <= start < TINYSCENE_RING_SAMPLES. The frame's window begins at sample `at` of the clip; samples before the
 * clip or after its end are reflected. Every sample that is read after reflection must be in the ring.
 * The feature of mel band m is written to features[m * stride]. */
void tinyscene_frame(const int16_t *ring, int32_t start, int32_t at, void *work, int8_t *features, ptrdiff_t stride);

/* Generated. The transform begins with blocks of TINYSCENE_RADIX points, n + j * N / RADIX of all N points for each n:
 * so a frame is cut into RADIX segments. If the window fills only the middle 6 of 8, only those have weights. By
 * symmetry, half of the window and parts of the circle suffice: see the files of the stages for the order of each. */
#define TINYSCENE_SEGMENT (TINYSCENE_N_FFT / TINYSCENE_RADIX) /* samples */
#define TINYSCENE_BLOCKS (TINYSCENE_SEGMENT / 2)
extern const int32_t tinyscene_window[]; /* Q31 */
extern const uint16_t tinyscene_order[TINYSCENE_BLOCKS];      /* where the block of each n is */
extern const int32_t tinyscene_twiddles[]; /* Q31, for radix 4 */
extern const int32_t tinyscene_cosine[(TINYSCENE_N_FFT / 4) + 1]; /* Q31, of 2 pi j / N_FFT */
extern const uint16_t tinyscene_segments[TINYSCENE_MELS + 2]; /* first bin of each mel segment */
extern const uint16_t tinyscene_mel_weights[TINYSCENE_MEL_BINS]; /* Q16, from the first bin of the first segment */
extern const uint64_t tinyscene_thresholds[256];              /* least energies; the last is never reached */
extern const uint8_t tinyscene_cells[944];                    /* of the logarithm: how many thresholds are below each */

#ifdef __cplusplus
}
#endif

#endif
