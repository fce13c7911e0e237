/* Bytes as calls of the public interface of the C library, in any order and with wrong arguments among them.
 *
 * Each status is compared with a model of what tinyscene.h promises. A second instance is given the same samples in
 * other portions: its scores must be the same. All memory is allocated at its exact size, so that the sanitizers see
 * every access beyond it.
 */
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

enum { SMALLEST_PORTION = 1, MOST_RUNS = 4 };

typedef struct {
    tinyscene *scene, *twin;
    size_t samples; /* of the window, that were taken */
    int decided, runs;
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
    void *memory = aligned_alloc(TINYSCENE_ALIGNMENT, TINYSCENE_BYTES);
    REQUIRE(tinyscene_memory_bytes() == TINYSCENE_BYTES);
    memset(memory, 0xA5, TINYSCENE_BYTES);
    REQUIRE(counted(tinyscene_init(memory, TINYSCENE_BYTES, &made)) == TINYSCENE_OK && made == memory);
    return made;
}

static int16_t *sounds(state *at, size_t samples, int quiet)
{
    int16_t *pcm = malloc(samples * sizeof *pcm);
    for (size_t index = 0; index < samples; index++) {
        at->noise = at->noise * 1664525u + 1013904223u;
        pcm[index] = (int16_t)(quiet ? at->noise >> 30 : at->noise >> 16);
    }
    return pcm;
}

static void push(state *at, size_t samples, size_t portion, int quiet)
{
    int16_t *pcm = sounds(at, samples, quiet);
    size_t taken = SIZE_MAX, room = CLIP > at->samples ? CLIP - at->samples : 0, rest;
    const tinyscene_status status = counted(tinyscene_push(at->scene, pcm, samples, &taken));
    REQUIRE(taken == (samples < room ? samples : room));
    REQUIRE(status == (samples >= room ? TINYSCENE_READY : TINYSCENE_OK));
    at->samples += taken;
    for (size_t begin = 0; begin < taken; begin += portion) {
        const size_t size = taken - begin < portion ? taken - begin : portion;
        counted(tinyscene_push(at->twin, pcm + begin, size, &rest));
        REQUIRE(rest == size);
    }
    free(pcm);
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

/* In parts of a budget. */
static tinyscene_status stepped(tinyscene *scene, int32_t budget)
{
    tinyscene_status status = counted(tinyscene_step(scene, budget));
    size_t taken = 1;
    while (status == TINYSCENE_MORE) {
        const int16_t sample = 1;
        REQUIRE(counted(tinyscene_push(scene, &sample, 1, &taken)) == TINYSCENE_FULL && taken == 0);
        REQUIRE(counted(tinyscene_push(scene, NULL, 0, &taken)) == TINYSCENE_MORE);
        status = counted(tinyscene_step(scene, budget));
    }
    return status;
}

static void run(state *at, size_t budget)
{
    const int ready = at->samples >= CLIP;
    if (ready && ++at->runs > MOST_RUNS) /* which take most of the time */
        return;
    const tinyscene_status expected = ready ? TINYSCENE_OK : TINYSCENE_ERROR_NOT_READY;
    REQUIRE(stepped(at->scene, (int32_t)budget) == expected);
    REQUIRE(counted(tinyscene_run(at->twin)) == expected);
    at->decided |= ready;
    at->samples -= ready ? HOP : 0;
    compare(at);
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
    default: /* no samples: nothing is taken */
        REQUIRE(tinyscene_push(at->scene, NULL, 0, &taken) == (at->samples >= CLIP ? TINYSCENE_READY : TINYSCENE_OK));
        REQUIRE(taken == 0);
    }
}

static void reset(state *at)
{
    REQUIRE(counted(tinyscene_reset(at->scene)) == TINYSCENE_OK);
    REQUIRE(counted(tinyscene_reset(at->twin)) == TINYSCENE_OK);
    at->samples = 0;
    at->decided = 0;
}

/* Three bytes a call: what, and how many samples. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int first = 1;
    if (first)
        atexit(report);
    first = 0;
    state at = {.scene = make(), .twin = make(), .noise = 1};
    for (size_t place = 0; place + 3 <= size; place += 3) {
        const size_t samples = (size_t)(data[place + 1] | data[place + 2] << 8) % (CLIP + 100);
        switch (data[place] % 8) {
        case 0: case 1: case 2: push(&at, samples, SMALLEST_PORTION + samples % 777, data[place] & 8); break;
        case 3: run(&at, samples); break;
        case 4: compare(&at); break;
        case 5: case 6: misuse(&at, data[place] >> 3, samples); break;
        default: reset(&at);
        }
    }
    compare(&at);
    free(at.scene);
    free(at.twin);
    return 0;
}
