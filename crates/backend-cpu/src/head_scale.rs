//! A head's keys or values as signed bytes with one scale, as [`KvElement::Int8`](tensor_backend::KvElement::Int8) defines
//! them. Knows one head of one token.

use crate::quantise::{is_plain_magnitude, largest_magnitude, nearest, scale_of_none};

/// How a head is quantised: element `x` becomes the integer nearest to `inverse * x`, which stands for `scale` times itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadScale {
    pub(crate) scale: f32,
    inverse: f32,
}

impl HeadScale {
    pub(crate) fn of(head: &[f32]) -> Self {
        let max = largest_magnitude(head);
        if is_plain_magnitude(max) {
            Self { scale: max / 127.0, inverse: 127.0 / max }
        } else {
            Self { scale: scale_of_none(max), inverse: 0.0 }
        }
    }

    /// In -127..=127, unless the scale is NaN.
    pub(crate) fn quantise(self, value: f32) -> i8 {
        nearest(value * self.inverse) as i8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes of a head, and what they stand for.
    fn stored(head: &[f32]) -> (Vec<i8>, Vec<f32>) {
        let scale = HeadScale::of(head);
        let bytes: Vec<i8> = head.iter().map(|value| scale.quantise(*value)).collect();
        let values = bytes.iter().map(|byte| f32::from(*byte) * scale.scale).collect();
        (bytes, values)
    }

    #[test]
    fn the_largest_magnitude_becomes_127_and_ties_go_to_even() {
        assert_eq!(stored(&[254.0, -254.0, 1.0, 3.0, -5.0, 2.0, 0.9]).0, [127, -127, 0, 2, -2, 1, 0]);
        assert_eq!(stored(&[-1.5]).0, [-127]);
        assert_eq!(stored(&[127.0, 0.0, -0.0]).1, [127.0, 0.0, 0.0]);
    }

    #[test]
    fn every_finite_head_comes_back_within_half_a_step() {
        for size in [3e38, 1e30, 1.0, 1e-30, 2e-36] {
            let head: Vec<f32> = (0..64).map(|i| ((i * 37) % 64 - 32) as f32 / 32.0 * size).collect();
            for (value, stored) in head.iter().zip(stored(&head).1) {
                assert!((value - stored).abs() <= size / 127.0 * 0.5001, "{value} became {stored}");
            }
        }
    }

    #[test]
    fn heads_without_a_scale() {
        assert_eq!(stored(&[0.0, 1e-37, -f32::MIN_POSITIVE]).1, [0.0; 3]);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(stored(&[1.0, bad, 0.0]).1.iter().all(|value| value.is_nan()), "{bad}");
        }
    }
}
