/* The instance: PCM in, a decision when a window is complete. */
#include "tinyscene.h"

#include <string.h>

#if defined(TINYSCENE_AVERAGE)
#include "tinyscene_decision.h"
#endif
#include "tinyscene_network.h"
#include "tinyscene_sound.h"

#define MAGIC UINT32_C(0x54534E31)

struct tinyscene {
    uint32_t magic;
    int32_t decided; /* whether `scores` is valid */
    int32_t running; /* whether the network runs, whose memory is the features' and the front end's */
    tinyscene_sound sound;
    tinyscene_progress progress; /* of that run */
#if TINYSCENE_BACKLOG_SAMPLES > 0
    int32_t oldest;  /* place of the first sample in the backlog */
    int32_t waiting; /* how many there are */
#endif
    int8_t scores[TINYSCENE_CLASSES];
#if defined(TINYSCENE_AVERAGE)
    tinyscene_rule rule;
#endif
};

typedef char tinyscene_state_fits[sizeof(struct tinyscene) <= TINYSCENE_STATE_BYTES ? 1 : -1];

static int8_t *arena_of(tinyscene *instance)
{
    return &((int8_t *)instance)[TINYSCENE_STATE_BYTES];
}

size_t tinyscene_memory_bytes(void)
{
    return TINYSCENE_BYTES;
}

/* Whether no place outside of the memory can be computed from it. Any progress of a run is harmless. */
static int is_valid(const tinyscene *instance)
{
#if TINYSCENE_BACKLOG_SAMPLES > 0
    if (((uint32_t)instance->oldest >= TINYSCENE_BACKLOG_SAMPLES) ||
        ((uint32_t)instance->waiting > TINYSCENE_BACKLOG_SAMPLES)) {
        return 0;
    }
#endif
#if defined(TINYSCENE_AVERAGE)
    if (!tinyscene_rule_valid(&instance->rule)) {
        return 0;
    }
#endif
    return tinyscene_sound_valid(&instance->sound);
}

static tinyscene_status check(const tinyscene *instance)
{
    if (instance == NULL) {
        return TINYSCENE_ERROR_NULL;
    }
    if (((uintptr_t)instance % TINYSCENE_ALIGNMENT) != 0) {
        return TINYSCENE_ERROR_ALIGNMENT;
    }
    return ((instance->magic == MAGIC) && is_valid(instance)) ? TINYSCENE_OK : TINYSCENE_ERROR_INSTANCE;
}

static void begin_window(tinyscene *instance)
{
#if TINYSCENE_BY_TIME
    tinyscene_network_begin(arena_of(instance), &instance->progress);
#else
    (void)instance;
#endif
}

static void start(tinyscene *instance)
{
    instance->magic = MAGIC;
    instance->decided = 0;
    instance->running = 0;
#if TINYSCENE_BACKLOG_SAMPLES > 0
    instance->oldest = 0;
    instance->waiting = 0;
#endif
#if defined(TINYSCENE_AVERAGE)
    tinyscene_rule_reset(&instance->rule);
#endif
    tinyscene_sound_reset(&instance->sound, arena_of(instance));
    begin_window(instance);
}

tinyscene_status tinyscene_init(void *memory, size_t bytes, tinyscene **instance)
{
    if ((memory == NULL) || (instance == NULL)) {
        return TINYSCENE_ERROR_NULL;
    }
    *instance = NULL;
    if (((uintptr_t)memory % TINYSCENE_ALIGNMENT) != 0) {
        return TINYSCENE_ERROR_ALIGNMENT;
    }
    if (bytes < TINYSCENE_BYTES) {
        return TINYSCENE_ERROR_SIZE;
    }
    *instance = memory;
#if defined(TINYSCENE_BANDS)
    tinyscene_offsets_reset(&(*instance)->sound.offsets);
#endif
    start(*instance);
    return TINYSCENE_OK;
}

tinyscene_status tinyscene_reset(tinyscene *instance)
{
    const tinyscene_status status = check(instance);
    if (status == TINYSCENE_OK) {
        start(instance);
    }
    return status;
}

/* Take samples, from the first that is not `taken` on, until one frame can be computed, and compute it: 1. 0 if there are
 * too few, or if the window is complete. By time, so does the network all that follows from this frame. */
static int advance(tinyscene *instance, const void *pcm, size_t samples, size_t *taken)
{
    int8_t *arena = arena_of(instance);
    const size_t before = *taken;
    const int due = tinyscene_sound_take(&instance->sound, arena, pcm, samples, taken);
#if TINYSCENE_BY_TIME
    /* what follows from the last frame is spread over the samples until the next */
    const int32_t share = (int32_t)(((*taken - before) * TINYSCENE_PASS_UNITS) / TINYSCENE_HOP_LENGTH);
    if (share > 0) {
        (void)tinyscene_network_step(arena, &instance->progress, share);
    }
#else
    (void)before;
#endif
    if (!due) {
        return 0;
    }
#if TINYSCENE_BY_TIME
    (void)tinyscene_network_step(arena, &instance->progress, INT32_MAX);
    if (!tinyscene_network_waits(&instance->progress)) { /* the instance was written over */
        instance->magic = 0;
        return 0;
    }
    int8_t *features = tinyscene_network_row(arena, &instance->progress);
    tinyscene_sound_frame(&instance->sound, arena, features);
    tinyscene_network_arrived(&instance->progress, features);
#else
    tinyscene_sound_frame(&instance->sound, arena, &arena[TINYSCENE_FEATURES + instance->sound.frames]);
#endif
    return 1;
}

#if TINYSCENE_BACKLOG_SAMPLES > 0

static int16_t *backlog_of(tinyscene *instance)
{
    return (int16_t *)(void *)&arena_of(instance)[TINYSCENE_ARENA_BYTES];
}

static int is_behind(const tinyscene *instance)
{
    return instance->waiting > 0;
}

/* Add samples, from the first that is not `taken` on, to the backlog until none are left or it is full. */
static void store(tinyscene *instance, const uint8_t *pcm, size_t samples, size_t *taken)
{
    instance->waiting += tinyscene_ring_fill(backlog_of(instance), TINYSCENE_BACKLOG_SAMPLES,
                                             (instance->oldest + instance->waiting) % TINYSCENE_BACKLOG_SAMPLES,
                                             TINYSCENE_BACKLOG_SAMPLES - instance->waiting, pcm, samples, taken);
}

/* Compute a frame of the samples in the backlog, if there are enough. */
static int catch_up(tinyscene *instance)
{
    int made;
    do {
        const int32_t space = TINYSCENE_BACKLOG_SAMPLES - instance->oldest;
        const int32_t stretch = (instance->waiting < space) ? instance->waiting : space;
        size_t taken = 0;
        made = advance(instance, &backlog_of(instance)[instance->oldest], (size_t)stretch, &taken);
        instance->oldest = (instance->oldest + (int32_t)taken) % TINYSCENE_BACKLOG_SAMPLES;
        instance->waiting -= (int32_t)taken;
    } while (!made && (instance->waiting > 0) && !tinyscene_sound_complete(&instance->sound) &&
             (instance->magic == MAGIC));
    return made;
}

#else

static int is_behind(const tinyscene *instance)
{
    (void)instance;
    return 0;
}

static void store(tinyscene *instance, const uint8_t *pcm, size_t samples, size_t *taken)
{
    (void)instance;
    (void)pcm;
    (void)samples;
    (void)taken;
}

static int catch_up(tinyscene *instance)
{
    (void)instance;
    return 0;
}

#endif

tinyscene_status tinyscene_push(tinyscene *instance, const int16_t *pcm, size_t samples, size_t *taken)
{
    tinyscene_status status = check(instance);
    if ((status == TINYSCENE_OK) && ((taken == NULL) || ((pcm == NULL) && (samples > 0)))) {
        status = TINYSCENE_ERROR_NULL;
    }
    if (status != TINYSCENE_OK) {
        return status;
    }
    *taken = 0;
    if (!instance->running && !is_behind(instance)) {
        while (advance(instance, pcm, samples, taken)) {
            continue;
        }
        if (!tinyscene_sound_complete(&instance->sound)) {
            return TINYSCENE_OK;
        }
    }
    store(instance, (const uint8_t *)pcm, samples, taken);
    if (!instance->running && tinyscene_sound_complete(&instance->sound)) {
        return TINYSCENE_READY;
    }
    return (*taken < samples) ? TINYSCENE_FULL : TINYSCENE_MORE;
}

/* Hand the complete window to the network. */
static void begin_run(tinyscene *instance)
{
#if !TINYSCENE_BY_TIME
    int8_t *arena = arena_of(instance);
#if TINYSCENE_OVERLAPS
    tinyscene_network_clear(arena);
    for (int32_t mel = 0; mel < TINYSCENE_MELS; mel++) {
        memcpy(&arena[TINYSCENE_INPUT + (mel * TINYSCENE_INPUT_STRIDE)],
               &arena[TINYSCENE_FEATURES + (mel * TINYSCENE_FEATURES_STRIDE)], TINYSCENE_FRAMES);
    }
#endif
    tinyscene_network_begin(arena, &instance->progress);
#endif
    instance->running = 1;
}

static void end_run(tinyscene *instance)
{
    int8_t *arena = arena_of(instance);
#if TINYSCENE_STREAMS
    tinyscene_network_output(arena, instance->scores);
#else
    memcpy(instance->scores, &arena[TINYSCENE_OUTPUT], TINYSCENE_CLASSES);
#endif
    instance->decided = 1;
    instance->running = 0;
#if defined(TINYSCENE_AVERAGE)
    tinyscene_rule_update(&instance->rule, instance->scores, arena);
#endif
#if defined(TINYSCENE_BANDS)
    tinyscene_offsets_learn(&instance->sound.offsets, tinyscene_best(instance));
#endif
    tinyscene_sound_next(&instance->sound, arena);
#if !TINYSCENE_STREAMS
    begin_window(instance);
#endif
}

tinyscene_status tinyscene_step(tinyscene *instance, int32_t budget)
{
    const tinyscene_status status = check(instance);
    if (status != TINYSCENE_OK) {
        return status;
    }
    if (!instance->running) {
        while (catch_up(instance)) {
            if (budget < (2 * TINYSCENE_FRAME_UNITS)) {
                return TINYSCENE_MORE;
            }
            budget -= TINYSCENE_FRAME_UNITS;
        }
        if (!tinyscene_sound_complete(&instance->sound)) {
            return TINYSCENE_ERROR_NOT_READY;
        }
        begin_run(instance);
    }
    if (tinyscene_network_step(arena_of(instance), &instance->progress, budget) == TINYSCENE_NETWORK_MORE) {
        return TINYSCENE_MORE;
    }
    end_run(instance);
    return TINYSCENE_OK;
}

tinyscene_status tinyscene_run(tinyscene *instance)
{
    tinyscene_status status;
    do {
        status = tinyscene_step(instance, INT32_MAX);
    } while (status == TINYSCENE_MORE);
    return status;
}

tinyscene_status tinyscene_scores(const tinyscene *instance, int8_t *scores, size_t count)
{
    tinyscene_status status = check(instance);
    if ((status == TINYSCENE_OK) && (scores == NULL)) {
        status = TINYSCENE_ERROR_NULL;
    }
    if ((status == TINYSCENE_OK) && (count != TINYSCENE_CLASSES)) {
        status = TINYSCENE_ERROR_SIZE;
    }
    if ((status == TINYSCENE_OK) && !instance->decided) {
        status = TINYSCENE_ERROR_NOT_READY;
    }
    if (status == TINYSCENE_OK) {
        memcpy(scores, instance->scores, TINYSCENE_CLASSES);
    }
    return status;
}

int tinyscene_best(const tinyscene *instance)
{
    const tinyscene_status status = check(instance);
    if (status != TINYSCENE_OK) {
        return status;
    }
    if (!instance->decided) {
        return TINYSCENE_ERROR_NOT_READY;
    }
    int best = 0;
    for (int index = 1; index < TINYSCENE_CLASSES; index++) {
        if (instance->scores[index] > instance->scores[best]) {
            best = index;
        }
    }
    return best;
}

#if defined(TINYSCENE_AVERAGE)
int tinyscene_decision(const tinyscene *instance)
{
    const tinyscene_status status = check(instance);
    if (status != TINYSCENE_OK) {
        return status;
    }
    return instance->decided ? (int)instance->rule.decided : TINYSCENE_ERROR_NOT_READY;
}
#endif

#if defined(TINYSCENE_BANDS)
tinyscene_status tinyscene_bands_save(const tinyscene *instance, tinyscene_bands *bands)
{
    tinyscene_status status = check(instance);
    if ((status == TINYSCENE_OK) && (bands == NULL)) {
        status = TINYSCENE_ERROR_NULL;
    }
    if (status == TINYSCENE_OK) {
        tinyscene_offsets_save(&instance->sound.offsets, bands);
    }
    return status;
}

tinyscene_status tinyscene_bands_restore(tinyscene *instance, const tinyscene_bands *bands)
{
    const tinyscene_status status = check(instance);
    if (status != TINYSCENE_OK) {
        return status;
    }
    return (bands == NULL) ? TINYSCENE_ERROR_NULL : tinyscene_offsets_restore(&instance->sound.offsets, bands);
}
#endif
