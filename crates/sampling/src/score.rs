//! Log-probabilities of the model's own logits: of one token, with its rank, and of the most likely ones. Knows no
//! sampling parameters: whatever shaped the choice does not shape these numbers.

use serving_types::{RowFault, TokenId};

use crate::exponential::sum_of_exponentials;
use crate::{check_finite, largest};

/// How likely a token was.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct TokenScore {
    /// Natural-log probability.
    pub logprob: f32,
    /// 1 + the number of tokens that are more likely.
    pub rank: u32,
}

/// Scores `token`, and fills `top` with the most likely tokens and their log-probabilities, most likely first and lower
/// id first among equals. At most `logits.len()` entries of `top` can be filled; those beyond stay as they are.
///
/// # Errors
/// A logit is NaN or infinite.
///
/// # Panics
/// If `token` is outside of the vocabulary.
pub fn score(logits: &[f32], token: TokenId, top: &mut [(TokenId, f32)]) -> Result<TokenScore, RowFault> {
    check_finite(logits)?;
    let target = logits[token as usize];
    let max = largest(logits);
    let log_sum = f64::from(max) + sum_of_exponentials(logits, max).ln();
    let num_more_likely: u32 = logits.iter().map(|&logit| u32::from(logit > target)).sum();

    let num_top = top.len().min(logits.len());
    let top = &mut top[..num_top];
    most_likely(logits, top);
    for (_, logprob) in top {
        *logprob = (f64::from(*logprob) - log_sum) as f32;
    }
    Ok(TokenScore { logprob: (f64::from(target) - log_sum) as f32, rank: num_more_likely + 1 })
}

/// The `top.len()` largest logits with their tokens, by insertion: `top` is short, and few logits enter it.
fn most_likely(logits: &[f32], top: &mut [(TokenId, f32)]) {
    if top.is_empty() {
        return;
    }
    let mut len = 0;
    for (token, &logit) in logits.iter().enumerate() {
        // Equal logits stay behind those already there, whose ids are lower.
        if len == top.len() && logit <= top[len - 1].1 {
            continue;
        }
        if len < top.len() {
            len += 1;
        }
        let mut at = len - 1;
        while at > 0 && top[at - 1].1 < logit {
            top[at] = top[at - 1];
            at -= 1;
        }
        top[at] = (token as TokenId, logit);
    }
}

#[cfg(test)]
mod tests {
    use super::score;
    use serving_types::RowFault;

    #[test]
    fn agrees_with_double_precision() {
        let mut state = 1_u32;
        for vocab in [1, 2, 5, 100, 5000] {
            let logits: Vec<f32> = (0..vocab)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    // Coarse steps, so that there are equals.
                    ((state >> 24) as f32 / 16.0).floor() - 8.0
                })
                .collect();
            let log_sum = logits.iter().map(|&l| f64::from(l).exp()).sum::<f64>().ln();
            let mut order: Vec<u32> = (0..vocab).collect();
            order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
            for num_top in [0, 1, 5, 20] {
                let mut top = vec![(u32::MAX, 0.0); num_top];
                let token = vocab / 2;
                let scored = score(&logits, token, &mut top).unwrap();
                let expected = f64::from(logits[token as usize]) - log_sum;
                assert!((f64::from(scored.logprob) - expected).abs() < 1e-6 * (1.0 - expected));
                let better = logits.iter().filter(|&&l| l > logits[token as usize]).count();
                assert_eq!(scored.rank as usize, better + 1);
                for (&(token, logprob), &expected) in top.iter().zip(&order) {
                    assert_eq!(token, expected, "vocab {vocab}");
                    let expected = f64::from(logits[token as usize]) - log_sum;
                    assert!((f64::from(logprob) - expected).abs() < 1e-6 * (1.0 - expected));
                }
                let filled = top.iter().filter(|entry| entry.0 != u32::MAX).count();
                assert_eq!(filled, num_top.min(vocab as usize));
            }
        }
    }

    #[test]
    fn logits_that_are_not_finite_are_a_fault() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 17, 39] {
                let mut logits = [0.5; 40];
                logits[at] = bad;
                assert_eq!(score(&logits, 3, &mut []), Err(RowFault::NonFiniteLogits), "{bad} at {at}");
            }
        }
    }
}
