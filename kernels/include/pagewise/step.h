/* What changes from step to step, as it lies on the device, and the op that takes over what the host has sent. */
#ifndef PAGEWISE_STEP_H
#define PAGEWISE_STEP_H

#include "pagewise/abi.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Device arrays of one step. A step may be padded to a captured size: padded tokens have position -1 and token id 0, and
 * every op passes them over (their output rows are undefined, and nothing is written to the KV pool). */
typedef struct PwStepView {
  /* [tokens] A token id; or -1 - slot: the token that this slot sampled last. */
  const int32_t *token_ids;
  /* [tokens] Position in the context, from 0; -1 for padding. */
  const int32_t *positions;
  /* [tokens] Row slot, whose table says where the KV lies. */
  const int32_t *token_slots;
  /* [slots][max_blocks_per_slot] */
  const int32_t *tables;
  int32_t max_blocks_per_slot;
} PwStepView;

/* Words that move from the host's staging memory to one of the step's arrays. */
typedef struct PwSegment {
  /* First word in staging and in the arrays, and how many */
  int32_t from;
  int32_t to;
  int32_t num_words;
} PwSegment;

#define PW_MAX_SEGMENTS 8

/* Takes over what the host has sent: reads page-locked host memory in place, so that a step needs no transfer of its own. */
typedef struct PwUnpack {
  const int32_t *staging;
  int32_t *arrays;
  PwSegment segments[PW_MAX_SEGMENTS];
  int32_t num_segments;
} PwUnpack;

PwStatus pw_unpack(const PwUnpack *op, PwStream stream);

/* tables[slot][index] = block */
typedef struct PwTableUpdate {
  int32_t slot;
  int32_t index;
  int32_t block;
} PwTableUpdate;

/* Applies table updates, all at once: no entry may be set twice. */
typedef struct PwApplyUpdates {
  /* [num_updates], on the device or page-locked */
  const PwTableUpdate *updates;
  int32_t num_updates;
  int32_t max_blocks_per_slot;
  /* [slots][max_blocks_per_slot] */
  int32_t *tables;
} PwApplyUpdates;

PwStatus pw_apply_updates(const PwApplyUpdates *op, PwStream stream);

#ifdef __cplusplus
}
#endif

#endif
