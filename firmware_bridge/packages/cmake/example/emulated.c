/* Acoustic scenes in recording.raw on an Arm MPS2 board as QEMU has it, Cortex-M3, M4 or M7, without a C library:
 *
 *     qemu-system-arm -M mps2-an386 -nographic -semihosting -kernel build/emulated/emulated
 *
 * The recording is 16-bit mono PCM at TINYSCENE_SAMPLE_RATE, little-endian, in the folder where QEMU is started. Files
 * and the terminal are the host's, by Arm's semihosting: on a real board, the vectors and what calls `host` are yours.
 */
#include "tinyscene.h"

enum { OPEN = 1, PRINT = 4, READ = 6, EXIT = 0x18 };                /* calls of the host */
enum { TO_READ = 1, DONE = 0x20026, FAILED = 0x20024, BLOCK = 512 }; /* their arguments; samples */

extern uint32_t stack_end[], bss_start[], bss_end[], data_load[], data_start[], data_end[]; /* of emulated.ld */

static uintptr_t host(uint32_t call, uintptr_t argument)
{
    register uintptr_t r0 __asm__("r0") = call;
    register uintptr_t r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static void print(const char *text)
{
    (void)host(PRINT, (uintptr_t)text);
}

/* Samples that were read. */
static size_t read_block(uintptr_t file, int16_t *pcm)
{
    const uintptr_t arguments[3] = {file, (uintptr_t)pcm, BLOCK * sizeof *pcm};
    return (arguments[2] - host(READ, (uintptr_t)arguments)) / sizeof *pcm; /* the host returns what is missing */
}

static int listen(tinyscene *scene, uintptr_t file)
{
    static int16_t pcm[BLOCK];
    for (size_t samples; (samples = read_block(file, pcm)) > 0;) {
        for (size_t at = 0, taken; at < samples; at += taken) {
            const tinyscene_status status = tinyscene_push(scene, pcm + at, samples - at, &taken);
            if (status < 0)
                return 0;
            if (status != TINYSCENE_READY)
                continue;
            if (tinyscene_run(scene) != TINYSCENE_OK)
                return 0;
            print(tinyscene_label((size_t)tinyscene_best(scene)));
            print("\n");
        }
    }
    return 1;
}

static void start(void)
{
    static TINYSCENE_ALIGNED uint8_t memory[TINYSCENE_BYTES];
    static const char name[] = "recording.raw";
    const uintptr_t arguments[3] = {(uintptr_t)name, TO_READ, sizeof name - 1};
    for (uint32_t *from = data_load, *to = data_start; to < data_end;)
        *to++ = *from++;
    for (uint32_t *to = bss_start; to < bss_end;)
        *to++ = 0;
    const uintptr_t file = host(OPEN, (uintptr_t)arguments);
    tinyscene *scene;
    if (file == (uintptr_t)-1)
        print("recording.raw is missing\n");
    const int done = file != (uintptr_t)-1 && tinyscene_init(memory, sizeof memory, &scene) == TINYSCENE_OK &&
                     listen(scene, file);
    (void)host(EXIT, done ? DONE : FAILED);
}

static void fault(void)
{
    print("fault\n");
    (void)host(EXIT, FAILED);
}

__attribute__((section(".vectors"), used)) static const uintptr_t vectors[16] = {
    (uintptr_t)stack_end, (uintptr_t)start, (uintptr_t)fault, (uintptr_t)fault,
    (uintptr_t)fault,     (uintptr_t)fault, (uintptr_t)fault};

/* What compilers call. */
void *memcpy(void *restrict to, const void *restrict from, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        ((uint8_t *)to)[i] = ((const uint8_t *)from)[i];
    return to;
}

void *memmove(void *to, const void *from, size_t bytes)
{
    if ((uintptr_t)to <= (uintptr_t)from)
        return memcpy(to, from, bytes);
    while (bytes-- > 0)
        ((uint8_t *)to)[bytes] = ((const uint8_t *)from)[bytes];
    return to;
}

void *memset(void *to, int value, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        ((uint8_t *)to)[i] = (uint8_t)value;
    return to;
}
