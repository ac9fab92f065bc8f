// What a warp's lanes hold of the matrices of mma.m16n8k16, and the product itself (sm_80).
//
// Lane 4 g + t holds, of a 16 x 8 piece of D in f32: (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1). Of the 16 x 16
// matrix A, as pairs of 2-byte elements: (g, 2t..), (g + 8, 2t..), (g, 2t + 8..), (g + 8, 2t + 8..). So two pieces of D side by
// side, rounded, are an A: what one product gives the next one takes without any exchange between lanes.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace pw {

// Two values rounded to elements, `low` in the low half.
template <class T>
__device__ __forceinline__ uint32_t pack_pair(float low, float high) {
  uint32_t bits;
  if constexpr (__is_same(T, __half)) {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  }
  return bits;
}

// Of four neighbouring lanes: value i of lane j becomes value j of lane i. Turns the pieces of a fragment that a lane holds
// into 16 contiguous bytes of a row, and back.
__device__ __forceinline__ void transpose_quad(uint32_t (&values)[4], int lane) {
#pragma unroll
  for (int distance = 1; distance <= 2; distance *= 2) {
    const bool upper = lane & distance;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i & distance) continue;
      const uint32_t sent = upper ? values[i] : values[i + distance];
      const uint32_t received = __shfl_xor_sync(0xffffffffu, sent, distance);
      if (upper) {
        values[i] = received;
      } else {
        values[i + distance] = received;
      }
    }
  }
}

// D += A * B for one 16 x 8 piece of D.
template <class T>
__device__ __forceinline__ void product_16x8(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  if constexpr (__is_same(T, __half)) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

enum class Transpose { kNo, kYes };

// Four 8 x 8 matrices of 2-byte elements; lane 8 i + j gives the shared address of row j of matrix i.
template <Transpose kTranspose>
__device__ __forceinline__ void load_matrices(uint32_t (&out)[4], uint32_t address) {
  if constexpr (kTranspose == Transpose::kYes) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(address)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(address)
                 : "memory");
  }
}

// Copies `num_bytes` (0 .. 16) to shared memory in the background and fills up to 16 with zeros.
__device__ __forceinline__ void copy_16_bytes(uint32_t destination, const void* source, int num_bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(destination), "l"(source), "r"(num_bytes) : "memory");
}
// The copies since the last call are one group.
__device__ __forceinline__ void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until at most `kPending` groups of this thread, the latest, are under way.
template <int kPending>
__device__ __forceinline__ void copies_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

}  // namespace pw
