// How the sampling kernel is launched. Host code.
#pragma once

#include "pagewise/sampling.h"

namespace pw::sampling {

struct Plan {
  // Blocks of a row
  int team;
  // Logits of a block, a multiple of an access
  int part_len;
  // Whether a block keeps its part in shared memory; else it reads it again in every pass, and adjusts a copy in scratch
  bool is_held;
};

// For a vocabulary on the device at hand.
Plan plan_of(int vocab_size);
// For a given team.
Plan plan_of(int vocab_size, int team, bool is_held);
int64_t scratch_bytes(const Plan& plan, int rows, int vocab_size);
PwStatus launch(const PwSample& op, const Plan& plan, PwStream stream);

}  // namespace pw::sampling
