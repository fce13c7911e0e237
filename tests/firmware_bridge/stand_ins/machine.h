/* A computer as a board, see README.md: a clock that moves only when the program waits or computes, and two threads, of
 * which the reader comes first whenever it has something to do. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* SOUND RATE [MIPS RUN_INSTRUCTIONS PUSH_INSTRUCTIONS [FAILING_MS]] */
void machine_start(int count, char **arguments);

uint64_t machine_now_us(void);
bool machine_fails(void); /* once, when its time has come */

/* The sound that has come from the microphone so far, in samples since the start; and one of them. */
uint64_t machine_heard(void);
int16_t machine_sample(uint64_t index);
void machine_lose(uint64_t samples); /* which the driver has thrown away; they are counted, and told at the end */

/* Let time pass, in which interrupts come and the reader runs. */
void machine_pass(uint64_t us);

/* Wait in the calling thread, or for `ms` at most; returns whether it is ready. */
bool machine_wait(bool (*ready)(void), uint64_t ms);

void machine_thread(void (*code)(void *), void *argument);

/* Of the board: called whenever time has passed. */
void board_interrupt(void);

#ifdef __cplusplus
}
#endif
