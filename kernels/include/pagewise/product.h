/* Products with dense weights.
 *
 * Every element of a product is summed in f32 in one order that depends on k alone: a row's result has the same bits
 * whatever the number of rows and columns, on one card and with one build of the library. */
#ifndef PAGEWISE_PRODUCT_H
#define PAGEWISE_PRODUCT_H

#include "pagewise/abi.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What becomes of p = x . weight^T. */
typedef int32_t PwProductEnd;
/* out = p; [rows, n] */
#define PW_PRODUCT_STORE 0
/* out = out + p, added in f32 and rounded once; [rows, n] */
#define PW_PRODUCT_ADD 1
/* out = silu(p[:, :n / 2]) * p[:, n / 2:], in f32 and rounded once: the halves are not rounded before, as they are where
 * pw_silu_mul reads them from memory; [rows, n / 2] */
#define PW_PRODUCT_GATED 2

/* Whether the weight may be read while kernels that were enqueued before still run. */
typedef int32_t PwWeightState;
/* It may: what wrote it is complete. */
#define PW_WEIGHT_SETTLED 0
/* It may not: a kernel enqueued before may be writing it. */
#define PW_WEIGHT_FRESH 1

/* Pointers are aligned to 16 bytes; n, k and out_stride are multiples of 8, n of 16 if gated. */
typedef struct PwProduct {
  /* [rows, k] of `element`, which is PW_F16 or PW_BF16 */
  const void *x;
  /* [n, k] of `element` */
  const void *weight;
  /* of `out_element`: `element`, or PW_F32 if stored */
  void *out;
  /* Elements between two rows of out. */
  int64_t out_stride;
  int32_t rows;
  int32_t n;
  int32_t k;
  PwElement element;
  PwElement out_element;
  PwProductEnd end;
  PwWeightState weight_state;
} PwProduct;

PwStatus pw_product(const PwProduct *op, PwStream stream);

#ifdef __cplusplus
}
#endif

#endif
