/* tinyscene: acoustic scene classification from PCM.
 *
 *     static TINYSCENE_ALIGNED uint8_t memory[TINYSCENE_BYTES];
 *     tinyscene *scene;
 *
 *     tinyscene_init(memory, sizeof memory, &scene);
 *     while (listening) {
 *         size_t taken;
 *         if (tinyscene_push(scene, pcm, samples, &taken) == TINYSCENE_READY) {
 *             tinyscene_run(scene);
 *             puts(tinyscene_label(tinyscene_best(scene)));
 *         }
 *         pcm += taken, samples -= taken;
 *     }
 *
 * A processor that must do other work, or read its microphone itself, runs in parts, each of them bounded:
 *
 *     if (tinyscene_push(scene, pcm, samples, &taken) > 0)         // as often as there is sound
 *         while (tinyscene_step(scene, budget) == TINYSCENE_MORE)  // a budget of 1: the smallest parts
 *             do_other_work();                                     // which may push
 *
 * Input is 16-bit mono PCM at TINYSCENE_SAMPLE_RATE. Each decision uses a window of TINYSCENE_CLIP_SAMPLES; a new
 * window is complete every TINYSCENE_HOP_SAMPLES.
 *
 * Guarantees, each of them tested:
 *   - logits equal those of the quantized model on a host bit for bit, on any machine with a C99 compiler, for any
 *     division of the PCM into pushes;
 *   - integers only, but for the vectors of x86-64 if TINYSCENE_HOST asks for them, which round to nearest in float32;
 *     no heap, stdio or recursion; of libc only memcpy, memmove and memset, which compilers call anyway;
 *   - all state is in the caller's memory, so several instances can run side by side; constants are const;
 *   - every function checks its arguments and the instance and returns a status. Whatever an instance's memory holds,
 *     nothing outside of it is written; changed bytes are noticed only where they would lead there;
 *   - memory is the constant TINYSCENE_BYTES; the stack is bounded, and `tinyscene emulate` measures it.
 * An instance is not reentrant: call its functions from one thread, or use a lock.
 */
#ifndef TINYSCENE_H
#define TINYSCENE_H

#include <stddef.h>
#include <stdint.h>

/* Samples that an instance takes while a window is complete or run: its memory grows by 2 bytes each. Define it for the
 * library and what uses it alike; tinyscene_init refuses memory that is too small. */
#if !defined(TINYSCENE_BACKLOG_SAMPLES)
#define TINYSCENE_BACKLOG_SAMPLES 0
#endif

#include "tinyscene_config.h" /* generated: sizes, rates, counts, version */

#ifdef __cplusplus
extern "C" {
#endif

/* Statuses: 0 is success, a positive one requests an action, a negative one is an error. */
typedef enum {
    TINYSCENE_OK = 0,
    TINYSCENE_READY = 1,             /* a window is complete: call tinyscene_run or tinyscene_step */
    TINYSCENE_MORE = 2,              /* work is left: call tinyscene_step again, or tinyscene_run */
    TINYSCENE_FULL = 3,              /* the same, and the backlog had no room for all samples */
    TINYSCENE_ERROR_NULL = -1,       /* a null pointer */
    TINYSCENE_ERROR_ALIGNMENT = -2,  /* memory is not aligned to TINYSCENE_ALIGNMENT */
    TINYSCENE_ERROR_SIZE = -3,       /* memory is smaller than TINYSCENE_BYTES, or scores not TINYSCENE_CLASSES */
    TINYSCENE_ERROR_INSTANCE = -4,   /* not an instance that tinyscene_init made, or one that was written over */
    TINYSCENE_ERROR_NOT_READY = -5,  /* not enough PCM for a decision yet, or no decision yet */
    TINYSCENE_ERROR_BANDS = -6       /* band offsets that are spoiled, or of another model or version */
} tinyscene_status;

#define TINYSCENE_ALIGNMENT 16
#if defined(__STDC_VERSION__) && __STDC_VERSION__ >= 201112L
#define TINYSCENE_ALIGNED _Alignas(TINYSCENE_ALIGNMENT)
#elif defined(__GNUC__)
#define TINYSCENE_ALIGNED __attribute__((aligned(TINYSCENE_ALIGNMENT)))
#else
#define TINYSCENE_ALIGNED /* use the compiler's own means of alignment */
#endif

typedef struct tinyscene tinyscene;

/* Bytes of memory that an instance needs, arena and state: TINYSCENE_BYTES. */
size_t tinyscene_memory_bytes(void);

/* Create an instance in `memory`, which it uses from then on; there is nothing to release. The linker knows this function
 * by a name that ends in a hash of the library, so that a program does not link with the library of another model. */
#define tinyscene_init TINYSCENE_INIT
tinyscene_status tinyscene_init(void *memory, size_t bytes, tinyscene **instance);

/* Consume samples until none are left (TINYSCENE_OK) or a window is complete (TINYSCENE_READY); `taken` is the number
 * of samples consumed. Then, and while a run is under way (TINYSCENE_MORE), samples go to the backlog of
 * TINYSCENE_BACKLOG_SAMPLES, by default none; TINYSCENE_FULL: some did not fit. `pcm` need not be aligned. */
tinyscene_status tinyscene_push(tinyscene *instance, const int16_t *pcm, size_t samples, size_t *taken);

/* Do the next part of what is left to do: rows of the network, if a window is complete, or frames of the backlog.
 * TINYSCENE_MORE: call again. TINYSCENE_OK: there is a new decision. TINYSCENE_ERROR_NOT_READY: push more first.
 * The budget is in units of about a thousand instructions of a Cortex-M4, of which a run has TINYSCENE_RUN_UNITS. A part
 * ends before the row or frame that does not fit, but does one. A row has TINYSCENE_ROW_UNITS at most, and a frame
 * TINYSCENE_FRAME_UNITS. */
tinyscene_status tinyscene_step(tinyscene *instance, int32_t budget);

/* The same without a limit: classify the complete window. */
tinyscene_status tinyscene_run(tinyscene *instance);

/* Discard all samples and the decision, but not what was learned of the microphone. */
tinyscene_status tinyscene_reset(tinyscene *instance);

/* The last decision's logits, one per class: real = TINYSCENE_LOGIT_SCALE * (logit - TINYSCENE_LOGIT_ZERO_POINT). */
tinyscene_status tinyscene_scores(const tinyscene *instance, int8_t *scores, size_t count);

/* The class of the highest logit of the last decision, the first if several are equal; or a negative status. */
int tinyscene_best(const tinyscene *instance);

#if defined(TINYSCENE_AVERAGE)
/* The class that the bundle's decision rule stands by after the last decision, which smooths decisions: call this once
 * after each tinyscene_run or less often. TINYSCENE_UNKNOWN, where it is defined, is "none of these". Or a negative
 * status. */
int tinyscene_decision(const tinyscene *instance);
#endif

#if defined(TINYSCENE_BANDS)
/* What an instance has learned of the microphone's colour by its decisions: plain data, for a program to keep where it
 * outlives the power, and to give back after tinyscene_init. */
typedef struct {
    uint32_t version;
    uint32_t model; /* what it was learned with */
    int32_t frames;
    int32_t missing[TINYSCENE_BANDS];
} tinyscene_bands;

tinyscene_status tinyscene_bands_save(const tinyscene *instance, tinyscene_bands *bands);

/* TINYSCENE_ERROR_BANDS: it cannot be used, and nothing is changed. */
tinyscene_status tinyscene_bands_restore(tinyscene *instance, const tinyscene_bands *bands);
#endif

/* The name of a class, or NULL if there is no such class. */
const char *tinyscene_label(size_t index);

#ifdef __cplusplus
}
#endif

#endif
