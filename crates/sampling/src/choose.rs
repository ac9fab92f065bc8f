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
    let last_kept = last_kept(logits, weight, params, &mut scratch.candidates);
    // Weights take the logits' place; what is not kept weighs nothing.
    for (token, logit) in logits.iter_mut().enumerate() {
        let kept = last_kept.is_none_or(|last| rank_order((token as TokenId, *logit), last).is_le());
        let weight = weight(*logit);
        *logit = if kept && weight >= params.min_p { weight } else { 0.0 };
    }
    Ok(draw(logits, uniform(params.seed, params.sample_index, output_position)))
}

/// Larger logits first, lower ids first among equals.
fn rank_order((a_token, a): (TokenId, f32), (b_token, b): (TokenId, f32)) -> Ordering {
    b.partial_cmp(&a).unwrap_or(Ordering::Equal).then(a_token.cmp(&b_token))
}

/// The last token, in rank order, that `top_k` and `top_p` keep; `None` if they keep all.
fn last_kept(
    logits: &[f32],
    weight: impl Fn(f32) -> f32,
    params: &SamplingParams,
    candidates: &mut Vec<TokenId>,
) -> Option<(TokenId, f32)> {
    let keep_all_k = params.top_k == 0 || params.top_k as usize >= logits.len();
    if keep_all_k && params.top_p >= 1.0 {
        return None;
    }
    let entry = |token: TokenId| (token, logits[token as usize]);
    let order = |a: &TokenId, b: &TokenId| rank_order(entry(*a), entry(*b));
    candidates.clear();
    candidates.extend(0..logits.len() as TokenId);
    if !keep_all_k {
        let k = params.top_k as usize;
        let (_, &mut kth, _) = candidates.select_nth_unstable_by(k - 1, order);
        candidates.truncate(k);
        if params.top_p >= 1.0 {
            return Some(entry(kth));
        }
    }
    let total: f64 = candidates.iter().map(|&token| f64::from(weight(entry(token).1))).sum();
    let goal = f64::from(params.top_p) * total;
    // The prefix is short as a rule: sort a few, and four times as many again while they do not suffice.
    let (mut sum, mut start, mut len) = (0.0, 0, 64);
    while start < candidates.len() {
        let rest = &mut candidates[start..];
        len = len.min(rest.len());
        rest.select_nth_unstable_by(len - 1, order);
        let sorted = &mut rest[..len];
        sorted.sort_unstable_by(order);
        for &token in &*sorted {
            sum += f64::from(weight(entry(token).1));
            if sum >= goal {
                return Some(entry(token));
            }
        }
        start += len;
        len *= 4;
    }
    candidates.last().map(|&token| entry(token))
}

/// The first token at which the running sum of `weights` exceeds `uniform` times their total. At least one of them is
/// above zero.
fn draw(weights: &[f32], uniform: f64) -> TokenId {
    let total: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
    let goal = uniform * total;
    let mut sum = 0.0;
    for (token, &weight) in weights.iter().enumerate() {
        sum += f64::from(weight);
        if sum > goal {
            return token as TokenId;
        }
    }
    unreachable!("uniform is below 1 and the sum is formed in the order of the total")
}
