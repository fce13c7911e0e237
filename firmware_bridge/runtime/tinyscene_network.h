/* The network: generated, with its plan of the arena. */
#ifndef TINYSCENE_NETWORK_H
#define TINYSCENE_NETWORK_H

#include <stdint.h>

#include "tinyscene_config.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Run it. Its input lies in the arena: row y, TINYSCENE_INPUT_ROW_BYTES of it, begins at
 * TINYSCENE_INPUT + y * TINYSCENE_INPUT_STRIDE, with padding around that tinyscene_network_clear writes. Its output,
 * TINYSCENE_OUTPUT_ROWS of TINYSCENE_OUTPUT_ROW_BYTES, is laid out the same way. The input is used up.
 * The arena is TINYSCENE_ARENA_BYTES, aligned to 16. */
void tinyscene_network_clear(int8_t *arena);
void tinyscene_network_run(int8_t *arena);

#ifdef TINYSCENE_TRACE
/* Of test builds: called with each row that a tensor gets, and before each step. Not part of the library. */
void tinyscene_trace_row(int32_t tensor, int32_t row, const int8_t *values, int32_t bytes);
void tinyscene_trace_step(int8_t *arena, int32_t tensor, int32_t row);
#endif

#ifdef __cplusplus
}
#endif

#endif
