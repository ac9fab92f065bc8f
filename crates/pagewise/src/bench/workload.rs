//! Requests to measure with: read from a file, or drawn. The same seed gives the same requests. Knows no engine.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serving_types::TokenId;

/// One request.
#[derive(Deserialize, Debug, PartialEq, Eq, Clone)]
#[serde(deny_unknown_fields)]
pub(crate) struct Request {
    pub(crate) prompt_token_ids: Vec<TokenId>,
    pub(crate) output_tokens: u32,
}

/// Reads a file with one request a line, as JSON.
pub(crate) fn read(path: &Path) -> Result<Vec<Request>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).with_context(|| format!("in {}", path.display()))
}

fn parse(text: &str) -> Result<Vec<Request>> {
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    let requests: Vec<Request> = lines
        .map(|(number, line)| serde_json::from_str(line).with_context(|| format!("line {number}")))
        .collect::<Result<_>>()?;
    if requests.is_empty() {
        bail!("there is no request");
    }
    Ok(requests)
}

/// Draws requests of one length with random token ids. Two requests share no prefix worth caching.
pub(crate) fn draw(num_requests: u32, input_len: u32, output_len: u32, vocab_size: u32, seed: u64) -> Vec<Request> {
    let mut state = seed;
    let mut draw_token = || ((u128::from(split_mix(&mut state)) * u128::from(vocab_size)) >> 64) as TokenId;
    (0..num_requests)
        .map(|_| Request {
            prompt_token_ids: (0..input_len).map(|_| draw_token()).collect(),
            output_tokens: output_len,
        })
        .collect()
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<&[(&[TokenId], u32)], &str>) {
        match (parse(text), expected) {
            (Ok(requests), Ok(expected)) => {
                let found: Vec<(&[TokenId], u32)> =
                    requests.iter().map(|request| (&*request.prompt_token_ids, request.output_tokens)).collect();
                assert_eq!(found, expected);
            }
            (Err(error), Err(expected)) => assert!(format!("{error:#}").starts_with(expected), "{error:#}"),
            (found, expected) => panic!("{found:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn files() {
        let line = r#"{"prompt_token_ids": [1, 2], "output_tokens": 3}"#;
        check(line, Ok(&[(&[1, 2], 3)]));
        check(&format!("{line}\n\n{line}\n"), Ok(&[(&[1, 2], 3), (&[1, 2], 3)]));
        check("", Err("there is no request"));
        check(&format!("{line}\nnothing"), Err("line 2: expected ident"));
        check(r#"{"prompt_token_ids": [1]}"#, Err("line 1: missing field `output_tokens`"));
        check(r#"{"prompt_token_ids": [-1], "output_tokens": 3}"#, Err("line 1: invalid value: integer `-1`"));
        check(r#"{"prompt_token_ids": [1], "output_tokens": 3, "n": 1}"#, Err("line 1: unknown field `n`"));
    }

    #[test]
    fn drawn_requests_depend_on_the_seed_alone() {
        let drawn = draw(3, 100, 7, 10, 1);
        assert_eq!(drawn, draw(3, 100, 7, 10, 1));
        assert_ne!(drawn, draw(3, 100, 7, 10, 2));
        assert_ne!(drawn[0], drawn[1]);
        assert!(drawn.iter().all(|request| request.output_tokens == 7 && request.prompt_token_ids.len() == 100));
        let tokens =
            |id: u32| drawn.iter().flat_map(|request| &request.prompt_token_ids).filter(|token| **token == id).count();
        assert!((0..10).all(|id| tokens(id) > 0) && tokens(10) == 0, "every token of the vocabulary, and no other");
    }
}
