/* Sound in, scores out: what the library answers to the clips of a job. */
#include "harness.h"
#include "job.h"
#include "tinyscene.h"

enum { BUFFER_SAMPLES = 16384 };

#if defined(TINYSCENE_AVERAGE) /* scores, and the class that the decision rule stands by */
enum { ANSWER_BYTES = TINYSCENE_CLASSES + 1 };
#else
enum { ANSWER_BYTES = TINYSCENE_CLASSES };
#endif

static struct {
    uint8_t before[JOB_GUARD];
    TINYSCENE_ALIGNED uint8_t bytes[TINYSCENE_BYTES];
    uint8_t after[JOB_GUARD];
} memory;

static struct {
    int16_t samples[BUFFER_SAMPLES];
    uint32_t first, count; /* of those not pushed yet */
    uint64_t to_come;      /* in the file */
} pcm;

/* At least one sample, if any is to come, and at most `wanted`; 0 is no limit. */
static uint32_t next_samples(uint32_t wanted)
{
    if (pcm.count == 0 || pcm.count < wanted) {
        for (uint32_t i = 0; i < pcm.count; i++)
            pcm.samples[i] = pcm.samples[pcm.first + i];
        const uint32_t room = BUFFER_SAMPLES - pcm.count;
        const uint32_t more = pcm.to_come < room ? (uint32_t)pcm.to_come : room;
        job_read(pcm.samples + pcm.count, more * (uint32_t)sizeof pcm.samples[0]);
        pcm.first = 0;
        pcm.count += more;
        pcm.to_come -= more;
    }
    return wanted == 0 || wanted > pcm.count ? pcm.count : wanted;
}

/* Push until a window is complete; the instructions that it took. */
static uint64_t fill_window(tinyscene *scene, uint32_t chunk)
{
    uint64_t instructions = 0;
    tinyscene_status status = TINYSCENE_OK;
    while (status != TINYSCENE_READY) {
        const uint32_t count = next_samples(chunk);
        size_t taken = 0;
        job_expect(count > 0, "all the sound was taken, and no window is complete");
        const uint64_t before = harness_instructions();
        status = tinyscene_push(scene, pcm.samples + pcm.first, count, &taken);
        instructions += harness_instructions() - before;
        job_expect(status == TINYSCENE_READY || (status == TINYSCENE_OK && taken == count), "tinyscene_push failed");
        job_expect(taken <= count, "tinyscene_push took more than it was given");
        pcm.first += (uint32_t)taken;
        pcm.count -= (uint32_t)taken;
    }
    return instructions;
}

/* HARNESS_BUDGET: in parts of it. */
static tinyscene_status run(tinyscene *scene)
{
#if defined(HARNESS_BUDGET)
    tinyscene_status status;
    do
        status = tinyscene_step(scene, HARNESS_BUDGET);
    while (status == TINYSCENE_MORE);
    return status;
#else
    return tinyscene_run(scene);
#endif
}

int main(void)
{
    tinyscene *scene = NULL;
    int8_t answer[ANSWER_BYTES];
    job_guard(memory.before);
    job_guard(memory.after);
    const job_header job = job_open(JOB_SCENE, ANSWER_BYTES, (uint32_t)tinyscene_memory_bytes());
    job_expect(job.chunk <= BUFFER_SAMPLES, "the job's chunk is too large");
    if (job.count > 0)
        pcm.to_come = (uint64_t)(job.count - 1) * TINYSCENE_HOP_SAMPLES + TINYSCENE_CLIP_SAMPLES + TINYSCENE_DELAY_SAMPLES;
    job_expect(tinyscene_init(memory.bytes, sizeof memory.bytes, &scene) == TINYSCENE_OK, "tinyscene_init failed");
    for (uint32_t window = 0; window < job.count; window++) {
        const uint64_t filling = fill_window(scene, job.chunk);
        const uint64_t before = harness_instructions();
        const tinyscene_status status = run(scene);
        const uint64_t running = harness_instructions() - before;
        job_expect(status == TINYSCENE_OK, "tinyscene_run failed");
        job_expect(tinyscene_scores(scene, answer, TINYSCENE_CLASSES) == TINYSCENE_OK, "tinyscene_scores failed");
#if defined(TINYSCENE_AVERAGE)
        answer[TINYSCENE_CLASSES] = (int8_t)tinyscene_decision(scene);
#endif
        job_answer(running, filling, answer);
    }
    job_expect(pcm.count == 0 && pcm.to_come == 0, "sound was left over");
    job_check_guard(memory.before);
    job_check_guard(memory.after);
    job_close();
    return 0;
}
