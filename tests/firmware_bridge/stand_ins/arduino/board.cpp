/* A stand-in, see ../README.md. */
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <thread>
#include <vector>

#include "ESP_I2S.h"
#include "PDM.h"

static const size_t BLOCK = 256;

SerialPort Serial;
PDMClass PDM;

static std::vector<int16_t> sound;
static uint64_t true_rate, now_us, look_ms;
static size_t used; /* samples of the sound that the program has */
static void (*on_receive)(void);
static size_t block_left;

static std::mutex lock;
static std::condition_variable changed;
static bool has_task, task_waits;
static size_t wanted;

static size_t come()
{
    return (size_t)(now_us * true_rate / 1000000);
}

/* All that happens on the board happens here. */
static void pass(uint64_t us)
{
    std::unique_lock<std::mutex> held(lock);
    now_us += us;
    if (come() >= sound.size()) {
        fflush(stdout);
        _Exit(0);
    }
    for (; on_receive != NULL && used + BLOCK <= come(); used += BLOCK) {
        block_left = BLOCK;
        on_receive();
    }
    changed.notify_all();
    changed.wait(held, [] { return !has_task || (task_waits && wanted > come()); });
}

int PDMClass::begin(int channels, int)
{
    return channels == 1;
}

int PDMClass::available()
{
    return (int)(block_left * sizeof(int16_t));
}

int PDMClass::read(void *buffer, size_t size)
{
    const size_t samples = size / sizeof(int16_t) < block_left ? size / sizeof(int16_t) : block_left;
    memcpy(buffer, &sound[used + BLOCK - block_left], samples * sizeof(int16_t));
    block_left -= samples;
    return (int)(samples * sizeof(int16_t));
}

void PDMClass::onReceive(void (*function)(void))
{
    on_receive = function;
}

void PDMClass::setGain(int)
{
}

void I2SClass::setPins(int8_t, int8_t, int8_t, int8_t, int8_t)
{
}

bool I2SClass::begin(i2s_mode_t, uint32_t, i2s_data_bit_width_t bits, i2s_slot_mode_t slots)
{
    return bits == I2S_DATA_BIT_WIDTH_32BIT && slots == I2S_SLOT_MODE_MONO;
}

size_t I2SClass::readBytes(char *buffer, size_t size)
{
    std::unique_lock<std::mutex> held(lock);
    wanted = used + size / sizeof(int32_t);
    task_waits = true;
    changed.notify_all();
    changed.wait(held, [] { return wanted <= come(); });
    task_waits = false;
    for (size_t at = 0; used < wanted; used++, at += sizeof(int32_t)) {
        const int32_t word = sound[used] * 65536 + 0x7f00; /* 24 bits: the lower ones don't matter */
        memcpy(buffer + at, &word, sizeof word);
    }
    return size;
}

BaseType_t xTaskCreate(void (*code)(void *), const char *, uint32_t, void *argument, unsigned, void **)
{
    has_task = true;
    std::thread(code, argument).detach();
    return pdPASS;
}

unsigned long millis()
{
    pass(look_ms * 1000);
    return (unsigned long)(now_us / 1000);
}

unsigned long micros()
{
    return (unsigned long)now_us;
}

void delay(unsigned long milliseconds)
{
    for (; milliseconds > 0; milliseconds--)
        pass(1000);
}

void noInterrupts()
{
}

void interrupts()
{
}

void SerialPort::begin(unsigned long)
{
}

void SerialPort::print(const char *text)
{
    printf("%s", text);
}

void SerialPort::print(unsigned long number)
{
    printf("%lu", number);
}

void SerialPort::println(const char *text)
{
    printf("%s\n", text);
}

void SerialPort::println(unsigned long number)
{
    printf("%lu\n", number);
}

int main(int count, char **arguments)
{
    FILE *file = fopen(arguments[1], "rb");
    for (int16_t sample; fread(&sample, sizeof sample, 1, file) == 1;)
        sound.push_back(sample);
    true_rate = strtoull(arguments[2], NULL, 10);
    look_ms = count > 3 ? strtoull(arguments[3], NULL, 10) : 0;
    setup();
    for (;;) {
        loop();
        pass(1000);
    }
}
