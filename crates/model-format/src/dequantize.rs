//! Stored blocks to 32-bit floats, exactly as ggml's `dequantize_row_*` compute them: the oracle of every faster
//! product. Each format is one function over one block; no function knows rows, tensors or threads.

use half::{bf16, f16};

use crate::TensorFormat;

/// Dequantises `bytes`, whole blocks of `format`, into `out`. The result equals ggml's reference bit for bit: the same
/// operations in the same order, in single precision, without fused multiply-add.
///
/// # Panics
/// If `bytes` is not a whole number of blocks, or `out` is not exactly as long as they are.
pub fn dequantize(format: TensorFormat, bytes: &[u8], out: &mut [f32]) {
    assert!(bytes.len().is_multiple_of(format.block_bytes()), "{format}: {} bytes are not whole blocks", bytes.len());
    assert_eq!(out.len(), bytes.len() / format.block_bytes() * format.block_len(), "{format}: length of the output");
    match format {
        TensorFormat::F32 => each_block(bytes, out, |block, [x]| *x = f32::from_le_bytes(*block)),
        TensorFormat::F16 => each_block(bytes, out, |block, [x]| *x = f16::from_le_bytes(*block).to_f32()),
        TensorFormat::BF16 => each_block(bytes, out, |block, [x]| *x = bf16::from_le_bytes(*block).to_f32()),
        TensorFormat::Q4_0 => each_block(bytes, out, q4_0),
        TensorFormat::Q4_1 => each_block(bytes, out, q4_1),
        TensorFormat::Q5_0 => each_block(bytes, out, q5_0),
        TensorFormat::Q5_1 => each_block(bytes, out, q5_1),
        TensorFormat::Q8_0 => each_block(bytes, out, q8_0),
        TensorFormat::Q4K => each_block(bytes, out, q4_k),
        TensorFormat::Q5K => each_block(bytes, out, q5_k),
        TensorFormat::Q6K => each_block(bytes, out, q6_k),
    }
}

fn each_block<const BYTES: usize, const LEN: usize>(
    bytes: &[u8],
    out: &mut [f32],
    dequantize_block: impl Fn(&[u8; BYTES], &mut [f32; LEN]),
) {
    let (blocks, rest) = bytes.as_chunks::<BYTES>();
    let (outs, out_rest) = out.as_chunks_mut::<LEN>();
    assert!(rest.is_empty());
    assert!(out_rest.is_empty());
    for (block, out) in blocks.iter().zip(outs) {
        dequantize_block(block, out);
    }
}

fn f16_at(block: &[u8], offset: usize) -> f32 {
    f16::from_le_bytes([block[offset], block[offset + 1]]).to_f32()
}

fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = f16_at(block, 0);
    for (j, &q) in block[2..].iter().enumerate() {
        out[j] = (i32::from(q & 0xF) - 8) as f32 * d;
        out[j + 16] = (i32::from(q >> 4) - 8) as f32 * d;
    }
}

fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (f16_at(block, 0), f16_at(block, 2));
    for (j, &q) in block[4..].iter().enumerate() {
        out[j] = f32::from(q & 0xF) * d + m;
        out[j + 16] = f32::from(q >> 4) * d + m;
    }
}

/// The 32 five-bit integers of a block: bit `j` of `high` is the fifth bit of element `j`.
fn five_bit(high: [u8; 4], nibbles: &[u8]) -> [u8; 32] {
    let high = u32::from_le_bytes(high);
    let mut quants = [0; 32];
    for (j, &q) in nibbles.iter().enumerate() {
        quants[j] = (q & 0xF) | ((high >> j & 1) << 4) as u8;
        quants[j + 16] = (q >> 4) | ((high >> (j + 16) & 1) << 4) as u8;
    }
    quants
}

fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let d = f16_at(block, 0);
    let quants = five_bit([block[2], block[3], block[4], block[5]], &block[6..]);
    for (x, q) in out.iter_mut().zip(quants) {
        *x = (i32::from(q) - 16) as f32 * d;
    }
}

fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m) = (f16_at(block, 0), f16_at(block, 2));
    let quants = five_bit([block[4], block[5], block[6], block[7]], &block[8..]);
    for (x, q) in out.iter_mut().zip(quants) {
        *x = f32::from(q) * d + m;
    }
}

fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let d = f16_at(block, 0);
    for (x, &q) in out.iter_mut().zip(&block[2..]) {
        *x = f32::from(q as i8) * d;
    }
}

/// The 6-bit scale and minimum of sub-block `j` (0 to 7) of a Q4_K or Q5_K block. The first four lie in the low six bits
/// of bytes `j` and `j + 4`; the others in the nibbles of byte `j + 4`, with their upper two bits in the top of the
/// bytes of the first four.
fn scale_and_min(j: usize, packed: &[u8]) -> (u8, u8) {
    if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        let nibbles = packed[j + 4];
        ((nibbles & 0xF) | (packed[j - 4] >> 6 << 4), (nibbles >> 4) | (packed[j] >> 6 << 4))
    }
}

fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
    let (scales, nibbles) = (&block[4..16], &block[16..]);
    for (j, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, min) = scale_and_min(j, scales);
        let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
        // Two sub-blocks share 32 bytes: the even one has the low nibbles, the odd one the high ones.
        for (x, &q) in out.iter_mut().zip(&nibbles[j / 2 * 32..]) {
            *x = scale * f32::from(q >> (j % 2 * 4) & 0xF) - min;
        }
    }
}

fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
    let (scales, high, nibbles) = (&block[4..16], &block[16..48], &block[48..]);
    for (j, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, min) = scale_and_min(j, scales);
        let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
        // Nibbles as in Q4_K; bit `j` of byte `l` of `high` is the fifth bit of element `l` of sub-block `j`.
        for ((x, &q), &h) in out.iter_mut().zip(&nibbles[j / 2 * 32..]).zip(high) {
            let q = (q >> (j % 2 * 4) & 0xF) | ((h >> j & 1) << 4);
            *x = scale * f32::from(q) - min;
        }
    }
}

fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = f16_at(block, 208);
    for (j, out) in out.chunks_exact_mut(32).enumerate() {
        // Each half of the block has 64 low bytes and 32 high bytes for its four runs of 32 elements.
        let (half, run) = (j / 4, j % 4);
        let low = &low[half * 64 + run % 2 * 32..];
        let high = &high[half * 32..];
        for (l, x) in out.iter_mut().enumerate() {
            let q = (low[l] >> (run / 2 * 4) & 0xF) | ((high[l] >> (run * 2) & 3) << 4);
            let scale = scales[j * 2 + l / 16] as i8;
            *x = d * f32::from(scale) * (i32::from(q) - 32) as f32;
        }
    }
}
