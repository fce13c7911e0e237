/* The instance: PCM in, features frame by frame, a decision when a window is complete.
 *
 * A ring holds only the samples that later frames still need. A frame is computed when its last sample has arrived. If
 * windows overlap, features are reused from one window to the next, except at the ends of a window: those frames reach
 * beyond it and are reflected there, so they are computed for each window. The frames at the start of later windows are
 * computed before the current window is complete, and are counted by `pending`.
 */
#include "tinyscene.h"

#include <string.h>

#if defined(TINYSCENE_AVERAGE)
#include "tinyscene_decision.h"
#endif
#include "tinyscene_frontend.h"
#include "tinyscene_network.h"

#define MAGIC UINT32_C(0x54534E31)
#define OVERLAPS (TINYSCENE_HOP_SAMPLES < TINYSCENE_CLIP_SAMPLES)
#define HOP_FRAMES (TINYSCENE_HOP_SAMPLES / TINYSCENE_HOP_LENGTH)

struct tinyscene {
    uint32_t magic;
    int32_t samples; /* received of this window, and possibly of later ones */
    int32_t start;   /* place in the ring of the window's first sample, which may be overwritten already */
    int32_t frames;  /* computed of this window */
    int32_t pending; /* computed at the starts of later windows */
    int32_t decided; /* whether `scores` is valid */
    int8_t scores[TINYSCENE_CLASSES];
#if defined(TINYSCENE_AVERAGE)
    tinyscene_rule rule;
#endif
};

typedef char tinyscene_state_fits[sizeof(struct tinyscene) <= TINYSCENE_STATE_BYTES ? 1 : -1];

static int8_t *arena_of(tinyscene *instance)
{
    return (int8_t *)instance + TINYSCENE_STATE_BYTES;
}

/* Where the window of frame f begins, from the start of the clip. */
static int32_t frame_at(int32_t frame)
{
    return frame * TINYSCENE_HOP_LENGTH - TINYSCENE_LEAD;
}

/* How many samples of its clip a frame needs: its own, and those reflected into it. */
static int32_t frame_due(int32_t frame)
{
    const int32_t at = frame_at(frame), end = at + TINYSCENE_WIN_LENGTH;
    const int32_t due = end > 1 - at ? end : 1 - at;
    return due < TINYSCENE_CLIP_SAMPLES ? due : TINYSCENE_CLIP_SAMPLES;
}

/* Frame f of the clip that begins `first` samples after the window does. */
static void make_frame(tinyscene *instance, int32_t first, int32_t frame, int8_t *features, ptrdiff_t stride)
{
    int8_t *arena = arena_of(instance);
    const int32_t start = (instance->start + first) % TINYSCENE_RING_SAMPLES;
    tinyscene_frame((const int16_t *)(void *)(arena + TINYSCENE_PCM), start, frame_at(frame), arena + TINYSCENE_WORK,
                    features, stride);
}

#if TINYSCENE_PENDING > 0

/* How many samples of the window must have arrived for the next pending frame. */
static int32_t pending_due(const tinyscene *instance)
{
    const int32_t window = 1 + instance->pending / TINYSCENE_START_FRAMES;
    return window * TINYSCENE_HOP_SAMPLES + frame_due(instance->pending % TINYSCENE_START_FRAMES);
}

static void make_pending(tinyscene *instance)
{
    const int32_t window = instance->pending / TINYSCENE_START_FRAMES;
    int8_t *features = arena_of(instance) + TINYSCENE_STARTS + instance->pending * TINYSCENE_MELS;
    make_frame(instance, (1 + window) * TINYSCENE_HOP_SAMPLES, instance->pending % TINYSCENE_START_FRAMES, features, 1);
    instance->pending++;
}

#endif

/* Move on to the next window, keeping the features that both windows share. */
static void next_window(tinyscene *instance)
{
    int8_t *arena = arena_of(instance);
    instance->samples -= TINYSCENE_HOP_SAMPLES;
    instance->start = (instance->start + TINYSCENE_HOP_SAMPLES) % TINYSCENE_RING_SAMPLES;
    instance->frames = 0;
#if TINYSCENE_PENDING > 0
    const int32_t shared = TINYSCENE_END_FRAME - HOP_FRAMES;
    const int32_t starts = instance->pending < TINYSCENE_START_FRAMES ? instance->pending : TINYSCENE_START_FRAMES;
    int8_t *row = arena + TINYSCENE_FEATURES, *pending = arena + TINYSCENE_STARTS;
    for (int32_t mel = 0; mel < TINYSCENE_MELS; mel++, row += TINYSCENE_FEATURES_STRIDE) {
        memmove(row, row + HOP_FRAMES, TINYSCENE_FRAMES - HOP_FRAMES);
        for (int32_t frame = 0; frame < starts; frame++)
            row[frame] = pending[frame * TINYSCENE_MELS + mel];
    }
    instance->pending -= starts;
    memmove(pending, pending + starts * TINYSCENE_MELS, (size_t)(instance->pending * TINYSCENE_MELS));
    instance->frames = starts == TINYSCENE_START_FRAMES && shared > starts ? shared : starts;
#endif
#if !OVERLAPS
    tinyscene_network_clear(arena);
#endif
}

size_t tinyscene_memory_bytes(void)
{
    return TINYSCENE_BYTES;
}

static tinyscene_status check(const tinyscene *instance)
{
    if (instance == NULL)
        return TINYSCENE_ERROR_NULL;
    if ((uintptr_t)instance % TINYSCENE_ALIGNMENT != 0)
        return TINYSCENE_ERROR_ALIGNMENT;
    return instance->magic == MAGIC ? TINYSCENE_OK : TINYSCENE_ERROR_INSTANCE;
}

tinyscene_status tinyscene_init(void *memory, size_t bytes, tinyscene **instance)
{
    if (memory == NULL || instance == NULL)
        return TINYSCENE_ERROR_NULL;
    *instance = NULL;
    if ((uintptr_t)memory % TINYSCENE_ALIGNMENT != 0)
        return TINYSCENE_ERROR_ALIGNMENT;
    if (bytes < TINYSCENE_BYTES)
        return TINYSCENE_ERROR_SIZE;
    *instance = memory;
    (*instance)->magic = MAGIC;
    return tinyscene_reset(*instance);
}

tinyscene_status tinyscene_reset(tinyscene *instance)
{
    const tinyscene_status status = check(instance);
    if (status != TINYSCENE_OK)
        return status;
    instance->samples = instance->start = instance->frames = instance->pending = instance->decided = 0;
#if defined(TINYSCENE_AVERAGE)
    tinyscene_rule_reset(&instance->rule);
#endif
#if !OVERLAPS
    tinyscene_network_clear(arena_of(instance));
#endif
    return TINYSCENE_OK;
}

/* Copy samples, from the first that is not `taken` on, into the ring until none are left or `due` of the window are. */
static void append(tinyscene *instance, const int16_t *pcm, size_t samples, size_t *taken, int32_t due)
{
    int16_t *ring = (int16_t *)(void *)(arena_of(instance) + TINYSCENE_PCM);
    while (instance->samples < due && *taken < samples) {
        const int32_t slot = (instance->start + instance->samples) % TINYSCENE_RING_SAMPLES;
        const int32_t missing = due - instance->samples, space = TINYSCENE_RING_SAMPLES - slot;
        size_t stretch = (size_t)(missing < space ? missing : space);
        if (stretch > samples - *taken)
            stretch = samples - *taken;
        memcpy(ring + slot, pcm + *taken, stretch * sizeof *ring);
        instance->samples += (int32_t)stretch;
        *taken += stretch;
    }
}

tinyscene_status tinyscene_push(tinyscene *instance, const int16_t *pcm, size_t samples, size_t *taken)
{
    tinyscene_status status = check(instance);
    if (status == TINYSCENE_OK && (taken == NULL || (pcm == NULL && samples > 0)))
        status = TINYSCENE_ERROR_NULL;
    if (status != TINYSCENE_OK)
        return status;
    int8_t *arena = arena_of(instance);
    *taken = 0;
    for (;;) {
        int32_t due = instance->frames < TINYSCENE_FRAMES ? frame_due(instance->frames) : TINYSCENE_CLIP_SAMPLES;
#if TINYSCENE_PENDING > 0
        if (pending_due(instance) < due)
            due = pending_due(instance);
#endif
        append(instance, pcm, samples, taken, due);
        if (instance->samples < due)
            return TINYSCENE_OK;
#if TINYSCENE_PENDING > 0
        if (pending_due(instance) == due) {
            make_pending(instance);
            continue;
        }
#endif
        if (instance->frames == TINYSCENE_FRAMES)
            return TINYSCENE_READY;
        make_frame(instance, 0, instance->frames, arena + TINYSCENE_FEATURES + instance->frames,
                   TINYSCENE_FEATURES_STRIDE);
        instance->frames++;
    }
}

tinyscene_status tinyscene_run(tinyscene *instance)
{
    const tinyscene_status status = check(instance);
    if (status != TINYSCENE_OK)
        return status;
    if (instance->frames < TINYSCENE_FRAMES || instance->samples < TINYSCENE_CLIP_SAMPLES)
        return TINYSCENE_ERROR_NOT_READY;
    int8_t *arena = arena_of(instance);
#if OVERLAPS
    tinyscene_network_clear(arena);
    for (int32_t mel = 0; mel < TINYSCENE_MELS; mel++)
        memcpy(arena + TINYSCENE_INPUT + mel * TINYSCENE_INPUT_STRIDE,
               arena + TINYSCENE_FEATURES + mel * TINYSCENE_FEATURES_STRIDE, TINYSCENE_FRAMES);
#endif
    tinyscene_network_run(arena);
    memcpy(instance->scores, arena + TINYSCENE_OUTPUT, TINYSCENE_CLASSES);
    instance->decided = 1;
#if defined(TINYSCENE_AVERAGE)
    tinyscene_rule_update(&instance->rule, instance->scores, arena);
#endif
    next_window(instance);
    return TINYSCENE_OK;
}

tinyscene_status tinyscene_scores(const tinyscene *instance, int8_t *scores, size_t count)
{
    tinyscene_status status = check(instance);
    if (status == TINYSCENE_OK && scores == NULL)
        status = TINYSCENE_ERROR_NULL;
    if (status == TINYSCENE_OK && count != TINYSCENE_CLASSES)
        status = TINYSCENE_ERROR_SIZE;
    if (status == TINYSCENE_OK && !instance->decided)
        status = TINYSCENE_ERROR_NOT_READY;
    if (status == TINYSCENE_OK)
        memcpy(scores, instance->scores, TINYSCENE_CLASSES);
    return status;
}

int tinyscene_best(const tinyscene *instance)
{
    const tinyscene_status status = check(instance);
    if (status != TINYSCENE_OK)
        return status;
    if (!instance->decided)
        return TINYSCENE_ERROR_NOT_READY;
    int best = 0;
    for (int index = 1; index < TINYSCENE_CLASSES; index++)
        if (instance->scores[index] > instance->scores[best])
            best = index;
    return best;
}

#if defined(TINYSCENE_AVERAGE)
int tinyscene_decision(const tinyscene *instance)
{
    const tinyscene_status status = check(instance);
    if (status != TINYSCENE_OK)
        return status;
    return instance->decided ? (int)instance->rule.decided : TINYSCENE_ERROR_NOT_READY;
}
#endif
