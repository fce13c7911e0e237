/* A stand-in, see ../../README.md. */
#pragma once
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BUILD_ASSERT(condition, text) _Static_assert(condition, text)
#define ARG_UNUSED(argument) (void)(argument)

struct device {
    const char *name;
};

bool device_is_ready(const struct device *device);

#define DT_NODELABEL(label) device_##label
#define DEVICE_DT_GET(node) (&node)
extern const struct device device_dmic_dev;

struct k_mem_slab {
    size_t block_size;
    uint32_t blocks;
    char *memory;
    uint64_t used; /* one bit a block */
};

#define K_MEM_SLAB_DEFINE_STATIC(name, size, count, align)                                                   \
    _Static_assert((count) <= 64, "a stand-in has 64 blocks");                                               \
    static char name##_memory[(count) * (size)] __attribute__((aligned(align)));                             \
    static struct k_mem_slab name = {(size), (count), name##_memory, 0}

void k_mem_slab_free(struct k_mem_slab *slab, void *block);
int64_t k_uptime_get(void);
int32_t k_msleep(int32_t ms);

typedef struct {
    int64_t ms;
} k_timeout_t;

#define K_NO_WAIT ((k_timeout_t){0})
#define K_MSEC(count) ((k_timeout_t){count})
#define SYS_FOREVER_MS (-1)

struct k_msgq {
    char *messages;
    size_t size;
    uint32_t most, first, count;
};

#define K_MSGQ_DEFINE(name, bytes, number, align)                                         \
    static char name##_messages[(number) * (bytes)] __attribute__((aligned(align)));      \
    static struct k_msgq name = {name##_messages, (bytes), (number), 0, 0}

int k_msgq_put(struct k_msgq *queue, const void *message, k_timeout_t timeout);
int k_msgq_get(struct k_msgq *queue, void *message, k_timeout_t timeout);

typedef void (*k_thread_entry_t)(void *, void *, void *);
typedef struct k_thread {
    k_thread_entry_t code;
    int priority;
    size_t stack;
} * k_tid_t;

#define K_PRIO_COOP(level) ((level) - 16)
#define K_THREAD_DEFINE(name, stack_size, entry, p1, p2, p3, prio, options, delay)                        \
    _Static_assert((delay) == SYS_FOREVER_MS && (options) == 0, "a stand-in's thread is started");         \
    static struct k_thread name##_thread = {entry, prio, stack_size};                                      \
    static const k_tid_t name = &name##_thread

void k_thread_start(k_tid_t thread);
void k_thread_abort(k_tid_t thread);
