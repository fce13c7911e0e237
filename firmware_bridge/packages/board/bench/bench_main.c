/* The benchmark: runs the golden sounds forever and reports their cost over the serial line. README.md has the protocol. */
#include <stddef.h>

#include "bench.h"
#include "tinyscene.h"
#include "tinyscene_kernels.h"

#if defined(TINYSCENE_MVE)
#define KERNELS "mve"
#elif defined(TINYSCENE_DSP)
#define KERNELS "dsp"
#else
#define KERNELS "plain"
#endif

enum { SOUNDS = 4, CHUNK = 500, SAMPLES = TINYSCENE_CLIP_SAMPLES + TINYSCENE_DELAY_SAMPLES };

static TINYSCENE_ALIGNED uint8_t memory[TINYSCENE_BYTES];
static int16_t chunk[CHUNK];
static uint32_t checksum; /* of the line so far */

/* zlib's CRC-32; `before` is the value so far, 0 at the start. */
static uint32_t crc32(uint32_t before, uint8_t byte)
{
    uint32_t crc = ~before ^ byte;
    for (int bit = 0; bit < 8; bit++)
        crc = crc >> 1 ^ (UINT32_C(0xedb88320) & -(crc & 1u));
    return ~crc;
}

static void put(const char *text)
{
    for (; *text != '\0'; text++) {
        checksum = crc32(checksum, (uint8_t)*text);
        bench_put(*text);
    }
}

static void put_number(const char *key, uint32_t value)
{
    char digits[11];
    int at = 10;
    digits[10] = '\0';
    do {
        digits[--at] = (char)('0' + value % 10);
        value /= 10;
    } while (value > 0);
    put(key);
    put(digits + at);
}

static void put_hex(const char *key, uint32_t value)
{
    char digits[9];
    for (int i = 0; i < 8; i++)
        digits[i] = "0123456789abcdef"[value >> (28 - 4 * i) & 15u];
    digits[8] = '\0';
    put(key);
    put(digits);
}

static void put_text(const char *key, const char *text)
{
    put(key);
    put(text[0] == '\0' ? "-" : text);
}

static void begin_line(const char *kind)
{
    checksum = 0;
    put("TSB1 ");
    put(kind);
}

static void end_line(void)
{
    put_hex(" *", checksum);
    put("\r\n");
}

/* The first golden sounds of every bundle: silence, the lowest value, a square wave at full scale, impulses. */
static int16_t sample(int32_t sound, int32_t at)
{
    switch (sound) {
    case 0:
        return 0;
    case 1:
        return -32768;
    case 2:
        return at % 64 < 32 ? 32767 : -32768;
    default:
        return at % 8000 == 0 ? 32767 : 0;
    }
}

/* Push a whole sound, and what follows until a decision on it is due, and count the pushes. Only calls of the library are
 * counted. */
static int fill(tinyscene *scene, int32_t sound, uint32_t *taken_time)
{
    tinyscene_status status = TINYSCENE_OK;
    *taken_time = 0;
    for (int32_t at = 0; at < SAMPLES;) {
        int32_t count = 0;
        for (; count < CHUNK && at < SAMPLES; count++, at++)
            chunk[count] = sample(sound, at);
        size_t taken = 0;
        const uint32_t before = bench_count();
        status = tinyscene_push(scene, chunk, (size_t)count, &taken);
        *taken_time += bench_count() - before;
        if (status < 0 || taken != (size_t)count)
            return 0;
    }
    return status == TINYSCENE_READY;
}

static int measure(tinyscene *scene, int32_t sound)
{
    int8_t logits[TINYSCENE_CLASSES];
    uint32_t front_end, crc = 0;
    if (tinyscene_reset(scene) != TINYSCENE_OK || !fill(scene, sound, &front_end))
        return 0;
    const uint32_t before = bench_count();
    const tinyscene_status status = tinyscene_run(scene);
    const uint32_t network = bench_count() - before;
    if (status != TINYSCENE_OK || tinyscene_scores(scene, logits, TINYSCENE_CLASSES) != TINYSCENE_OK)
        return 0;
    for (int index = 0; index < TINYSCENE_CLASSES; index++)
        crc = crc32(crc, (uint8_t)logits[index]);
    begin_line("sound");
    put_number(" index=", (uint32_t)sound);
    put_hex(" logits=", crc);
    put_number(" front_end=", front_end);
    put_number(" network=", network);
    end_line();
    return 1;
}

static void report(tinyscene *scene, bench_counter counter)
{
    begin_line("begin");
    put_text(" model=", TINYSCENE_MODEL);
    put_text(" target=", bench_target());
    put_text(" kernels=", KERNELS);
    put_number(" clock=", bench_clock_hz());
    put_text(" counter=", counter.name);
    put_text(" unit=", counter.unit);
    put_number(" memory=", TINYSCENE_BYTES);
    end_line();
    int32_t sound = 0;
    while (sound < SOUNDS && measure(scene, sound))
        sound++;
    begin_line(sound == SOUNDS ? "end" : "failed");
    put_number(" sounds=", (uint32_t)sound);
    end_line();
}

int main(void)
{
    tinyscene *scene = NULL;
    bench_board_start();
    const bench_counter counter = bench_counter_start();
    if (tinyscene_init(memory, sizeof memory, &scene) != TINYSCENE_OK)
        return 1;
    for (;;)
        report(scene, counter);
}
