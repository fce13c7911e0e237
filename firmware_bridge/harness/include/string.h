/* For toolchains that bring no C library: what compilers themselves may call, see memory.c. */
#ifndef HARNESS_STRING_H
#define HARNESS_STRING_H

#include <stddef.h>

void *memcpy(void *restrict to, const void *restrict from, size_t bytes);
void *memmove(void *to, const void *from, size_t bytes);
void *memset(void *to, int value, size_t bytes);

#endif
