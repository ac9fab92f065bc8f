/* Products with weights that stay in GGUF's block formats on the device. */
#ifndef PAGEWISE_QUANTISED_H
#define PAGEWISE_QUANTISED_H

#include "pagewise/abi.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef int32_t PwWeightFormat;
#define PW_Q4_0 0
#define PW_Q4_1 1
#define PW_Q8_0 2
#define PW_Q4_K 3
#define PW_Q6_K 4

/* The device's layouts are made of tiles of so many rows: weights of whole tiles of one format and width, one after another,
 * are one weight. */
#define PW_QUANTISED_TILE_ROWS 16

/* Rows of one weight in the device's layout of its format; see kernels/src/quantised. */
typedef struct PwQuantised {
  const void *weight;
  int32_t n;
  int32_t k;
  PwWeightFormat format;
} PwQuantised;

/* Bytes of the device's layout; -1 if the format or the shape is not supported. The stored bytes need no more. */
int64_t pw_quantised_bytes(PwWeightFormat format, int32_t n, int32_t k);

/* From rows as GGUF stores them to the device's layout. Both on the device, not overlapping. */
typedef struct PwQuantisedPack {
  const void *stored;
  void *weight;
  int32_t n;
  int32_t k;
  PwWeightFormat format;
} PwQuantisedPack;

PwStatus pw_quantised_pack(const PwQuantisedPack *op, PwStream stream);

/* out[:, out_offset : out_offset + n] = x . weight^T, for few rows. */
typedef struct PwQuantisedProduct {
  PwQuantised weight;
  /* [rows, k] */
  const void *x;
  /* [rows, out_stride] of out_element */
  void *out;
  int64_t out_stride;
  int64_t out_offset;
  int32_t rows;
  PwElement element;
  PwElement out_element;
} PwQuantisedProduct;

/* Most rows of a direct product. */
#define PW_MAX_QUANTISED_ROWS 16
PwStatus pw_quantised_product(const PwQuantisedProduct *op, PwStream stream);

/* out = the weight's rows first_row .. first_row + num_rows, expanded; [num_rows, k] of `element` */
typedef struct PwQuantisedExpand {
  PwQuantised weight;
  void *out;
  int32_t first_row;
  int32_t num_rows;
  PwElement element;
} PwQuantisedExpand;

PwStatus pw_quantised_expand(const PwQuantisedExpand *op, PwStream stream);

/* out[t] = the weight's row of token t, expanded: an embedding that stays quantised. */
typedef struct PwQuantisedEmbed {
  PwQuantised weight;
  /* [rows] token id, or -1 - slot */
  const int32_t *token_ids;
  const int32_t *last_sampled;
  /* [rows, k] */
  void *out;
  int32_t rows;
  PwElement element;
} PwQuantisedEmbed;

PwStatus pw_quantised_embed(const PwQuantisedEmbed *op, PwStream stream);

#ifdef __cplusplus
}
#endif

#endif
