/* QEMU's boards as bench.h of packages/board wants one: their serial lines. They have no clock worth naming. */
#include "bench.h"
#include "harness.h"

#if defined(__riscv)
static volatile uint8_t *const uart = (volatile uint8_t *)0x10000000; /* of the machine virt: a 16550 */

enum { LINE_STATUS = 5, CAN_SEND = 0x20 };

void bench_board_start(void)
{
}

void bench_put(char character)
{
    while ((uart[LINE_STATUS] & CAN_SEND) == 0) {
    }
    uart[0] = (uint8_t)character;
}

const char *bench_target(void)
{
    return "qemu-virt";
}
#else
#if defined(__ARM_FEATURE_MVE)
#define UART 0x49303000u /* of the MPS3 AN547 */
#define TARGET "qemu-mps3-an547"
#else
#define UART 0x40004000u /* of the MPS2 AN385, AN386 and AN500 */
#define TARGET "qemu-mps2"
#endif

static volatile uint32_t *const uart = (volatile uint32_t *)UART; /* Arm's CMSDK: data, state, control, -, divisor */

enum { STATE = 1, CONTROL = 2, DIVISOR = 4, IS_FULL = 1, CAN_SEND = 1, SMALLEST_DIVISOR = 16 };

void bench_board_start(void)
{
    uart[DIVISOR] = SMALLEST_DIVISOR;
    uart[CONTROL] = CAN_SEND;
}

void bench_put(char character)
{
    while ((uart[STATE] & IS_FULL) != 0) {
    }
    uart[0] = (uint8_t)character;
}

const char *bench_target(void)
{
    return TARGET;
}
#endif

uint32_t bench_clock_hz(void)
{
    return 0;
}

uint32_t bench_timer(void)
{
    return (uint32_t)harness_instructions();
}
