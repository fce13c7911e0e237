/* SPDX-License-Identifier: Apache-2.0
 *
 * Acoustic scenes from an I2S microphone (INMP441, ICS-43434, SPH0645 and similar). Connect its SCK, WS and SD to the pins
 * of `idf.py menuconfig`, and its L/R to ground.
 *
 * The network was trained at TINYSCENE_SAMPLE_RATE; sound at another rate gives wrong answers. I2S supports the rate
 * directly; the example still measures it. Only the upper 16 bits of each sample are used, which is exact but quiet.
 *
 * A task of its own reads the microphone: the driver holds 6 times 240 samples, which is less than the time that the
 * network runs. scene_cost.h says how much sound has to wait for it.
 *
 * Compiled and run on a computer with stand-ins for ESP-IDF's headers, never on a board or with ESP-IDF itself.
 */
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "driver/i2s_std.h"
#include "esp_attr.h"
#include "esp_err.h"
#include "esp_timer.h"
#include "freertos/FreeRTOS.h"
#include "freertos/stream_buffer.h"
#include "freertos/task.h"
#include "sdkconfig.h"

#include "tinyscene.h"

#define SCENE_MIPS CONFIG_SCENE_MIPS
#if CONFIG_SCENE_SOUND_MS > 0
#define SCENE_SOUND_MS CONFIG_SCENE_SOUND_MS
#endif
#include "scene_cost.h"

#define BLOCK_SAMPLES 240
#define WAITING_BYTES (SCENE_SOUND_MS * TINYSCENE_SAMPLE_RATE / 1000 * sizeof(int16_t))
#define READER_PRIORITY 5 /* above app_main's, which is 1 */
#define READER_STACK 4096
#define READ_TIMEOUT_MS 1000

static TINYSCENE_ALIGNED uint8_t memory[TINYSCENE_BYTES];
static uint8_t waiting_bytes[WAITING_BYTES + 1];
static StaticStreamBuffer_t waiting_state;
static StreamBufferHandle_t waiting; /* the sound that the reader got, until the network has run */
static i2s_chan_handle_t microphone;
static atomic_bool lost;       /* whether sound was lost after what waits */
static atomic_uint received;   /* samples so far */

/* Called from an interrupt when the driver overwrites what the reader did not read. */
static bool IRAM_ATTR overflowed(i2s_chan_handle_t channel, i2s_event_data_t *event, void *context)
{
    (void)channel, (void)event, (void)context;
    atomic_store(&lost, true);
    return false;
}

static void start_microphone(void)
{
    const i2s_chan_config_t channel = I2S_CHANNEL_DEFAULT_CONFIG(I2S_NUM_AUTO, I2S_ROLE_MASTER);
    const i2s_event_callbacks_t callbacks = {.on_recv_q_ovf = overflowed};
    i2s_std_config_t configuration = {
        .clk_cfg = I2S_STD_CLK_DEFAULT_CONFIG(TINYSCENE_SAMPLE_RATE),
        .slot_cfg = I2S_STD_PHILIPS_SLOT_DEFAULT_CONFIG(I2S_DATA_BIT_WIDTH_32BIT, I2S_SLOT_MODE_MONO),
        .gpio_cfg = {.mclk = I2S_GPIO_UNUSED,
                     .bclk = CONFIG_SCENE_I2S_SCK,
                     .ws = CONFIG_SCENE_I2S_WS,
                     .dout = I2S_GPIO_UNUSED,
                     .din = CONFIG_SCENE_I2S_SD},
    };
    configuration.slot_cfg.slot_mask = I2S_STD_SLOT_LEFT;
    ESP_ERROR_CHECK(i2s_new_channel(&channel, NULL, &microphone));
    ESP_ERROR_CHECK(i2s_channel_init_std_mode(microphone, &configuration));
    ESP_ERROR_CHECK(i2s_channel_register_event_callback(microphone, &callbacks, NULL));
    ESP_ERROR_CHECK(i2s_channel_enable(microphone));
}

/* The reader: all sound goes to the stream buffer at once, whatever the network does. */
static void read_blocks(void *argument)
{
    static int32_t words[BLOCK_SAMPLES];
    static int16_t pcm[BLOCK_SAMPLES];
    (void)argument;
    for (;;) {
        size_t bytes = 0;
        if (i2s_channel_read(microphone, words, sizeof words, &bytes, READ_TIMEOUT_MS) != ESP_OK)
            atomic_store(&lost, true);
        const size_t samples = bytes / sizeof words[0];
        for (size_t index = 0; index < samples; index++)
            pcm[index] = (int16_t)(words[index] >> 16);
        if (xStreamBufferSpacesAvailable(waiting) < samples * sizeof pcm[0])
            atomic_store(&lost, true);
        else
            (void)xStreamBufferSend(waiting, pcm, samples * sizeof pcm[0], 0);
        atomic_fetch_add(&received, (unsigned)samples);
    }
}

/* Samples a second, to within 0.5 %. */
static int measured_rate(void)
{
    vTaskDelay(pdMS_TO_TICKS(500)); /* samples from the microphone's start-up do not count */
    const unsigned first = atomic_load(&received);
    const int64_t began = esp_timer_get_time();
    vTaskDelay(pdMS_TO_TICKS(2000));
    const unsigned samples = atomic_load(&received) - first;
    return (int)(samples * INT64_C(1000000) / (esp_timer_get_time() - began));
}

static uint32_t now_ms(void)
{
    return (uint32_t)(esp_timer_get_time() / 1000);
}

/* Say whether this processor is fast enough, by a decision on silence. */
static bool measure_cost(tinyscene *scene)
{
    static char line[256];
    uint32_t push_ms, run_ms;
    if (!scene_measure(scene, now_ms, &push_ms, &run_ms))
        return false;
    (void)scene_is_fast_enough(line, sizeof line, push_ms, run_ms);
    printf("%s\n", line);
    return true;
}

static void decide(tinyscene *scene)
{
    const int64_t began = esp_timer_get_time();
    if (tinyscene_run(scene) == TINYSCENE_OK)
        printf("%s  ms: %d\n", tinyscene_label((size_t)tinyscene_best(scene)),
               (int)((esp_timer_get_time() - began) / 1000));
}

static void push(tinyscene *scene, const int16_t *pcm, size_t samples)
{
    for (size_t taken; samples > 0; pcm += taken, samples -= taken) {
        const tinyscene_status status = tinyscene_push(scene, pcm, samples, &taken);
        if (status < 0)
            return;
        if (status == TINYSCENE_READY)
            decide(scene);
    }
}

/* A window must not span a gap: after one, what waits is from before it. */
static void restart(tinyscene *scene)
{
    static uint8_t thrown_away[512];
    atomic_store(&lost, false);
    while (xStreamBufferReceive(waiting, thrown_away, sizeof thrown_away, 0) > 0) {
    }
    (void)tinyscene_reset(scene);
}

void app_main(void)
{
    static int16_t pcm[BLOCK_SAMPLES];
    tinyscene *scene;
    if (tinyscene_init(memory, sizeof memory, &scene) != TINYSCENE_OK || !measure_cost(scene)) {
        printf("tinyscene: failed\n");
        return;
    }
    waiting = xStreamBufferCreateStatic(WAITING_BYTES, sizeof pcm, waiting_bytes, &waiting_state);
    start_microphone();
    if (xTaskCreate(read_blocks, "read_blocks", READER_STACK, NULL, READER_PRIORITY, NULL) != pdPASS) {
        printf("no memory for a task\n");
        return;
    }
    const int rate = measured_rate();
    printf("samples a second: %d\n", rate);
    if (rate < TINYSCENE_SAMPLE_RATE / 100 * 99 || rate > TINYSCENE_SAMPLE_RATE / 100 * 101) {
        printf("this is not the rate that the network was trained on: its answers would be wrong\n");
        return;
    }
    restart(scene);
    for (;;) {
        if (atomic_load(&lost)) {
            printf("sound was lost: the network and what else runs here take too long\n");
            restart(scene);
        }
        const size_t bytes = xStreamBufferReceive(waiting, pcm, sizeof pcm, pdMS_TO_TICKS(READ_TIMEOUT_MS));
        push(scene, pcm, bytes / sizeof pcm[0]);
    }
}
