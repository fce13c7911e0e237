/* What a test program is given to do, job.bin, and what came of it, result.bin; little-endian, see emulate.py.
 *
 * job.bin: magic, version, count, chunk, dump; then what the program is about.
 * result.bin: magic, version, count, bytes of an answer, tensors, bytes of memory, bytes of stack, 0; then for each:
 *   instructions of the run, of all that led to it (64 bits both), a CRC-32 for each tensor, the answer, filled with
 *   zeros to a multiple of 4 bytes; then the bytes that the tensor `dump` had in the first run.
 */
#ifndef HARNESS_JOB_H
#define HARNESS_JOB_H

#include <stdint.h>

enum { JOB_SCENE = 0x4a475354, JOB_NETWORK = 0x4e475354, JOB_RESULT = 0x52475354, JOB_VERSION = 1 };
enum { JOB_GUARD = 64 }; /* bytes before and after memory that must stay as they are */

typedef struct {
    uint32_t magic, version, count; /* windows, or runs of the network */
    uint32_t chunk;                 /* samples a push, or 0 for as many as there are */
    uint32_t dump;                  /* a tensor, or 0xffffffff for none */
} job_header;

/* Every failure ends the program with a line that says what it was. */
void job_fail(const char *what) __attribute__((noreturn));
void job_expect(int good, const char *what);

job_header job_open(uint32_t magic, uint32_t answer_bytes, uint32_t memory_bytes);
void job_read(void *to, uint32_t bytes);

/* One answer is done. */
void job_answer(uint64_t run, uint64_t before, const int8_t *answer);
void job_close(void);

void job_guard(uint8_t *guard);
void job_check_guard(const uint8_t *guard);

#endif
