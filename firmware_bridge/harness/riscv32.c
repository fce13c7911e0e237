/* The harness on RV32: start-up, traps, semihosting, a count of instructions. */
#include "machine.h"

__attribute__((noreturn, used)) static void report_trap(uint32_t cause, uint32_t pc, uint32_t value)
{
    harness_print_hex("fault: mcause ", cause);
    harness_print_hex(" pc ", pc);
    harness_print_hex(" mtval ", value);
    harness_print("\n");
    harness_exit(HARNESS_FAULT);
}

__attribute__((naked, aligned(4), used)) static void trap(void)
{
    __asm volatile("csrr a0, mcause  \n"
                   "csrr a1, mepc    \n"
                   "csrr a2, mtval   \n"
                   "j report_trap    \n");
}

__attribute__((naked, noreturn, used, section(".start"))) void harness_reset(void)
{
    __asm volatile(".option push               \n"
                   ".option norelax            \n"
                   "la gp, __global_pointer$   \n"
                   ".option pop                \n"
                   "la sp, harness_stack_end   \n"
                   "la t0, %0                  \n"
                   "csrw mtvec, t0             \n"
                   "j harness_start            \n"
                   :
                   : "i"(trap));
}

/* The host knows its call by the two shifts around ebreak; none of the three may be compressed, and all must lie in one
 * page. */
int32_t harness_semihost(int32_t operation, const void *argument)
{
    register int32_t a0 __asm("a0") = operation;
    register const void *a1 __asm("a1") = argument;
    __asm volatile(".option push          \n"
                   ".option norvc         \n"
                   ".balign 16            \n"
                   "slli zero, zero, 0x1f \n"
                   "ebreak                \n"
                   "srai zero, zero, 7    \n"
                   ".option pop           \n"
                   : "+r"(a0)
                   : "r"(a1)
                   : "memory");
    return a0;
}

static uint64_t retired(void)
{
    uint32_t high, low, again;
    do {
        __asm volatile("csrr %0, minstreth" : "=r"(high));
        __asm volatile("csrr %0, minstret" : "=r"(low));
        __asm volatile("csrr %0, minstreth" : "=r"(again));
    } while (high != again);
    return (uint64_t)high << 32 | low;
}

/* minstret is the count under QEMU's -icount, and some clock elsewhere: what it says of a loop tells which. */
uint64_t harness_instructions(void)
{
    static int known, counting;
    if (!known) {
        uint32_t rounds = 1000;
        const uint64_t before = retired();
        __asm volatile("0: addi %0, %0, -1 \n"
                       "   bnez %0, 0b     \n"
                       : "+r"(rounds));
        const uint64_t after = retired();
        counting = after - before >= 2000 && after - before < 2020;
        known = 1;
    }
    return counting ? retired() : 0;
}
