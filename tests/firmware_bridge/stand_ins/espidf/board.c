/* A stand-in, see ../README.md.
 *
 * The I2S driver is as ESP-IDF's: filled buffers of dma_frame_num frames wait in a queue; if all of dma_desc_num are
 * filled, the oldest is overwritten, and on_recv_q_ovf called.
 */
#include <stdio.h>
#include <string.h>

#include "driver/i2s_std.h"
#include "esp_timer.h"
#include "freertos/stream_buffer.h"
#include "freertos/task.h"
#include "machine.h"

struct i2s_channel {
    uint32_t frames, buffers;
    i2s_std_config_t configuration;
    i2s_event_callbacks_t callbacks;
    bool enabled;
};

void app_main(void);

static struct i2s_channel channel;
static uint64_t position, wanted; /* in samples: of the next that is read; the end of what is waited for */
static StreamBufferHandle_t awaited;

esp_err_t i2s_new_channel(const i2s_chan_config_t *chan_cfg, i2s_chan_handle_t *tx, i2s_chan_handle_t *rx)
{
    if (tx != NULL || chan_cfg->role != I2S_ROLE_MASTER)
        abort();
    channel.frames = chan_cfg->dma_frame_num;
    channel.buffers = chan_cfg->dma_desc_num;
    *rx = &channel;
    return ESP_OK;
}

esp_err_t i2s_channel_init_std_mode(i2s_chan_handle_t handle, const i2s_std_config_t *std_cfg)
{
    const i2s_std_slot_config_t *slots = &std_cfg->slot_cfg;
    if (slots->data_bit_width != I2S_DATA_BIT_WIDTH_32BIT || slots->slot_mode != I2S_SLOT_MODE_MONO)
        abort();
    handle->configuration = *std_cfg;
    return ESP_OK;
}

esp_err_t i2s_channel_register_event_callback(i2s_chan_handle_t handle, const i2s_event_callbacks_t *callbacks,
                                              void *user_data)
{
    (void)user_data;
    if (handle->enabled)
        return ESP_ERR_INVALID_STATE;
    handle->callbacks = *callbacks;
    return ESP_OK;
}

esp_err_t i2s_channel_enable(i2s_chan_handle_t handle)
{
    handle->enabled = true;
    position = machine_heard() / handle->frames * handle->frames;
    return ESP_OK;
}

static uint64_t filled(void)
{
    return machine_heard() / channel.frames * channel.frames;
}

void board_interrupt(void)
{
    const uint64_t held = channel.frames * channel.buffers;
    if (channel.enabled && position + held < filled()) {
        machine_lose(filled() - held - position);
        position = filled() - held;
        if (channel.callbacks.on_recv_q_ovf != NULL)
            (void)channel.callbacks.on_recv_q_ovf(&channel, NULL, NULL);
    }
}

static bool has_wanted(void)
{
    return position + wanted <= filled();
}

esp_err_t i2s_channel_read(i2s_chan_handle_t handle, void *dest, size_t size, size_t *bytes_read, uint32_t timeout_ms)
{
    wanted = size / sizeof(int32_t);
    *bytes_read = 0;
    if (!handle->enabled || machine_fails())
        return ESP_ERR_INVALID_STATE;
    if (!machine_wait(has_wanted, timeout_ms))
        return ESP_ERR_TIMEOUT;
    for (uint64_t index = 0; index < wanted; index++, position++)
        ((int32_t *)dest)[index] = machine_sample(position) * 65536 + 0x7f00; /* 24 bits: the lower don't matter */
    *bytes_read = size;
    return ESP_OK;
}

int64_t esp_timer_get_time(void)
{
    return (int64_t)machine_now_us();
}

BaseType_t xTaskCreate(void (*code)(void *), const char *name, uint32_t stack, void *argument, UBaseType_t priority,
                       TaskHandle_t *task)
{
    (void)name, (void)task;
    if (priority <= 1 || stack < 2048)
        abort(); /* it would wait for the main task, or overflow */
    machine_thread(code, argument);
    return pdPASS;
}

void vTaskDelay(TickType_t ticks)
{
    machine_pass(ticks * UINT64_C(1000000) / configTICK_RATE_HZ);
}

StreamBufferHandle_t xStreamBufferCreateStatic(size_t size, size_t trigger, uint8_t *storage,
                                               StaticStreamBuffer_t *state)
{
    (void)trigger;
    *state = (StaticStreamBuffer_t){storage, size, 0, 0};
    return state;
}

size_t xStreamBufferSpacesAvailable(StreamBufferHandle_t buffer)
{
    return buffer->size - 1 - buffer->count; /* FreeRTOS leaves one empty */
}

size_t xStreamBufferSend(StreamBufferHandle_t buffer, const void *data, size_t bytes, TickType_t ticks)
{
    if (ticks != 0)
        abort();
    for (size_t index = 0; index < bytes; index++, buffer->count++)
        buffer->bytes[(buffer->first + buffer->count) % buffer->size] = ((const uint8_t *)data)[index];
    return bytes;
}

static bool has_sound(void)
{
    return awaited->count > 0;
}

size_t xStreamBufferReceive(StreamBufferHandle_t buffer, void *data, size_t bytes, TickType_t ticks)
{
    awaited = buffer;
    (void)machine_wait(has_sound, ticks * UINT64_C(1000) / configTICK_RATE_HZ);
    const size_t taken = bytes < buffer->count ? bytes : buffer->count;
    for (size_t index = 0; index < taken; index++, buffer->count--, buffer->first = (buffer->first + 1) % buffer->size)
        ((uint8_t *)data)[index] = buffer->bytes[buffer->first];
    return taken;
}

int main(int count, char **arguments)
{
    machine_start(count, arguments);
    app_main();
    return 0;
}
