/* Counts the processor's cycles: DWT's CYCCNT on Arm Cortex-M, mcycle on RISC-V, else the board's timer.
 *
 * A loop of divisions, which take more than one cycle on every processor, determines what a counter counts. An emulator
 * without a pipeline model counts instructions, and a timer of another clock counts fewer ticks. */
#include "bench.h"

enum { ROUNDS = 4000 };

#if defined(__arm__)

static volatile uint32_t *const debug_control = (volatile uint32_t *)0xe000edfcu; /* DEMCR */
static volatile uint32_t *const dwt = (volatile uint32_t *)0xe0001000u;           /* control, cycle count */
static volatile uint32_t *const dwt_lock = (volatile uint32_t *)0xe0001fb0u;

enum { TRACE_ON = 1 << 24, COUNTING = 1, UNLOCK = (int)0xc5acce55 };

static const char own_name[] = "dwt";

static void own_start(void)
{
    *debug_control |= TRACE_ON;
    *dwt_lock = (uint32_t)UNLOCK; /* required on a Cortex-M7 */
    dwt[1] = 0;
    dwt[0] |= COUNTING;
}

static uint32_t own_count(void)
{
    return dwt[1];
}

#if defined(__ARM_FEATURE_IDIV)
enum { INSTRUCTIONS = 3 * ROUNDS };

static void loop(void)
{
    uint32_t rounds = ROUNDS, quotient;
    __asm volatile("0: udiv %1, %2, %3 \n"
                   "   subs %0, #1     \n"
                   "   bne 0b          \n"
                   : "+l"(rounds), "=&r"(quotient)
                   : "r"(UINT32_C(0xffffffff)), "r"(UINT32_C(3))
                   : "cc");
}
#else /* where a branch takes two or three cycles */
enum { INSTRUCTIONS = 2 * ROUNDS };

static void loop(void)
{
    uint32_t rounds = ROUNDS;
    __asm volatile(".syntax unified  \n"
                   "0: subs %0, #1   \n"
                   "   bne 0b        \n"
                   : "+l"(rounds)
                   :
                   : "cc");
}
#endif

#elif defined(__riscv) && defined(__riscv_div)

enum { INSTRUCTIONS = 3 * ROUNDS };

static const char own_name[] = "mcycle";

static void own_start(void)
{
}

static uint32_t own_count(void)
{
    uintptr_t now;
    __asm volatile("csrr %0, 0xb00" : "=r"(now)); /* mcycle */
    return (uint32_t)now;
}

static void loop(void)
{
    uintptr_t rounds = ROUNDS, quotient;
    __asm volatile("0: divu %1, %2, %3   \n"
                   "   addi %0, %0, -1   \n"
                   "   bnez %0, 0b       \n"
                   : "+r"(rounds), "=&r"(quotient)
                   : "r"((uintptr_t)-1), "r"((uintptr_t)3));
}

#else

enum { INSTRUCTIONS = 0 };

static const char own_name[] = "none";

static void own_start(void)
{
}

static uint32_t own_count(void)
{
    return 0;
}

static void loop(void)
{
    for (volatile int32_t round = 0; round < ROUNDS; round++) {
    }
}

#endif

static uint32_t (*chosen)(void);

static uint32_t measure_loop(uint32_t (*count)(void))
{
    (void)count(); /* the first call may take longer */
    const uint32_t before = count();
    loop();
    return count() - before;
}

static const char *unit_of(uint32_t counted)
{
    if (INSTRUCTIONS == 0 || counted < INSTRUCTIONS - INSTRUCTIONS / 10)
        return "ticks";
    return counted < INSTRUCTIONS + INSTRUCTIONS / 10 ? "instructions" : "cycles";
}

bench_counter bench_counter_start(void)
{
    own_start();
    chosen = own_count;
    uint32_t counted = measure_loop(chosen);
    if (counted > 0)
        return (bench_counter){own_name, unit_of(counted)};
    chosen = bench_timer;
    counted = measure_loop(chosen);
    if (counted > 0)
        return (bench_counter){"timer", unit_of(counted)};
    return (bench_counter){"none", "none"};
}

uint32_t bench_count(void)
{
    return chosen();
}
