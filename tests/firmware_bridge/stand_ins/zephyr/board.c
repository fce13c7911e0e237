/* A stand-in, see ../README.md. The program's main is renamed to board_main.
 *
 * The microphone's driver is as the nRF's: filled blocks wait in a queue of 4; if there is no room in it, or no block to
 * fill, the driver stops.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <zephyr/audio/dmic.h>

#include "machine.h"

#define DRIVER_QUEUE 4

int board_main(void);

const struct device device_dmic_dev = {"dmic_dev"};

static struct k_mem_slab *slab;
static size_t block_samples;
static void *blocks[DRIVER_QUEUE];
static struct k_msgq filled = {(char *)blocks, sizeof blocks[0], DRIVER_QUEUE, 0, 0};
static bool configured, active;
static void *filling;
static uint64_t position; /* of the next sample that the driver takes */

bool device_is_ready(const struct device *device)
{
    return device == &device_dmic_dev;
}

static void *allocate(void)
{
    for (uint32_t index = 0; index < slab->blocks; index++)
        if (!(slab->used >> index & 1)) {
            slab->used |= UINT64_C(1) << index;
            return slab->memory + index * slab->block_size;
        }
    return NULL;
}

void k_mem_slab_free(struct k_mem_slab *from, void *block)
{
    const size_t index = (size_t)((char *)block - from->memory) / from->block_size;
    if (index >= from->blocks || !(from->used >> index & 1))
        abort();
    from->used &= ~(UINT64_C(1) << index);
}

int64_t k_uptime_get(void)
{
    return (int64_t)(machine_now_us() / 1000);
}

static bool never(void)
{
    return false;
}

int32_t k_msleep(int32_t ms)
{
    (void)machine_wait(never, (uint64_t)ms);
    return 0;
}

int k_msgq_put(struct k_msgq *queue, const void *message, k_timeout_t timeout)
{
    if (timeout.ms != 0)
        abort();
    if (queue->count == queue->most)
        return -ENOMSG;
    memcpy(queue->messages + (queue->first + queue->count++) % queue->most * queue->size, message, queue->size);
    return 0;
}

static const struct k_msgq *awaited[2]; /* by the main thread, by the reader */

static bool main_has(void)
{
    return awaited[0]->count > 0;
}

static bool reader_has(void)
{
    return awaited[1]->count > 0;
}

/* The driver's queue is the reader's, if there is a reader. */
int k_msgq_get(struct k_msgq *queue, void *message, k_timeout_t timeout)
{
    const int who = queue == &filled;
    awaited[who] = queue;
    if (!machine_wait(who ? reader_has : main_has, (uint64_t)timeout.ms))
        return timeout.ms == 0 ? -ENOMSG : -EAGAIN;
    memcpy(message, queue->messages + queue->first * queue->size, queue->size);
    queue->first = (queue->first + 1) % queue->most;
    queue->count--;
    return 0;
}

static void run_thread(void *thread)
{
    ((k_tid_t)thread)->code(NULL, NULL, NULL);
}

void k_thread_start(k_tid_t thread)
{
    if (thread->priority >= 0 || thread->stack < 512)
        abort(); /* it would wait for the main thread, or overflow */
    machine_thread(run_thread, thread);
}

void k_thread_abort(k_tid_t thread)
{
    (void)thread;
}

uint32_t dmic_build_channel_map(uint8_t channel, uint8_t pdm, enum pdm_lr side)
{
    return ((pdm & 7u) << 1 | side) << (channel & 7u) * 4;
}

int dmic_configure(const struct device *device, struct dmic_cfg *configuration)
{
    const struct pcm_stream_cfg *stream = configuration->streams;
    if (active)
        return -EBUSY;
    if (stream->block_size > stream->mem_slab->block_size || stream->pcm_width != 16)
        return -EINVAL;
    slab = stream->mem_slab;
    block_samples = stream->block_size / sizeof(int16_t);
    configured = true;
    return device_is_ready(device) ? 0 : -EIO;
}

static void stop(void)
{
    if (active && filling != NULL)
        k_mem_slab_free(slab, filling);
    active = false;
    filling = NULL;
}

int dmic_trigger(const struct device *device, enum dmic_trigger command)
{
    if (!configured || !device_is_ready(device))
        return -EIO;
    if (command == DMIC_TRIGGER_STOP) {
        stop();
    } else if (!active) {
        if (position > 0) /* else it has not run before */
            machine_lose(machine_heard() - position);
        position = machine_heard();
        filling = allocate();
        active = filling != NULL;
    }
    return 0;
}

void board_interrupt(void)
{
    while (active && machine_heard() >= position + block_samples) {
        for (size_t index = 0; index < block_samples; index++)
            ((int16_t *)filling)[index] = machine_sample(position + index);
        if (k_msgq_put(&filled, &filling, K_NO_WAIT) == 0) {
            position += block_samples;
            filling = allocate();
        } else {
            stop();
        }
        active = filling != NULL;
    }
}

int dmic_read(const struct device *device, uint8_t stream, void **buffer, size_t *size, int32_t timeout)
{
    if (!configured || stream != 0 || !device_is_ready(device) || machine_fails())
        return -EIO;
    *size = block_samples * sizeof(int16_t);
    return k_msgq_get(&filled, buffer, K_MSEC(timeout));
}

int main(int count, char **arguments)
{
    machine_start(count, arguments);
    return board_main();
}
