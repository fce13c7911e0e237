/* What tinyscene.mjs needs besides tinyscene.h: memory, and the constants. */
#include "tinyscene.h"
#include "tinyscene_layout.h"

enum { PCM_SAMPLES = 4096 };

static TINYSCENE_ALIGNED uint8_t memory[TINYSCENE_BYTES];
static int16_t pcm[PCM_SAMPLES];
#if !TINYSCENE_BY_TIME
static int8_t features[TINYSCENE_MELS * TINYSCENE_FRAMES];
#endif
static int8_t scores[TINYSCENE_CLASSES];
static size_t taken;
static tinyscene *scene;

/* Where PCM is put before tinyscene_wasm_push. */
int16_t *tinyscene_wasm_pcm(void)
{
    return pcm;
}

int32_t tinyscene_wasm_pcm_samples(void)
{
    return PCM_SAMPLES;
}

tinyscene_status tinyscene_wasm_start(void)
{
    return tinyscene_init(memory, sizeof memory, &scene);
}

tinyscene *tinyscene_wasm_instance(void)
{
    return scene;
}

/* Copied before the network runs, which overwrites them. In the order by time they are nowhere held. */
static void keep_features(void)
{
#if !TINYSCENE_BY_TIME
    const int8_t *row = (const int8_t *)scene + TINYSCENE_STATE_BYTES + TINYSCENE_FEATURES;
    for (int32_t mel = 0; mel < TINYSCENE_MELS; mel++, row += TINYSCENE_FEATURES_STRIDE)
        for (int32_t frame = 0; frame < TINYSCENE_FRAMES; frame++)
            features[mel * TINYSCENE_FRAMES + frame] = row[frame];
#endif
}

tinyscene_status tinyscene_wasm_push(int32_t from, int32_t samples)
{
    taken = 0;
    if (from < 0 || samples < 0 || from > PCM_SAMPLES || samples > PCM_SAMPLES - from)
        return TINYSCENE_ERROR_SIZE;
    const tinyscene_status status = tinyscene_push(scene, pcm + from, (size_t)samples, &taken);
    if (status == TINYSCENE_READY)
        keep_features();
    return status;
}

int32_t tinyscene_wasm_taken(void)
{
    return (int32_t)taken;
}

/* Where the log-mel of the last complete window is, band by band, the lowest first; a null pointer if it is not held. */
const int8_t *tinyscene_wasm_features(void)
{
#if TINYSCENE_BY_TIME
    return NULL;
#else
    return features;
#endif
}

int32_t tinyscene_wasm_mels(void)
{
    return TINYSCENE_MELS;
}

int32_t tinyscene_wasm_frames(void)
{
    return TINYSCENE_FRAMES;
}

/* Where the last decision's logits are, or a null pointer if there is none. */
const int8_t *tinyscene_wasm_scores(void)
{
    return tinyscene_scores(scene, scores, TINYSCENE_CLASSES) == TINYSCENE_OK ? scores : NULL;
}

int32_t tinyscene_wasm_classes(void)
{
    return TINYSCENE_CLASSES;
}

int32_t tinyscene_wasm_sample_rate(void)
{
    return TINYSCENE_SAMPLE_RATE;
}

double tinyscene_wasm_logit_scale(void)
{
    return TINYSCENE_LOGIT_SCALE;
}

int32_t tinyscene_wasm_logit_zero_point(void)
{
    return TINYSCENE_LOGIT_ZERO_POINT;
}
