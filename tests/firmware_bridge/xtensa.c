/* Clips from stdin, each one's scores to stdout, on an emulated Xtensa under Linux (qemu-user), without a C library. */
#include "tinyscene.h"

enum { READ = 12, WRITE = 13, EXIT = 118 }; /* calls of Linux on Xtensa */

static TINYSCENE_ALIGNED uint8_t memory[TINYSCENE_BYTES];
static int16_t pcm[TINYSCENE_CLIP_SAMPLES];

static int32_t call(int32_t number, int32_t first, void *second, uint32_t third)
{
    register int32_t a2 __asm__("a2") = number;
    register int32_t a6 __asm__("a6") = first;
    register void *a3 __asm__("a3") = second;
    register uint32_t a4 __asm__("a4") = third;
    __asm__ volatile("syscall" : "+r"(a2) : "r"(a6), "r"(a3), "r"(a4) : "memory");
    return a2;
}

/* The processor's ROM has these, so its libgcc has not. */
uint64_t __muldi3(uint64_t a, uint64_t b)
{
    const uint32_t x = (uint32_t)a, y = (uint32_t)b;
    const uint32_t upper = x * (uint32_t)(b >> 32) + (uint32_t)(a >> 32) * y + (x >> 16) * (y >> 16);
    const uint64_t middle = (uint64_t)((x >> 16) * (y & 0xffff)) + (x & 0xffff) * (y >> 16);
    return ((uint64_t)upper << 32) + (middle << 16) + (x & 0xffff) * (y & 0xffff);
}

uint64_t __udivdi3(uint64_t a, uint64_t b)
{
    uint64_t quotient = 0, rest = 0;
    for (int32_t bit = 63; bit >= 0; bit--) {
        rest = rest << 1 | (a >> bit & 1);
        if (rest >= b) {
            rest -= b;
            quotient |= UINT64_C(1) << bit;
        }
    }
    return quotient;
}

int64_t __divdi3(int64_t a, int64_t b)
{
    const uint64_t quotient = __udivdi3((uint64_t)(a < 0 ? -a : a), (uint64_t)(b < 0 ? -b : b));
    return (a < 0) != (b < 0) ? -(int64_t)quotient : (int64_t)quotient;
}

uint32_t __udivsi3(uint32_t a, uint32_t b)
{
    return (uint32_t)__udivdi3(a, b);
}

int32_t __divsi3(int32_t a, int32_t b)
{
    return (int32_t)__divdi3(a, b);
}

uint32_t __umodsi3(uint32_t a, uint32_t b)
{
    return a - (uint32_t)__udivdi3(a, b) * b;
}

static int read_clip(void)
{
    uint32_t have = 0;
    while (have < sizeof pcm) {
        const int32_t count = call(READ, 0, (uint8_t *)pcm + have, (uint32_t)sizeof pcm - have);
        if (count <= 0)
            return 0;
        have += (uint32_t)count;
    }
    return 1;
}

void _start(void)
{
    tinyscene *scene;
    int8_t scores[TINYSCENE_CLASSES];
    int32_t failed = tinyscene_init(memory, sizeof memory, &scene) != TINYSCENE_OK;
    while (!failed && read_clip()) {
        size_t taken;
        failed = tinyscene_push(scene, pcm, TINYSCENE_CLIP_SAMPLES, &taken) != TINYSCENE_READY ||
                 tinyscene_run(scene) != TINYSCENE_OK || tinyscene_scores(scene, scores, sizeof scores) != TINYSCENE_OK;
        call(WRITE, 1, scores, sizeof scores);
    }
    call(EXIT, failed, 0, 0);
}
