/* A stand-in, see ../README.md.
 *
 * The PDM library has two buffers: one that is filled, and one that onReceive's function has to read before the other
 * is full, or the microphone stops. The I2S driver has a ring of 6 times 240 frames; what is not read is overwritten.
 */
#include <cstdio>
#include <cstring>

#include "ESP_I2S.h"
#include "PDM.h"
#include "machine.h"

static const uint64_t PDM_SAMPLES = 256, FRAMES = 240, DESCRIPTORS = 6;

SerialPort Serial;
PDMClass PDM;

static uint64_t position; /* of the next sample that the program gets */
static bool pdm_runs, i2s_runs;
static void (*on_receive)(void);
static size_t to_read;
static uint64_t wanted;

extern "C" void board_interrupt(void)
{
    while (pdm_runs && position + PDM_SAMPLES <= machine_heard()) {
        to_read = PDM_SAMPLES;
        if (on_receive != NULL)
            on_receive();
        pdm_runs = to_read == 0; /* else the buffer overflows, and the library stops */
    }
    const uint64_t filled = machine_heard() / FRAMES * FRAMES;
    if (i2s_runs && position + FRAMES * DESCRIPTORS < filled) {
        machine_lose(filled - FRAMES * DESCRIPTORS - position);
        position = filled - FRAMES * DESCRIPTORS;
    }
}

int PDMClass::begin(int channels, int)
{
    pdm_runs = channels == 1;
    position = machine_heard();
    return pdm_runs;
}

int PDMClass::available()
{
    return (int)(to_read * sizeof(int16_t));
}

int PDMClass::read(void *buffer, size_t size)
{
    const size_t samples = size / sizeof(int16_t) < to_read ? size / sizeof(int16_t) : to_read;
    for (size_t index = 0; index < samples; index++)
        ((int16_t *)buffer)[index] = machine_sample(position++);
    to_read -= samples;
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
    position = machine_heard() / FRAMES * FRAMES;
    i2s_runs = true;
    return bits == I2S_DATA_BIT_WIDTH_32BIT && slots == I2S_SLOT_MODE_MONO;
}

static bool has_wanted()
{
    return position + wanted <= machine_heard() / FRAMES * FRAMES;
}

size_t I2SClass::readBytes(char *buffer, size_t size)
{
    wanted = size / sizeof(int32_t);
    (void)machine_wait(has_wanted, 1000);
    for (uint64_t index = 0; index < wanted; index++, position++) {
        const int32_t word = machine_sample(position) * 65536 + 0x7f00; /* 24 bits: the lower ones don't matter */
        memcpy(buffer + index * sizeof word, &word, sizeof word);
    }
    return size;
}

BaseType_t xTaskCreate(void (*code)(void *), const char *, uint32_t, void *argument, unsigned, void **)
{
    machine_thread(code, argument);
    return pdPASS;
}

unsigned long millis()
{
    return (unsigned long)(machine_now_us() / 1000);
}

unsigned long micros()
{
    return (unsigned long)machine_now_us();
}

void delay(unsigned long milliseconds)
{
    machine_pass(milliseconds * 1000);
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
    machine_start(count, arguments);
    setup();
    for (;;) {
        loop();
        machine_pass(100);
    }
}
