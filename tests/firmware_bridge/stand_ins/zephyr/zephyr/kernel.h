/* A stand-in, see ../../README.md. */
#pragma once
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BUILD_ASSERT(condition, text) _Static_assert(condition, text)

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
    uint32_t used; /* one bit a block */
};

#define K_MEM_SLAB_DEFINE_STATIC(name, size, count, align)                      \
    static char name##_memory[(count) * (size)] __attribute__((aligned(align))); \
    static struct k_mem_slab name = {(size), (count), name##_memory, 0}

void k_mem_slab_free(struct k_mem_slab *slab, void *block);
int64_t k_uptime_get(void);
