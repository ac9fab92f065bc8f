// A unit of work: one split of a token's context, for one key-value head and some of the query heads that read it.
// Knows how units are numbered, not what is computed.
#pragma once

#include "pagewise/attention.h"

namespace pw::decode_attention {

struct Unit {
  PwDecodeItem item;
  int kv_head;
  // Query heads, counted over the whole token
  int first_head;
  int num_heads;
};

// How the query heads of a key-value head are divided: into passes of at most `heads` each.
struct Passes {
  int group;
  int heads;
  int count;

  static Passes of(const PwAttention& attention, int heads) {
    const int group = attention.num_heads / attention.kv.num_kv_heads;
    return {group, heads, (group + heads - 1) / heads};
  }
};

__device__ inline int num_units(const PwDecodeAttention& op, const Passes& passes) {
  return *op.num_items * op.attention.kv.num_kv_heads * passes.count;
}

// Passes of a head follow one another, then heads, then items, so that neighbours read the same memory or the next.
__device__ inline Unit unit_at(const PwDecodeAttention& op, const Passes& passes, int index) {
  const int num_kv_heads = op.attention.kv.num_kv_heads;
  const int head_index = passes.count == 1 ? index : index / passes.count;
  const int pass = index - head_index * passes.count;
  const int item_index = head_index / num_kv_heads;
  Unit unit;
  const int4* item = reinterpret_cast<const int4*>(op.items + item_index);
  reinterpret_cast<int4*>(&unit.item)[0] = item[0];
  reinterpret_cast<int4*>(&unit.item)[1] = item[1];
  unit.kv_head = head_index - item_index * num_kv_heads;
  unit.first_head = unit.kv_head * passes.group + pass * passes.heads;
  unit.num_heads = min(passes.heads, passes.group - pass * passes.heads);
  return unit;
}

}  // namespace pw::decode_attention
