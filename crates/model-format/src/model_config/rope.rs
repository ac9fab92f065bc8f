//! The rotary position embedding's parameters, in one vocabulary. It knows no file and computes no frequencies.

use super::ensure;
use crate::FormatError;

/// Parameters of the rotary position embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeConfig {
    /// The base: pair `i` of a head turns by `theta^(-2i / head_dim)` per position, before scaling.
    pub theta: f64,
    /// How the frequencies are changed to reach longer sequences.
    pub scaling: RopeScaling,
}

/// How rotary frequencies are scaled. Formulas: `modeling_rope_utils.py` of transformers, 5.x.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Every frequency is divided by `factor`.
    Linear {
        /// How many times longer sequences become.
        factor: f64,
    },
    /// Llama 3.1: wavelengths above `original / low_freq_factor` are stretched by `factor`, those below
    /// `original / high_freq_factor` are kept, and those between are interpolated.
    Llama3 {
        /// How many times longer sequences become.
        factor: f64,
        /// Bounds the stretched wavelengths.
        low_freq_factor: f64,
        /// Bounds the kept wavelengths; above `low_freq_factor`.
        high_freq_factor: f64,
        /// Positions before scaling.
        original_max_position_embeddings: u32,
    },
    /// YaRN (<https://arxiv.org/abs/2309.00071>).
    Yarn {
        /// How many times longer sequences become.
        factor: f64,
        /// Positions before scaling.
        original_max_position_embeddings: u32,
        /// Multiplies cosines and sines; resolved to the paper's `0.1 ln(factor) + 1` where the file does not say.
        attention_factor: f64,
        /// Dimensions that turn more often than this over the original positions keep their frequency.
        beta_fast: f64,
        /// Dimensions that turn less often than this are divided by `factor`.
        beta_slow: f64,
    },
    /// A divisor for the frequency of each pair (`head_dim / 2` of them): GGUF's `rope_freqs.weight`, which is how Llama
    /// 3.1 scaling looks there.
    Factors(Vec<f32>),
}

/// YaRN's attention factor, section 3.4 of the paper.
pub(super) fn yarn_attention_factor(factor: f64) -> f64 {
    if factor > 1.0 { 0.1 * factor.ln() + 1.0 } else { 1.0 }
}

pub(super) const YARN_BETA_FAST: f64 = 32.0;
pub(super) const YARN_BETA_SLOW: f64 = 1.0;

impl RopeConfig {
    pub(super) fn validate(&self, head_dim: u32) -> Result<(), FormatError> {
        positive("rope theta", self.theta)?;
        match &self.scaling {
            RopeScaling::None => Ok(()),
            RopeScaling::Linear { factor } => positive("rope scaling factor", *factor),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                positive("rope scaling factor", *factor)?;
                positive("rope low_freq_factor", *low_freq_factor)?;
                positive("rope high_freq_factor", *high_freq_factor)?;
                positive("rope original_max_position_embeddings", f64::from(*original_max_position_embeddings))?;
                ensure(
                    low_freq_factor < high_freq_factor,
                    format_args!(
                        "rope low_freq_factor {low_freq_factor} is not below high_freq_factor {high_freq_factor}"
                    ),
                )
            }
            RopeScaling::Yarn { factor, original_max_position_embeddings, attention_factor, beta_fast, beta_slow } => {
                positive("rope scaling factor", *factor)?;
                positive("rope original_max_position_embeddings", f64::from(*original_max_position_embeddings))?;
                positive("rope attention_factor", *attention_factor)?;
                positive("rope beta_fast", *beta_fast)?;
                positive("rope beta_slow", *beta_slow)?;
                ensure(self.theta > 1.0, "YaRN needs a rope theta above 1")?;
                ensure(
                    beta_slow <= beta_fast,
                    format_args!("rope beta_slow {beta_slow} is above beta_fast {beta_fast}"),
                )
            }
            RopeScaling::Factors(factors) => {
                let expected = head_dim as usize / 2;
                ensure(
                    factors.len() == expected,
                    format_args!("{} rope frequency divisors; {expected} are expected", factors.len()),
                )?;
                factors.iter().try_for_each(|factor| positive("rope frequency divisor", f64::from(*factor)))
            }
        }
    }
}

fn positive(name: &str, value: f64) -> Result<(), FormatError> {
    ensure(value.is_finite() && value > 0.0, format_args!("the {name} is {value}; it must be above 0"))
}
