/* A stand-in, see ../README.md. The program's main is renamed to board_main. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <zephyr/audio/dmic.h>

int board_main(void);

const struct device device_dmic_dev = {"dmic_dev"};

static FILE *sound;
static uint64_t true_rate, come, failing_ms;
static struct k_mem_slab *slab;
static size_t block_bytes;
static bool running;

bool device_is_ready(const struct device *device)
{
    return device == &device_dmic_dev;
}

void k_mem_slab_free(struct k_mem_slab *from, void *block)
{
    const size_t index = (size_t)((char *)block - from->memory) / from->block_size;
    if (index >= from->blocks || !(from->used >> index & 1))
        abort();
    from->used &= ~(1u << index);
}

int64_t k_uptime_get(void)
{
    return (int64_t)(come * 1000 / true_rate);
}

uint32_t dmic_build_channel_map(uint8_t channel, uint8_t pdm, enum pdm_lr side)
{
    return ((pdm & 7u) << 1 | side) << (channel & 7u) * 4;
}

int dmic_configure(const struct device *device, struct dmic_cfg *configuration)
{
    const struct pcm_stream_cfg *stream = configuration->streams;
    if (running || stream->block_size > stream->mem_slab->block_size || stream->pcm_width != 16)
        return -EINVAL;
    slab = stream->mem_slab;
    block_bytes = stream->block_size;
    return device_is_ready(device) ? 0 : -EIO;
}

int dmic_trigger(const struct device *device, enum dmic_trigger command)
{
    running = command == DMIC_TRIGGER_START;
    return device_is_ready(device) ? 0 : -EIO;
}

int dmic_read(const struct device *device, uint8_t stream, void **buffer, size_t *size, int32_t timeout)
{
    uint32_t index = 0;
    (void)device, (void)stream, (void)timeout;
    if (failing_ms > 0 && k_uptime_get() >= (int64_t)failing_ms) {
        failing_ms = 0;
        return -EIO;
    }
    while (index < slab->blocks && slab->used >> index & 1)
        index++;
    if (!running || index == slab->blocks)
        return -ENOMEM;
    *buffer = slab->memory + index * slab->block_size;
    *size = block_bytes;
    if (fread(*buffer, 1, block_bytes, sound) < block_bytes)
        exit(0);
    slab->used |= 1u << index;
    come += block_bytes / sizeof(int16_t);
    return 0;
}

int main(int count, char **arguments)
{
    sound = fopen(arguments[1], "rb");
    true_rate = strtoull(arguments[2], NULL, 10);
    failing_ms = count > 3 ? strtoull(arguments[3], NULL, 10) : 0;
    return board_main();
}
