//! Options and defaults to sampling parameters: fills in what is absent and checks every value against its range. Knows
//! numbers, not text.

use std::fmt::Display;
use std::ops::RangeInclusive;

use serving_types::{SamplingParams, TokenId};

use crate::{GenerateError, SamplingOptions};

/// Longest list of stop tokens in a request.
pub const MAX_STOP_TOKEN_IDS: usize = 128;
/// Longest list of logit biases in a request.
pub const MAX_LOGIT_BIASES: usize = 1024;
/// Positive temperatures below this are greedy: dividing by them would leave the range of float32.
const MIN_TEMPERATURE: f32 = 1e-5;

/// Values that absent options take.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct GenerationDefaults {
    /// See [`SamplingOptions::temperature`].
    pub temperature: f32,
    /// See [`SamplingOptions::top_p`].
    pub top_p: f32,
    /// See [`SamplingOptions::top_k`].
    pub top_k: u32,
    /// See [`SamplingOptions::min_p`].
    pub min_p: f32,
    /// See [`SamplingOptions::repetition_penalty`].
    pub repetition_penalty: f32,
    /// See [`SamplingOptions::max_tokens`].
    pub max_tokens: u32,
}

impl Default for GenerationDefaults {
    /// The model's own distribution, and 1,024 tokens: long enough for an answer, short enough for one that never ends.
    fn default() -> Self {
        Self { temperature: 1.0, top_p: 1.0, top_k: 0, min_p: 0.0, repetition_penalty: 1.0, max_tokens: 1024 }
    }
}

impl GenerationDefaults {
    /// Checks the defaults as if a request had given them, so that the operator learns of a bad one at the start.
    ///
    /// # Errors
    /// [`GenerateError::InvalidArgument`] for the first value out of its range.
    pub fn validate(&self) -> Result<(), GenerateError> {
        let bounds = Bounds { defaults: *self, eos_token_ids: &[], vocab_size: 1, max_logprobs: 0 };
        bounds.resolve(&SamplingOptions::default()).map(|_| ())
    }
}

/// What the model and the engine say about a request's parameters.
#[derive(Clone, Copy)]
pub(crate) struct Bounds<'a> {
    pub(crate) defaults: GenerationDefaults,
    pub(crate) eos_token_ids: &'a [TokenId],
    pub(crate) vocab_size: u32,
    pub(crate) max_logprobs: u32,
}

impl Bounds<'_> {
    /// The parameters of a request's first answer, but for an absent seed, which is left 0.
    pub(crate) fn resolve(&self, options: &SamplingOptions) -> Result<SamplingParams, GenerateError> {
        let defaults = &self.defaults;
        let max_tokens = options.max_tokens.unwrap_or(defaults.max_tokens);
        let min_tokens = options.min_tokens.unwrap_or(0);
        within("max_tokens", max_tokens, 1..=u32::MAX)?;
        within("min_tokens", min_tokens, 0..=max_tokens)?;
        let temperature = within("temperature", options.temperature.unwrap_or(defaults.temperature), 0.0..=100.0)?;
        Ok(SamplingParams {
            temperature: if temperature < MIN_TEMPERATURE { 0.0 } else { temperature },
            top_p: above_zero("top_p", options.top_p.unwrap_or(defaults.top_p), 1.0)?,
            top_k: options.top_k.unwrap_or(defaults.top_k),
            min_p: within("min_p", options.min_p.unwrap_or(defaults.min_p), 0.0..=1.0)?,
            repetition_penalty: above_zero(
                "repetition_penalty",
                options.repetition_penalty.unwrap_or(defaults.repetition_penalty),
                100.0,
            )?,
            presence_penalty: within("presence_penalty", options.presence_penalty.unwrap_or(0.0), -2.0..=2.0)?,
            frequency_penalty: within("frequency_penalty", options.frequency_penalty.unwrap_or(0.0), -2.0..=2.0)?,
            logit_bias: self.logit_bias(&options.logit_bias)?,
            seed: options.seed.unwrap_or(0),
            sample_index: 0,
            max_tokens,
            min_tokens,
            stop_token_ids: self.stop_token_ids(options)?,
            logprobs: self.num_logprobs("logprobs", options.logprobs)?,
            prompt_logprobs: self.num_logprobs("prompt_logprobs", options.prompt_logprobs)?,
        })
    }

    /// Checks tokens that a request names.
    pub(crate) fn check_tokens(&self, field: &'static str, tokens: &[TokenId]) -> Result<(), GenerateError> {
        match tokens.iter().position(|&token| token >= self.vocab_size) {
            None => Ok(()),
            Some(place) => Err(GenerateError::invalid(
                field,
                format!("has {} at place {place}; token ids are in [0, {}]", tokens[place], self.vocab_size - 1),
            )),
        }
    }

    fn logit_bias(&self, biases: &[(TokenId, f32)]) -> Result<Vec<(TokenId, f32)>, GenerateError> {
        const FIELD: &str = "logit_bias";
        at_most(FIELD, biases.len(), MAX_LOGIT_BIASES)?;
        let mut sorted = biases.to_vec();
        sorted.sort_by_key(|&(token, _)| token);
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(GenerateError::invalid(FIELD, format!("names token {} twice", pair[0].0)));
        }
        for &(token, bias) in &sorted {
            self.check_tokens(FIELD, &[token])?;
            within(FIELD, bias, -100.0..=100.0)?;
        }
        Ok(sorted)
    }

    fn stop_token_ids(&self, options: &SamplingOptions) -> Result<Vec<TokenId>, GenerateError> {
        const FIELD: &str = "stop_token_ids";
        at_most(FIELD, options.stop_token_ids.len(), MAX_STOP_TOKEN_IDS)?;
        self.check_tokens(FIELD, &options.stop_token_ids)?;
        let mut tokens = options.stop_token_ids.clone();
        if !options.ignore_eos {
            tokens.extend_from_slice(self.eos_token_ids);
        }
        tokens.sort_unstable();
        tokens.dedup();
        Ok(tokens)
    }

    fn num_logprobs(&self, field: &'static str, wanted: Option<u32>) -> Result<Option<u32>, GenerateError> {
        wanted.map(|num| within(field, num, 0..=self.max_logprobs)).transpose()
    }
}

/// The value if it is in a closed range. NaN is in none.
pub(crate) fn within<T: PartialOrd + Display + Copy>(
    field: &'static str,
    value: T,
    range: RangeInclusive<T>,
) -> Result<T, GenerateError> {
    if range.contains(&value) {
        return Ok(value);
    }
    let message = format!("is {value}; it must be in [{}, {}]", range.start(), range.end());
    Err(GenerateError::invalid(field, message))
}

/// The value if it is above 0 and at most `max`.
fn above_zero(field: &'static str, value: f32, max: f32) -> Result<f32, GenerateError> {
    if value > 0.0 && value <= max {
        return Ok(value);
    }
    Err(GenerateError::invalid(field, format!("is {value}; it must be in (0, {max}]")))
}

/// No error for a list of at most `max` entries.
pub(crate) fn at_most(field: &'static str, num: usize, max: usize) -> Result<(), GenerateError> {
    if num <= max {
        return Ok(());
    }
    Err(GenerateError::invalid(field, format!("has {num} entries; it may have at most {max}")))
}
