//! 32-bit floats to stored blocks: the reference quantisation, for tests, fixtures and made-up weights. The 32-element
//! formats equal ggml's `quantize_row_*_ref`; the K formats place their scales plainly and search for no better ones.

use half::{bf16, f16};

use crate::TensorFormat;

/// Quantises `values`, whole blocks of `format`, rounding to nearest.
///
/// # Panics
/// If the number of values is not a multiple of the format's block length.
pub fn quantize(format: TensorFormat, values: &[f32]) -> Vec<u8> {
    let num_bytes = format.row_bytes(values.len());
    let mut bytes = Vec::with_capacity(num_bytes.unwrap_or_else(|| panic!("{format}: {} values", values.len())));
    for block in values.chunks_exact(format.block_len()) {
        match format {
            TensorFormat::F32 => bytes.extend(block[0].to_le_bytes()),
            TensorFormat::F16 => bytes.extend(f16::from_f32(block[0]).to_le_bytes()),
            TensorFormat::BF16 => bytes.extend(bf16::from_f32(block[0]).to_le_bytes()),
            TensorFormat::Q4_0 => symmetric(block, 8, &mut bytes),
            TensorFormat::Q5_0 => symmetric(block, 16, &mut bytes),
            TensorFormat::Q4_1 => affine(block, 15, &mut bytes),
            TensorFormat::Q5_1 => affine(block, 31, &mut bytes),
            TensorFormat::Q8_0 => q8_0(block, &mut bytes),
            TensorFormat::Q4K => affine_k(block, 15, &mut bytes),
            TensorFormat::Q5K => affine_k(block, 31, &mut bytes),
            TensorFormat::Q6K => q6_k(block, &mut bytes),
        }
    }
    assert_eq!(Some(bytes.len()), num_bytes);
    bytes
}

/// `1 / x`, or 0 where a block is constant and there is nothing to scale.
fn inverse(x: f32) -> f32 {
    if x == 0.0 { 0.0 } else { 1.0 / x }
}

/// The value of the largest magnitude, with its sign; the first of several.
fn signed_max(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |max: f32, &x| if x.abs() > max.abs() { x } else { max })
}

fn min_max(values: &[f32]) -> (f32, f32) {
    values.iter().fold((f32::MAX, f32::MIN), |(min, max), &x| (min.min(x), max.max(x)))
}

fn push_f16(value: f32, bytes: &mut Vec<u8>) {
    bytes.extend(f16::from_f32(value).to_le_bytes());
}

/// The bits of 32 four- or five-bit integers: the fifth bits, where there are any, then the nibbles.
fn push_quants(quants: &[u8; 32], has_fifth_bit: bool, bytes: &mut Vec<u8>) {
    if has_fifth_bit {
        let high = quants.iter().rev().fold(0_u32, |high, q| high << 1 | u32::from(q >> 4 & 1));
        bytes.extend(high.to_le_bytes());
    }
    bytes.extend((0..16).map(|j| (quants[j] & 0xF) | (quants[j + 16] & 0xF) << 4));
}

/// Q4_0 and Q5_0: the value of the largest magnitude becomes `-zero`, and `zero` is added to every integer.
fn symmetric(block: &[f32], zero: u8, bytes: &mut Vec<u8>) {
    let d = signed_max(block) / -f32::from(zero);
    let inverse_d = inverse(d);
    push_f16(d, bytes);
    let quant = |x: f32| ((x * inverse_d + (f32::from(zero) + 0.5)) as u8).min(2 * zero - 1);
    push_quants(&std::array::from_fn(|j| quant(block[j])), zero == 16, bytes);
}

/// Q4_1 and Q5_1: the smallest value becomes 0, the largest `max_quant`.
fn affine(block: &[f32], max_quant: u8, bytes: &mut Vec<u8>) {
    let (min, max) = min_max(block);
    let d = (max - min) / f32::from(max_quant);
    let inverse_d = inverse(d);
    push_f16(d, bytes);
    push_f16(min, bytes);
    let quant = |x: f32| (((x - min) * inverse_d + 0.5) as u8).min(max_quant);
    push_quants(&std::array::from_fn(|j| quant(block[j])), max_quant == 31, bytes);
}

fn q8_0(block: &[f32], bytes: &mut Vec<u8>) {
    let d = signed_max(block).abs() / 127.0;
    let inverse_d = inverse(d);
    push_f16(d, bytes);
    bytes.extend(block.iter().map(|x| (x * inverse_d).round() as i8 as u8));
}

/// Q4_K and Q5_K: every 32 values span from a minimum (at most 0) to their maximum in `max_quant` steps; the eight steps
/// and minima are then themselves rounded to six bits.
fn affine_k(block: &[f32], max_quant: u8, bytes: &mut Vec<u8>) {
    let mut steps = [0.0; 8];
    let mut mins = [0.0; 8];
    for (j, values) in block.chunks_exact(32).enumerate() {
        let (min, max) = min_max(values);
        let min = min.min(0.0);
        steps[j] = (max - min).max(0.0) / f32::from(max_quant);
        mins[j] = -min;
    }
    let d = f16::from_f32(min_max(&steps).1 / 63.0);
    let dmin = f16::from_f32(min_max(&mins).1 / 63.0);
    let six_bit = |x: f32, unit: f16| (x * inverse(unit.to_f32())).round().min(63.0) as u8;
    let scales = steps.map(|step| six_bit(step, d));
    let mins = mins.map(|min| six_bit(min, dmin));

    let quants: Vec<u8> = block
        .iter()
        .enumerate()
        .map(|(i, x)| {
            let step = d.to_f32() * f32::from(scales[i / 32]);
            let min = dmin.to_f32() * f32::from(mins[i / 32]);
            ((x + min) * inverse(step)).round().clamp(0.0, f32::from(max_quant)) as u8
        })
        .collect();

    bytes.extend(d.to_le_bytes());
    bytes.extend(dmin.to_le_bytes());
    bytes.extend((0..4).map(|j| scales[j] | (scales[j + 4] >> 4 << 6)));
    bytes.extend((0..4).map(|j| mins[j] | (mins[j + 4] >> 4 << 6)));
    bytes.extend((4..8).map(|j| (scales[j] & 0xF) | (mins[j] & 0xF) << 4));
    if max_quant == 31 {
        bytes.extend((0..32).map(|l| (0..8).fold(0, |high, j| high | (quants[j * 32 + l] >> 4) << j)));
    }
    for pair in quants.chunks_exact(64) {
        bytes.extend((0..32).map(|l| (pair[l] & 0xF) | (pair[l + 32] & 0xF) << 4));
    }
}

/// Q6_K: in every 16 values the one of the largest magnitude becomes -32; the sixteen steps are then rounded to 8 bits.
fn q6_k(block: &[f32], bytes: &mut Vec<u8>) {
    let mut steps = [0.0; 16];
    for (step, values) in steps.iter_mut().zip(block.chunks_exact(16)) {
        *step = signed_max(values) / -32.0;
    }
    let d = f16::from_f32(signed_max(&steps) / -128.0);
    let scales = steps.map(|step| (step * inverse(d.to_f32())).round() as i8);
    let quant = |i: usize| {
        let step = d.to_f32() * f32::from(scales[i / 16]);
        ((block[i] * inverse(step)).round().clamp(-32.0, 31.0) as i8 + 32) as u8
    };
    // Byte `l` of a half holds elements `l` and `l + 64` of its 128; the upper bit pairs come from all four runs of 32.
    for half in [0, 128] {
        bytes.extend((half..half + 64).map(|i| (quant(i) & 0xF) | (quant(i + 64) & 0xF) << 4));
    }
    for half in [0, 128] {
        bytes.extend(
            (half..half + 32).map(|i| (0..4).fold(0, |high, run| high | (quant(i + run * 32) >> 4) << (run * 2))),
        );
    }
    bytes.extend(scales.map(|scale| scale as u8));
    bytes.extend(d.to_le_bytes());
}
