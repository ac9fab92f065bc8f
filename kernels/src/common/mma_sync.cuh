// The warp's matrix instruction m16n8k16 with sums in f32. Knows no op.
//
// In lane l with g = l / 4 and t = l % 4 (PTX ISA, "Matrix fragments for mma.m16n8k16"), two elements a register:
//   a[0], a[1]: rows g, g + 8 of columns 2t, 2t + 1;  a[2], a[3]: the same of columns 2t + 8, 2t + 9
//   b0: rows 2t, 2t + 1 of column g;                  b1: rows 2t + 8, 2t + 9 of column g
//   c[0], c[1]: row g of columns 2t, 2t + 1;          c[2], c[3]: row g + 8 of the same
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace pw {

// kAdd: c += a . b; kNew: c = a . b
enum class Sum { kNew, kAdd };

template <Sum S, class T>
__device__ void mma_sync(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

#define PW_MMA_SYNC(type, name)                                                                                          \
  template <>                                                                                                            \
  __device__ inline void mma_sync<Sum::kAdd, type>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {    \
    asm("mma.sync.aligned.m16n8k16.row.col.f32." name "." name ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "            \
        "{%0,%1,%2,%3};"                                                                                                 \
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                                                 \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));                                                 \
  }                                                                                                                      \
  template <>                                                                                                            \
  __device__ inline void mma_sync<Sum::kNew, type>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {    \
    asm("mma.sync.aligned.m16n8k16.row.col.f32." name "." name ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "            \
        "{%10,%10,%10,%10};"                                                                                             \
        : "=f"(c[0]), "=f"(c[1]), "=f"(c[2]), "=f"(c[3])                                                                 \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(0.0f));                                      \
  }
PW_MMA_SYNC(__nv_bfloat16, "bf16")
PW_MMA_SYNC(__half, "f16")
#undef PW_MMA_SYNC

}  // namespace pw
