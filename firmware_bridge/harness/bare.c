/* The harness on a bare processor: start-up, files by semihosting, the stack. */
#include "machine.h"

enum { SYS_OPEN = 1, SYS_CLOSE = 2, SYS_WRITE0 = 4, SYS_WRITE = 5, SYS_READ = 6, SYS_SEEK = 10, SYS_EXIT_EXTENDED = 32 };
enum { OPEN_TO_READ = 1, OPEN_TO_WRITE = 5, APPLICATION_EXIT = 0x20026 };

static const uint32_t stack_pattern = 0x5afec0deu;
static const uint32_t *painted_from;

void harness_start(void)
{
    const uint32_t *from = harness_data_load;
    for (uint32_t *to = harness_data_start; to < harness_data_end; to++)
        *to = *from++;
    for (uint32_t *to = harness_bss_start; to < harness_bss_end; to++)
        *to = 0;
    harness_exit(main());
}

static uint32_t length(const char *text)
{
    uint32_t characters = 0;
    while (text[characters] != '\0')
        characters++;
    return characters;
}

int32_t harness_open(const char *name, int for_writing)
{
    const uint32_t mode = for_writing ? OPEN_TO_WRITE : OPEN_TO_READ;
    const uint32_t arguments[3] = {(uint32_t)(uintptr_t)name, mode, length(name)};
    return harness_semihost(SYS_OPEN, arguments);
}

/* Both calls return the bytes that were left over. */
static uint32_t transfer(int32_t operation, int32_t file, uintptr_t memory, uint32_t bytes)
{
    const uint32_t arguments[3] = {(uint32_t)file, (uint32_t)memory, bytes};
    const uint32_t left = (uint32_t)harness_semihost(operation, arguments);
    return left <= bytes ? bytes - left : 0;
}

uint32_t harness_read(int32_t file, void *to, uint32_t bytes)
{
    return transfer(SYS_READ, file, (uintptr_t)to, bytes);
}

uint32_t harness_write(int32_t file, const void *from, uint32_t bytes)
{
    return transfer(SYS_WRITE, file, (uintptr_t)from, bytes);
}

void harness_rewind(int32_t file)
{
    const uint32_t arguments[2] = {(uint32_t)file, 0};
    (void)harness_semihost(SYS_SEEK, arguments);
}

void harness_close(int32_t file)
{
    (void)harness_semihost(SYS_CLOSE, &file);
}

void harness_print(const char *text)
{
    (void)harness_semihost(SYS_WRITE0, text);
}

void harness_print_hex(const char *before, uint32_t value)
{
    char text[11] = "0x";
    for (int i = 0; i < 8; i++)
        text[2 + i] = "0123456789abcdef"[value >> (28 - 4 * i) & 15u];
    text[10] = '\0';
    harness_print(before);
    harness_print(text);
}

void harness_exit(int code)
{
    const uint32_t arguments[2] = {APPLICATION_EXIT, (uint32_t)code};
    for (;;)
        (void)harness_semihost(SYS_EXIT_EXTENDED, arguments);
}

/* Spares the words next to the stack pointer, where a compiler may keep what this function saves. */
void harness_stack_paint(void)
{
    uint32_t *const now = harness_stack_pointer();
    for (volatile uint32_t *word = harness_stack_start; word < now - 16; word++)
        *word = stack_pattern;
    painted_from = now;
}

uint32_t harness_stack_used(void)
{
    const volatile uint32_t *word = harness_stack_start;
    while (word < painted_from && *word == stack_pattern)
        word++;
    return (uint32_t)((uintptr_t)painted_from - (uintptr_t)word);
}
