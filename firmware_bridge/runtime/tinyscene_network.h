/* The network, generated with its plan of the arena. */
#ifndef TINYSCENE_NETWORK_H
#define TINYSCENE_NETWORK_H

#include <stdint.h>

#include "tinyscene_layout.h"

#ifdef __cplusplus
extern "C" {
#endif

/* How far a run is. */
typedef struct {
    uint16_t pass;                     /* through the operators of a part of the schedule */
    uint16_t next;                     /* the operator that takes its turn next */
    uint16_t turns[TINYSCENE_TENSORS]; /* that the operator of each tensor has taken */
} tinyscene_progress;

/* What tinyscene_network_step answers. */
enum {
    TINYSCENE_NETWORK_DONE = 0,
    TINYSCENE_NETWORK_MORE = 1,
    TINYSCENE_NETWORK_WAITS = 2 /* for a row of the input */
};

#if TINYSCENE_BY_TIME

/* Run the network, whose rows are frames, as they arrive: begin; while tinyscene_network_step waits, write the next
 * TINYSCENE_INPUT_ROW_BYTES of the input to where tinyscene_network_row says, and tell tinyscene_network_arrived.
 * Both are only for a network that waits. */
int tinyscene_network_waits(const tinyscene_progress *progress);

#if TINYSCENE_STREAMS
/* Rows arrive without end. The output of the last window, whenever the network waits. */
void tinyscene_network_output(const int8_t *arena, int8_t *output);
#endif
int8_t *tinyscene_network_row(int8_t *arena, const tinyscene_progress *progress);
void tinyscene_network_arrived(tinyscene_progress *progress, const int8_t *row);

#else

/* Run the network. Its input is in the arena: row y has TINYSCENE_INPUT_ROW_BYTES from
 * TINYSCENE_INPUT + y * TINYSCENE_INPUT_STRIDE on, surrounded by padding that tinyscene_network_clear writes. The
 * output, TINYSCENE_OUTPUT_ROWS of TINYSCENE_OUTPUT_ROW_BYTES, has the same layout. Running overwrites the input.
 * The arena has TINYSCENE_ARENA_BYTES and is aligned to 16. */
void tinyscene_network_clear(int8_t *arena);
void tinyscene_network_run(int8_t *arena);

#endif

/* The same in parts: compute at least one row, and more until the budget is used up. */
void tinyscene_network_begin(int8_t *arena, tinyscene_progress *progress);
int tinyscene_network_step(int8_t *arena, tinyscene_progress *progress, int32_t budget);

#ifdef TINYSCENE_TRACE
/* Only in test builds: called with each row that is written, and before each step. Not part of the library. */
void tinyscene_trace_row(int32_t tensor, int32_t row, const int8_t *values, int32_t bytes);
void tinyscene_trace_step(int8_t *arena, int32_t tensor, int32_t row);
#endif

#ifdef __cplusplus
}
#endif

#endif
