//! Rotary frequencies of a model, with its scaling applied. Knows formulas, not the table of cosines and sines.
//!
//! Formulas and rounding follow `modeling_rope_utils.py` of transformers 5: frequencies are made and scaled in float32,
//! as they were when the models were trained.

use std::f64::consts::PI;

use model_format::{RopeConfig, RopeScaling};
use tensor_backend::RotaryFrequencies;

/// The `head_dim / 2` frequencies of a model.
pub(crate) fn rotary_frequencies(rope: &RopeConfig, head_dim: u32) -> RotaryFrequencies {
    let theta = rope.theta as f32;
    // Radians a position of pair `i`: `theta^(-2i / head_dim)` (Su et al., 2021).
    let base = (0..head_dim / 2).map(|i| 1.0 / theta.powf((2 * i) as f32 / head_dim as f32));
    let mut amplitude = 1.0;
    let inverse: Vec<f32> = match &rope.scaling {
        RopeScaling::None => base.collect(),
        RopeScaling::Linear { factor } => base.map(|frequency| frequency / *factor as f32).collect(),
        RopeScaling::Factors(factors) => base.zip(factors).map(|(frequency, factor)| frequency / factor).collect(),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
            let original = *original_max_position_embeddings as f32;
            let [factor, low, high] = [*factor, *low_freq_factor, *high_freq_factor].map(|x| x as f32);
            base.map(|frequency| llama3(frequency, factor, low, high, original)).collect()
        }
        RopeScaling::Yarn { factor, original_max_position_embeddings, attention_factor, beta_fast, beta_slow } => {
            amplitude = *attention_factor;
            let original = f64::from(*original_max_position_embeddings);
            let low = yarn_dimension(*beta_fast, rope.theta, head_dim, original).floor().max(0.0);
            let high = yarn_dimension(*beta_slow, rope.theta, head_dim, original).ceil().min(f64::from(head_dim - 1));
            base.enumerate().map(|(i, frequency)| yarn(frequency, i, *factor as f32, low, high)).collect()
        }
    };
    RotaryFrequencies { inverse: inverse.into_iter().map(f64::from).collect(), amplitude }
}

/// `_compute_llama3_parameters`: wavelengths above `original / low` are stretched, those below `original / high` are
/// kept, and those between are interpolated.
fn llama3(frequency: f32, factor: f32, low: f32, high: f32, original: f32) -> f32 {
    let wavelength = (2.0 * PI) as f32 / frequency;
    if wavelength < original / high {
        return frequency;
    }
    if wavelength > original / low {
        return frequency / factor;
    }
    let smooth = (original / wavelength - low) / (high - low);
    (1.0 - smooth) * frequency / factor + smooth * frequency
}

/// `_compute_yarn_parameters`: dimensions below `low` keep their frequency, those above `high` are stretched, with a
/// linear ramp between (Peng et al., 2023, section 3.2).
fn yarn(frequency: f32, i: usize, factor: f32, low: f64, high: f64) -> f32 {
    // A ramp of no width would divide by zero.
    let high = if high == low { high + 0.001 } else { high };
    let ramp = ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
    let keep = 1.0 - ramp;
    frequency / factor * (1.0 - keep) + frequency * keep
}

/// The dimension that turns `rotations` times over the original context.
fn yarn_dimension(rotations: f64, theta: f64, head_dim: u32, original: f64) -> f64 {
    f64::from(head_dim) * (original / (rotations * 2.0 * PI)).ln() / (2.0 * theta.ln())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frequencies of some pairs, by the formulas in double precision.
    fn check(theta: f64, scaling: RopeScaling, amplitude: f64, expected: &[(usize, f64)]) {
        let frequencies = rotary_frequencies(&RopeConfig { theta, scaling }, 128);
        assert_eq!((frequencies.inverse.len(), frequencies.amplitude), (64, amplitude));
        for &(pair, expected) in expected {
            let found = frequencies.inverse[pair];
            assert!((found / expected - 1.0).abs() < 1e-5, "theta {theta}, pair {pair}: {found} for {expected}");
        }
    }

    #[test]
    fn frequencies_of_published_models() {
        // Llama 3.1 8B: kept up to pair 28, an eighth from pair 35 on.
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        };
        let expected = [
            (0, 1.0),
            (28, 3.211_445_994_752_591e-3),
            (29, 2.166_570_763_503_359e-3),
            (34, 1.785_078_127_679_964e-4),
            (35, 9.556_212_353_964_683e-5),
            (63, 3.068_925_988_914_511e-7),
        ];
        check(5e5, scaling, 1.0, &expected);
        // Qwen2.5 7B at 131,072 tokens: kept up to pair 23, a quarter from pair 40 on.
        let scaling = RopeScaling::Yarn {
            factor: 4.0,
            original_max_position_embeddings: 32_768,
            attention_factor: 1.138_629_436_111_989,
            beta_fast: 32.0,
            beta_slow: 1.0,
        };
        let expected = [
            (0, 1.0),
            (23, 6.978_305_848_598_663e-3),
            (24, 5.375_321_490_790_102e-3),
            (39, 6.490_394_320_837_029e-5),
            (40, 4.445_698_525_097_307e-5),
            (63, 3.102_344_401_879_299e-7),
        ];
        check(1e6, scaling, 1.138_629_436_111_989, &expected);
        check(1e6, RopeScaling::Linear { factor: 4.0 }, 1.0, &[(0, 0.25), (63, 3.102_344_401_879_299e-7)]);
    }
}
