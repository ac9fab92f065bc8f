// Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011), as in
// the crate `sampling`.
#pragma once

#include <cstdint>

namespace pw {

__device__ inline uint4 philox4x32_10(uint4 counter, uint2 key) {
  constexpr uint32_t kMultipliers[2] = {0xD2511F53u, 0xCD9E8D57u};
  constexpr uint32_t kWeyl[2] = {0x9E3779B9u, 0xBB67AE85u};
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t(kMultipliers[0]) * counter.x;
    const uint64_t p1 = uint64_t(kMultipliers[1]) * counter.z;
    counter = make_uint4(uint32_t(p1 >> 32) ^ counter.y ^ key.x, uint32_t(p1),
                         uint32_t(p0 >> 32) ^ counter.w ^ key.y, uint32_t(p0));
    key.x += kWeyl[0];
    key.y += kWeyl[1];
  }
  return counter;
}

}  // namespace pw
