/* For compilers that bring no C library: what tinyscene and compilers themselves call. The program has to hold them. */
#ifndef TINYSCENE_FREESTANDING_STRING_H
#define TINYSCENE_FREESTANDING_STRING_H

#include <stddef.h>

void *memcpy(void *restrict to, const void *restrict from, size_t bytes);
void *memmove(void *to, const void *from, size_t bytes);
void *memset(void *to, int value, size_t bytes);

#endif
