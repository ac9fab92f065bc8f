//! `choose` against a naive oracle that sorts everything in double precision, and its draws against the probabilities
//! that the oracle gives.

use sampling::random::uniform;
use sampling::{Scratch, TokenHistory, choose};
use serving_types::{RowFault, SamplingParams};

/// The weight of each token after all filters, by the plain reading of the definition.
fn naive_weights(logits: &[f32], params: &SamplingParams) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f64> =
        logits.iter().map(|&l| (f64::from(l - max) / f64::from(params.temperature)).exp()).collect();
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    if params.top_k > 0 {
        order.truncate(params.top_k as usize);
    }
    let total: f64 = order.iter().map(|&token| weights[token]).sum();
    let mut sum = 0.0;
    let mut len = 0;
    while len < order.len() && (len == 0 || sum < f64::from(params.top_p) * total) {
        sum += weights[order[len]];
        len += 1;
    }
    order.truncate(len);
    let mut kept = vec![0.0; logits.len()];
    for token in order {
        if weights[token] >= f64::from(params.min_p) {
            kept[token] = weights[token];
        }
    }
    kept
}

fn naive_draw(weights: &[f64], uniform: f64) -> u32 {
    let goal = uniform * weights.iter().sum::<f64>();
    let mut sum = 0.0;
    for (token, weight) in weights.iter().enumerate() {
        sum += weight;
        if sum > goal {
            return token as u32;
        }
    }
    panic!("no token");
}

/// Reproducible logits between -6 and 6, with equals among them.
fn logits(vocab: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 22
    };
    (0..vocab).map(|_| next() as f32 * (12.0 / 1024.0) - 6.0).collect()
}

fn sampling(temperature: f32, top_k: u32, top_p: f32, min_p: f32) -> SamplingParams {
    SamplingParams { temperature, top_k, top_p, min_p, ..SamplingParams::default() }
}

fn filters() -> Vec<SamplingParams> {
    vec![
        sampling(1.0, 0, 1.0, 0.0),
        sampling(0.3, 0, 1.0, 0.0),
        sampling(5.0, 0, 1.0, 0.0),
        sampling(1.0, 1, 1.0, 0.0),
        sampling(1.0, 7, 1.0, 0.0),
        sampling(1.0, 100_000, 1.0, 0.0),
        sampling(1.0, 0, 0.9, 0.0),
        sampling(2.0, 0, 0.999, 0.0),
        sampling(1.0, 0, 1e-6, 0.0),
        sampling(1.0, 0, 1.0, 0.2),
        sampling(1.0, 0, 1.0, 1.0),
        sampling(0.8, 40, 0.95, 0.05),
        sampling(1.5, 300, 0.5, 0.01),
        sampling(1.0, 2_999, 0.5, 0.0),
        sampling(1e-5, 0, 0.9, 0.0),
        sampling(100.0, 40, 0.999_999_94, 0.0),
    ]
}

#[test]
fn choices_equal_the_oracles() {
    let mut scratch = Scratch::new(3000);
    let history = TokenHistory::default();
    for (vocab, seed) in [(1, 1), (2, 2), (30, 3), (257, 4), (3000, 5)] {
        // Some tokens may be suppressed, which leaves logits of minus infinity.
        let odd: Vec<u32> = (1..vocab).step_by(2).collect();
        for (kind, logits, suppressed) in [
            ("varied", logits(vocab as usize, seed), &[][..]),
            ("equal", vec![1.5; vocab as usize], &[]),
            ("half suppressed", logits(vocab as usize, seed), &odd),
        ] {
            let mut adjusted = logits.clone();
            suppressed.iter().for_each(|&token| adjusted[token as usize] = f32::NEG_INFINITY);
            for (case, params) in filters().into_iter().enumerate() {
                let params = SamplingParams {
                    seed: u64::from(seed) << 33 | case as u64,
                    sample_index: 2,
                    min_tokens: 40,
                    stop_token_ids: suppressed.to_vec(),
                    ..params
                };
                let weights = naive_weights(&adjusted, &params);
                for position in 0..40 {
                    let expected = naive_draw(&weights, uniform(params.seed, 2, position));
                    let chosen = choose(&mut logits.clone(), &params, &history, position, &mut scratch);
                    assert_eq!(chosen, Ok(expected), "{kind} {vocab}, case {case}, position {position}");
                }
            }
        }
    }
}

#[test]
fn draws_follow_the_probabilities() {
    const DRAWS: u32 = 20_000;
    let mut scratch = Scratch::new(12);
    let history = TokenHistory::default();
    let logits = [1.0, 0.5, -0.5, 2.0, 0.0, 1.5, -1.0, 0.25, 1.75, -2.0, 0.75, 1.25];
    for (case, params) in filters().into_iter().enumerate() {
        let params = SamplingParams { seed: 1000 + case as u64, ..params };
        let weights = naive_weights(&logits, &params);
        let total: f64 = weights.iter().sum();
        let mut counts = [0_u32; 12];
        for position in 0..DRAWS {
            counts[choose(&mut logits.clone(), &params, &history, position, &mut scratch).unwrap() as usize] += 1;
        }
        let mut chi_square = 0.0;
        for (token, (&count, &weight)) in counts.iter().zip(&weights).enumerate() {
            let expected = weight / total * f64::from(DRAWS);
            if expected == 0.0 {
                assert_eq!(count, 0, "case {case}: token {token} was not kept");
            } else {
                chi_square += (f64::from(count) - expected).powi(2) / expected;
            }
        }
        // 31.3 is exceeded once in a thousand seeds with 11 degrees of freedom, less often with fewer.
        assert!(chi_square < 31.3, "case {case}: {chi_square}");
    }
}

#[test]
fn greedy_takes_the_lowest_id_among_equals() {
    let mut scratch = Scratch::new(40);
    let history = TokenHistory::default();
    let greedy = SamplingParams::default();
    for (at, also) in [(0, 39), (3, 4), (17, 18), (38, 39)] {
        let mut logits = [0.5; 40];
        logits[at] = 3.0;
        logits[also] = 3.0;
        assert_eq!(choose(&mut logits, &greedy, &history, 0, &mut scratch), Ok(at as u32));
    }
}

#[test]
fn logits_that_give_no_probability_are_a_fault() {
    let mut scratch = Scratch::new(4);
    let history = TokenHistory::default();
    let greedy = SamplingParams::default();
    let warm = sampling(1.0, 2, 0.9, 0.1);
    let all_masked = SamplingParams { min_tokens: 1, stop_token_ids: vec![0, 1, 2, 3], ..greedy.clone() };
    let overflow = SamplingParams { logit_bias: vec![(1, f32::MAX)], ..greedy.clone() };
    let fault = Err(RowFault::NonFiniteLogits);
    let cases = [
        (&greedy, [0.0, f32::NAN, 0.0, 0.0], fault),
        (&greedy, [0.0, f32::NEG_INFINITY, 0.0, 0.0], fault),
        (&warm, [0.0, 0.0, 0.0, f32::INFINITY], fault),
        (&all_masked, [0.0, 1.0, 2.0, 3.0], fault),
        (&overflow, [0.0, f32::MAX, 0.0, 0.0], fault),
        (&greedy, [f32::MIN, f32::MAX, 0.0, -0.0], Ok(1)),
        (&warm, [f32::MIN, f32::MAX, 0.0, -0.0], Ok(1)),
        (&sampling(1e-30, 0, 1.0, 0.0), [0.0, 1.0, 2.0, 2.5], Ok(3)),
    ];
    for (case, (params, mut logits, expected)) in cases.into_iter().enumerate() {
        assert_eq!(choose(&mut logits, params, &history, 0, &mut scratch), expected, "case {case}");
    }
}
