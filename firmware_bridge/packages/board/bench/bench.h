/* The benchmark's parts. bench_board.c is the one to write for a board; the other files stay as they are. */
#ifndef BENCH_H
#define BENCH_H

#include <stdint.h>

/* bench_board.c: what only the board knows. */
void bench_board_start(void);      /* clocks, caches, and the serial line: 115200 baud, 8 bits, no parity, 1 stop bit */
void bench_put(char character);    /* waits until the line takes it */
const char *bench_target(void);    /* the board, the processor: no blanks */
uint32_t bench_clock_hz(void);     /* of the processor while it measures; 0: not known */
uint32_t bench_timer(void);        /* a counter of 32 bits for a processor whose own cannot be read; 0 for ever: none */

/* bench_counter.c: the processor's own counter, or else the board's. */
typedef struct {
    const char *name; /* dwt, mcycle, timer or none */
    const char *unit; /* cycles, instructions, ticks or none */
} bench_counter;

bench_counter bench_counter_start(void);
uint32_t bench_count(void); /* modulo 2^32 */

#endif
