// Products by the tensor cores of a whole warpgroup (sm_90a): asynchronous, the right operand read from shared memory, the
// left one from there or from registers.
//
// Four warps together form D[64][n] += A[64][16] * B[16][n]. Warp w holds rows 16 w .. 16 w + 15 of A and D in the layouts of
// mma.m16n8k16 (see fragment.cuh). Between `products_begin` and the wait for the group, nothing may touch the registers
// that the products use. PTX ISA, "Asynchronous warpgroup-level matrix instructions".
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

// Only where the compiler targets Hopper's own instruction set, and not in code that other cards may run too.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define PW_HAS_WARPGROUP_PRODUCTS 1
#endif

namespace pw {

constexpr int kWarpgroup = 128;

// A matrix in shared memory as rows of 128 bytes in the 128-byte swizzle; eight rows, 1,024 bytes, are one atom. The address
// of a part is the address of the whole plus the part's offset before the permutation.
struct SwizzledMatrix {
  uint64_t bits;

  // B whose k elements lie along the rows: `row` is a column of B, and atoms of eight columns follow each other. Or A: `row`
  // is a row of A.
  static __device__ __forceinline__ SwizzledMatrix along_k(uint32_t address) { return {of(address, 16, 1024)}; }

  // B whose columns lie along the rows, 64 in each: atoms of eight k follow each other, and the next 64 columns begin
  // `column_stride` bytes on.
  static __device__ __forceinline__ SwizzledMatrix along_columns(uint32_t address, uint32_t column_stride) {
    return {of(address, column_stride, 1024)};
  }

  // The same as `along_k` at an address in units of 16 bytes, for loops that count addresses up.
  static __device__ __forceinline__ SwizzledMatrix along_k_at(uint32_t sixteenths) { return {of(0, 16, 1024) | sixteenths}; }

  __device__ __forceinline__ SwizzledMatrix plus_bytes(uint32_t offset) const { return {bits + (offset >> 4)}; }

 private:
  static __device__ __forceinline__ uint64_t of(uint32_t address, uint32_t leading_bytes, uint32_t stride_bytes) {
    constexpr uint64_t kSwizzle128 = uint64_t(1) << 62;
    return uint64_t((address & 0x3ffff) >> 4) | uint64_t(leading_bytes >> 4) << 16 | uint64_t(stride_bytes >> 4) << 32 |
           kSwizzle128;
  }
};

#ifdef PW_HAS_WARPGROUP_PRODUCTS

// What the threads wrote to registers is what the products that follow read.
__device__ __forceinline__ void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

// What this thread wrote to shared memory comes before products that other threads begin after a barrier, and before copies by
// the copy engine that they begin.
__device__ __forceinline__ void writes_before_products() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// The products since the last call are one group.
__device__ __forceinline__ void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Until at most `kPending` groups, the latest, are under way.
template <int kPending>
__device__ __forceinline__ void products_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Keeps the compiler from moving reads of these registers to before a wait, or the making of them to after one.
template <int n>
__device__ __forceinline__ void pin(float (&values)[n]) {
#pragma unroll
  for (int i = 0; i < n; ++i) asm volatile("" : "+f"(values[i])::"memory");
}

// Registers a thread of this warpgroup may use from now on; a multiple of 8.
template <int kRegisters>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// How B lies in shared memory, as the instruction's last operand says it.
enum class Lies { kAlongK = 0, kAlongColumns = 1 };

#define PW_D8(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
                 "+f"(d[i + 6]), "+f"(d[i + 7])

#define PW_PRODUCT_64(TYPE) \
  asm volatile( \
      "{\n" \
      ".reg .pred p;\n" \
      "setp.ne.b32 p, %37, 0;\n" \
      "wgmma.mma_async.sync.aligned.m64n64k16.f32." TYPE "." TYPE " " \
      "{" \
      "%0, %1, %2, %3, %4, %5, %6, %7, " \
      "%8, %9, %10, %11, %12, %13, %14, %15, " \
      "%16, %17, %18, %19, %20, %21, %22, %23, " \
      "%24, %25, %26, %27, %28, %29, %30, %31}, " \
      "{%32, %33, %34, %35}, %36, p, 1, 1, %38;\n" \
      "}" \
      : PW_D8(0), PW_D8(8), PW_D8(16), PW_D8(24) \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b.bits), "r"(accumulate), "n"(int(kLies)))

#define PW_PRODUCT_128(TYPE) \
  asm volatile( \
      "{\n" \
      ".reg .pred p;\n" \
      "setp.ne.b32 p, %69, 0;\n" \
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." TYPE "." TYPE " " \
      "{" \
      "%0, %1, %2, %3, %4, %5, %6, %7, " \
      "%8, %9, %10, %11, %12, %13, %14, %15, " \
      "%16, %17, %18, %19, %20, %21, %22, %23, " \
      "%24, %25, %26, %27, %28, %29, %30, %31, " \
      "%32, %33, %34, %35, %36, %37, %38, %39, " \
      "%40, %41, %42, %43, %44, %45, %46, %47, " \
      "%48, %49, %50, %51, %52, %53, %54, %55, " \
      "%56, %57, %58, %59, %60, %61, %62, %63}, " \
      "{%64, %65, %66, %67}, %68, p, 1, 1, %70;\n" \
      "}" \
      : PW_D8(0), PW_D8(8), PW_D8(16), PW_D8(24), PW_D8(32), PW_D8(40), PW_D8(48), PW_D8(56) \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b.bits), "r"(accumulate), "n"(int(kLies)))

// D = A * B, plus D if `accumulate` is not 0. A in registers.
template <class T, Lies kLies>
__device__ __forceinline__ void product(float (&d)[32], const uint32_t (&a)[4], SwizzledMatrix b, int accumulate) {
  if constexpr (sizeof(T) == 2 && __is_same(T, __half)) {
    PW_PRODUCT_64("f16");
  } else {
    PW_PRODUCT_64("bf16");
  }
}

template <class T, Lies kLies>
__device__ __forceinline__ void product(float (&d)[64], const uint32_t (&a)[4], SwizzledMatrix b, int accumulate) {
  if constexpr (sizeof(T) == 2 && __is_same(T, __half)) {
    PW_PRODUCT_128("f16");
  } else {
    PW_PRODUCT_128("bf16");
  }
}

#undef PW_PRODUCT_64
#undef PW_PRODUCT_128

#define PW_NAMES_16 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define PW_NAMES_32 PW_NAMES_16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define PW_NAMES_48 \
  PW_NAMES_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define PW_NAMES_64 \
  PW_NAMES_48 ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define PW_NAMES_80 \
  PW_NAMES_64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"
#define PW_NAMES_96 \
  PW_NAMES_80 ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define PW_NAMES_112 \
  PW_NAMES_96 ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111"
#define PW_NAMES_128 \
  PW_NAMES_112 ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define PW_D16(i) PW_D8(i), PW_D8(i + 8)
#define PW_D32(i) PW_D16(i), PW_D16(i + 16)
#define PW_D48(i) PW_D32(i), PW_D16(i + 32)
#define PW_D64(i) PW_D32(i), PW_D32(i + 32)
#define PW_D80(i) PW_D64(i), PW_D16(i + 64)
#define PW_D96(i) PW_D48(i), PW_D48(i + 48)
#define PW_D112(i) PW_D64(i), PW_D48(i + 64)
#define PW_D128(i) PW_D64(i), PW_D64(i + 64)

// N columns, R registers a thread; the operands after those are A, B and whether to add: their numbers as text.
#define PW_PRODUCT_OF_SHARED(TYPE, N, R, A, B, ADD) \
  asm volatile( \
      "{\n" \
      ".reg .pred p;\n" \
      "setp.ne.b32 p, %" ADD ", 0;\n" \
      "wgmma.mma_async.sync.aligned.m64n" N "k16.f32." TYPE "." TYPE " {" PW_NAMES_##R "}, %" A ", %" B ", p, 1, 1, 0, 0;\n" \
      "}" \
      : PW_D##R(0) \
      : "l"(a.bits), "l"(b.bits), "r"(accumulate))

// D = A * B, plus D if `accumulate` is not 0. Both in shared memory with k along the rows.
#define PW_DEFINE_PRODUCT_OF_SHARED(N, R, A, B, ADD) \
  template <class T> \
  __device__ __forceinline__ void product_of_shared(float (&d)[R], SwizzledMatrix a, SwizzledMatrix b, int accumulate) { \
    if constexpr (__is_same(T, __half)) { \
      PW_PRODUCT_OF_SHARED("f16", N, R, A, B, ADD); \
    } else { \
      PW_PRODUCT_OF_SHARED("bf16", N, R, A, B, ADD); \
    } \
  }
PW_DEFINE_PRODUCT_OF_SHARED("32", 16, "16", "17", "18")
PW_DEFINE_PRODUCT_OF_SHARED("64", 32, "32", "33", "34")
PW_DEFINE_PRODUCT_OF_SHARED("96", 48, "48", "49", "50")
PW_DEFINE_PRODUCT_OF_SHARED("128", 64, "64", "65", "66")
PW_DEFINE_PRODUCT_OF_SHARED("160", 80, "80", "81", "82")
PW_DEFINE_PRODUCT_OF_SHARED("192", 96, "96", "97", "98")
PW_DEFINE_PRODUCT_OF_SHARED("224", 112, "112", "113", "114")
PW_DEFINE_PRODUCT_OF_SHARED("256", 128, "128", "129", "130")

#undef PW_D8
#undef PW_D16
#undef PW_D32
#undef PW_D48
#undef PW_D64
#undef PW_D80
#undef PW_D96
#undef PW_D112
#undef PW_D128
#undef PW_NAMES_16
#undef PW_NAMES_32
#undef PW_NAMES_48
#undef PW_NAMES_64
#undef PW_NAMES_80
#undef PW_NAMES_96
#undef PW_NAMES_112
#undef PW_NAMES_128
#undef PW_PRODUCT_OF_SHARED
#undef PW_DEFINE_PRODUCT_OF_SHARED

#endif

}  // namespace pw
