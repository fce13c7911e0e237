/* The harness on Arm Cortex-M: vectors, start-up, faults, semihosting, a count of instructions. */
#include "machine.h"

static volatile uint32_t *const systick = (volatile uint32_t *)0xe000e010; /* control, reload, current, calibration */
static volatile uint32_t *const configurable_fault_status = (volatile uint32_t *)0xe000ed28;

enum { SYSTICK_SPAN = 1 << 24, SYSTICK_ON = 7 /* on, interrupts, the processor's clock */ };

/* The coprocessors, that is the FPU and MVE, are switched on before anything else: a compiler may use them anywhere. */
__attribute__((naked, noreturn, used)) void harness_reset(void)
{
#if !defined(__ARM_ARCH_6M__) /* which has none */
    __asm volatile("ldr r0, =0xe000ed88 \n" /* CPACR */
                   "ldr r1, [r0]        \n"
                   "orr r1, #0x00f00000 \n"
                   "str r1, [r0]        \n"
                   "dsb                 \n"
                   "isb                 \n");
#endif
    __asm volatile("bl harness_start");
}

/* frame: r0 to r3, r12, lr, pc, xpsr, as the processor saved them. */
__attribute__((noreturn, used)) static void report_fault(const uint32_t *frame)
{
    harness_print_hex("fault: cfsr ", *configurable_fault_status);
    harness_print_hex(" pc ", frame[6]);
    harness_print_hex(" lr ", frame[5]);
    harness_print("\n");
    harness_exit(HARNESS_FAULT);
}

__attribute__((naked, used)) static void fault(void)
{
    __asm volatile("mov r0, sp      \n"
                   "bl report_fault \n");
}

static volatile uint32_t wraps; /* of SysTick */

static void systick_wrapped(void)
{
    wraps++;
}

typedef union {
    void *stack;
    void (*handler)(void);
} vector;

__attribute__((section(".vectors"), used)) static const vector vectors[16] = {
    {harness_stack_end},  {.handler = harness_reset}, {.handler = fault}, /* NMI */
    {.handler = fault},   {.handler = fault}, {.handler = fault}, /* HardFault, MemManage, BusFault */
    {.handler = fault},   {.handler = fault}, {0}, {0}, {0},      /* UsageFault, SecureFault */
    {.handler = fault},   {.handler = fault}, {0},                /* SVC, debug monitor */
    {.handler = fault},   {.handler = systick_wrapped},           /* PendSV */
};

int32_t harness_semihost(int32_t operation, const void *argument)
{
    register int32_t r0 __asm("r0") = operation;
    register const void *r1 __asm("r1") = argument;
    __asm volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static uint64_t ticks(void)
{
    uint32_t before, now;
    do {
        before = wraps;
        now = systick[2];
    } while (before != wraps);
    return (uint64_t)before * SYSTICK_SPAN + (SYSTICK_SPAN - 1 - now);
}

/* 2 * rounds instructions. */
static void loop(uint32_t rounds)
{
    __asm volatile("0: subs %0, #1 \n"
                   "   bne 0b      \n"
                   : "+l"(rounds)
                   :
                   : "cc");
}

/* SysTick counts time. Under QEMU's -icount time is instructions, a multiple of 1/4 of them a tick that differs between
 * machines: 40 on MPS2, 31.25 on MPS3. A loop tells which. unicorn has no SysTick. */
uint64_t harness_instructions(void)
{
    static uint32_t quarters; /* of an instruction a tick */
    static int known;
    const uint32_t rounds = 200000;
    if (!known) {
        known = 1;
        systick[1] = SYSTICK_SPAN - 1;
        systick[2] = 0;
        systick[0] = SYSTICK_ON;
        loop(1000); /* until it has begun */
        const uint64_t before = ticks();
        loop(rounds);
        const uint32_t taken = (uint32_t)(ticks() - before);
        if (taken > 0)
            quarters = (4 * 2 * rounds + taken / 2) / taken;
    }
    return ticks() * quarters / 4;
}
