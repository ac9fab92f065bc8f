// Sizes that the parts of the sampling kernel share.
#pragma once

#include "common/reduce.cuh"

namespace pw::sampling {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / kWarp;
// Two blocks share a multiprocessor, so that one computes while the other loads.
constexpr int kBlocksPerMultiprocessor = 2;

// Blocks of a row, each with its part of the logits: as many as a cluster may have on every Hopper card.
constexpr int kTeam = 8;

// Logits of a lane in one access, and of a warp.
constexpr int kAccess = 4;
constexpr int kTile = kAccess * kWarp;

// Bins of one level of a selection.
constexpr int kBins = 2048;
// Tokens among which a selection decides one by one: one for each thread.
constexpr int kListLen = kThreads;

// Token ids are below; also the bound with which sums in a bin fit into 32 bits (see select.cuh).
constexpr int kMaxVocab = 1000000;

}  // namespace pw::sampling
