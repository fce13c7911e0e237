/* The fixed-point log-mel front end: what all processors share. */
#include "tinyscene_frontend.h"

#include "tinyscene_frontend_stages.h"

int8_t tinyscene_feature(uint64_t energy)
{
    const int64_t *threshold = tinyscene_thresholds; /* the first that may be out of reach */
    for (int32_t step = 128; step > 0; step /= 2)
        if (threshold[step - 1] <= (int64_t)energy)
            threshold += step;
    return (int8_t)(threshold - tinyscene_thresholds - 128);
}

void tinyscene_frame(const int16_t *ring, int32_t start, int32_t at, void *work, int8_t *features, ptrdiff_t stride)
{
    const tinyscene_pcm pcm = {ring, start, at};
    tinyscene_powers(&pcm, work);
    tinyscene_mels(work, features, stride);
}
