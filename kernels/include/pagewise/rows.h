/* Ops that work row by row: embedding, norms, activation, rotary embedding with KV append, gathers, bias.
 *
 * [rows, n] is row-major and dense. Arithmetic is in f32, rounded once to the element where a value is stored. Row widths
 * are any positive number; pointers are aligned to 16 bytes. */
#ifndef PAGEWISE_ROWS_H
#define PAGEWISE_ROWS_H

#include "pagewise/abi.h"
#include "pagewise/step.h"

#ifdef __cplusplus
extern "C" {
#endif

/* out[t] = table[token of t] */
typedef struct PwEmbed {
  PwStepView step;
  /* [slots] the token that each slot sampled last */
  const int32_t *last_sampled;
  /* [vocab, cols] of `element` */
  const void *table;
  /* [rows, cols] of `element` */
  void *out;
  int32_t rows;
  int32_t cols;
  PwElement element;
} PwEmbed;

PwStatus pw_embed(const PwEmbed *op, PwStream stream);

/* If residual: residual += x (rounded to the element), then out = rms_norm(residual). Else out = rms_norm(x).
 * rms_norm(v) = v / sqrt(mean(v^2) + eps) * weight (Zhang and Sennrich, 2019). */
typedef struct PwRmsNorm {
  /* [rows, cols] */
  const void *x;
  /* [rows, cols], updated; may be null */
  void *residual;
  /* [cols] f32 */
  const float *weight;
  /* [rows, cols] */
  void *out;
  float eps;
  int32_t rows;
  int32_t cols;
  PwElement element;
} PwRmsNorm;

PwStatus pw_rms_norm(const PwRmsNorm *op, PwStream stream);

/* out = silu(x[:, :cols]) * x[:, cols:] (Shazeer, 2020) */
typedef struct PwSiluMul {
  /* [rows, 2 cols]: gate, then up */
  const void *x;
  /* [rows, cols] */
  void *out;
  int32_t rows;
  int32_t cols;
  PwElement element;
} PwSiluMul;

PwStatus pw_silu_mul(const PwSiluMul *op, PwStream stream);

/* x += bias, in place */
typedef struct PwAddBias {
  /* [rows, cols] */
  void *x;
  /* [cols] f32 */
  const float *bias;
  int32_t rows;
  int32_t cols;
  PwElement element;
} PwAddBias;

PwStatus pw_add_bias(const PwAddBias *op, PwStream stream);

/* Norms (optionally) and rotates queries and keys in place and appends keys and values to the KV pool.
 * With c, s the halves of the table's row for the token's position and h = head_dim / 2 (Su et al., 2021):
 * y[i] = x[i] c[i] - x[i + h] s[i] and y[i + h] = x[i + h] c[i] + x[i] s[i]. */
typedef struct PwRopeAppend {
  PwStepView step;
  /* [rows, (num_heads + 2 num_kv_heads) * head_dim]; queries and keys are rotated in place */
  void *qkv;
  /* [max_positions, head_dim] f32: cosines, then sines */
  const float *rope;
  /* [head_dim] f32; both or none: RMS norm of each query and key head before the rotation (Qwen3) */
  const float *q_norm;
  const float *k_norm;
  float norm_eps;
  PwKvView kv;
  int32_t num_heads;
  int32_t rows;
  /* of qkv */
  PwElement element;
} PwRopeAppend;

PwStatus pw_rope_append(const PwRopeAppend *op, PwStream stream);

/* out[i] = x[indices[i]]; an index of -1 gives a row of zeros */
typedef struct PwGatherRows {
  /* [any, cols] */
  const void *x;
  /* [rows], at a stride of `index_stride` int32 */
  const int32_t *indices;
  int32_t index_stride;
  /* [rows, cols] */
  void *out;
  int32_t rows;
  int32_t cols;
  PwElement element;
} PwGatherRows;

PwStatus pw_gather_rows(const PwGatherRows *op, PwStream stream);

/* Element i = bound * (2 (mix(seed + i) >> 40) / 2^24 - 1), where mix is the output function of SplitMix64 (Steele, Lea and
 * Flood, 2014), rounded to the element: random weights, as `tensor_backend::RandomElements` defines them. */
typedef struct PwFillRandom {
  void *out;
  int64_t num_elements;
  uint64_t seed;
  float bound;
  PwElement element;
} PwFillRandom;

PwStatus pw_fill_random(const PwFillRandom *op, PwStream stream);

#ifdef __cplusplus
}
#endif

#endif
