//! The choice of a token: greedy, or one draw from what the filters keep. Knows one position's logits at a time.

use core::cmp::Ordering;

use serving_types::{RowFault, SamplingParams, TokenId};

use crate::exponential::exp_nonpositive;
use crate::random::uniform;
use crate::{TokenHistory, adjust, check_finite, largest};

/// Memory for [`choose`], reused from call to call.
#[derive(Debug)]
pub struct Scratch {
    candidates: Vec<TokenId>,
}

impl Scratch {
    /// Scratch for a vocabulary of `vocab_size` tokens.
    #[must_use]
    pub fn new(vocab_size: usize) -> Self {
        Self { candidates: Vec::with_capacity(vocab_size) }
    }

    /// Bytes that it has taken.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        (self.candidates.capacity() * size_of::<TokenId>()) as u64
    }
}

/// Chooses the next token. `output_position` is the number of tokens of output before it. The contents of `logits` are
/// undefined afterwards.
///
/// After [`adjust`], a temperature of zero takes the largest logit, the lowest id among equals. Otherwise a token's
/// weight is `exp((logit - max) / temperature)`. All filters keep a prefix of one order, heaviest first and lower id first
/// among equals: `top_k` that many tokens; `top_p` the shortest prefix with that share of the weight that `top_k` left;
/// `min_p` tokens of at least that weight (the heaviest token weighs 1). Of the tokens kept, in ascending order of id, the
/// first is chosen at which the running sum of weights exceeds [`uniform`] times their total; sums are in double
/// precision.
///
/// # Errors
/// A logit is NaN or infinite, or no token is left.
pub fn choose(
    logits: &mut [f32],
    params: &SamplingParams,
    history: &TokenHistory,
    output_position: u32,
    scratch: &mut Scratch,
) -> Result<TokenId, RowFault> {
    check_finite(logits)?;
    adjust(logits, params, history, output_position);
    let max = largest(logits);
    if !max.is_finite() {
        return Err(RowFault::NonFiniteLogits);
    }
    if params.temperature == 0.0 {
        let best = logits.iter().position(|&logit| logit == max).expect("the largest logit is one of them");
        return Ok(best as TokenId);
    }
    let weight = |logit: f32| exp_nonpositive((logit - max) / params.temperature);
    let uniform = uniform(params.seed, params.sample_index, output_position);
    let keeps_all_k = params.top_k == 0 || params.top_k as usize >= logits.len();
    if keeps_all_k && params.top_p >= 1.0 {
        logits.iter_mut().for_each(|logit| *logit = at_least(params.min_p, weight(*logit)));
        return Ok(draw((0..).zip(logits.iter().copied()), uniform));
    }
    let candidates = &mut scratch.candidates;
    if keeps_all_k {
        collect_nucleus(logits, max, params, weight, candidates);
    } else {
        collect_top_k(logits, params.top_k as usize, candidates);
        if params.top_p < 1.0 {
            let total = candidates.iter().map(|&token| f64::from(weight(logits[token as usize]))).sum();
            keep_top_p(logits, params.top_p, total, weight, candidates);
        }
    }
    candidates.sort_unstable();
    let kept = candidates.iter().map(|&token| (token, at_least(params.min_p, weight(logits[token as usize]))));
    Ok(draw(kept, uniform))
}

/// A weight that `min_p` keeps, else zero.
fn at_least(min_p: f32, weight: f32) -> f32 {
    if weight >= min_p { weight } else { 0.0 }
}

/// The `k` first tokens in rank order; fewer than there are.
fn collect_top_k(logits: &[f32], k: usize, candidates: &mut Vec<TokenId>) {
    // Each of k parts has a logit of at least this, so the k-th largest is not below it. Few others are above.
    let bound = logits.chunks_exact(logits.len() / k).take(k).map(largest).fold(f32::INFINITY, f32::min);
    collect(logits, |logit| logit >= bound, candidates);
    candidates.select_nth_unstable_by(k - 1, by_rank(logits));
    candidates.truncate(k);
}

/// The shortest prefix, in rank order, of all tokens that `top_p` keeps.
fn collect_nucleus(
    logits: &[f32],
    max: f32,
    params: &SamplingParams,
    weight: impl Fn(f32) -> f32,
    candidates: &mut Vec<TokenId>,
) {
    let total = total_weight(logits, &weight);
    // Tokens below the mean of the weight that may be missing cannot make up all of it, so the prefix ends before them.
    // Half of that, because roundings differ; and as a difference of logits, which is cheap to compare.
    let bound = 0.5 * (1.0 - f64::from(params.top_p)) * total / logits.len() as f64;
    let lowest = (f64::from(params.temperature) * bound.ln()) as f32;
    collect(logits, |logit| logit - max >= lowest, candidates);
    keep_top_p(logits, params.top_p, total, weight, candidates);
}

/// Shortens the candidates to the shortest prefix, in rank order, that has the share `top_p` of the total weight.
fn keep_top_p(logits: &[f32], top_p: f32, total: f64, weight: impl Fn(f32) -> f32, candidates: &mut Vec<TokenId>) {
    let goal = f64::from(top_p) * total;
    // The prefix is short as a rule: sort a few, and four times as many again while they do not suffice.
    let (mut sum, mut start, mut len) = (0.0, 0, 64);
    while start < candidates.len() {
        let rest = &mut candidates[start..];
        len = len.min(rest.len());
        rest.select_nth_unstable_by(len - 1, by_rank(logits));
        let sorted = &mut rest[..len];
        sorted.sort_unstable_by(by_rank(logits));
        for (place, &token) in sorted.iter().enumerate() {
            sum += f64::from(weight(logits[token as usize]));
            if sum >= goal {
                return candidates.truncate(start + place + 1);
            }
        }
        start += len;
        len *= 4;
    }
}

/// The tokens whose logits pass, in ascending order.
fn collect(logits: &[f32], passes: impl Fn(f32) -> bool, candidates: &mut Vec<TokenId>) {
    candidates.clear();
    candidates.extend((0..).zip(logits).filter(|(_, logit)| passes(**logit)).map(|(token, _)| token));
}

/// Larger logits first, lower ids first among equals.
fn by_rank(logits: &[f32]) -> impl Fn(&TokenId, &TokenId) -> Ordering {
    |a, b| {
        let (logit_a, logit_b) = (logits[*a as usize], logits[*b as usize]);
        logit_b.partial_cmp(&logit_a).unwrap_or(Ordering::Equal).then(a.cmp(b))
    }
}

/// The sum of all weights.
fn total_weight(logits: &[f32], weight: impl Fn(f32) -> f32) -> f64 {
    const LANES: usize = 8;
    // In lanes, so that it vectorises.
    let mut lanes = [0.0_f64; LANES];
    let (whole, rest) = logits.as_chunks::<LANES>();
    for chunk in whole {
        for (lane, &logit) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(weight(logit));
        }
    }
    lanes.into_iter().sum::<f64>() + rest.iter().map(|&logit| f64::from(weight(logit))).sum::<f64>()
}

/// The first token at which the running sum of weights exceeds `uniform` times their total. At least one of them is above
/// zero.
fn draw(weights: impl Iterator<Item = (TokenId, f32)> + Clone, uniform: f64) -> TokenId {
    let total: f64 = weights.clone().map(|(_, weight)| f64::from(weight)).sum();
    let goal = uniform * total;
    let mut sum = 0.0;
    for (token, weight) in weights {
        sum += f64::from(weight);
        if sum > goal {
            return token;
        }
    }
    unreachable!("uniform is below 1 and the sum is formed in the order of the total")
}
