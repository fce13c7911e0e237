/* What a test program asks of the machine it runs on: a bare processor in an emulator, which reaches the host's files
 * by semihosting, or the host itself. None of this is part of what a user gets.
 *
 * The program is `int main(void)`; what it returns is the exit code. */
#ifndef HARNESS_H
#define HARNESS_H

#include <stdint.h>

#define HARNESS_FAULT 125 /* the exit code after a fault */

/* Files of the working folder, as bytes. A handle below 0: it cannot be opened. */
int32_t harness_open(const char *name, int for_writing);
uint32_t harness_read(int32_t file, void *to, uint32_t bytes);          /* the bytes that were read */
uint32_t harness_write(int32_t file, const void *from, uint32_t bytes); /* the bytes that were written */
void harness_rewind(int32_t file);
void harness_close(int32_t file);

void harness_print(const char *text);
void harness_print_hex(const char *before, uint32_t value);
void harness_exit(int code) __attribute__((noreturn));

/* Instructions executed so far, to 40 of them on Cortex-M. 0 for ever where the machine does not count them: under
 * unicorn, which counts from outside, and on the host. */
uint64_t harness_instructions(void);

/* Fill the stack below the caller with a pattern; then the bytes of it that have been written to since. The whole of
 * HARNESS_STACK bytes is an overflow. 0 for ever on the host. */
void harness_stack_paint(void);
uint32_t harness_stack_used(void);

#endif
