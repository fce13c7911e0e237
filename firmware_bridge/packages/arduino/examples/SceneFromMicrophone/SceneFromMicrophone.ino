/* What scene this is, from the board's own PDM microphone, by Arduino's PDM library.
 *
 * The network was trained on sound at TINYSCENE_SAMPLE_RATE and answers wrongly on any other. As the library's sources
 * have it, not every board gives every rate:
 *   - nRF52840 (Nano 33 BLE Sense): 16000 and 41667, nothing between. It cannot give 32000.
 *   - RP2040 (Nano RP2040 Connect): any up to 25390.
 *   - STM32H7 (Portenta with Vision Shield, Nicla Vision): 8000, 11025, 16000, 22050, 32000, 44100, 48000 and more.
 * So the sketch measures what it gets before it trusts it, and refuses what is not the network's.
 *
 * It was compiled and run on a computer against stand-ins for Arduino's libraries, never on a board. To be checked on
 * yours: that the microphone works at this rate (the clock it needs can be beyond what its data sheet allows), that
 * decisions take less time than there is between them, and the gain (PDM.setGain), by ear.
 */
#include <PDM.h>
#include <tinyscene.h>

#if defined(ARDUINO_ARCH_NRF52840) && TINYSCENE_SAMPLE_RATE != 16000 && TINYSCENE_SAMPLE_RATE != 41667
#error "This board's microphone gives 16000 or 41667 Hz only: train with features.sample_rate=16000, or use an I2S one"
#endif

static TINYSCENE_ALIGNED uint8_t memory[TINYSCENE_BYTES];
static tinyscene *scene;

/* Sound waits here while a decision is made: half a second of it at 32 kHz. A power of two. */
static const uint32_t WAITING = 16384;
static int16_t waiting[WAITING];
static volatile uint32_t heard;   /* samples that came, counted by the interrupt; the newest is waiting[heard - 1] */
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

/* An interrupt. */
static void onSound()
{
    static int16_t block[256];
    for (int bytes; (bytes = PDM.read(block, sizeof block)) > 0;) {
        const uint32_t samples = (uint32_t)bytes / sizeof block[0];
        if (listening && heard + samples - taken > WAITING)
            overrun = true;
        for (uint32_t index = 0; index < samples; index++)
            waiting[(heard + index) % WAITING] = block[index];
        heard = heard + samples;
    }
}

/* Samples a second, to a half of a percent: a microphone's blocks come every few milliseconds. */
static uint32_t measuredRate()
{
    delay(500); /* what it gives while it starts does not count */
    const uint32_t first = heard, start = micros();
    delay(2000);
    const uint32_t samples = heard - first;
    return (uint32_t)(samples * UINT64_C(1000000) / (micros() - start));
}

static void listenAnew()
{
    noInterrupts();
    taken = heard;
    overrun = false;
    listening = true;
    interrupts();
    (void)tinyscene_reset(scene);
}

void setup()
{
    Serial.begin(115200);
    if (tinyscene_init(memory, sizeof memory, &scene) != TINYSCENE_OK)
        stop("tinyscene: no instance");
    PDM.onReceive(onSound);
    if (!PDM.begin(1, TINYSCENE_SAMPLE_RATE))
        stop("The PDM library cannot give this board's microphone the network's sample rate");
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
}
