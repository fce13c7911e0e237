/* A stand-in, see ../../../README.md. */
#pragma once

typedef long atomic_t;

static inline long atomic_set(atomic_t *target, long value)
{
    return __atomic_exchange_n(target, value, __ATOMIC_SEQ_CST);
}

static inline long atomic_clear(atomic_t *target)
{
    return atomic_set(target, 0);
}
