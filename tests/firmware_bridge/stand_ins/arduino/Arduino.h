/* A stand-in, see ../README.md. */
#pragma once
#include <stddef.h>
#include <stdint.h>

struct SerialPort {
    void begin(unsigned long);
    void print(const char *);
    void print(unsigned long);
    void println(const char *);
    void println(unsigned long);
};

extern SerialPort Serial;

unsigned long millis();
unsigned long micros();
void delay(unsigned long milliseconds);
void setup();
void loop();

typedef int BaseType_t;
#define pdPASS 1
BaseType_t xTaskCreate(void (*code)(void *), const char *name, uint32_t stack, void *argument, unsigned priority,
                       void **task);
