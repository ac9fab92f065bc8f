//! A language model that is a hash: the next token is a pure function of the tokens before it. The oracle of every run.
//! Knows no batch and no block.

use serving_types::{FinishReason, SamplingParams, TokenId};

use crate::random::mix;

/// The model.
#[derive(Clone, Copy, Debug)]
pub struct FakeModel {
    /// Which model.
    pub seed: u64,
    /// Tokens in its vocabulary.
    pub vocab_size: u32,
}

/// What a request gets when it is alone in the world.
#[derive(Clone, PartialEq, Debug)]
pub struct Completion {
    /// The output.
    pub tokens: Vec<TokenId>,
    /// Why it ends.
    pub reason: FinishReason,
}

impl FakeModel {
    /// The prefix hash before the first token.
    #[must_use]
    pub fn root(&self) -> u64 {
        mix(self.seed, 0)
    }

    /// The prefix hash after one more token. Stands for the KV of that token: it depends on all before it.
    #[must_use]
    pub fn extend(&self, prefix: u64, token: TokenId) -> u64 {
        mix(prefix, u64::from(token) + 1)
    }

    /// The token sampled after `context`, whose prefix hash is `prefix`. The context itself is looked at only for
    /// penalties, as on a device.
    #[must_use]
    pub fn sample(
        &self,
        prefix: u64,
        context: &[TokenId],
        num_prompt_tokens: u32,
        sampling: &SamplingParams,
    ) -> TokenId {
        let num_output = context.len() as u32 - num_prompt_tokens;
        let mut logits = mix(prefix, self.seed);
        if sampling.temperature > 0.0 {
            logits = mix(mix(logits, sampling.seed), u64::from(sampling.sample_index));
        }
        if sampling.has_penalties() {
            logits = context.iter().fold(logits, |hash, &token| mix(hash, u64::from(token)));
        }
        loop {
            let token = (logits % u64::from(self.vocab_size)) as TokenId;
            let is_suppressed =
                num_output < sampling.min_tokens && sampling.stop_token_ids.binary_search(&token).is_ok();
            if !is_suppressed {
                return token;
            }
            logits = mix(logits, 1);
        }
    }

    /// The log-probability and the rank of a token after a prefix.
    #[must_use]
    pub fn score(&self, prefix: u64, token: TokenId) -> (f32, u32) {
        let hash = mix(prefix, u64::from(token) ^ self.seed);
        (-((hash % 1000) as f32) / 100.0, (hash >> 32) as u32 % self.vocab_size + 1)
    }

    /// The most likely tokens after a prefix.
    pub fn top(&self, prefix: u64, num_top: u32) -> impl Iterator<Item = (TokenId, f32)> + use<> {
        let vocab_size = u64::from(self.vocab_size);
        (0..u64::from(num_top)).map(move |rank| ((mix(prefix, rank) % vocab_size) as TokenId, -(rank as f32)))
    }

    /// What a request is answered when nothing else is going on and nothing fails.
    #[must_use]
    pub fn complete(&self, prompt: &[TokenId], sampling: &SamplingParams, max_model_len: u32) -> Completion {
        let mut context = prompt.to_vec();
        let mut prefix = prompt.iter().fold(self.root(), |prefix, &token| self.extend(prefix, token));
        let num_prompt_tokens = prompt.len() as u32;
        let max_len = num_prompt_tokens.saturating_add(sampling.max_tokens).min(max_model_len);
        loop {
            let token = self.sample(prefix, &context, num_prompt_tokens, sampling);
            context.push(token);
            prefix = self.extend(prefix, token);
            let reason = if sampling.stop_token_ids.contains(&token) {
                FinishReason::StopToken(token)
            } else if context.len() as u32 == max_len {
                FinishReason::Length
            } else {
                continue;
            };
            return Completion { tokens: context.split_off(prompt.len()), reason };
        }
    }
}
