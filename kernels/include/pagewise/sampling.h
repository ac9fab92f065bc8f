/* Sampling and scoring on the device. The crate `sampling` is the reference, step by step and number by number. */
#ifndef PAGEWISE_SAMPLING_H
#define PAGEWISE_SAMPLING_H

#include "pagewise/abi.h"

#ifdef __cplusplus
extern "C" {
#endif

#define PW_MAX_LOGIT_BIASES 1024
#define PW_MAX_STOP_TOKENS 256

/* How the owner of a slot wants its tokens chosen. */
typedef struct PwSlotParams {
  float temperature;
  float top_p;
  float min_p;
  float repetition_penalty;
  float presence_penalty;
  float frequency_penalty;
  uint64_t seed;
  uint32_t sample_index;
  /* 0: all */
  int32_t top_k;
  int32_t min_tokens;
  int32_t num_biases;
  int32_t num_stop_tokens;
  /* -1: no log-probabilities are wanted; else how many most likely tokens */
  int32_t num_top;
  /* Entries of the slot's history that are valid when it opens; -1 without penalties: nothing is kept */
  int32_t history_len;
  int32_t reserved;
} PwSlotParams;

/* A distinct token of a slot's history and how often it is in the output: token in the low 20 bits, count (at most 4,095)
 * above. */
typedef uint32_t PwSeenToken;
#define PW_SEEN_TOKEN_BITS 20

typedef struct PwLogitBias {
  int32_t token;
  float bias;
} PwLogitBias;

/* What the device keeps for every slot. */
typedef struct PwSamplerState {
  /* [slots] */
  PwSlotParams *params;
  /* [slots][PW_MAX_LOGIT_BIASES], the first num_biases valid */
  PwLogitBias *biases;
  /* [slots][PW_MAX_STOP_TOKENS], the first num_stop_tokens valid */
  int32_t *stop_tokens;
  /* [slots][max_history], distinct tokens in the order of their coming */
  PwSeenToken *history;
  /* [slots] valid entries of history */
  int32_t *history_lens;
  /* [slots] */
  int32_t *last_sampled;
  int32_t max_history;
  int32_t vocab_size;
} PwSamplerState;

/* One position whose logits are wanted. */
typedef struct PwLogitJob {
  /* Index of the position among the step's tokens; -1 for padding */
  int32_t token_index;
  int32_t slot;
  /* PW_JOB_SAMPLE: output position; PW_JOB_SCORE: the target token */
  int32_t argument;
  /* PW_JOB_SAMPLE: -1; PW_JOB_SCORE: how many most likely tokens are wanted */
  int32_t num_top;
} PwLogitJob;
#define PW_JOB_IS_SAMPLE(job) ((job).num_top < 0)

#define PW_FAULT_NONE 0
/* A logit was NaN or infinite, or no token is left. */
#define PW_FAULT_NON_FINITE 1

typedef struct PwSampleResult {
  /* The chosen or the target token */
  int32_t token;
  int32_t fault;
  /* Natural-log probability of `token` under the model and 1 + the number of more likely tokens, if wanted */
  float logprob;
  int32_t rank;
  /* Valid entries of the job's row of `top` */
  int32_t num_top;
  int32_t reserved[3];
} PwSampleResult;

typedef struct PwTopToken {
  int32_t token;
  float logprob;
} PwTopToken;

typedef struct PwSample {
  /* [rows, vocab_size] f32; contents undefined afterwards */
  float *logits;
  /* [rows] */
  const PwLogitJob *jobs;
  PwSamplerState state;
  /* [rows] */
  PwSampleResult *results;
  /* [rows][max_top] */
  PwTopToken *top;
  int32_t max_top;
  int32_t rows;
  /* Scratch of pw_sample_scratch_bytes(rows, vocab_size) */
  void *scratch;
} PwSample;

/* Chooses or scores, and for each choice without fault sets last_sampled and extends the history. */
PwStatus pw_sample(const PwSample *op, PwStream stream);

int64_t pw_sample_scratch_bytes(int32_t rows, int32_t vocab_size);

#ifdef __cplusplus
}
#endif

#endif
