/* Lets a test see every row and step of a library that is compiled with TINYSCENE_TRACE. */
#include "tinyscene_network.h"

void (*trace_row)(int32_t tensor, int32_t row, const int8_t *values, int32_t bytes);
void (*trace_step)(int32_t tensor, int32_t row);

void tinyscene_trace_row(int32_t tensor, int32_t row, const int8_t *values, int32_t bytes)
{
    if (trace_row)
        trace_row(tensor, row, values, bytes);
}

void tinyscene_trace_step(int8_t *arena, int32_t tensor, int32_t row)
{
    (void)arena;
    if (trace_step)
        trace_step(tensor, row);
}
