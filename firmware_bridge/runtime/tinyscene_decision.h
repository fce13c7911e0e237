/* The decision rule of an instance; deploy/bundle/decision.py defines it. Only in libraries of bundles with a rule. */
#ifndef TINYSCENE_DECISION_H
#define TINYSCENE_DECISION_H

#include <stdint.h>

#include "tinyscene_layout.h"

typedef struct {
    int32_t sums[TINYSCENE_CLASSES]; /* of the last `count` decisions' logits */
    int32_t likeness;                /* the same of the likenesses */
    int32_t count;                   /* decisions that are held, at most TINYSCENE_AVERAGE */
    int32_t next;                    /* the place of the next one's logits, where the oldest are */
    int32_t run;                     /* decisions in a row that had this candidate, at most 255 */
    int32_t candidate;               /* a class, or TINYSCENE_CLASSES for none of these; -1 at first */
    int32_t decided;                 /* the same */
    int16_t likenesses[TINYSCENE_AVERAGE];
    int8_t logits[TINYSCENE_AVERAGE][TINYSCENE_CLASSES];
} tinyscene_rule;

/* Whether what places in memory are computed from is in its range. */
int tinyscene_rule_valid(const tinyscene_rule *rule);

void tinyscene_rule_reset(tinyscene_rule *rule);

/* One more decision: its logits, and the arena after the network has run. */
void tinyscene_rule_update(tinyscene_rule *rule, const int8_t *logits, const int8_t *arena);

#if defined(TINYSCENE_UNKNOWN)
/* Of the classes, and after them that of digital silence. */
extern const int8_t tinyscene_directions[TINYSCENE_DIRECTIONS][TINYSCENE_EMBEDDING_CHANNELS];

/* Sums of the embedding: none so far, and those of one more row of what the classifier takes; or, of a network that
 * listens without end, that row in the place of one of the last columns. */
void tinyscene_embedding_clear(int8_t *arena);
#if TINYSCENE_STREAMS
void tinyscene_embedding_slide(int8_t *arena, const int8_t *row, int32_t width, int32_t slot);
#else
void tinyscene_embedding_add(int8_t *arena, const int8_t *row, int32_t width);
#endif
#endif

#endif
