//! Drawn products: shapes, formats, and what rows of weights and of activations hold.

use core::ops::Range;

use backend_cpu::Precision;
use model_format::TensorFormat;
use proptest::prelude::{Strategy, any, prop};

/// Activations are quantised by blocks of so many.
pub(crate) const BLOCK: usize = 32;

/// What some of a row is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Content {
    Ordinary,
    Zero,
    Huge,
    Tiny,
    Denormal,
    Infinite,
    Nan,
    /// Any bits at all.
    Wild,
}

const CONTENTS: [Content; 8] = [
    Content::Ordinary,
    Content::Zero,
    Content::Huge,
    Content::Tiny,
    Content::Denormal,
    Content::Infinite,
    Content::Nan,
    Content::Wild,
];

#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) format: TensorFormat,
    pub(crate) precision: Precision,
    pub(crate) rows: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    /// What rows of weights may hold beside ordinary numbers.
    of_weights: Vec<Content>,
    /// Likewise of activations.
    of_activations: Vec<Content>,
    pub(crate) seed: u64,
}

pub(crate) fn cases() -> impl Strategy<Value = Case> {
    let contents = || prop::collection::vec(prop::sample::select(&CONTENTS[..]), 1..4);
    let format = prop::sample::select(&TensorFormat::ALL[..]);
    let shape = (1..35_usize, 1..71_usize, 1..97_usize);
    (format, shape, contents(), contents(), any::<u64>()).prop_map(
        |(format, (rows, n, width), of_weights, of_activations, seed)| {
            // Floats of any width; up to three blocks of the others.
            let k = if format.block_len() == 1 { width } else { width.div_ceil(BLOCK) * format.block_len() };
            Case { format, precision: Precision::Native, rows, n, k, of_weights, of_activations, seed }
        },
    )
}

impl Case {
    /// The same case for the reference arithmetic.
    pub(crate) fn exact(self) -> Self {
        Self { precision: Precision::Exact, ..self }
    }

    /// `[rows, k]`
    pub(crate) fn activations(&self) -> Vec<f32> {
        let mut words = Words(self.seed | 1);
        let mut values = Vec::with_capacity(self.rows * self.k);
        for _ in 0..self.rows {
            let content = words.choose(&self.of_activations);
            let special = special_runs(&mut words, self.k.div_ceil(BLOCK));
            values.extend((0..self.k).map(|col| {
                let content = if special.contains(&(col / BLOCK)) { content } else { Content::Ordinary };
                content.float(&mut words, 1e30)
            }));
        }
        values
    }

    /// Stored rows, `[n, k]`.
    pub(crate) fn weights(&self) -> Vec<u8> {
        let mut words = Words(self.seed.rotate_left(32) | 1);
        let (quants, scales) = parts_of(self.format);
        let mut bytes = Vec::with_capacity(self.n * self.format.row_bytes(self.k).expect("whole blocks"));
        for _ in 0..self.n {
            let content = words.choose(&self.of_weights);
            let run = if scales.is_empty() { BLOCK } else { 1 };
            let num_blocks = self.k / self.format.block_len();
            let special = special_runs(&mut words, num_blocks.div_ceil(run));
            for block in 0..num_blocks {
                let content = if special.contains(&(block / run)) { content } else { Content::Ordinary };
                if scales.is_empty() {
                    let largest = if self.format == TensorFormat::F16 { 65504.0 } else { f32::MAX };
                    bytes.extend(model_format::quantize(self.format, &[content.float(&mut words, largest)]));
                    continue;
                }
                let start = bytes.len();
                bytes.extend((0..self.format.block_bytes()).map(|_| words.next() as u8));
                let stored = &mut bytes[start..];
                if content == Content::Zero {
                    stored[quants.clone()].fill(0);
                }
                for &at in scales {
                    stored[at..at + 2].copy_from_slice(&content.scale(&mut words).to_le_bytes());
                }
            }
        }
        bytes
    }
}

/// Where a stored block has its quants, and where its half-precision scales.
pub(crate) fn parts_of(format: TensorFormat) -> (Range<usize>, &'static [usize]) {
    match format {
        TensorFormat::F32 | TensorFormat::F16 | TensorFormat::BF16 => (0..0, &[]),
        TensorFormat::Q4_0 | TensorFormat::Q5_0 | TensorFormat::Q8_0 => (2..format.block_bytes(), &[0]),
        TensorFormat::Q4_1 | TensorFormat::Q5_1 => (4..format.block_bytes(), &[0, 2]),
        TensorFormat::Q4K | TensorFormat::Q5K => (16..format.block_bytes(), &[0, 2]),
        TensorFormat::Q6K => (0..192, &[208]),
    }
}

/// Which runs of a row hold what was drawn for it: all, or one of them.
fn special_runs(words: &mut Words, num_runs: usize) -> Range<usize> {
    let one = words.next() as usize % num_runs;
    if words.next().is_multiple_of(2) { 0..num_runs } else { one..one + 1 }
}

impl Content {
    /// An activation, or an element of a float format.
    fn float(self, words: &mut Words, largest: f32) -> f32 {
        match self {
            Self::Ordinary => words.float(),
            Self::Zero => 0.0,
            Self::Huge => words.float() * largest,
            Self::Tiny => words.float() * 1e-30,
            Self::Denormal => words.float() * f32::MIN_POSITIVE,
            Self::Infinite => words.choose(&[1.0, f32::INFINITY, f32::NEG_INFINITY]),
            Self::Nan => words.choose(&[1.0, f32::NAN]),
            Self::Wild => f32::from_bits(words.next()),
        }
    }

    /// The bits of a half-precision scale.
    fn scale(self, words: &mut Words) -> u16 {
        let bits = words.next() as u16;
        match self {
            Self::Ordinary => 0x2C00 | bits & 0x83FF,
            Self::Zero => 0,
            Self::Huge => 0x7BFF | bits & 0x8000,
            Self::Tiny => 0x0400 | bits & 0x83FF,
            Self::Denormal => bits & 0x83FF,
            Self::Infinite => 0x7C00 | bits & 0x8000,
            Self::Nan => 0x7C01 | bits & 0x83FF,
            Self::Wild => bits,
        }
    }
}

/// xorshift64 (Marsaglia, 2003).
struct Words(u64);

impl Words {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) as u32
    }

    /// Between -1 and 1.
    fn float(&mut self) -> f32 {
        self.next() as f32 / 2_147_483_648.0 - 1.0
    }

    fn choose<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.next() as usize % from.len()]
    }
}
