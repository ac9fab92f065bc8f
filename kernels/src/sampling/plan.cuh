// How the sampling kernel is launched. Host code.
#pragma once

#include "pagewise/sampling.h"

namespace pw::sampling {

struct Plan {
  // Blocks of a row
  int team;
  // Logits of a block, a multiple of an access
  int part_len;
  // Rows that a team has in shared memory, or on their way; none: it reads the logits anew in every pass, and adjusts a copy
  // in scratch
  int stages;
  // How many teams take turns
  int teams;
};

// For so many rows on the device at hand.
Plan plan_of(int vocab_size, int rows);
// The same for a given team and at most so many stages.
Plan plan_of(int vocab_size, int team, int max_stages);
int64_t scratch_bytes(const Plan& plan, int rows, int vocab_size);
PwStatus launch(const PwSample& op, const Plan& plan, PwStream stream);

}  // namespace pw::sampling
