/* Offsets of the mel bands, learned while listening; deploy/frontend/band_offsets.py defines them. Only in libraries that
 * were generated with them. */
#ifndef TINYSCENE_BANDS_H
#define TINYSCENE_BANDS_H

#include <stddef.h>
#include <stdint.h>

#include "tinyscene.h"
#include "tinyscene_layout.h"

typedef struct {
    int32_t frames;                   /* that were learned from, as far as they are not forgotten */
    int32_t missing[TINYSCENE_BANDS]; /* in them, in steps of 1/256 */
    int32_t heard;                    /* frames since the last decision */
    int32_t sums[TINYSCENE_BANDS];    /* of them */
    int8_t values[TINYSCENE_BANDS];   /* the offsets in force */
} tinyscene_offsets;

extern const int16_t tinyscene_band_means[TINYSCENE_CLASSES * TINYSCENE_BANDS]; /* generated */

/* Whether what is counted is in its range. */
int tinyscene_offsets_valid(const tinyscene_offsets *offsets);

/* Nothing learned; or only what was heard since the last decision forgotten. */
void tinyscene_offsets_reset(tinyscene_offsets *offsets);
void tinyscene_offsets_drop(tinyscene_offsets *offsets);

/* Add the offsets to a frame, whose features are `stride` apart, and hear it if it is to be heard. */
void tinyscene_offsets_frame(tinyscene_offsets *offsets, int8_t *features, ptrdiff_t stride, int hear);

/* Take in the frames since the last decision, which was for this class. */
void tinyscene_offsets_learn(tinyscene_offsets *offsets, int32_t decided);

void tinyscene_offsets_save(const tinyscene_offsets *offsets, tinyscene_bands *bands);
tinyscene_status tinyscene_offsets_restore(tinyscene_offsets *offsets, const tinyscene_bands *bands);

#endif
