/* A stand-in, see ../../README.md. */
#pragma once
#include "freertos/FreeRTOS.h"

typedef struct {
    uint8_t *bytes;
    size_t size, first, count;
} StaticStreamBuffer_t;
typedef StaticStreamBuffer_t *StreamBufferHandle_t;

StreamBufferHandle_t xStreamBufferCreateStatic(size_t size, size_t trigger, uint8_t *storage,
                                               StaticStreamBuffer_t *state);
size_t xStreamBufferSpacesAvailable(StreamBufferHandle_t buffer);
size_t xStreamBufferSend(StreamBufferHandle_t buffer, const void *data, size_t bytes, TickType_t ticks);
size_t xStreamBufferReceive(StreamBufferHandle_t buffer, void *data, size_t bytes, TickType_t ticks);
