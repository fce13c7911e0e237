/* The benchmark's parts. Adapt bench_board.c to the board; the other files need no changes. */
#ifndef BENCH_H
#define BENCH_H

#include <stdint.h>

/* bench_board.c: what depends on the board. */
void bench_board_start(void);      /* clocks, caches, and the serial line: 115200 baud, 8 bits, no parity, 1 stop bit */
void bench_put(char character);    /* waits until the line is free */
const char *bench_target(void);    /* the board, the processor: no blanks */
uint32_t bench_clock_hz(void);     /* of the processor while it measures; 0: not known */
uint32_t bench_timer(void);        /* a counter of 32 bits for a processor whose own cannot be read; always 0: none */

/* bench_counter.c: the processor's own counter, or else the board's. */
typedef struct {
    const char *name; /* dwt, mcycle, timer or none */
    const char *unit; /* cycles, instructions, ticks or none */
} bench_counter;

bench_counter bench_counter_start(void);
uint32_t bench_count(void); /* modulo 2^32 */

#endif
