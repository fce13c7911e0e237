/* The stages of the front end, each equal to those of deploy/frontend/fixed_point.py bit for bit. One file for each kind
 * of processor (tinyscene_frontend_plain.c and so on) has tinyscene_powers and tinyscene_mels; tinyscene_frontend.c has
 * the rest. The layout of the powers in `work` is the kind's own.
 */
#ifndef TINYSCENE_FRONTEND_STAGES_H
#define TINYSCENE_FRONTEND_STAGES_H

#include "tinyscene_frontend.h"
#include "tinyscene_processor.h"

/* The file that is compiled. */
#define TINYSCENE_FRONTEND_PLAIN

#ifdef __cplusplus
extern "C" {
#endif

/* Where the samples of a frame's window are: the arguments of tinyscene_frame. */
typedef struct {
    const int16_t *ring;
    int32_t start, at;
} tinyscene_pcm;

/* Steps 1 to 4: samples -> the power of every bin, in `work` of TINYSCENE_WORK_BYTES. */
void tinyscene_powers(const tinyscene_pcm *pcm, void *work);

/* Steps 5 and 6: powers in `work` -> the feature of mel band m at features[m * stride]. */
void tinyscene_mels(const void *work, int8_t *features, ptrdiff_t stride);

/* Step 6: the feature of a mel band's energy, which is below 2^63. */
int8_t tinyscene_feature(uint64_t energy);

#ifdef __cplusplus
}
#endif

#endif
