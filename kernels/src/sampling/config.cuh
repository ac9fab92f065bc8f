// Sizes that the parts of the sampling kernel share.
#pragma once

#include "common/reduce.cuh"

namespace pw::sampling {

// With twice as many, the registers would not suffice, and what spills costs more than the row.
constexpr int kThreads = 512;
constexpr int kWarps = kThreads / kWarp;

// Blocks of a team, which share a row: at most as many as a cluster may have on every Hopper card.
constexpr int kMaxTeam = 8;
// Logits of a block beyond which the row gets a larger team: two stages of them fit into shared memory.
constexpr int kMaxPartLen = 25600;
// Rows of a team that are in shared memory or on their way there.
constexpr int kMaxStages = 4;

// Logits of a lane in one access, and of a warp.
constexpr int kAccess = 4;
constexpr int kTile = kAccess * kWarp;

// Bins of one level of a selection.
constexpr int kBins = 2048;
// Tokens among which a selection decides one by one.
constexpr int kListLen = 512;

// Token ids are below; also the bound with which sums in a bin fit into 32 bits (see select.cuh).
constexpr int kMaxVocab = 1000000;

}  // namespace pw::sampling
