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
