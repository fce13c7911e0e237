/* tinyscene: where a device is, from the sound around it.
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
 * Sound is 16-bit mono PCM at TINYSCENE_SAMPLE_RATE. A decision is made on TINYSCENE_CLIP_SAMPLES of it, and a new one
 * every TINYSCENE_HOP_SAMPLES.
 *
 * What is promised, and tested:
 *   - logits equal to the ones that the quantized model has on a host, bit for bit, on any machine with a C99 compiler,
 *     however the sound is cut into pushes;
 *   - integers only; no heap, no stdio, no recursion, no libc but memcpy and its like, which compilers themselves call;
 *   - no state but in the memory handed over, so that instances run side by side; constants are const;
 *   - every function checks its arguments and the memory's state, and returns a status; none faults on any of them;
 *   - memory is a constant, TINYSCENE_BYTES, and the stack is bounded: `tinyscene emulate` measures it.
 * An instance is not reentrant: push and run from one thread, or lock around them.
 */
#ifndef TINYSCENE_H
#define TINYSCENE_H

#include <stddef.h>
#include <stdint.h>

#include "tinyscene_config.h" /* generated: sizes, rates, counts, version */

#ifdef __cplusplus
extern "C" {
#endif

/* Statuses: 0 is good, a positive one asks for something, a negative one refuses. */
typedef enum {
    TINYSCENE_OK = 0,
    TINYSCENE_READY = 1,             /* a window is complete: call tinyscene_run */
    TINYSCENE_ERROR_NULL = -1,       /* a null pointer */
    TINYSCENE_ERROR_ALIGNMENT = -2,  /* memory is not aligned to TINYSCENE_ALIGNMENT */
    TINYSCENE_ERROR_SIZE = -3,       /* memory is smaller than TINYSCENE_BYTES, or scores not TINYSCENE_CLASSES */
    TINYSCENE_ERROR_INSTANCE = -4,   /* not an instance that tinyscene_init made */
    TINYSCENE_ERROR_NOT_READY = -5   /* not enough sound for a decision yet, or none made */
} tinyscene_status;

#define TINYSCENE_ALIGNMENT 16
#if defined(__GNUC__)
#define TINYSCENE_ALIGNED __attribute__((aligned(TINYSCENE_ALIGNMENT)))
#else
#define TINYSCENE_ALIGNED /* align it by the compiler's own means */
#endif

typedef struct tinyscene tinyscene;

/* Bytes of memory that an instance needs: TINYSCENE_BYTES. */
size_t tinyscene_memory_bytes(void);

/* Make an instance in `memory`, which it uses until it is no longer wanted; there is nothing to release. */
tinyscene_status tinyscene_init(void *memory, size_t bytes, tinyscene **instance);

/* Take samples until they are used up (TINYSCENE_OK) or a window is complete (TINYSCENE_READY); `taken` of them were.
 * While a window waits to be run nothing is taken. */
tinyscene_status tinyscene_push(tinyscene *instance, const int16_t *pcm, size_t samples, size_t *taken);

/* Decide on the window that is complete. */
tinyscene_status tinyscene_run(tinyscene *instance);

/* Forget all sound and any decision. */
tinyscene_status tinyscene_reset(tinyscene *instance);

/* The last decision's logits, one a class: real = TINYSCENE_LOGIT_SCALE * (logit - TINYSCENE_LOGIT_ZERO_POINT). */
tinyscene_status tinyscene_scores(const tinyscene *instance, int8_t *scores, size_t count);

/* The class of the highest logit of the last decision, the first of equals; or a negative status. */
int tinyscene_best(const tinyscene *instance);

/* A class's name, or a null pointer beyond the last. */
const char *tinyscene_label(size_t index);

#ifdef __cplusplus
}
#endif

#endif
