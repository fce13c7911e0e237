/* Between the files of the harness that run on bare processors. */
#ifndef HARNESS_MACHINE_H
#define HARNESS_MACHINE_H

#include "harness.h"

/* One call of the host, as Arm's and RISC-V's semihosting specifications define them. */
int32_t harness_semihost(int32_t operation, const void *argument);

static inline uint32_t *harness_stack_pointer(void)
{
    uint32_t *now;
#if defined(__arm__)
    __asm volatile("mov %0, sp" : "=r"(now));
#else
    __asm volatile("mv %0, sp" : "=r"(now));
#endif
    return now;
}

/* What is left of the start-up once the processor can run C: the data, and main. */
void harness_start(void) __attribute__((noreturn));

/* Of the linker script. */
extern const uint32_t harness_data_load[];
extern uint32_t harness_data_start[], harness_data_end[], harness_bss_start[], harness_bss_end[];
extern uint32_t harness_stack_start[], harness_stack_end[];

int main(void);

#endif
