//! How the tokens of one request are chosen and when it ends. Values only; `sampling` holds the arithmetic, `generation`
//! the defaults and the validation.

use alloc::string::String;
use alloc::vec::Vec;

use crate::TokenId;

/// Sampling parameters of one request, resolved and validated: no field is optional that has a default.
///
/// Order of application: logit bias, suppression of stop tokens below `min_tokens`, repetition, frequency and presence
/// penalties, temperature, then `top_k`, `top_p` and `min_p`, then one draw.
#[derive(Clone, PartialEq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct SamplingParams {
    /// Divides the logits; `0.0` is greedy (the arg max, lowest id first among equals). At least 0.
    pub temperature: f32,
    /// Keep the smallest set of most likely tokens whose probability reaches this. In `(0, 1]`; `1.0` keeps all.
    pub top_p: f32,
    /// Keep the `top_k` most likely tokens; `0` keeps all.
    pub top_k: u32,
    /// Keep tokens at least `min_p` times as likely as the most likely one. In `[0, 1]`; `0.0` keeps all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens in the prompt or output so far (Keskar et al., 2019).
    /// Above 0; `1.0` changes nothing.
    pub repetition_penalty: f32,
    /// Subtracted once from the logit of every token in the output so far. In `[-2, 2]`.
    pub presence_penalty: f32,
    /// Subtracted from a token's logit for each time it is in the output so far. In `[-2, 2]`.
    pub frequency_penalty: f32,
    /// Added to the logits of these tokens.
    pub logit_bias: Vec<(TokenId, f32)>,
    /// Key of the counter-based random numbers. An unseeded request draws one at admission.
    pub seed: u64,
    /// Which of the `n` samples of a request this is; part of the random numbers' key.
    pub sample_index: u32,
    /// Most tokens to generate. At least 1.
    pub max_tokens: u32,
    /// Stop tokens are suppressed until this many tokens were generated.
    pub min_tokens: u32,
    /// Generation ends with any of these, the model's end-of-sequence tokens included unless the request ignores them.
    /// Sorted, without repeats.
    pub stop_token_ids: Vec<TokenId>,
    /// `Some(k)`: report the log-probability of each sampled token and of the `k` most likely ones.
    pub logprobs: Option<u32>,
    /// `Some(k)`: the same for each prompt token but the first.
    pub prompt_logprobs: Option<u32>,
}

impl Default for SamplingParams {
    /// Greedy, 16 tokens, nothing filtered or penalised.
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 0,
            sample_index: 0,
            max_tokens: 16,
            min_tokens: 0,
            stop_token_ids: Vec::new(),
            logprobs: None,
            prompt_logprobs: None,
        }
    }
}

impl SamplingParams {
    /// Whether the choice of a token depends on the tokens before it, so that the executor must know them.
    #[must_use]
    pub fn has_penalties(&self) -> bool {
        self.repetition_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }
}

/// Why a request ended. Every accepted request ends with exactly one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FinishReason {
    /// The model produced this stop token; it is the last token of the output.
    StopToken(TokenId),
    /// `max_tokens` were generated or the model's context is full.
    Length,
    /// The client cancelled or went away.
    Cancelled,
    /// A deadline passed, or could not be met any more.
    Deadline,
    /// This request failed while others went on, or the device failed for all of them. Says what happened.
    Failed(String),
}

/// Token counts of one finished request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Of these, tokens whose KV was found in the prefix cache at first admission.
    pub cached_tokens: u32,
    /// Tokens generated.
    pub output_tokens: u32,
    /// Times the request was preempted and computed again.
    pub preemptions: u32,
}
