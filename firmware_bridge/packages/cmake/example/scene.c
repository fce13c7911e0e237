/* Acoustic scenes in a recording: scene [FILE]
 *
 * FILE, or standard input, is raw 16-bit mono PCM at TINYSCENE_SAMPLE_RATE, in this machine's byte order, for instance
 * from `sox recording.wav -t s16 -r RATE -c 1 recording.raw`. It prints a line for each decision: its time, the class,
 * and all logits.
 */
#include <stdio.h>

#include "tinyscene.h"

static int print_decision(const tinyscene *scene, double seconds)
{
    int8_t logits[TINYSCENE_CLASSES];
    const int best = tinyscene_best(scene);
    if (best < 0 || tinyscene_scores(scene, logits, TINYSCENE_CLASSES) != TINYSCENE_OK)
        return 0;
    printf("%.2f s\t%s\t", seconds, tinyscene_label((size_t)best));
    for (int index = 0; index < TINYSCENE_CLASSES; index++)
        printf(" %d", logits[index]);
    printf("\n");
    return 1;
}

/* Returns 1 at the end of the recording, 0 on failure. */
static int listen(tinyscene *scene, FILE *sound)
{
    static int16_t pcm[1024];
    double heard = 0.0;
    for (size_t samples; (samples = fread(pcm, sizeof pcm[0], sizeof pcm / sizeof pcm[0], sound)) > 0;) {
        for (size_t at = 0, taken; at < samples; at += taken, heard += (double)taken) {
            const tinyscene_status status = tinyscene_push(scene, pcm + at, samples - at, &taken);
            if (status < 0)
                return 0;
            if (status != TINYSCENE_READY)
                continue;
            if (tinyscene_run(scene) != TINYSCENE_OK)
                return 0;
            if (!print_decision(scene, (heard + (double)taken) / TINYSCENE_SAMPLE_RATE))
                return 0;
        }
    }
    return !ferror(sound);
}

int main(int count, char **arguments)
{
    static TINYSCENE_ALIGNED uint8_t memory[TINYSCENE_BYTES];
    tinyscene *scene;
    FILE *sound = count > 1 ? fopen(arguments[1], "rb") : stdin;
    if (sound == NULL) {
        (void)fprintf(stderr, "scene: cannot read %s\n", arguments[1]);
        return 2;
    }
    if (tinyscene_init(memory, sizeof memory, &scene) != TINYSCENE_OK || !listen(scene, sound)) {
        (void)fprintf(stderr, "scene: failed\n");
        return 1;
    }
    return 0;
}
