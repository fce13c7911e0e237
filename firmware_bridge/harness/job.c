/* Jobs and results; what tensors hold, where the library is built with TINYSCENE_TRACE. */
#include "job.h"

#include "harness.h"
#include "tinyscene_network.h"

enum { DUMP_BYTES = 1 << 20 };

static job_header job;
static int32_t input, output;
static struct {
    uint32_t magic, version, count, answer_bytes, tensors, memory_bytes, stack_bytes, reserved;
} head;
static uint32_t checksums[TINYSCENE_TENSORS];
static uint32_t answers; /* so far */

void job_fail(const char *what)
{
    harness_print(what);
    harness_print("\n");
    harness_exit(1);
}

void job_expect(int good, const char *what)
{
    if (!good)
        job_fail(what);
}

void job_read(void *to, uint32_t bytes)
{
    job_expect(harness_read(input, to, bytes) == bytes, "job.bin is too short");
}

static void put(const void *from, uint32_t bytes)
{
    job_expect(harness_write(output, from, bytes) == bytes, "result.bin cannot be written");
}

job_header job_open(uint32_t magic, uint32_t answer_bytes, uint32_t memory_bytes)
{
    input = harness_open("job.bin", 0);
    job_expect(input >= 0, "there is no job.bin");
    job_read(&job, sizeof job);
    job_expect(job.magic == magic && job.version == JOB_VERSION, "job.bin is not for this program");
    output = harness_open("result.bin", 1);
    job_expect(output >= 0, "result.bin cannot be made");
    head.magic = JOB_RESULT;
    head.version = JOB_VERSION;
    head.count = job.count;
    head.answer_bytes = answer_bytes;
    head.tensors = TINYSCENE_TENSORS;
    head.memory_bytes = memory_bytes;
    put(&head, sizeof head);
    (void)harness_instructions(); /* which takes its time the first time */
    harness_stack_paint();
    return job;
}

void job_answer(uint64_t run, uint64_t before, const int8_t *answer)
{
    const uint64_t instructions[2] = {run, before};
    const uint32_t zeros = 0;
    put(instructions, sizeof instructions);
    put(checksums, sizeof checksums);
    put(answer, head.answer_bytes);
    put(&zeros, -head.answer_bytes & 3u);
    for (uint32_t tensor = 0; tensor < TINYSCENE_TENSORS; tensor++)
        checksums[tensor] = 0;
    answers++;
}

void job_guard(uint8_t *guard)
{
    for (int i = 0; i < JOB_GUARD; i++)
        guard[i] = (uint8_t)(0xa5 ^ i);
}

void job_check_guard(const uint8_t *guard)
{
    for (int i = 0; i < JOB_GUARD; i++)
        job_expect(guard[i] == (uint8_t)(0xa5 ^ i), "something was written outside of the memory that was given");
}

#if defined(TINYSCENE_TRACE)
static uint8_t dump[DUMP_BYTES];
static uint32_t dumped;

/* zlib's, half a byte at a time; `checksum` is that of what went before, 0 for nothing. */
static uint32_t crc32(uint32_t checksum, const int8_t *values, int32_t bytes)
{
    static const uint32_t table[16] = {
        0x00000000u, 0x1db71064u, 0x3b6e20c8u, 0x26d930acu, 0x76dc4190u, 0x6b6b51f4u, 0x4db26158u, 0x5005713cu,
        0xedb88320u, 0xf00f9344u, 0xd6d6a3e8u, 0xcb61b38cu, 0x9b64c2b0u, 0x86d3d2d4u, 0xa00ae278u, 0xbdbdf21cu,
    };
    checksum = ~checksum;
    for (int32_t i = 0; i < bytes; i++) {
        checksum ^= (uint8_t)values[i];
        checksum = table[checksum & 15u] ^ checksum >> 4;
        checksum = table[checksum & 15u] ^ checksum >> 4;
    }
    return ~checksum;
}

void tinyscene_trace_row(int32_t tensor, int32_t row, const int8_t *values, int32_t bytes)
{
    (void)row;
    job_expect(tensor >= 0 && tensor < TINYSCENE_TENSORS && bytes >= 0, "a row of no tensor was traced");
    checksums[tensor] = crc32(checksums[tensor], values, bytes);
    if (answers > 0 || (uint32_t)tensor != job.dump)
        return;
    job_expect((uint32_t)bytes <= DUMP_BYTES - dumped, "the tensor is too large to be dumped");
    for (int32_t i = 0; i < bytes; i++)
        dump[dumped++] = (uint8_t)values[i];
}

void tinyscene_trace_step(int8_t *arena, int32_t tensor, int32_t row)
{
    (void)arena, (void)tensor, (void)row;
}

static void put_dump(void)
{
    put(dump, dumped);
}
#else
static void put_dump(void)
{
}
#endif

void job_close(void)
{
    put_dump();
    head.stack_bytes = harness_stack_used();
    harness_rewind(output);
    put(&head, sizeof head);
    harness_close(output);
    harness_close(input);
}
