//! Stored formats of numbers and their conversion to and from f32. Knows single elements.

use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};

/// A stored format of numbers. Elements are held as plain integers or f32, whose zeroed vectors take no memory until they
/// are written.
pub(crate) trait StoredNumber: Copy + Send + Sync + 'static {
    /// One element.
    type Bits: Copy + Default + Send + Sync;

    fn to_f32(bits: Self::Bits) -> f32;
}

/// A stored floating-point format.
pub(crate) trait StoredFloat: StoredNumber {
    /// The nearest element, ties to even.
    fn from_f32(value: f32) -> Self::Bits;

    /// The same for a slice of equal length, with the machine's instructions for it.
    fn convert(values: &[f32], out: &mut [Self::Bits]) {
        for (out, value) in out.iter_mut().zip(values) {
            *out = Self::from_f32(*value);
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Single;

impl StoredNumber for Single {
    type Bits = f32;

    fn to_f32(bits: f32) -> f32 {
        bits
    }
}

impl StoredFloat for Single {
    fn from_f32(value: f32) -> f32 {
        value
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Half;

impl StoredNumber for Half {
    type Bits = u16;

    fn to_f32(bits: u16) -> f32 {
        f16::from_bits(bits).to_f32()
    }
}

impl StoredFloat for Half {
    fn from_f32(value: f32) -> u16 {
        f16::from_f32(value).to_bits()
    }

    fn convert(values: &[f32], out: &mut [u16]) {
        out.reinterpret_cast_mut::<f16>().convert_from_f32_slice(values);
    }
}

/// Signed bytes, whose scale is kept elsewhere.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Byte;

impl StoredNumber for Byte {
    type Bits = i8;

    fn to_f32(bits: i8) -> f32 {
        f32::from(bits)
    }
}
