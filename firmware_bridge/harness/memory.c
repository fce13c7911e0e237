/* memcpy, memmove and memset for bare processors, so that counts of instructions don't depend on the toolchain's.
 * Words at a time where both pointers allow it. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* A compiler would see these functions in their own loops. clang knows better by their names. */
#if !defined(__clang__)
#pragma GCC optimize("no-tree-loop-distribute-patterns")
#endif

typedef uint32_t __attribute__((may_alias)) word;

enum { WORD = sizeof(word), BLOCK = 4 * WORD };

/* Upwards, so that it also moves downwards over itself. */
static void *copy(uint8_t *to, const uint8_t *from, size_t bytes)
{
    uint8_t *y = to;
    if ((((uintptr_t)y ^ (uintptr_t)from) & 3u) == 0) {
        for (; bytes > 0 && ((uintptr_t)y & 3u) != 0; bytes--)
            *y++ = *from++;
        for (; bytes >= BLOCK; bytes -= BLOCK, from += BLOCK, y += BLOCK) {
            const word *x = (const word *)(const void *)from; /* word by word: to copy a struct may be a call of memcpy */
            const word a = x[0], b = x[1], c = x[2], d = x[3];
            word *z = (word *)(void *)y;
            z[0] = a, z[1] = b, z[2] = c, z[3] = d;
        }
    }
    for (; bytes > 0; bytes--)
        *y++ = *from++;
    return to;
}

void *memcpy(void *restrict to, const void *restrict from, size_t bytes)
{
    return copy(to, from, bytes);
}

void *memmove(void *to, const void *from, size_t bytes)
{
    uint8_t *y = to;
    const uint8_t *x = from;
    if ((uintptr_t)y - (uintptr_t)x >= bytes) /* `to` does not begin within `from` */
        return copy(y, x, bytes);
    while (bytes-- > 0)
        y[bytes] = x[bytes];
    return to;
}

void *memset(void *to, int value, size_t bytes)
{
    uint8_t *y = to;
    const uint32_t four = (uint8_t)value * UINT32_C(0x01010101);
    for (; bytes > 0 && ((uintptr_t)y & 3u) != 0; bytes--)
        *y++ = (uint8_t)value;
    for (; bytes >= BLOCK; bytes -= BLOCK, y += BLOCK) {
        word *z = (word *)(void *)y;
        z[0] = z[1] = z[2] = z[3] = four;
    }
    for (; bytes > 0; bytes--)
        *y++ = (uint8_t)value;
    return to;
}

/* What Arm's ABI has compilers call instead; note the order of memset's arguments. */
#if defined(__arm__)
#define SAME_AS(name) __attribute__((alias(#name)))

void __aeabi_memset(void *to, size_t bytes, int value);
void __aeabi_memclr(void *to, size_t bytes);

void __aeabi_memset(void *to, size_t bytes, int value)
{
    (void)memset(to, value, bytes);
}

void __aeabi_memclr(void *to, size_t bytes)
{
    (void)memset(to, 0, bytes);
}

void *__aeabi_memcpy(void *restrict to, const void *restrict from, size_t bytes) SAME_AS(memcpy);
void *__aeabi_memcpy4(void *restrict to, const void *restrict from, size_t bytes) SAME_AS(memcpy);
void *__aeabi_memcpy8(void *restrict to, const void *restrict from, size_t bytes) SAME_AS(memcpy);
void *__aeabi_memmove(void *to, const void *from, size_t bytes) SAME_AS(memmove);
void *__aeabi_memmove4(void *to, const void *from, size_t bytes) SAME_AS(memmove);
void *__aeabi_memmove8(void *to, const void *from, size_t bytes) SAME_AS(memmove);
void __aeabi_memset4(void *to, size_t bytes, int value) SAME_AS(__aeabi_memset);
void __aeabi_memset8(void *to, size_t bytes, int value) SAME_AS(__aeabi_memset);
void __aeabi_memclr4(void *to, size_t bytes) SAME_AS(__aeabi_memclr);
void __aeabi_memclr8(void *to, size_t bytes) SAME_AS(__aeabi_memclr);
#endif
