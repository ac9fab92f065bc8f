//! The workload of the reports: a chat-like mix of request lengths, and who shares a prompt's beginning with whom. Knows no
//! engine and no memory.

use serving_types::TokenId;

use crate::Random;

/// Shortest and longest prompt and output, in tokens.
const SHORTEST: f64 = 4.0;
const LONGEST: f64 = 2048.0;
/// Applications whose requests begin with the same system prompt.
const NUM_APPLICATIONS: u32 = 16;
/// Lengths of system prompts, in tokens.
const SYSTEM_PROMPT: core::ops::RangeInclusive<u32> = 64..=512;

/// Longest context of the mix, in tokens.
pub const MAX_CHAT_TOKENS: u32 = 2 * LONGEST as u32;

/// One request of the mix.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChatRequest {
    /// Its prompt.
    pub prompt: Vec<TokenId>,
    /// Tokens that will be generated; nobody knows beforehand.
    pub num_output_tokens: u32,
}

/// A chat-like mix: prompt lengths are log-normal with median 100 and sigma 1.25, output lengths with median 120 and sigma
/// 1.0, both cut to 4 to 2,048 tokens. Each request is of one of 16 applications, and its prompt begins with as much of
/// that application's system prompt (64 to 512 tokens) as is shorter than itself.
#[must_use]
pub fn chat_mix(seed: u64, num_requests: usize) -> Vec<ChatRequest> {
    let mut random = Random::new(seed);
    let system_prompts: Vec<Vec<TokenId>> = (0..NUM_APPLICATIONS)
        .map(|_| {
            let num_tokens = random.pick(SYSTEM_PROMPT);
            (0..num_tokens).map(|_| random_token(&mut random)).collect()
        })
        .collect();
    (0..num_requests)
        .map(|_| {
            let system_prompt = &system_prompts[random.pick(0..=NUM_APPLICATIONS - 1) as usize];
            let num_prompt_tokens = log_normal(&mut random, 100.0, 1.25) as usize;
            let num_shared = system_prompt.len().min(num_prompt_tokens - 1);
            let mut prompt = system_prompt[..num_shared].to_vec();
            prompt.resize_with(num_prompt_tokens, || random_token(&mut random));
            ChatRequest { prompt, num_output_tokens: log_normal(&mut random, 120.0, 1.0) }
        })
        .collect()
}

fn random_token(random: &mut Random) -> TokenId {
    random.pick(0..=31_999)
}

/// A length in tokens.
fn log_normal(random: &mut Random, median: f64, sigma: f64) -> u32 {
    (median * (sigma * random.normal()).exp()).clamp(SHORTEST, LONGEST).round() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mix_is_as_described() {
        let requests = chat_mix(1, 20_001);
        let check = |what, median: u32, mut lengths: Vec<u32>| {
            lengths.sort_unstable();
            assert!(lengths[0] >= 4 && lengths[20_000] == 2048, "{what} are cut");
            let found = lengths[10_000];
            assert!(found.abs_diff(median) * 20 < median, "the median of {what} is {found}, not {median}");
        };
        check("prompts", 100, requests.iter().map(|request| request.prompt.len() as u32).collect());
        check("outputs", 120, requests.iter().map(|request| request.num_output_tokens.min(2048)).collect());
        assert_eq!(requests[..10], chat_mix(1, 20_001)[..10], "the same seed gives the same mix");
    }
}
