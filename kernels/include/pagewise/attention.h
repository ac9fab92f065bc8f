/* Paged attention: causal attention of each new token over its row's context, read through the slot's block table.
 *
 * Token t at position p attends to positions max(0, p + 1 - sliding_window) ..= p. Query head h reads key-value head
 * h / (num_heads / num_kv_heads) (Ainslie et al., 2023). Softmax is online, in f32 (Milakov and Gimelshein, 2018). */
#ifndef PAGEWISE_ATTENTION_H
#define PAGEWISE_ATTENTION_H

#include "pagewise/abi.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What both ways of computing it share. */
typedef struct PwAttention {
  /* Queries: [tokens][num_heads * head_dim] with q_stride elements between tokens */
  const void *q;
  int64_t q_stride;
  PwKvView kv;
  /* [slots][max_blocks_per_slot] */
  const int32_t *tables;
  int32_t max_blocks_per_slot;
  /* [tokens][num_heads * head_dim] */
  void *out;
  int32_t num_heads;
  /* Factor on the dot products */
  float scale;
  /* Positions that a token sees, itself included; 0: all before it */
  int32_t sliding_window;
  /* of q and out */
  PwElement element;
} PwAttention;

/* One split of one token's context: the unit of work of the decode kernel, for each key-value head. */
typedef struct PwDecodeItem {
  /* Index of the token in q and out */
  int32_t token;
  int32_t slot;
  /* Positions begin..end of the context, half-open and not empty */
  int32_t begin;
  int32_t end;
  /* This split's number and how many the token has; a single one writes to `out` itself */
  int32_t split;
  int32_t num_splits;
  /* Where the token's splits begin in the partial results; unused if there is one */
  int32_t first_partial;
  /* Which counter the token's splits share; unused if there is one */
  int32_t counter;
} PwDecodeItem;

/* One token at a time, its context in splits. The host plans the items once a step; all layers use them. The items, their
 * number and the tables may be read while the kernel before still runs: what writes them has to be one earlier. */
typedef struct PwDecodeAttention {
  PwAttention attention;
  /* [max_items], on the device */
  const PwDecodeItem *items;
  /* On the device, so that a captured launch serves any number */
  const int32_t *num_items;
  /* Bound of *num_items, for the size of the grid */
  int32_t max_items;
  /* [partials][num_heads][head_dim], then [partials][num_heads] of (maximum, sum) */
  float *partial_out;
  float *partial_stats;
  /* [counters][num_kv_heads], zero before the first launch and after each */
  int32_t *counters;
  /* [1], how much work has been handed out; zero before the first launch and after each */
  int32_t *queue;
} PwDecodeAttention;

PwStatus pw_decode_attention(const PwDecodeAttention *op, PwStream stream);

/* Some new tokens of one row: the unit of work of the prefill kernel, for each query head (or group of them). */
typedef struct PwPrefillTile {
  /* Index of the first token in q and out; the others follow */
  int32_t first_token;
  /* 1 ..= pw_prefill_tile_tokens */
  int32_t num_tokens;
  /* Position of the first token */
  int32_t first_position;
  int32_t slot;
} PwPrefillTile;

/* Many tokens of a row at a time. A token's result depends on the token, its context and the shape of the heads alone, bit
 * for bit: on no other token of its tile, nor on how rows are cut into tiles, nor on the bounds below.
 *
 * The tiles, their number and the tables may be read while the kernel before still runs: what writes them has to be one
 * earlier. */
typedef struct PwPrefillAttention {
  PwAttention attention;
  /* [max_tiles], on the device, those with the longest contexts first */
  const PwPrefillTile *tiles;
  /* On the device, so that a captured launch serves any number */
  const int32_t *num_tiles;
  /* Bound of *num_tiles, for the size of the grid */
  int32_t max_tiles;
  /* Bound of the tiles' num_tokens, 1 ..= pw_prefill_tile_tokens: what has few rows is computed by fewer warps */
  int32_t max_tile_tokens;
  /* A few counters for dynamic scheduling, zero before the first launch and after each; [16] */
  int32_t *counters;
} PwPrefillAttention;

PwStatus pw_prefill_attention(const PwPrefillAttention *op, PwStream stream);

/* Most tokens of a tile for this shape of heads; positive. */
int32_t pw_prefill_tile_tokens(int32_t num_heads, int32_t num_kv_heads, int32_t head_dim);

#ifdef __cplusplus
}
#endif

#endif
