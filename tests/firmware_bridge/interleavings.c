/* Pushes and steps in a given order, over and over, until all the sound is decided on: prints the logits.
 *
 * Standard input: int32 words: how many samples and calls; the calls, of which a positive one is a push of so many
 * samples, a negative one a step of that budget, and 0 is tinyscene_run; then the samples, from an odd address on. All
 * memory is allocated at its exact size, so that a sanitizer sees every access beyond it. If there are -N samples, an
 * instance is written over and used N times instead. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tinyscene.h"
#include "tinyscene_layout.h"

#define REQUIRE(condition)                                                \
    do {                                                                  \
        if (!(condition)) {                                               \
            fprintf(stderr, "line %d: %s is not so\n", __LINE__, #condition); \
            exit(1);                                                      \
        }                                                                 \
    } while (0)

static tinyscene *scene;
static uint8_t *sound;
static size_t samples, at;
static int under_way; /* a run, of which a step has been made */

static void print_scores(void)
{
    int8_t scores[TINYSCENE_CLASSES];
    REQUIRE(tinyscene_scores(scene, scores, TINYSCENE_CLASSES) == TINYSCENE_OK);
    for (int index = 0; index < TINYSCENE_CLASSES; index++)
        printf("%d%c", scores[index], index + 1 < TINYSCENE_CLASSES ? ' ' : '\n');
}

static int push(size_t count)
{
    size_t taken = SIZE_MAX;
    if (count > samples - at)
        count = samples - at;
    const tinyscene_status status = tinyscene_push(scene, (const int16_t *)(void *)(sound + 1 + 2 * at), count, &taken);
    REQUIRE(status >= 0 && taken <= count);
    REQUIRE(status == TINYSCENE_READY || (taken < count) == (status == TINYSCENE_FULL));
    REQUIRE(!under_way || status >= TINYSCENE_MORE);
    REQUIRE(TINYSCENE_BACKLOG_SAMPLES > 0 || !under_way || taken == 0);
    at += taken;
    return taken > 0;
}

static int step(int32_t budget)
{
    const tinyscene_status status = budget > 0 ? tinyscene_step(scene, budget) : tinyscene_run(scene);
    REQUIRE(status == TINYSCENE_OK || status == TINYSCENE_ERROR_NOT_READY || (status == TINYSCENE_MORE && budget > 0));
    if (status == TINYSCENE_OK)
        print_scores();
    under_way = 0;
    if (status == TINYSCENE_MORE) {
        size_t taken;
        under_way = tinyscene_push(scene, NULL, 0, &taken) != TINYSCENE_READY;
    }
    return status >= 0;
}

/* Words of the state become numbers that may be in range; the first is the magic number. Prints how often that was
 * refused, and how often not. */
static void spoil(uint8_t *memory, int32_t times)
{
    static const int32_t likely[] = {0, 1, 2, 3, 9, 60, 65, 3000, 7000, TINYSCENE_CLIP_SAMPLES, -1, INT32_MIN, INT32_MAX};
    const int16_t pcm[700] = {1, 2, 3};
    uint32_t noise = 1;
    int refused = 0;
    for (int32_t time = 0; time < times; time++) {
        size_t taken;
        REQUIRE(tinyscene_init(memory, TINYSCENE_BYTES, &scene) == TINYSCENE_OK);
        for (int32_t word = 1; word < TINYSCENE_STATE_BYTES / 4; word++) {
            noise = noise * 1664525u + 1013904223u;
            if (noise >> 29 == 0)
                memcpy(memory + 4 * word, &likely[(noise >> 16) % (sizeof likely / sizeof *likely)], 4);
        }
        const tinyscene_status status = tinyscene_push(scene, pcm, sizeof pcm / sizeof *pcm, &taken);
        REQUIRE(status >= 0 || status == TINYSCENE_ERROR_INSTANCE);
        refused += status < 0;
        for (int32_t part = 0; part < 40 && tinyscene_step(scene, 50) == TINYSCENE_MORE; part++)
            tinyscene_push(scene, pcm, sizeof pcm / sizeof *pcm, &taken);
        if (tinyscene_best(scene) >= 0)
            REQUIRE(tinyscene_label((size_t)tinyscene_best(scene)) != NULL);
    }
    printf("%d %d\n", refused, times - refused);
}

int main(void)
{
    int32_t sizes[2];
    REQUIRE(fread(sizes, sizeof sizes, 1, stdin) == 1);
    if (sizes[0] < 0) {
        void *spoiled = aligned_alloc(TINYSCENE_ALIGNMENT, (TINYSCENE_BYTES + 15) / 16 * 16);
        spoil(spoiled, -sizes[0]);
        free(spoiled);
        return 0;
    }
    samples = (size_t)sizes[0];
    int32_t *calls = malloc((size_t)sizes[1] * sizeof *calls);
    sound = malloc(1 + 2 * samples);
    REQUIRE(fread(calls, sizeof *calls, (size_t)sizes[1], stdin) == (size_t)sizes[1]);
    REQUIRE(fread(sound + 1, 2, samples, stdin) == samples);
    void *memory = aligned_alloc(TINYSCENE_ALIGNMENT, (TINYSCENE_BYTES + 15) / 16 * 16);
    memset(memory, 0xA5, TINYSCENE_BYTES);
    REQUIRE(tinyscene_init(memory, TINYSCENE_BYTES, &scene) == TINYSCENE_OK);
    for (int any = 1; any;) {
        any = 0;
        for (int32_t call = 0; call < sizes[1]; call++)
            any |= calls[call] > 0 ? push((size_t)calls[call]) : step(-calls[call]);
    }
    REQUIRE(at == samples);
    free(memory);
    free(sound);
    free(calls);
    return 0;
}
