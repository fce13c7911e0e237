/* What scene this is, from an I2S microphone (INMP441, ICS-43434, SPH0645 and the like) on an ESP32.
 *
 * For version 3.0 or newer of Espressif's Arduino core (ESP_I2S.h). Wire the microphone's SCK, WS and SD to the pins
 * below and its L/R to ground. I2S gives the network's rate itself; the sketch measures it all the same, because the
 * network answers wrongly on sound of any other.
 *
 * It was compiled and run on a computer against stand-ins for the core's libraries, never on a board. To be checked on
 * yours: the pins, that decisions take less time than there is between them, and the gain: the upper 16 of the
 * microphone's bits are used, which is faithful, but quiet.
 */
#include <ESP_I2S.h>
#include <tinyscene.h>

#if !defined(ARDUINO_ARCH_ESP32)
#error "This sketch is for an ESP32: for boards with a PDM microphone take SceneFromMicrophone"
#endif

static const int8_t SCK_PIN = 26, WS_PIN = 25, SD_PIN = 33;

static TINYSCENE_ALIGNED uint8_t memory[TINYSCENE_BYTES];
static tinyscene *scene;
static I2SClass microphone;

/* Sound waits here while a decision is made: half a second of it at 32 kHz. A power of two. */
static const uint32_t WAITING = 16384;
static int16_t waiting[WAITING];
static volatile uint32_t heard;   /* samples that came, counted by the task below; the newest is waiting[heard - 1] */
static volatile uint32_t taken;   /* of them that tinyscene has */
static volatile bool overrun;     /* more came than there is room for */
static volatile bool listening;

static void stop(const char *why)
{
    for (;;) {
        Serial.println(why);
        delay(5000);
    }
}

/* A task of its own, because I2S keeps a few hundredths of a second only. */
static void hear(void *)
{
    static int32_t block[256];
    for (;;) {
        const uint32_t samples = microphone.readBytes((char *)block, sizeof block) / sizeof block[0];
        if (listening && heard + samples - taken > WAITING)
            overrun = true;
        for (uint32_t index = 0; index < samples; index++)
            waiting[(heard + index) % WAITING] = (int16_t)(block[index] >> 16);
        heard = heard + samples;
    }
}

/* Samples a second, to a half of a percent: blocks come every few milliseconds. */
static uint32_t measuredRate()
{
    delay(500); /* what a microphone gives while it starts does not count */
    const uint32_t first = heard, start = micros();
    delay(2000);
    const uint32_t samples = heard - first;
    return (uint32_t)(samples * UINT64_C(1000000) / (micros() - start));
}

static void listenAnew()
{
    taken = heard;
    overrun = false;
    listening = true;
    (void)tinyscene_reset(scene);
}

void setup()
{
    Serial.begin(115200);
    if (tinyscene_init(memory, sizeof memory, &scene) != TINYSCENE_OK)
        stop("tinyscene: no instance");
    microphone.setPins(SCK_PIN, WS_PIN, -1, SD_PIN);
    if (!microphone.begin(I2S_MODE_STD, TINYSCENE_SAMPLE_RATE, I2S_DATA_BIT_WIDTH_32BIT, I2S_SLOT_MODE_MONO))
        stop("I2S does not start: see the pins");
    if (xTaskCreate(hear, "hear", 4096, NULL, 2, NULL) != pdPASS) /* loop() has priority 1 */
        stop("no memory for a task");
    const uint32_t rate = measuredRate();
    Serial.print("samples a second: ");
    Serial.println((unsigned long)rate);
    if (rate < TINYSCENE_SAMPLE_RATE / 100 * 99 || rate > TINYSCENE_SAMPLE_RATE / 100 * 101)
        stop("This is not the rate that the network was trained on: its answers would be wrong");
    listenAnew();
}

static void decide()
{
    const uint32_t start = millis();
    if (tinyscene_run(scene) != TINYSCENE_OK)
        stop("tinyscene: failed");
    Serial.print(tinyscene_label((size_t)tinyscene_best(scene)));
    Serial.print("  ms: ");
    Serial.println((unsigned long)(millis() - start));
}

void loop()
{
    if (overrun) { /* a window must not span a gap */
        Serial.println("sound was lost: this board is too slow for this network");
        listenAnew();
    }
    const uint32_t at = taken % WAITING;
    uint32_t samples = heard - taken;
    if (samples > WAITING - at)
        samples = WAITING - at;
    size_t used = 0;
    const tinyscene_status status = tinyscene_push(scene, waiting + at, samples, &used);
    taken = taken + (uint32_t)used;
    if (status == TINYSCENE_READY && !overrun)
        decide();
    else if (samples == 0)
        delay(1); /* let the system's other tasks run */
}
