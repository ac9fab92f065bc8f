//! The devices that ops run on: what they hold and multiply, how large their caches are, and what they can do at most. Knows
//! no op but those that measure a limit.

use std::fs;
use std::time::Instant;

use anyhow::{Result, bail};
use backend_cpu::{CpuBackend, CpuConfig};
use backend_cuda::{CudaBackend, CudaConfig};
use benches::random::Random;
use model_format::TensorFormat;
use serde::Serialize;
use serving_types::{BlockCopy, BlockId, CopyId};
use tensor_backend::{Backend, Element, KvElement, KvLayout, MatMul, WeightRole};

use crate::cost::Elements;
use crate::stored::{StoredRows, normal};

/// Of several times the cache's size, nothing is left of what was read first.
const CACHES: u64 = 4;

/// And at least so much, for caches that the system does not tell of.
const MIN_ROTATED_BYTES: u64 = 1 << 27;

/// Inputs, outputs and rows of the product that shows what a GPU multiplies at most.
const PRODUCT_SIZE: usize = 8192;

/// Bytes that are copied by a GPU, to show what its memory moves at most.
const COPY_BYTES: usize = 1 << 30;

/// Samples of a limit, of which the fastest counts, and calls of each.
const NUM_SAMPLES: usize = 7;
const NUM_CALLS: usize = 8;

/// Which device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// All processors of this process.
    Cpu,
    /// The first GPU.
    Cuda,
}

/// What bounds an op: memory, or an arithmetic.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Limit {
    /// Bytes a second from memory; on a GPU from and to it.
    Memory,
    /// Bytes a second from caches. Where it is not measured, everything counts as memory's.
    Cache,
    /// Dot products of signed with unsigned bytes, operations a second.
    Int8Dot,
    /// f32 multiply-adds, operations a second.
    F32Fma,
    /// Products of bfloat16 added in f32, operations a second.
    Bf16Dot,
    /// A large product in bfloat16, operations a second.
    Bf16Product,
}

/// What a device does at most.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Measured {
    pub(crate) limit: Limit,
    pub(crate) per_second: f64,
}

impl Kind {
    /// As a server on it computes by default.
    pub(crate) fn elements(self) -> Elements {
        match self {
            Self::Cpu => Elements { activation: Element::F32, kv: Element::BF16 },
            Self::Cuda => Elements { activation: Element::BF16, kv: Element::BF16 },
        }
    }

    /// Formats that are multiplied as they are stored. A GPU takes other floats too, as bfloat16.
    pub(crate) fn formats(self) -> &'static [TensorFormat] {
        use TensorFormat::{BF16, Q4_0, Q4_1, Q4K, Q6K, Q8_0};
        match self {
            Self::Cpu => &TensorFormat::ALL,
            Self::Cuda => &[BF16, Q4_0, Q4_1, Q8_0, Q4K, Q6K],
        }
    }

    /// The arithmetic of products with weights, or keys and values, of this format.
    pub(crate) fn arithmetic(self, format: TensorFormat) -> Limit {
        match (self, format) {
            (Self::Cuda, _) => Limit::Bf16Product,
            (Self::Cpu, TensorFormat::F32 | TensorFormat::F16) => Limit::F32Fma,
            (Self::Cpu, TensorFormat::BF16) => Limit::Bf16Dot,
            (Self::Cpu, _) => Limit::Int8Dot,
        }
    }

    /// Bytes after which a cache holds nothing of what was read first.
    pub(crate) fn rotated_bytes(self) -> u64 {
        let cache_bytes = match self {
            Self::Cpu => last_cache_bytes(),
            // No GPU's cache is known to the driver's interface that is used here; those of 2022 to 2025 have 50 MB or more.
            Self::Cuda => Some(64 << 20),
        };
        MIN_ROTATED_BYTES.max(CACHES * cache_bytes.unwrap_or(0))
    }
}

/// Opens the processors.
pub(crate) fn open_cpu() -> Result<CpuBackend> {
    Ok(CpuBackend::new(CpuConfig::default())?)
}

/// Opens the GPU.
pub(crate) fn open_cuda() -> Result<CudaBackend> {
    Ok(CudaBackend::open(&CudaConfig::default())?)
}

/// What the processors do at most.
pub(crate) fn cpu_limits(backend: &CpuBackend) -> Result<Vec<Measured>> {
    let limits = backend.measure_limits()?;
    let of = |limit, per_second| Measured { limit, per_second };
    Ok(vec![
        of(Limit::Memory, limits.read_bytes),
        of(Limit::Cache, limits.cached_read_bytes),
        of(Limit::Int8Dot, limits.dot_operations),
        of(Limit::F32Fma, limits.fma_operations),
        of(Limit::Bf16Dot, limits.bf16_operations),
    ])
}

/// What a GPU does at most, through the ops of its backend: a copy of a large block, which is read and written, and a large
/// product of random values, since power is what limits it.
pub(crate) fn gpu_limits<B: Backend>(backend: &mut B, elements: Elements) -> Result<Vec<Measured>> {
    let (memory, product) = (measure_copy(backend, elements.kv)?, measure_product(backend, elements.activation)?);
    Ok(vec![
        Measured { limit: Limit::Memory, per_second: memory },
        Measured { limit: Limit::Bf16Product, per_second: product },
    ])
}

fn measure_copy<B: Backend>(backend: &mut B, element: Element) -> Result<f64> {
    let (block_size, head_dim) = (16, 128);
    let num_kv_heads = COPY_BYTES / (2 * block_size * head_dim * element.bytes());
    let layout = KvLayout {
        num_layers: 1,
        num_blocks: 2,
        block_size,
        num_kv_heads,
        head_dim,
        element: KvElement::Float(element),
    };
    let mut kv = backend.alloc_kv(&layout)?;
    let copy = [BlockCopy { id: CopyId(0), from: BlockId(0), to: BlockId(1) }];
    let seconds = fastest(backend, &mut |backend| backend.copy_blocks(&mut kv, &copy))?;
    Ok(2.0 * layout.block_bytes() as f64 / seconds)
}

fn measure_product<B: Backend>(backend: &mut B, element: Element) -> Result<f64> {
    let (n, mut random) = (PRODUCT_SIZE, Random::new(2));
    let stored = StoredRows::random(TensorFormat::BF16, n, n, &mut random);
    let weight = &backend.load_weight(&[stored.part(0..n)], WeightRole::Product)?;
    let (mut x, mut out) = (backend.alloc(n, n, element)?, backend.alloc(n, n, element)?);
    backend.write(&mut x, &normal(n * n, 1.0, &mut random))?;
    let x = &x;
    let seconds =
        fastest(backend, &mut |backend| backend.matmul(MatMul { x, weight, bias: None, out: &mut out, rows: n }))?;
    Ok(2.0 * (n as f64).powi(3) / seconds)
}

/// The time of a call, in the fastest sample.
fn fastest<B: Backend>(backend: &mut B, call: &mut dyn FnMut(&mut B) -> Result<(), B::Error>) -> Result<f64> {
    let witness = backend.alloc(1, 1, Element::F32)?;
    let mut seconds = f64::INFINITY;
    // The first sample loads code and is no faster than others.
    for _ in 0..=NUM_SAMPLES {
        let start = Instant::now();
        for _ in 0..NUM_CALLS {
            call(backend)?;
        }
        backend.read(&witness, 0..1)?;
        seconds = seconds.min(start.elapsed().as_secs_f64() / NUM_CALLS as f64);
    }
    if seconds <= 0.0 {
        bail!("the clock stands still");
    }
    Ok(seconds)
}

/// The largest cache of the first processor, where Linux tells.
fn last_cache_bytes() -> Option<u64> {
    let folder = fs::read_dir("/sys/devices/system/cpu/cpu0/cache").ok()?;
    let sizes = folder.filter_map(|entry| cache_bytes(&fs::read_to_string(entry.ok()?.path().join("size")).ok()?));
    sizes.max()
}

/// A size as Linux writes it: `32768K`.
fn cache_bytes(text: &str) -> Option<u64> {
    text.trim().strip_suffix('K')?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_caches() {
        for (text, expected) in [("32768K\n", Some(32 << 20)), ("512K", Some(1 << 19)), ("", None), ("K", None)] {
            assert_eq!(cache_bytes(text), expected, "{text:?}");
        }
        assert!(Kind::Cpu.rotated_bytes() >= MIN_ROTATED_BYTES);
    }

    #[test]
    fn each_format_has_its_arithmetic() {
        assert_eq!(Kind::Cpu.arithmetic(TensorFormat::Q6K), Limit::Int8Dot);
        assert_eq!(Kind::Cpu.arithmetic(TensorFormat::BF16), Limit::Bf16Dot);
        assert_eq!(Kind::Cpu.arithmetic(TensorFormat::F32), Limit::F32Fma);
        assert_eq!(Kind::Cuda.arithmetic(TensorFormat::Q6K), Limit::Bf16Product);
    }
}
