/* What all entry points share: the ABI's version, status codes, elements, and the view of the KV pool.
 *
 * Every header here is plain C, so that bindgen reads it without a C++ parser. Rules: see kernels/README.md. */
#ifndef PAGEWISE_ABI_H
#define PAGEWISE_ABI_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Raised by every change of a struct or of an entry point's meaning. The loader refuses another one. */
#define PW_ABI_VERSION 3

/* The stream to enqueue on: a cudaStream_t, which is a CUstream. */
typedef struct CUstream_st *PwStream;

/* 0, or why nothing was enqueued: a cudaError_t where positive, else one of these. */
typedef int32_t PwStatus;
#define PW_OK 0
/* The library has no kernel for this combination of element, head size, block size or format. */
#define PW_UNSUPPORTED (-1)
/* A size, a stride or a pointer's alignment is out of range: a bug of the caller. */
#define PW_INVALID (-2)

/* Element of activations and of the KV pool. */
typedef int32_t PwElement;
#define PW_F32 0
#define PW_F16 1
#define PW_BF16 2

/* Keys and values of one layer in the pool, which is [num_blocks][num_layers][2][num_kv_heads][block_size][head_dim]:
 * a block of all layers lies together, so that a fork or a transfer to the host is one copy. */
typedef struct PwKvView {
  /* Start of the pool, aligned to 256 bytes. */
  void *pool;
  /* Elements between two blocks. */
  int64_t block_stride;
  /* Elements from a block's start to this layer's keys; its values follow after num_kv_heads * block_size * head_dim. */
  int64_t layer_offset;
  int32_t num_blocks;
  int32_t block_size;
  int32_t num_kv_heads;
  int32_t head_dim;
  PwElement element;
} PwKvView;

/* PW_ABI_VERSION of the library. */
uint32_t pw_abi_version(void);

/* Whether the current context's device can run the library's kernels; else what the runtime says. */
PwStatus pw_check_device(void);

/* A fault's name for people, in English; never null. */
const char *pw_status_name(PwStatus status);

#ifdef __cplusplus
}
#endif

#endif
