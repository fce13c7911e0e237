/* The decision rule, bit for bit as deploy/bundle/decision.py and likeness.py define it. */
#include "tinyscene_decision.h"

#include <string.h>

#define LONGEST_RUN 255
#define MOST_LIKENESS 32767

int tinyscene_rule_valid(const tinyscene_rule *rule)
{
    return ((uint32_t)rule->next < TINYSCENE_AVERAGE) &&
           ((uint32_t)(rule->candidate + 1) <= (TINYSCENE_CLASSES + 1)) &&
           ((uint32_t)(rule->decided + 1) <= (TINYSCENE_CLASSES + 1));
}

void tinyscene_rule_reset(tinyscene_rule *rule)
{
    (void)memset(rule, 0, sizeof *rule);
    rule->candidate = -1;
    rule->decided = -1;
}

#if defined(TINYSCENE_UNKNOWN)

void tinyscene_embedding_clear(int8_t *arena)
{
    (void)memset(&arena[TINYSCENE_EMBEDDING], 0, TINYSCENE_EMBEDDING_BYTES);
}

static void add_row(int32_t *sums, const int8_t *row, int32_t width)
{
    for (; width > 0; width--) {
        for (int32_t channel = 0; channel < TINYSCENE_EMBEDDING_CHANNELS; channel++) {
            sums[channel] += row[channel] - TINYSCENE_EMBEDDING_ZERO_POINT;
        }
        row += TINYSCENE_EMBEDDING_CHANNELS;
    }
}

#if TINYSCENE_STREAMS

void tinyscene_embedding_slide(int8_t *arena, const int8_t *row, int32_t width, int32_t slot)
{
    int32_t *sums = (int32_t *)(void *)&arena[TINYSCENE_EMBEDDING];
    int32_t *column = &sums[(1 + slot) * TINYSCENE_EMBEDDING_CHANNELS];
    for (int32_t channel = 0; channel < TINYSCENE_EMBEDDING_CHANNELS; channel++) {
        sums[channel] -= column[channel];
        column[channel] = 0;
    }
    add_row(column, row, width);
    for (int32_t channel = 0; channel < TINYSCENE_EMBEDDING_CHANNELS; channel++) {
        sums[channel] += column[channel];
    }
}

#else

void tinyscene_embedding_add(int8_t *arena, const int8_t *row, int32_t width)
{
    add_row((int32_t *)(void *)&arena[TINYSCENE_EMBEDDING], row, width);
}

#endif

/* The greatest projection on the directions from `first` on, as far as `end`. */
static int64_t projection_of(const int8_t *arena, int32_t first, int32_t end)
{
    const int32_t *sums = (const int32_t *)(const void *)&arena[TINYSCENE_EMBEDDING];
    int64_t best = INT64_MIN;
    for (int32_t index = first; index < end; index++) {
        int64_t projection = 0;
        for (int32_t channel = 0; channel < TINYSCENE_EMBEDDING_CHANNELS; channel++) {
            projection += (int64_t)sums[channel] * tinyscene_directions[index][channel];
        }
        best = (projection > best) ? projection : best;
    }
    return best;
}

static int32_t likeness_of(const int8_t *arena)
{
    int64_t best = projection_of(arena, 0, TINYSCENE_CLASSES);
    const int is_silence = projection_of(arena, TINYSCENE_CLASSES, TINYSCENE_DIRECTIONS) > best;
    best /= INT64_C(1) << TINYSCENE_UNKNOWN_SHIFT; /* truncated towards zero */
    best = (best > MOST_LIKENESS) ? MOST_LIKENESS : (best < -MOST_LIKENESS) ? -MOST_LIKENESS : best;
    if (is_silence && (best >= TINYSCENE_UNKNOWN_THRESHOLD)) {
        best = TINYSCENE_UNKNOWN_THRESHOLD - 1;
    }
    return (int32_t)best;
}

#else

static int32_t likeness_of(const int8_t *arena)
{
    (void)arena;
    return 0;
}

#endif

/* Add the newest logits and likeness to the sums; those in their place leave. */
static void add(tinyscene_rule *rule, const int8_t *logits, int32_t likeness)
{
    int8_t *held = rule->logits[rule->next]; /* zeros while there are fewer than TINYSCENE_AVERAGE */
    for (int32_t index = 0; index < TINYSCENE_CLASSES; index++) {
        rule->sums[index] += logits[index] - held[index];
    }
    (void)memcpy(held, logits, TINYSCENE_CLASSES);
    rule->likeness += likeness - rule->likenesses[rule->next];
    rule->likenesses[rule->next] = (int16_t)likeness;
    rule->next = (rule->next + 1) % TINYSCENE_AVERAGE;
    rule->count += rule->count < TINYSCENE_AVERAGE;
}

static int32_t candidate_of(const tinyscene_rule *rule)
{
    int32_t best = 0;
#if defined(TINYSCENE_UNKNOWN)
    if (rule->likeness < (rule->count * TINYSCENE_UNKNOWN_THRESHOLD)) {
        return TINYSCENE_UNKNOWN;
    }
#endif
    for (int32_t index = 1; index < TINYSCENE_CLASSES; index++) {
        if (rule->sums[index] > rule->sums[best]) {
            best = index;
        }
    }
    return best;
}

/* Whether a candidate that differs from what was decided takes its place. */
static int changes(const tinyscene_rule *rule)
{
    if ((TINYSCENE_PATIENCE > 0) && (rule->run >= TINYSCENE_PATIENCE)) {
        return 1;
    }
    if ((rule->candidate == TINYSCENE_CLASSES) || (rule->decided == TINYSCENE_CLASSES)) {
        return TINYSCENE_PATIENCE == 0;
    }
    return (rule->sums[rule->candidate] - rule->sums[rule->decided]) >= (rule->count * TINYSCENE_MARGIN);
}

void tinyscene_rule_update(tinyscene_rule *rule, const int8_t *logits, const int8_t *arena)
{
    add(rule, logits, likeness_of(arena));
    const int32_t candidate = candidate_of(rule);
    if (candidate != rule->candidate) {
        rule->run = 0;
    }
    rule->run += rule->run < LONGEST_RUN;
    rule->candidate = candidate;
    if ((rule->decided < 0) || ((candidate != rule->decided) && changes(rule))) {
        rule->decided = candidate;
    }
}
