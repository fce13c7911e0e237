/* SPDX-License-Identifier: Apache-2.0
 *
 * Acoustic scenes from the board's digital microphone. The board's overlay must label it dmic_dev; Zephyr's own sample
 * samples/drivers/audio/dmic has overlays for many boards.
 *
 * The network was trained at TINYSCENE_SAMPLE_RATE; sound at another rate gives wrong answers. A driver may choose the
 * nearest supported rate and report it in a log message only: the nRF52's does not support 32000, the nRF5340's does
 * with the audio clock (clock-source = "ACLK"). The sample therefore measures the rate before it classifies.
 *
 * Compiled and run on a computer with stand-ins for Zephyr's headers, never on a board or with Zephyr itself.
 */
#include <zephyr/audio/dmic.h>
#include <zephyr/kernel.h>
#include <zephyr/sys/printk.h>

#include "tinyscene.h"

#define BLOCK_SAMPLES (TINYSCENE_SAMPLE_RATE / 20) /* 50 ms */
#define BLOCK_BYTES (BLOCK_SAMPLES * sizeof(int16_t))
#define BLOCKS 8 /* must exceed the driver's queue (its queue-size in the devicetree) */
#define READ_TIMEOUT_MS 1000
#define BLOCKS_TO_START 10
#define BLOCKS_TO_MEASURE 40

BUILD_ASSERT(BLOCK_BYTES <= UINT16_MAX && BLOCK_BYTES % 4 == 0, "blocks must suit Zephyr's streams");

K_MEM_SLAB_DEFINE_STATIC(slab, BLOCK_BYTES, BLOCKS, 4);

static const struct device *const microphone = DEVICE_DT_GET(DT_NODELABEL(dmic_dev));
static TINYSCENE_ALIGNED uint8_t memory[TINYSCENE_BYTES];

static int start(void)
{
    struct pcm_stream_cfg stream = {
        .pcm_rate = TINYSCENE_SAMPLE_RATE,
        .pcm_width = 16,
        .block_size = BLOCK_BYTES,
        .mem_slab = &slab,
    };
    struct dmic_cfg configuration = {
        /* Typical for PDM microphones; see the data sheet of yours. */
        .io = {.min_pdm_clk_freq = 1000000, .max_pdm_clk_freq = 3500000, .min_pdm_clk_dc = 40, .max_pdm_clk_dc = 60},
        .streams = &stream,
        .channel = {.req_num_streams = 1, .req_num_chan = 1},
    };
    configuration.channel.req_chan_map_lo = dmic_build_channel_map(0, 0, PDM_CHAN_LEFT);
    const int result = dmic_configure(microphone, &configuration);
    return result < 0 ? result : dmic_trigger(microphone, DMIC_TRIGGER_START);
}

/* Samples a second, or a negative error. */
static int measured_rate(void)
{
    int64_t began = 0;
    for (int block = 0; block < BLOCKS_TO_START + BLOCKS_TO_MEASURE; block++) {
        void *sound;
        size_t bytes;
        if (block == BLOCKS_TO_START)
            began = k_uptime_get();
        const int result = dmic_read(microphone, 0, &sound, &bytes, READ_TIMEOUT_MS);
        if (result < 0)
            return result;
        k_mem_slab_free(&slab, sound);
    }
    const int64_t passed = k_uptime_get() - began;
    return passed > 0 ? (int)(INT64_C(1000) * BLOCKS_TO_MEASURE * BLOCK_SAMPLES / passed) : -EIO;
}

static void decide(tinyscene *scene)
{
    const int64_t began = k_uptime_get();
    if (tinyscene_run(scene) == TINYSCENE_OK)
        printk("%s  ms: %d\n", tinyscene_label((size_t)tinyscene_best(scene)), (int)(k_uptime_get() - began));
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

int main(void)
{
    tinyscene *scene;
    if (!device_is_ready(microphone) || tinyscene_init(memory, sizeof memory, &scene) != TINYSCENE_OK || start() < 0) {
        printk("the microphone does not start\n");
        return 0;
    }
    const int rate = measured_rate();
    printk("samples a second: %d\n", rate);
    if (rate < TINYSCENE_SAMPLE_RATE / 100 * 99 || rate > TINYSCENE_SAMPLE_RATE / 100 * 101) {
        printk("this is not the rate that the network was trained on: its answers would be wrong\n");
        return 0;
    }
    for (;;) {
        void *sound;
        size_t bytes;
        if (dmic_read(microphone, 0, &sound, &bytes, READ_TIMEOUT_MS) < 0) { /* a window must not span a gap */
            printk("sound was lost: this processor may be too slow for this network\n");
            (void)tinyscene_reset(scene);
            (void)dmic_trigger(microphone, DMIC_TRIGGER_STOP);
            if (start() < 0)
                return 0;
            continue;
        }
        push(scene, sound, bytes / sizeof(int16_t));
        k_mem_slab_free(&slab, sound);
    }
}
