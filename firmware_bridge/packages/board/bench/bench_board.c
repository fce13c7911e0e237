/* An example to adapt to your board: STM32F407 at 168 MHz after its HAL has set the clock, printing on USART2 (PA2).
 *
 * HAL_Init, SystemClock_Config and MX_USART2_UART_Init come from the project that the board's own tool generates. */
#include "bench.h"

#include "main.h" /* of that project: UART_HandleTypeDef huart2 and the HAL */

void SystemClock_Config(void);
void MX_USART2_UART_Init(void);
extern UART_HandleTypeDef huart2;

void bench_board_start(void)
{
    HAL_Init();
    SystemClock_Config();
    MX_USART2_UART_Init();
}

void bench_put(char character)
{
    HAL_UART_Transmit(&huart2, (uint8_t *)&character, 1, HAL_MAX_DELAY);
}

const char *bench_target(void)
{
    return "stm32f407";
}

uint32_t bench_clock_hz(void)
{
    return SystemCoreClock;
}

uint32_t bench_timer(void)
{
    return 0;
}
