//! Stored floating-point formats and their conversion to and from f32. Knows single elements.

use half::{bf16, f16};

/// A stored floating-point format. Elements are held as plain integers or f32, whose zeroed vectors take no memory until
/// they are written.
pub(crate) trait StoredFloat: Copy + Send + Sync + 'static {
    /// One element.
    type Bits: Copy + Default + Send + Sync;

    fn to_f32(bits: Self::Bits) -> f32;

    /// The nearest element, ties to even.
    fn from_f32(value: f32) -> Self::Bits;
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Single;

impl StoredFloat for Single {
    type Bits = f32;

    fn to_f32(bits: f32) -> f32 {
        bits
    }

    fn from_f32(value: f32) -> f32 {
        value
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Half;

impl StoredFloat for Half {
    type Bits = u16;

    fn to_f32(bits: u16) -> f32 {
        f16::from_bits(bits).to_f32()
    }

    fn from_f32(value: f32) -> u16 {
        f16::from_f32(value).to_bits()
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Brain;

impl StoredFloat for Brain {
    type Bits = u16;

    fn to_f32(bits: u16) -> f32 {
        bf16::from_bits(bits).to_f32()
    }

    fn from_f32(value: f32) -> u16 {
        bf16::from_f32(value).to_bits()
    }
}
