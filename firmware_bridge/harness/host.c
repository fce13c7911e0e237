/* The harness on the host: its files. */
#include <stdio.h>
#include <stdlib.h>

#include "harness.h"

enum { MAX_FILES = 8 };

static FILE *files[MAX_FILES];

int32_t harness_open(const char *name, int for_writing)
{
    int32_t file = 0;
    while (file < MAX_FILES && files[file] != NULL)
        file++;
    if (file == MAX_FILES)
        return -1;
    files[file] = fopen(name, for_writing ? "wb" : "rb");
    return files[file] == NULL ? -1 : file;
}

uint32_t harness_read(int32_t file, void *to, uint32_t bytes)
{
    return (uint32_t)fread(to, 1, bytes, files[file]);
}

uint32_t harness_write(int32_t file, const void *from, uint32_t bytes)
{
    return (uint32_t)fwrite(from, 1, bytes, files[file]);
}

void harness_rewind(int32_t file)
{
    rewind(files[file]);
}

void harness_close(int32_t file)
{
    if (fclose(files[file]) != 0) {
        harness_print("cannot write a file to its end\n");
        harness_exit(1);
    }
    files[file] = NULL;
}

void harness_print(const char *text)
{
    (void)fputs(text, stdout);
}

void harness_print_hex(const char *before, uint32_t value)
{
    (void)printf("%s0x%08x", before, (unsigned)value);
}

void harness_exit(int code)
{
    exit(code);
}

uint64_t harness_instructions(void)
{
    return 0;
}

void harness_stack_paint(void)
{
}

uint32_t harness_stack_used(void)
{
    return 0;
}
