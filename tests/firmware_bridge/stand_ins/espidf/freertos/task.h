/* A stand-in, see ../../README.md. */
#pragma once
#include "freertos/FreeRTOS.h"

typedef void *TaskHandle_t;
BaseType_t xTaskCreate(void (*code)(void *), const char *name, uint32_t stack, void *argument, UBaseType_t priority,
                       TaskHandle_t *task);
void vTaskDelay(TickType_t ticks);
