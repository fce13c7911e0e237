/* Bytes as calls of the public interface of the C library, in any order and with wrong arguments among them.
 *
 * Each status is compared with a model of what tinyscene.h promises. A second instance is given the samples that were
 * taken in other portions, and runs at once: its scores must be the same. All memory is allocated at its exact size, so that
 * the sanitizers see every access beyond it.
 */
#define _POSIX_C_SOURCE 200112L
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tinyscene.h"

#define HOP TINYSCENE_HOP_SAMPLES
#define CLIP TINYSCENE_CLIP_SAMPLES
#define REQUIRE(condition)                                               \
    do {                                                                 \
        if (!(condition)) {                                              \
            fprintf(stderr, "line %d: %s is not so\n", __LINE__, #condition); \
            abort();                                                     \
        }                                                                \
    } while (0)

#if defined(TINYSCENE_UNKNOWN)
enum { LABELS = TINYSCENE_CLASSES + 1 };
#else
enum { LABELS = TINYSCENE_CLASSES };
#endif

enum { BACKLOG = TINYSCENE_BACKLOG_SAMPLES, SMALLEST_PORTION = 1, MOST_RUNS = 4, SMALL_BUDGET = 200 };

typedef struct {
    tinyscene *scene, *twin;
    size_t window, waiting; /* samples that were taken */
    int running;
    int mixed; /* some of the backlog is in the window: a step caught up with a part of it, and may have begun a run */
    int decided, runs;
    int16_t *given; /* to the scene, and not yet to its twin */
    size_t count, twin_window, portion;
    uint32_t noise;
} state;

static unsigned long long calls;

static void report(void)
{
    fprintf(stderr, "stat::calls: %llu\n", calls);
}

static tinyscene_status counted(tinyscene_status status)
{
    calls++;
    return status;
}

static tinyscene *make(void)
{
    tinyscene *made = NULL;
    void *memory = NULL;
    REQUIRE(posix_memalign(&memory, TINYSCENE_ALIGNMENT, TINYSCENE_BYTES) == 0);
    REQUIRE(tinyscene_memory_bytes() == TINYSCENE_BYTES);
    memset(memory, 0xA5, TINYSCENE_BYTES);
    REQUIRE(counted(tinyscene_init(memory, TINYSCENE_BYTES, &made)) == TINYSCENE_OK && made == memory);
    return made;
}

static void append_sound(state *at, size_t samples, int quiet)
{
    at->given = realloc(at->given, (at->count + samples + 1) * sizeof *at->given);
    for (size_t index = 0; index < samples; index++) {
        at->noise = at->noise * 1664525u + 1013904223u;
        at->given[at->count + index] = (int16_t)(quiet ? at->noise >> 30 : at->noise >> 16);
    }
}

static void push_anything(state *at, const int16_t *pcm, size_t samples)
{
    const size_t before = at->window + at->waiting;
    size_t taken = SIZE_MAX, room = at->running || at->waiting ? 0 : CLIP - at->window;
    const tinyscene_status status = counted(tinyscene_push(at->scene, pcm, samples, &taken));
    REQUIRE(taken <= samples);
    if (at->mixed) {
        REQUIRE(status >= TINYSCENE_OK && (status == TINYSCENE_READY || (status == TINYSCENE_FULL) == (taken < samples)));
        REQUIRE(before + taken <= CLIP + BACKLOG);
        at->waiting += taken;
        return;
    }
    const size_t first = samples < room ? samples : room;
    const size_t left = samples - first, free = BACKLOG - at->waiting;
    at->window += first;
    if (at->window == CLIP || at->running || at->waiting) {
        REQUIRE(taken == first + (left < free ? left : free));
        at->waiting += taken - first;
        if (!at->running && at->window == CLIP)
            REQUIRE(status == TINYSCENE_READY);
        else
            REQUIRE(status == (taken < samples ? TINYSCENE_FULL : TINYSCENE_MORE));
    } else {
        REQUIRE(taken == samples && status == TINYSCENE_OK);
    }
}

static void push(state *at, size_t samples, size_t portion, int quiet)
{
    append_sound(at, samples, quiet);
    const size_t before = at->window + at->waiting;
    int16_t *pcm = malloc(samples * sizeof *pcm); /* of its exact size */
    memcpy(pcm, at->given + at->count, samples * sizeof *pcm);
    push_anything(at, pcm, samples);
    free(pcm);
    at->count += at->window + at->waiting - before;
    at->portion = portion;
}

/* Give the twin what the scene's window held, and run it at once. */
static void follow(state *at)
{
    const size_t missing = CLIP - at->twin_window;
    tinyscene_status status = TINYSCENE_OK;
    REQUIRE(at->count >= missing);
    for (size_t begin = 0, taken; begin < missing; begin += taken) {
        const size_t left = missing - begin, size = left < at->portion ? left : at->portion;
        status = counted(tinyscene_push(at->twin, at->given + begin, size, &taken));
        REQUIRE(taken == size);
    }
    REQUIRE(status == TINYSCENE_READY);
    at->count -= missing;
    memmove(at->given, at->given + missing, at->count * sizeof *at->given);
    REQUIRE(counted(tinyscene_run(at->twin)) == TINYSCENE_OK);
    at->twin_window = CLIP - HOP;
}

static void compare(const state *at)
{
    int8_t scores[2][TINYSCENE_CLASSES];
    const tinyscene_status expected = at->decided ? TINYSCENE_OK : TINYSCENE_ERROR_NOT_READY;
    REQUIRE(counted(tinyscene_scores(at->scene, scores[0], TINYSCENE_CLASSES)) == expected);
    REQUIRE(counted(tinyscene_scores(at->twin, scores[1], TINYSCENE_CLASSES)) == expected);
    const int best = tinyscene_best(at->scene);
    calls++;
#if defined(TINYSCENE_AVERAGE)
    const int decision = tinyscene_decision(at->scene);
    REQUIRE(decision == tinyscene_decision(at->twin));
    REQUIRE(at->decided ? decision >= 0 && decision < LABELS : decision == TINYSCENE_ERROR_NOT_READY);
#endif
    if (!at->decided) {
        REQUIRE(best == TINYSCENE_ERROR_NOT_READY);
        return;
    }
    REQUIRE(memcmp(scores[0], scores[1], sizeof scores[0]) == 0);
    REQUIRE(best >= 0 && best < TINYSCENE_CLASSES && tinyscene_label((size_t)best) != NULL);
    for (int index = 0; index < TINYSCENE_CLASSES; index++)
        REQUIRE(scores[0][index] < scores[0][best] + (index >= best));
}

/* A part of the work; all of it without a budget. */
static void work(state *at, const int32_t *budget)
{
    const size_t all = at->window + at->waiting;
    if (all >= CLIP && at->runs == MOST_RUNS) /* which take most of the time */
        return;
    const tinyscene_status status =
        counted(budget ? tinyscene_step(at->scene, *budget) : tinyscene_run(at->scene));
    if (status == TINYSCENE_MORE) {
        REQUIRE(budget && all);
        at->mixed |= !at->running && at->window < CLIP;
        at->running |= !at->mixed;
        return;
    }
    at->mixed = 0;
    if (all < CLIP) {
        REQUIRE(status == TINYSCENE_ERROR_NOT_READY);
        at->window = all;
        at->waiting = 0;
        return;
    }
    REQUIRE(status == TINYSCENE_OK);
    at->window = CLIP - HOP;
    at->waiting = all - CLIP;
    at->running = 0;
    at->decided = 1;
    at->runs++;
    follow(at);
}

static void misuse(state *at, uint8_t kind, size_t size)
{
    int16_t sample = 0;
    int8_t score = 0;
    size_t taken = 0;
    tinyscene *other = at->scene;
    uint8_t *memory = (uint8_t *)at->scene;
    TINYSCENE_ALIGNED uint8_t none[64];
    memset(none, kind, sizeof none);
    calls++;
    switch (kind % 16) {
    case 0: REQUIRE(tinyscene_push(NULL, &sample, 1, &taken) == TINYSCENE_ERROR_NULL); break;
    case 1: REQUIRE(tinyscene_push(at->scene, NULL, size + 1, &taken) == TINYSCENE_ERROR_NULL); break;
    case 2: REQUIRE(tinyscene_push(at->scene, &sample, 1, NULL) == TINYSCENE_ERROR_NULL); break;
    case 3: REQUIRE(tinyscene_run(NULL) == TINYSCENE_ERROR_NULL); break;
    case 4:
        REQUIRE(tinyscene_step(NULL, 1) == TINYSCENE_ERROR_NULL);
        REQUIRE(tinyscene_reset(NULL) == TINYSCENE_ERROR_NULL);
        break;
    case 5: REQUIRE(tinyscene_scores(at->scene, NULL, TINYSCENE_CLASSES) == TINYSCENE_ERROR_NULL); break;
    case 6:
        if (size != TINYSCENE_CLASSES)
            REQUIRE(tinyscene_scores(at->scene, &score, size) == TINYSCENE_ERROR_SIZE);
        break;
    case 7:
        REQUIRE(tinyscene_best(NULL) == TINYSCENE_ERROR_NULL);
#if defined(TINYSCENE_AVERAGE)
        REQUIRE(tinyscene_decision(NULL) == TINYSCENE_ERROR_NULL);
#endif
        break;
    case 8: REQUIRE(tinyscene_label(LABELS + size) == NULL && tinyscene_label(SIZE_MAX) == NULL); break;
    case 9: REQUIRE(tinyscene_init(NULL, size, &other) == TINYSCENE_ERROR_NULL); break;
    case 10: REQUIRE(tinyscene_init(none, TINYSCENE_BYTES, NULL) == TINYSCENE_ERROR_NULL); break;
    case 11:
        REQUIRE(tinyscene_init(none, size % TINYSCENE_BYTES, &other) == TINYSCENE_ERROR_SIZE && other == NULL);
        break;
    case 12: /* not aligned, for every function that takes an instance */
        other = (tinyscene *)(void *)(memory + 1 + size % (TINYSCENE_ALIGNMENT - 1));
        REQUIRE(tinyscene_push(other, &sample, 1, &taken) == TINYSCENE_ERROR_ALIGNMENT);
        REQUIRE(tinyscene_run(other) == TINYSCENE_ERROR_ALIGNMENT);
        REQUIRE(tinyscene_scores(other, &score, 1) == TINYSCENE_ERROR_ALIGNMENT);
        break;
    case 13: /* memory that tinyscene_init has not seen */
        other = (tinyscene *)(void *)none;
        REQUIRE(tinyscene_push(other, &sample, 1, &taken) == TINYSCENE_ERROR_INSTANCE);
        REQUIRE(tinyscene_run(other) == TINYSCENE_ERROR_INSTANCE);
        REQUIRE(tinyscene_reset(other) == TINYSCENE_ERROR_INSTANCE);
        REQUIRE(tinyscene_best(other) == TINYSCENE_ERROR_INSTANCE);
        break;
    case 14: REQUIRE(tinyscene_init(memory + 1, TINYSCENE_BYTES, &other) == TINYSCENE_ERROR_ALIGNMENT); break;
    default: push_anything(at, NULL, 0); /* nothing is taken */
    }
}

static void reset(state *at)
{
    REQUIRE(counted(tinyscene_reset(at->scene)) == TINYSCENE_OK);
    REQUIRE(counted(tinyscene_reset(at->twin)) == TINYSCENE_OK);
    at->window = at->waiting = at->count = at->twin_window = 0;
    at->running = at->mixed = at->decided = 0;
}

#if defined(TINYSCENE_BANDS)

enum { MOST_FRAMES = 32768, MOST_MISSING = 65280 };

/* A state of these bytes, of the same model as `own` unless the first says otherwise, and often one that may be restored. */
static tinyscene_bands state_of(const tinyscene_bands *own, const uint8_t *data, size_t size)
{
    tinyscene_bands bands;
    memset(&bands, 0, sizeof bands);
    for (size_t place = 0; size && place < sizeof bands; place++)
        ((uint8_t *)&bands)[place] = data[place % size];
    const uint8_t kind = size ? data[0] : 0;
    if (kind % 8)
        bands.version = own->version;
    if (kind % 8 > 1)
        bands.model = own->model;
    if (kind % 8 > 2)
        bands.frames %= MOST_FRAMES + 2;
    for (int band = 0; kind % 8 > 3 && band < TINYSCENE_BANDS; band++)
        bands.missing[band] %= bands.frames > 0 ? MOST_MISSING * (bands.frames % (MOST_FRAMES + 1)) + 1 : 1;
    return bands;
}

static int may_be_restored(const tinyscene_bands *own, const tinyscene_bands *bands)
{
    int may = bands->version == own->version && bands->model == own->model &&
              bands->frames >= 0 && bands->frames <= MOST_FRAMES;
    for (int band = 0; band < TINYSCENE_BANDS; band++)
        may = may && llabs((long long)bands->missing[band]) <= (long long)MOST_MISSING * bands->frames;
    return may;
}

/* Both go on from a state of anybody's, or from what they have learned. */
static void restore(state *at, const uint8_t *data, size_t size)
{
    tinyscene_bands before, after;
    REQUIRE(counted(tinyscene_bands_save(at->scene, &before)) == TINYSCENE_OK && may_be_restored(&before, &before));
    const tinyscene_bands bands = state_of(&before, data, size);
    const tinyscene_status expected = may_be_restored(&before, &bands) ? TINYSCENE_OK : TINYSCENE_ERROR_BANDS;
    REQUIRE(counted(tinyscene_bands_restore(at->scene, &bands)) == expected);
    REQUIRE(counted(tinyscene_bands_restore(at->twin, &bands)) == expected);
    REQUIRE(counted(tinyscene_bands_save(at->scene, &after)) == TINYSCENE_OK);
    REQUIRE(memcmp(&after, expected == TINYSCENE_OK ? &bands : &before, sizeof after) == 0);
    REQUIRE(tinyscene_bands_save(NULL, &after) == TINYSCENE_ERROR_NULL);
    REQUIRE(tinyscene_bands_save(at->scene, NULL) == TINYSCENE_ERROR_NULL);
    REQUIRE(tinyscene_bands_restore(NULL, &bands) == TINYSCENE_ERROR_NULL);
    REQUIRE(tinyscene_bands_restore(at->scene, NULL) == TINYSCENE_ERROR_NULL);
}

#else

static void restore(state *at, const uint8_t *data, size_t size)
{
    (void)at;
    (void)data;
    (void)size;
}

#endif

/* Three bytes a call: what, and how many samples. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int first = 1;
    if (first)
        atexit(report);
    first = 0;
    state at = {.scene = make(), .twin = make(), .noise = 1, .portion = SMALLEST_PORTION};
    for (size_t place = 0; place + 3 <= size; place += 3) {
        const size_t samples = (size_t)(data[place + 1] | data[place + 2] << 8) % (CLIP + 100);
        const int32_t budget = (int32_t)(samples % SMALL_BUDGET) - 1;
        switch (data[place] % 8) {
        case 0: case 1: push(&at, samples, SMALLEST_PORTION + samples % 777, data[place] & 8); break;
        case 2: case 3: work(&at, &budget); break;
        case 4: work(&at, NULL); break;
        case 5: compare(&at); break;
        case 6: misuse(&at, data[place] >> 3, samples); break;
        default:
            reset(&at);
            if (data[place] & 8)
                restore(&at, &data[place + 1], size - place - 1);
        }
    }
    compare(&at);
    free(at.scene);
    free(at.twin);
    free(at.given);
    return 0;
}
