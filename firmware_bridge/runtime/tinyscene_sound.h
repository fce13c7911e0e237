/* The window of sound that is listened to: a ring of samples, and the features of its frames. */
#ifndef TINYSCENE_SOUND_H
#define TINYSCENE_SOUND_H

#include <stddef.h>
#include <stdint.h>

#include "tinyscene_layout.h"
#if defined(TINYSCENE_BANDS)
#include "tinyscene_bands.h"
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Whether features are held for later windows, beside the network's input. */
#define TINYSCENE_OVERLAPS ((TINYSCENE_HOP_SAMPLES < TINYSCENE_CLIP_SAMPLES) && !TINYSCENE_BY_TIME)

typedef struct {
    int32_t samples; /* received of this window, and possibly of later ones */
    int32_t start;   /* place in the ring of the window's first sample, which may be overwritten already */
    int32_t frames;  /* computed of this window */
    int32_t pending; /* computed at the starts of later windows */
#if defined(TINYSCENE_BANDS)
    tinyscene_offsets offsets;
#endif
} tinyscene_sound;

void tinyscene_sound_reset(tinyscene_sound *sound, int8_t *arena);

/* Whether every field is in its range: else it must not be used, for places in memory are computed from it. */
int tinyscene_sound_valid(const tinyscene_sound *sound);

int tinyscene_sound_complete(const tinyscene_sound *sound);

/* Take samples, from the first that is not `taken` on, until one frame can be computed: 1. 0 if there are too few samples,
 * or if the window is complete. `pcm` need not be aligned. */
int tinyscene_sound_take(tinyscene_sound *sound, int8_t *arena, const void *pcm, size_t samples, size_t *taken);

/* Compute that frame. The features of this window's next frame go to `features`, TINYSCENE_FEATURES_STRIDE apart. */
void tinyscene_sound_frame(tinyscene_sound *sound, int8_t *arena, int8_t *features);

/* Move on to the next window, keeping the features that both windows share. */
void tinyscene_sound_next(tinyscene_sound *sound, int8_t *arena);

/* Copy samples, from the first that is not `taken` on, into a ring of `size` from `slot` on until none are left or `room`
 * is used up. Byte by byte as far as C knows, for PCM in a packet may begin at an odd address. Returns how many. */
int32_t tinyscene_ring_fill(int16_t *ring, int32_t size, int32_t slot, int32_t room, const uint8_t *pcm, size_t samples,
                            size_t *taken);

#ifdef __cplusplus
}
#endif

#endif
