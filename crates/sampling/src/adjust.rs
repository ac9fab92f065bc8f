//! What changes logits before a choice: bias, suppression of stop tokens, penalties. Knows no temperature and no chance.

use serving_types::SamplingParams;

use crate::TokenHistory;

/// Applies, in this order: logit bias; minus infinity for stop tokens below `min_tokens`; repetition penalty on every
/// token seen, frequency and presence penalty on those of the output.
///
/// Bias and stop tokens beyond the vocabulary have no logit and are passed over.
pub fn adjust(logits: &mut [f32], params: &SamplingParams, history: &TokenHistory, output_position: u32) {
    for &(token, bias) in &params.logit_bias {
        if let Some(logit) = logits.get_mut(token as usize) {
            *logit += bias;
        }
    }
    if output_position < params.min_tokens {
        for &token in &params.stop_token_ids {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit = f32::NEG_INFINITY;
            }
        }
    }
    if !params.has_penalties() {
        return;
    }
    for seen in history.seen() {
        let Some(logit) = logits.get_mut(seen.token as usize) else { continue };
        let repetition = params.repetition_penalty;
        *logit = if *logit > 0.0 { *logit / repetition } else { *logit * repetition };
        if seen.num_in_output > 0 {
            *logit -= params.frequency_penalty * seen.num_in_output as f32;
            *logit -= params.presence_penalty;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::adjust;
    use crate::TokenHistory;
    use serving_types::SamplingParams;

    #[test]
    fn each_adjustment_alone_and_together() {
        let inf = f32::INFINITY;
        let none = SamplingParams::default();
        let bias = SamplingParams { logit_bias: vec![(0, 1.5), (3, -2.0), (99, 1.0)], ..none.clone() };
        let stop = SamplingParams { min_tokens: 2, stop_token_ids: vec![1, 2, 99], ..none.clone() };
        let repetition = SamplingParams { repetition_penalty: 2.0, ..none.clone() };
        let presence = SamplingParams { presence_penalty: 0.5, ..none.clone() };
        let frequency = SamplingParams { frequency_penalty: 0.25, ..none.clone() };
        let all = SamplingParams {
            logit_bias: vec![(2, 4.0)],
            min_tokens: 2,
            stop_token_ids: vec![3],
            repetition_penalty: 2.0,
            presence_penalty: 0.5,
            frequency_penalty: 0.25,
            ..none.clone()
        };
        // Logits 2, -2, 0, 4; the prompt holds 0 and 1, the output 1 once and 2 twice.
        let cases: [(&SamplingParams, u32, [f32; 4]); 8] = [
            (&none, 0, [2.0, -2.0, 0.0, 4.0]),
            (&bias, 0, [3.5, -2.0, 0.0, 2.0]),
            (&stop, 1, [2.0, -inf, -inf, 4.0]),
            (&stop, 2, [2.0, -2.0, 0.0, 4.0]),
            (&repetition, 0, [1.0, -4.0, 0.0, 4.0]),
            (&presence, 0, [2.0, -2.5, -0.5, 4.0]),
            (&frequency, 0, [2.0, -2.25, -0.5, 4.0]),
            (&all, 1, [1.0, -4.75, 1.0, -inf]),
        ];
        let mut history = TokenHistory::default();
        history.reset(&[0, 1, 1, 2, 2], 2, 0);
        for (i, (params, output_position, expected)) in cases.into_iter().enumerate() {
            let mut logits = [2.0, -2.0, 0.0, 4.0];
            adjust(&mut logits, params, &history, output_position);
            assert_eq!(logits, expected, "case {i}");
        }
    }
}
