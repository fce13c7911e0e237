/* The network alone: features in, its output out. */
#include "harness.h"
#include "job.h"
#include "tinyscene_network.h"

enum { OUTPUT_BYTES = TINYSCENE_OUTPUT_ROWS * TINYSCENE_OUTPUT_ROW_BYTES };

static struct {
    uint8_t before[JOB_GUARD];
    __attribute__((aligned(16))) int8_t bytes[TINYSCENE_ARENA_BYTES];
    uint8_t after[JOB_GUARD];
} arena;

/* Read the input and run; the instructions that it took, without the reading. */
static uint64_t run_network(int8_t *bytes)
{
#if TINYSCENE_BY_TIME
    uint64_t running = 0, before = harness_instructions();
    tinyscene_progress progress;
    tinyscene_network_begin(bytes, &progress);
    while (tinyscene_network_step(bytes, &progress, INT32_MAX)) {
        int8_t *row = tinyscene_network_row(bytes, &progress);
        running += harness_instructions() - before;
        job_read(row, TINYSCENE_INPUT_ROW_BYTES);
        before = harness_instructions();
        tinyscene_network_arrived(&progress, row);
    }
    return running + harness_instructions() - before;
#else
    tinyscene_network_clear(bytes);
    for (int32_t row = 0; row < TINYSCENE_INPUT_ROWS; row++)
        job_read(bytes + TINYSCENE_INPUT + row * TINYSCENE_INPUT_STRIDE, TINYSCENE_INPUT_ROW_BYTES);
    const uint64_t before = harness_instructions();
    tinyscene_network_run(bytes);
    return harness_instructions() - before;
#endif
}

int main(void)
{
    static int8_t output[OUTPUT_BYTES];
    job_guard(arena.before);
    job_guard(arena.after);
    const job_header job = job_open(JOB_NETWORK, OUTPUT_BYTES, TINYSCENE_ARENA_BYTES);
    for (uint32_t run = 0; run < job.count; run++) {
        const uint64_t running = run_network(arena.bytes);
        for (int32_t i = 0; i < OUTPUT_BYTES; i++) {
            const int32_t row = i / TINYSCENE_OUTPUT_ROW_BYTES, column = i % TINYSCENE_OUTPUT_ROW_BYTES;
            output[i] = arena.bytes[TINYSCENE_OUTPUT + row * TINYSCENE_OUTPUT_STRIDE + column];
        }
        job_answer(running, 0, output);
    }
    job_check_guard(arena.before);
    job_check_guard(arena.after);
    job_close();
    return 0;
}
