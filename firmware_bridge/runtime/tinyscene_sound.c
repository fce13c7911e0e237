/* A ring holds only the samples that later frames still need. A frame is computed when its last sample has arrived. If
 * windows overlap, features are reused from one window to the next, except at the ends of a window: those frames reach
 * beyond it and are reflected there, so they are computed for each window. The frames at the start of later windows are
 * computed before the current window is complete, and are counted by `pending`.
 */
#include "tinyscene_sound.h"

#include <string.h>

#include "tinyscene_frontend.h"
#include "tinyscene_network.h"

#define HOP_FRAMES (TINYSCENE_HOP_SAMPLES / TINYSCENE_HOP_LENGTH)

/* Where the window of frame f begins, from the start of the clip. */
static int32_t frame_at(int32_t frame)
{
    return (frame * TINYSCENE_HOP_LENGTH) - TINYSCENE_LEAD;
}

/* How many samples of its clip a frame needs: its own, and those reflected into it. */
static int32_t frame_due(int32_t frame)
{
    const int32_t at = frame_at(frame);
    const int32_t end = at + TINYSCENE_WIN_LENGTH;
    const int32_t due = (end > (1 - at)) ? end : (1 - at);
    return (due < TINYSCENE_WINDOW_SAMPLES) ? due : TINYSCENE_WINDOW_SAMPLES;
}

/* Frame f of the clip that begins `first` samples after the window does. */
static void make_frame(tinyscene_sound *sound, int8_t *arena, int32_t first, int32_t frame, int8_t *features,
                       ptrdiff_t stride)
{
    int32_t at = frame_at(frame);
#if defined(TINYSCENE_BANDS) /* once, and not where it is reflected, as all frames of later windows are */
    const int hear = (frame >= TINYSCENE_START_FRAMES) && (TINYSCENE_STREAMS || (frame < TINYSCENE_END_FRAME));
#endif
#if TINYSCENE_START_FRAMES == 0 /* no frame is reflected, and where the clip begins is the same to it */
    first += at;
    at = 0;
#endif
    const int32_t start = (sound->start + first) % TINYSCENE_RING_SAMPLES;
    tinyscene_frame((const int16_t *)(void *)&arena[TINYSCENE_PCM], start, at, &arena[TINYSCENE_WORK], features, stride);
#if defined(TINYSCENE_BANDS)
    tinyscene_offsets_frame(&sound->offsets, features, stride, hear);
#endif
}

#if TINYSCENE_PENDING > 0

/* How many samples of the window must have arrived for the next pending frame. */
static int32_t pending_due(const tinyscene_sound *sound)
{
    const int32_t later = 1 + (sound->pending / TINYSCENE_START_FRAMES);
    return (later * TINYSCENE_HOP_SAMPLES) + frame_due(sound->pending % TINYSCENE_START_FRAMES);
}

static void make_pending(tinyscene_sound *sound, int8_t *arena)
{
    const int32_t later = 1 + (sound->pending / TINYSCENE_START_FRAMES);
    int8_t *features = &arena[TINYSCENE_STARTS + (sound->pending * TINYSCENE_MELS)];
    make_frame(sound, arena, later * TINYSCENE_HOP_SAMPLES, sound->pending % TINYSCENE_START_FRAMES, features, 1);
    sound->pending++;
}

#endif

void tinyscene_sound_reset(tinyscene_sound *sound, int8_t *arena)
{
    sound->samples = TINYSCENE_LEAD_FRAMES * TINYSCENE_HOP_LENGTH;
    sound->start = 0;
    sound->frames = TINYSCENE_LEAD_FRAMES;
    sound->pending = 0;
    (void)arena;
#if defined(TINYSCENE_BANDS)
    tinyscene_offsets_drop(&sound->offsets);
#endif
#if !TINYSCENE_OVERLAPS && !TINYSCENE_BY_TIME
    tinyscene_network_clear(arena);
#endif
}

int tinyscene_sound_valid(const tinyscene_sound *sound)
{
#if defined(TINYSCENE_BANDS)
    if (!tinyscene_offsets_valid(&sound->offsets)) {
        return 0;
    }
#endif
    return ((uint32_t)sound->samples <= TINYSCENE_WINDOW_SAMPLES) &&
           ((uint32_t)sound->start < TINYSCENE_RING_SAMPLES) &&
           ((uint32_t)sound->frames <= TINYSCENE_WINDOW_FRAMES) && ((uint32_t)sound->pending <= TINYSCENE_PENDING);
}

int tinyscene_sound_complete(const tinyscene_sound *sound)
{
    return (sound->frames >= TINYSCENE_WINDOW_FRAMES) && (sound->samples >= TINYSCENE_WINDOW_SAMPLES);
}

int32_t tinyscene_ring_fill(int16_t *ring, int32_t size, int32_t slot, int32_t room, const uint8_t *pcm, size_t samples,
                            size_t *taken)
{
    int32_t filled = 0;
    while ((filled < room) && (*taken < samples)) {
        const int32_t place = (slot + filled) % size;
        const int32_t missing = room - filled;
        const int32_t space = size - place;
        size_t stretch = (size_t)((missing < space) ? missing : space);
        if (stretch > (samples - *taken)) {
            stretch = samples - *taken;
        }
        memcpy(&ring[place], &pcm[*taken * sizeof *ring], stretch * sizeof *ring);
        filled += (int32_t)stretch;
        *taken += stretch;
    }
    return filled;
}

/* How many samples of the window must have arrived for its next frame, or for its end. */
static int32_t own_due(const tinyscene_sound *sound)
{
    return (sound->frames < TINYSCENE_WINDOW_FRAMES) ? frame_due(sound->frames) : TINYSCENE_WINDOW_SAMPLES;
}

int tinyscene_sound_take(tinyscene_sound *sound, int8_t *arena, const void *pcm, size_t samples, size_t *taken)
{
    int32_t due = own_due(sound);
    int frame = sound->frames < TINYSCENE_WINDOW_FRAMES;
#if TINYSCENE_PENDING > 0
    if (pending_due(sound) <= due) {
        due = pending_due(sound);
        frame = 1;
    }
#endif
    if (sound->samples < due) {
        sound->samples += tinyscene_ring_fill((int16_t *)(void *)&arena[TINYSCENE_PCM], TINYSCENE_RING_SAMPLES,
                                              (sound->start + sound->samples) % TINYSCENE_RING_SAMPLES,
                                              due - sound->samples, pcm, samples, taken);
    }
    return frame && (sound->samples >= due);
}

void tinyscene_sound_frame(tinyscene_sound *sound, int8_t *arena, int8_t *features)
{
#if TINYSCENE_PENDING > 0
    if (pending_due(sound) <= own_due(sound)) {
        make_pending(sound, arena);
        return;
    }
#endif
    make_frame(sound, arena, 0, sound->frames, features, TINYSCENE_FEATURES_STRIDE);
    sound->frames++;
}

void tinyscene_sound_next(tinyscene_sound *sound, int8_t *arena)
{
    sound->samples -= TINYSCENE_HOP_SAMPLES;
    sound->start = (sound->start + TINYSCENE_HOP_SAMPLES) % TINYSCENE_RING_SAMPLES;
    sound->frames = TINYSCENE_STREAMS ? (TINYSCENE_WINDOW_FRAMES - HOP_FRAMES) : 0;
    (void)arena;
#if TINYSCENE_OVERLAPS && (TINYSCENE_WINDOW_FRAMES > HOP_FRAMES)
    const int32_t shared = TINYSCENE_END_FRAME - HOP_FRAMES;
    const int32_t starts = (sound->pending < TINYSCENE_START_FRAMES) ? sound->pending : TINYSCENE_START_FRAMES;
    for (int32_t mel = 0; mel < TINYSCENE_MELS; mel++) {
        int8_t *row = &arena[TINYSCENE_FEATURES + (mel * TINYSCENE_FEATURES_STRIDE)];
        memmove(row, &row[HOP_FRAMES], TINYSCENE_WINDOW_FRAMES - HOP_FRAMES);
#if TINYSCENE_PENDING > 0
        for (int32_t frame = 0; frame < starts; frame++) {
            row[frame] = arena[TINYSCENE_STARTS + (frame * TINYSCENE_MELS) + mel];
        }
#endif
    }
    sound->pending -= starts;
#if TINYSCENE_PENDING > 0
    int8_t *pending = &arena[TINYSCENE_STARTS];
    memmove(pending, &pending[starts * TINYSCENE_MELS], (size_t)(sound->pending * TINYSCENE_MELS));
#endif
    sound->frames = ((starts == TINYSCENE_START_FRAMES) && (shared > starts)) ? shared : starts;
#elif !TINYSCENE_OVERLAPS && !TINYSCENE_BY_TIME
    tinyscene_network_clear(arena);
#endif
}
