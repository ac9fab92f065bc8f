//! Requests that no engine with these limits could ever serve. Depends on nothing that changes, so it is asked on the
//! caller's thread, before the request is handed over.

use kv_paging::PrefixKeys;
use scheduler::SchedulerConfig;
use serving_types::{ExecutorLimits, SamplingParams, TokenId};

/// Why a request was not taken.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// The scheduler could not run it.
    #[error(transparent)]
    Scheduling(#[from] scheduler::Refusal),
    /// The prompt holds a token that the model does not know. For the client.
    #[error("token {token} is not in the model's vocabulary of {vocab_size} tokens")]
    UnknownToken {
        /// The first such token.
        token: TokenId,
        /// Tokens in the vocabulary.
        vocab_size: u32,
    },
    /// More most-likely tokens were asked for than the executor reports. For the client.
    #[error("{parameter} asks for the {asked} most likely tokens; at most {max} are reported")]
    TooManyLogprobs {
        /// The sampling parameter.
        parameter: &'static str,
        /// What was asked for.
        asked: u32,
        /// The most that can be reported.
        max: u32,
    },
}

/// The limits that decide.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Door {
    pub(crate) limits: ExecutorLimits,
    pub(crate) config: SchedulerConfig,
}

impl Door {
    pub(crate) fn check(&self, prompt: &PrefixKeys, sampling: &SamplingParams) -> Result<(), Refusal> {
        self.config.check(prompt.num_tokens(), sampling)?;
        let vocab_size = self.limits.vocab_size;
        if let Some(&token) = prompt.tokens().iter().find(|&&token| token >= vocab_size) {
            return Err(Refusal::UnknownToken { token, vocab_size });
        }
        let max = self.limits.max_top_logprobs;
        for (parameter, asked) in [("logprobs", sampling.logprobs), ("prompt_logprobs", sampling.prompt_logprobs)] {
            if let Some(asked) = asked.filter(|&asked| asked > max) {
                return Err(Refusal::TooManyLogprobs { parameter, asked, max });
            }
        }
        Ok(())
    }
}
