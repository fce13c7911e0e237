/* SPDX-License-Identifier: Apache-2.0
 *
 * Acoustic scenes from the board's digital microphone. The board's overlay must label it dmic_dev; Zephyr's own sample
 * samples/drivers/audio/dmic has overlays for many boards.
 *
 * The network was trained at TINYSCENE_SAMPLE_RATE; sound at another rate gives wrong answers. A driver may choose the
 * nearest supported rate and report it in a log message only: the nRF52's does not support 32000, the nRF5340's does
 * with the audio clock (clock-source = "ACLK"). The recipes baseline16k, micro16k and nano16k train at 16000, which
 * nearly every microphone and driver supports. The sample therefore measures the rate before it classifies.
 *
 * A thread of its own reads the microphone: a driver's queue holds a few blocks only (four of the nRF's), which is less
 * than the time that the network runs. scene_cost.h says how much sound has to wait for it.
 *
 * Compiled and run on a computer with stand-ins for Zephyr's headers, never on a board or with Zephyr itself.
 */
#include <zephyr/audio/dmic.h>
#include <zephyr/kernel.h>
#include <zephyr/sys/atomic.h>
#include <zephyr/sys/printk.h>

#include "tinyscene.h"

#define SCENE_MIPS CONFIG_SCENE_MIPS
#if CONFIG_SCENE_SOUND_MS > 0
#define SCENE_SOUND_MS CONFIG_SCENE_SOUND_MS
#endif
#include "scene_cost.h"

#define BLOCK_MS 50
#define BLOCK_SAMPLES (TINYSCENE_SAMPLE_RATE / (1000 / BLOCK_MS))
#define BLOCK_BYTES (BLOCK_SAMPLES * sizeof(int16_t))
#define WAITING_BLOCKS ((SCENE_SOUND_MS + BLOCK_MS - 1) / BLOCK_MS)
#define DRIVER_BLOCKS 4 /* that the driver fills, or the reader has just got */
#define READ_TIMEOUT_MS 1000
#define BLOCKS_TO_START 10
#define BLOCKS_TO_MEASURE 40
#define READER_STACK 1024

BUILD_ASSERT(BLOCK_BYTES <= UINT16_MAX && BLOCK_BYTES % 4 == 0, "blocks must suit Zephyr's streams");

K_MEM_SLAB_DEFINE_STATIC(slab, BLOCK_BYTES, WAITING_BLOCKS + DRIVER_BLOCKS, 4);
K_MSGQ_DEFINE(waiting, sizeof(void *), WAITING_BLOCKS, sizeof(void *));

static const struct device *const microphone = DEVICE_DT_GET(DT_NODELABEL(dmic_dev));
static TINYSCENE_ALIGNED uint8_t memory[TINYSCENE_BYTES];
static atomic_t lost; /* whether sound was lost after what waits */

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

/* The reader: every block that the driver has filled goes to the queue at once, whatever the network does. */
static void read_blocks(void *first, void *second, void *third)
{
    ARG_UNUSED(first);
    ARG_UNUSED(second);
    ARG_UNUSED(third);
    for (;;) {
        void *block;
        size_t bytes;
        if (dmic_read(microphone, 0, &block, &bytes, READ_TIMEOUT_MS) < 0) { /* the driver has stopped */
            atomic_set(&lost, 1);
            (void)dmic_trigger(microphone, DMIC_TRIGGER_STOP);
            if (start() < 0)
                k_msleep(READ_TIMEOUT_MS);
        } else if (k_msgq_put(&waiting, &block, K_NO_WAIT) < 0) {
            atomic_set(&lost, 1);
            k_mem_slab_free(&slab, block);
        }
    }
}

/* It comes before the main thread whenever there is sound, and takes no time. */
K_THREAD_DEFINE(reader, READER_STACK, read_blocks, NULL, NULL, NULL, K_PRIO_COOP(1), 0, SYS_FOREVER_MS);

/* The next block of sound, to be freed; NULL if none comes. */
static int16_t *next_block(void)
{
    void *block = NULL;
    return k_msgq_get(&waiting, &block, K_MSEC(READ_TIMEOUT_MS)) < 0 ? NULL : block;
}

/* Samples a second, or a negative error. */
static int measured_rate(void)
{
    int64_t began = 0;
    for (int index = 0; index < BLOCKS_TO_START + BLOCKS_TO_MEASURE; index++) {
        if (index == BLOCKS_TO_START)
            began = k_uptime_get();
        int16_t *block = next_block();
        if (block == NULL)
            return -EIO;
        k_mem_slab_free(&slab, block);
    }
    const int64_t passed = k_uptime_get() - began;
    return passed > 0 ? (int)(INT64_C(1000) * BLOCKS_TO_MEASURE * BLOCK_SAMPLES / passed) : -EIO;
}

static uint32_t now_ms(void)
{
    return (uint32_t)k_uptime_get();
}

/* Say whether this processor is fast enough, by a decision on silence. */
static bool measure_cost(tinyscene *scene)
{
    static char line[256];
    uint32_t push_ms, run_ms;
    if (!scene_measure(scene, now_ms, &push_ms, &run_ms))
        return false;
    (void)scene_is_fast_enough(line, sizeof line, push_ms, run_ms);
    printk("%s\n", line);
    return tinyscene_reset(scene) == TINYSCENE_OK;
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

/* A window must not span a gap: after one, what waits is from before it. */
static void restart(tinyscene *scene)
{
    void *block;
    printk("sound was lost: the network and what else runs here take too long\n");
    while (k_msgq_get(&waiting, &block, K_NO_WAIT) == 0)
        k_mem_slab_free(&slab, block);
    (void)tinyscene_reset(scene);
}

int main(void)
{
    tinyscene *scene;
    if (tinyscene_init(memory, sizeof memory, &scene) != TINYSCENE_OK || !measure_cost(scene)) {
        printk("tinyscene: failed\n");
        return 0;
    }
    if (!device_is_ready(microphone) || start() < 0) {
        printk("the microphone does not start\n");
        return 0;
    }
    k_thread_start(reader);
    const int rate = measured_rate();
    printk("samples a second: %d\n", rate);
    if (rate < TINYSCENE_SAMPLE_RATE / 100 * 99 || rate > TINYSCENE_SAMPLE_RATE / 100 * 101) {
        printk("this is not the rate that the network was trained on: its answers would be wrong\n");
        k_thread_abort(reader);
        return 0;
    }
    for (;;) {
        if (atomic_clear(&lost))
            restart(scene);
        int16_t *block = next_block();
        if (block == NULL)
            continue;
        push(scene, block, BLOCK_SAMPLES);
        k_mem_slab_free(&slab, block);
    }
}
