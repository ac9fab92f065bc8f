//! Rotary frequencies and the cosine-sine table that every backend reads. Knows formulas, not models' config files.

/// Rotation frequencies of one model, scaling already applied.
#[derive(Clone, PartialEq, Debug)]
pub struct RotaryFrequencies {
    /// `[head_dim / 2]` radians a position.
    pub inverse: Vec<f64>,
    /// Factor on cosines and sines (YaRN's attention factor); 1 otherwise.
    pub amplitude: f64,
}

/// Cosines and sines of every position: `[positions, head_dim]`, in each row first `head_dim / 2` cosines, then as many
/// sines.
#[derive(Clone, PartialEq, Debug)]
pub struct RopeTable {
    /// Row-major values.
    pub values: Vec<f32>,
    /// Rows.
    pub positions: usize,
    /// Columns.
    pub head_dim: usize,
}

impl RopeTable {
    /// The table of positions `0..positions`.
    ///
    /// Angles are products in f32, as the reference implementations form them: the models were trained with that
    /// rounding. Cosine and sine are then taken in f64 and rounded once.
    #[must_use]
    pub fn new(frequencies: &RotaryFrequencies, positions: usize) -> Self {
        let half = frequencies.inverse.len();
        let mut values = vec![0.0; positions * 2 * half];
        for (position, row) in values.chunks_exact_mut(2 * half).enumerate() {
            let (cosines, sines) = row.split_at_mut(half);
            for (i, inverse) in frequencies.inverse.iter().enumerate() {
                let angle = f64::from(position as f32 * *inverse as f32);
                cosines[i] = (angle.cos() * frequencies.amplitude) as f32;
                sines[i] = (angle.sin() * frequencies.amplitude) as f32;
            }
        }
        Self { values, positions, head_dim: 2 * half }
    }
}
