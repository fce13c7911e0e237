/* The network for Python on the same machine: a batch in one call. */
#include <string.h>

#include "tinyscene_network.h"

void tinyscene_native_batch(int8_t *arena, const int8_t *input, int8_t *output, int32_t count)
{
    for (; count > 0; count--) {
#if TINYSCENE_BY_TIME
        tinyscene_progress progress;
        tinyscene_network_begin(arena, &progress);
        for (; tinyscene_network_step(arena, &progress, INT32_MAX); input += TINYSCENE_INPUT_ROW_BYTES) {
            int8_t *row = tinyscene_network_row(arena, &progress);
            memcpy(row, input, TINYSCENE_INPUT_ROW_BYTES);
            tinyscene_network_arrived(&progress, row);
        }
#else
        tinyscene_network_clear(arena);
        for (int32_t row = 0; row < TINYSCENE_INPUT_ROWS; row++, input += TINYSCENE_INPUT_ROW_BYTES)
            memcpy(arena + TINYSCENE_INPUT + row * TINYSCENE_INPUT_STRIDE, input, TINYSCENE_INPUT_ROW_BYTES);
        tinyscene_network_run(arena);
#endif
        for (int32_t row = 0; row < TINYSCENE_OUTPUT_ROWS; row++, output += TINYSCENE_OUTPUT_ROW_BYTES)
            memcpy(output, arena + TINYSCENE_OUTPUT + row * TINYSCENE_OUTPUT_STRIDE, TINYSCENE_OUTPUT_ROW_BYTES);
    }
}
