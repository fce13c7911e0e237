/* Offsets of the mel bands, bit for bit as deploy/frontend/band_offsets.py defines them. */
#include "tinyscene_bands.h"

#include <string.h>

#define MOST 32768 /* frames: with them no value leaves 32 bits */
#define STEPS 256
#define MOST_MISSING (255 * STEPS)
#define FORGOTTEN 8

int tinyscene_offsets_valid(const tinyscene_offsets *offsets)
{
    return ((uint32_t)offsets->frames <= MOST) && ((uint32_t)offsets->heard <= (MOST / 2));
}

void tinyscene_offsets_reset(tinyscene_offsets *offsets)
{
    (void)memset(offsets, 0, sizeof *offsets);
}

void tinyscene_offsets_drop(tinyscene_offsets *offsets)
{
    offsets->heard = 0;
    (void)memset(offsets->sums, 0, sizeof offsets->sums);
}

static int is_silent(const int8_t *features, ptrdiff_t stride)
{
    for (int32_t band = 0; band < TINYSCENE_BANDS; band++) {
        if (features[band * stride] != TINYSCENE_BANDS_SILENCE) {
            return 0;
        }
    }
    return 1;
}

void tinyscene_offsets_frame(tinyscene_offsets *offsets, int8_t *features, ptrdiff_t stride, int hear)
{
    const int heard = hear && (offsets->heard < (MOST / 2)) && !is_silent(features, stride);
    offsets->heard += heard;
    for (int32_t band = 0; band < TINYSCENE_BANDS; band++) {
        int8_t *feature = &features[band * stride];
        const int32_t moved = *feature + offsets->values[band];
        if (heard) {
            offsets->sums[band] += *feature;
        }
        *feature = (int8_t)((moved > 127) ? 127 : (moved < -128) ? -128 : moved);
    }
}

static void forget(tinyscene_offsets *offsets)
{
    offsets->frames -= offsets->frames / FORGOTTEN;
    for (int32_t band = 0; band < TINYSCENE_BANDS; band++) {
        offsets->missing[band] -= offsets->missing[band] / FORGOTTEN;
    }
}

static void update(tinyscene_offsets *offsets)
{
    const int32_t divisor = STEPS * (offsets->frames + TINYSCENE_BANDS_PRIOR);
    for (int32_t band = 0; band < TINYSCENE_BANDS; band++) {
        const int32_t missing = offsets->missing[band];
        const int32_t value = (missing + ((missing < 0) ? -(divisor / 2) : (divisor / 2))) / divisor;
        offsets->values[band] = (int8_t)((value > 127) ? 127 : (value < -127) ? -127 : value);
    }
}

void tinyscene_offsets_learn(tinyscene_offsets *offsets, int32_t decided)
{
    const int16_t *means = &tinyscene_band_means[decided * TINYSCENE_BANDS];
    for (int32_t band = 0; band < TINYSCENE_BANDS; band++) {
        offsets->missing[band] += (offsets->heard * means[band]) - (STEPS * offsets->sums[band]);
    }
    offsets->frames += offsets->heard;
    tinyscene_offsets_drop(offsets);
    while (offsets->frames > TINYSCENE_BANDS_HORIZON) {
        forget(offsets);
    }
    update(offsets);
}

void tinyscene_offsets_save(const tinyscene_offsets *offsets, tinyscene_bands *bands)
{
    bands->version = TINYSCENE_BANDS_VERSION;
    bands->model = TINYSCENE_BANDS_MODEL;
    bands->frames = offsets->frames;
    (void)memcpy(bands->missing, offsets->missing, sizeof bands->missing);
}

tinyscene_status tinyscene_offsets_restore(tinyscene_offsets *offsets, const tinyscene_bands *bands)
{
    if ((bands->version != TINYSCENE_BANDS_VERSION) || (bands->model != TINYSCENE_BANDS_MODEL) ||
        ((uint32_t)bands->frames > MOST)) {
        return TINYSCENE_ERROR_BANDS;
    }
    const int32_t most = MOST_MISSING * bands->frames;
    for (int32_t band = 0; band < TINYSCENE_BANDS; band++) {
        if ((bands->missing[band] > most) || (bands->missing[band] < -most)) {
            return TINYSCENE_ERROR_BANDS;
        }
    }
    offsets->frames = bands->frames;
    (void)memcpy(offsets->missing, bands->missing, sizeof offsets->missing);
    tinyscene_offsets_drop(offsets);
    update(offsets);
    return TINYSCENE_OK;
}
