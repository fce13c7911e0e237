/* A computer as a board, see machine.h. Linked with --wrap for the library's functions that take time. */
#include "machine.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "tinyscene.h"

enum turn { MAIN, READER };

static const uint64_t STEP_US = 500;

static int16_t *sound;
static uint64_t samples, rate, mips, run_instructions, push_instructions, failing_ms, burst_instructions, lost;
static uint64_t now_us, owed_instructions, gathered_instructions;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turned = PTHREAD_COND_INITIALIZER;
static enum turn turn = MAIN;
static bool has_reader;
static bool (*reader_ready)(void);
static uint64_t reader_until_us;
static _Thread_local bool is_reader;

static void (*code)(void *);

static FILE *pushed; /* the samples that the library took since it was last reset */

void machine_start(int count, char **arguments)
{
    FILE *file = fopen(arguments[1], "rb");
    const size_t most = (size_t)1 << 24;
    sound = malloc(most * sizeof *sound);
    samples = fread(sound, sizeof *sound, most, file);
    (void)fclose(file);
    rate = strtoull(arguments[2], NULL, 10);
    mips = count > 3 ? strtoull(arguments[3], NULL, 10) : 0;
    run_instructions = count > 4 ? strtoull(arguments[4], NULL, 10) : 0;
    push_instructions = count > 5 ? strtoull(arguments[5], NULL, 10) : 0;
    failing_ms = count > 6 ? strtoull(arguments[6], NULL, 10) : 0;
    burst_instructions = count > 7 ? strtoull(arguments[7], NULL, 10) : 0;
    pushed = fopen("pushed.raw", "wb");
}

uint64_t machine_now_us(void)
{
    return now_us;
}

bool machine_fails(void)
{
    if (failing_ms == 0 || now_us < failing_ms * 1000)
        return false;
    failing_ms = 0;
    return true;
}

uint64_t machine_heard(void)
{
    return now_us * rate / 1000000;
}

int16_t machine_sample(uint64_t index)
{
    return index < samples ? sound[index] : 0;
}

void machine_lose(uint64_t count)
{
    lost += count;
}

static void give(enum turn to)
{
    const enum turn mine = is_reader ? READER : MAIN;
    pthread_mutex_lock(&lock);
    turn = to;
    pthread_cond_broadcast(&turned);
    while (turn != mine)
        pthread_cond_wait(&turned, &lock);
    pthread_mutex_unlock(&lock);
}

static void step(uint64_t us)
{
    now_us += us;
    if (machine_heard() >= samples) {
        printf("lost by the driver: %llu\n", (unsigned long long)lost);
        (void)fflush(NULL);
        _Exit(0);
    }
    board_interrupt();
    if (has_reader && (now_us >= reader_until_us || reader_ready == NULL || reader_ready()))
        give(READER);
}

void machine_pass(uint64_t us)
{
    for (; us > STEP_US; us -= STEP_US)
        step(STEP_US);
    step(us);
}

bool machine_wait(bool (*ready)(void), uint64_t ms)
{
    const uint64_t until = now_us + ms * 1000;
    if (is_reader && !ready()) {
        reader_ready = ready;
        reader_until_us = until;
        give(MAIN);
    }
    while (!is_reader && !ready() && now_us < until)
        machine_pass(STEP_US);
    return ready();
}

static void *run_reader(void *argument)
{
    is_reader = true;
    pthread_mutex_lock(&lock);
    while (turn != READER)
        pthread_cond_wait(&turned, &lock);
    pthread_mutex_unlock(&lock);
    code(argument);
    return NULL;
}

void machine_thread(void (*function)(void *), void *argument)
{
    pthread_t thread;
    code = function;
    reader_ready = NULL;
    has_reader = true;
    if (pthread_create(&thread, NULL, run_reader, argument) != 0)
        abort();
    give(READER);
}

/* What a call of the library takes. */
static void compute(uint64_t instructions)
{
    owed_instructions += instructions;
    if (mips > 0 && owed_instructions >= mips) {
        const uint64_t us = owed_instructions / mips;
        owed_instructions -= us * mips;
        machine_pass(us);
    }
}

tinyscene_status __real_tinyscene_run(tinyscene *scene);
tinyscene_status __wrap_tinyscene_run(tinyscene *scene);
tinyscene_status __real_tinyscene_reset(tinyscene *scene);
tinyscene_status __wrap_tinyscene_reset(tinyscene *scene);
tinyscene_status __real_tinyscene_push(tinyscene *scene, const int16_t *pcm, size_t count, size_t *taken);
tinyscene_status __wrap_tinyscene_push(tinyscene *scene, const int16_t *pcm, size_t count, size_t *taken);

tinyscene_status __wrap_tinyscene_run(tinyscene *scene)
{
    const tinyscene_status status = __real_tinyscene_run(scene);
    compute(run_instructions);
    return status;
}

tinyscene_status __wrap_tinyscene_reset(tinyscene *scene)
{
    pushed = freopen("pushed.raw", "wb", pushed);
    return __real_tinyscene_reset(scene);
}

/* The instructions are those for a hop, and fall due in bursts. */
tinyscene_status __wrap_tinyscene_push(tinyscene *scene, const int16_t *pcm, size_t count, size_t *taken)
{
    const tinyscene_status status = __real_tinyscene_push(scene, pcm, count, taken);
    (void)fwrite(pcm, sizeof *pcm, *taken, pushed);
    gathered_instructions += push_instructions * *taken / TINYSCENE_HOP_SAMPLES;
    if (gathered_instructions >= burst_instructions || status == TINYSCENE_READY) {
        compute(gathered_instructions);
        gathered_instructions = 0;
    }
    return status;
}
