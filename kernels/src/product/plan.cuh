// How a product is cut into tiles. Host code; knows shapes and the card's size, no pointers.
//
// Whatever the plan, an element of the product is the same sum in the same order: plans differ in time alone.
#pragma once

#include "pagewise/product.h"

namespace pw::dense {

struct Plan {
  // Warpgroups that multiply, at most 64 rows of a tile each
  int warpgroups;
  // Columns of their products: one of the widths of which there are instances
  int width;
  // Rows of the weight that a tile has, at most `width`; of both halves together if gated
  int cols;
  // 1, or 2 blocks whose tiles lie below each other: each fetches half of the weight for both
  int cluster;
  // Clusters that lie below each other and are done before the columns beside them
  int group;
};

// Elements of k of a row that lie together in shared memory: 128 bytes.
constexpr int kChunkElements = 64;
constexpr int kChunkBytes = kChunkElements * 2;
constexpr int kWarpgroupRows = 64;

Plan plan_of(const PwProduct& op, int num_multiprocessors);

// PW_UNSUPPORTED where the loaded code has no products of warpgroups.
PwStatus launch_warpgroups(const PwProduct& op, PwStream stream);
PwStatus launch_warpgroups(const PwProduct& op, const Plan& plan, PwStream stream);

// For any card.
PwStatus launch_warps(const PwProduct& op, PwStream stream);

}  // namespace pw::dense
