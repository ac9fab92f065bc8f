//! Rotary frequencies and the cosine-sine table that every backend reads. Knows formulas, not models' config files.

/// Rotation frequencies of one model, scaling already applied.
#[derive(Clone, PartialEq, Debug)]
pub struct RotaryFrequencies {
    /// `[head_dim / 2]` radians a position.
    pub inverse: Vec<f64>,
    /// Factor on cosines and sines (YaRN's attention factor); 1 otherwise.
    pub amplitude: f64,
}

impl RotaryFrequencies {
    /// Cosines and sines of positions `0..positions`: `[positions, head_dim]`, in each row first `head_dim / 2` cosines,
    /// then as many sines.
    ///
    /// Angles are products in f32, as the reference implementations form them: the models were trained with that
    /// rounding. Cosine and sine are then taken in f64 and rounded once.
    #[must_use]
    pub fn table(&self, positions: usize) -> Vec<f32> {
        let half = self.inverse.len();
        let mut table = vec![0.0; positions * 2 * half];
        for (position, row) in table.chunks_exact_mut(2 * half).enumerate() {
            let (cosines, sines) = row.split_at_mut(half);
            for (i, inverse) in self.inverse.iter().enumerate() {
                let angle = f64::from(position as f32 * *inverse as f32);
                cosines[i] = (angle.cos() * self.amplitude) as f32;
                sines[i] = (angle.sin() * self.amplitude) as f32;
            }
        }
        table
    }
}
