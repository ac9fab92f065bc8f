//! The device that serves: chosen by the flags, the model and what is there, and what it offers to a model. Knows nothing of
//! how a model uses it.

use std::time::Instant;

use anyhow::{Result, bail};
use backend_cpu::{CpuBackend, CpuConfig, CpuError, Instructions, Precision};
use backend_cuda::{Arithmetic, CopyRates, CudaBackend, CudaConfig, CudaError};
use model_format::TensorFormat;
use model_runner::{Checkpoint, WarmUp};
use tensor_backend::{Backend, Element, KvElement};

use crate::cli::{Device, Dtype, EngineArgs, KvCacheDtype};
use crate::{machine, output};

/// The GPU that serves, among those that the driver shows: CUDA_VISIBLE_DEVICES chooses.
pub(crate) const GPU: usize = 0;
/// Share of a GPU's memory that is used unless the flags say otherwise.
const DEFAULT_GPU_SHARE: f64 = 0.9;
/// Of that share, what recorded steps and the driver's rounding of allocations may take. Compared with what they took once
/// everything is loaded.
const GPU_RESERVE_BYTES: u64 = 96 << 20;

/// A device that is ready for a model.
pub(crate) enum Opened {
    Cpu(CpuBackend, Offer),
    Cuda(Box<CudaBackend>, Offer),
}

/// What a device offers to a model.
#[derive(Clone, Debug)]
pub(crate) struct Offer {
    pub(crate) kv_element: KvElement,
    pub(crate) default_max_num_seqs: u32,
    pub(crate) default_max_num_batched_tokens: u32,
    pub(crate) default_max_mixed_prefill_tokens: u32,
    pub(crate) memory: MemoryOffer,
    pub(crate) warm_up: WarmUp,
    /// Why the flags' `auto` did not become a GPU.
    pub(crate) not_on_gpu: Option<String>,
}

/// The memory that a model may take.
#[derive(Clone, Copy, Debug)]
pub(crate) enum MemoryOffer {
    /// Main memory, which is shared with other programs: bytes that can still be taken, if that is known.
    Host { available_bytes: Option<u64> },
    /// A share of a GPU, all of which is used: the share in all, of which `usable_bytes` are left for the model. No more
    /// than `free_bytes` could be taken.
    Gpu { share_bytes: u64, usable_bytes: u64, free_bytes: u64 },
}

impl MemoryOffer {
    /// What everything together may take, if that is bounded.
    pub(crate) fn share_bytes(self) -> Option<u64> {
        match self {
            Self::Host { .. } => None,
            Self::Gpu { share_bytes, .. } => Some(share_bytes),
        }
    }
}

/// Opens the device that the flags want for this model.
///
/// # Errors
/// The flags want what this machine has not, or an arithmetic that the device has not.
pub(crate) fn open(args: &EngineArgs, checkpoint: &Checkpoint<'_>) -> Result<Opened> {
    match (args.device, only_on_cpu(args)) {
        (Device::Cuda, Some(flag)) => {
            bail!("{flag}: a GPU computes in bfloat16 or float16, and so is its KV cache; use --device cpu")
        }
        (Device::Cpu, _) | (Device::Auto, Some(_)) => open_cpu(args),
        (Device::Cuda, None) => with_kv_of(args, open_cuda(args, checkpoint)?),
        (Device::Auto, None) => match open_cuda(args, checkpoint) {
            Ok(opened) => with_kv_of(args, opened),
            Err(reason) => open_cpu_instead(args, reason),
        },
    }
}

/// A flag that no GPU can follow, if there is one.
fn only_on_cpu(args: &EngineArgs) -> Option<&'static str> {
    match (args.dtype, args.kv_cache_dtype) {
        (Dtype::Float32, _) => Some("--dtype float32"),
        (_, KvCacheDtype::Float32) => Some("--kv-cache-dtype float32"),
        (_, KvCacheDtype::Int8) => Some("--kv-cache-dtype int8"),
        (_, KvCacheDtype::Auto | KvCacheDtype::Float16 | KvCacheDtype::Bfloat16) => None,
    }
}

/// What the flags want in the KV cache; `None`: what the device would have.
fn wanted_kv_element(args: &EngineArgs) -> Option<KvElement> {
    match args.kv_cache_dtype {
        KvCacheDtype::Auto => None,
        KvCacheDtype::Float32 => Some(Element::F32.into()),
        KvCacheDtype::Float16 => Some(Element::F16.into()),
        KvCacheDtype::Bfloat16 => Some(Element::BF16.into()),
        KvCacheDtype::Int8 => Some(KvElement::Int8),
    }
}

/// The name of a KV cache's type, as in the flags.
pub(crate) fn kv_element_name(element: KvElement) -> &'static str {
    match element {
        KvElement::Float(Element::F32) => "float32",
        KvElement::Float(Element::F16) => "float16",
        KvElement::Float(Element::BF16) => "bfloat16",
        KvElement::Int8 => "int8",
    }
}

/// The GPU, if its KV cache is what the flags want.
fn with_kv_of(args: &EngineArgs, opened: Opened) -> Result<Opened> {
    if let (Some(wanted), Opened::Cuda(_, offer)) = (wanted_kv_element(args), &opened)
        && wanted != offer.kv_element
    {
        bail!(
            "--kv-cache-dtype {}: the KV cache of a GPU has the type that it computes in, which is {}; --dtype chooses it",
            kv_element_name(wanted),
            kv_element_name(offer.kv_element)
        );
    }
    Ok(opened)
}

/// A machine without a GPU is nothing to warn of; one whose GPU cannot be used is.
fn open_cpu_instead(args: &EngineArgs, reason: CudaError) -> Result<Opened> {
    let no_gpu = matches!(reason, CudaError::NoDriver | CudaError::NoDevice);
    let reason = output::explain(&reason.into());
    if !no_gpu {
        output::note(format_args!("warning: the GPU is not used: {reason}"));
    }
    let mut opened = open_cpu(args)?;
    if let Opened::Cpu(_, offer) = &mut opened {
        offer.not_on_gpu = Some(reason);
    }
    Ok(opened)
}

fn open_cpu(args: &EngineArgs) -> Result<Opened> {
    let precision = match args.dtype {
        Dtype::Auto => Precision::Native,
        Dtype::Float32 => Precision::Exact,
        Dtype::Float16 | Dtype::Bfloat16 => {
            bail!("--dtype float16 and bfloat16 are for GPUs; the CPU computes by --dtype auto or float32")
        }
    };
    if args.gpu_memory_utilization.is_some() {
        output::note(
            "warning: --gpu-memory-utilization has no effect on the CPU; --kv-cache-memory-bytes sizes its KV cache",
        );
    }
    let instructions = args.cpu_instructions.unwrap_or_else(Instructions::best);
    if !instructions.available() {
        bail!("--cpu-instructions: {}", CpuError::Instructions(instructions));
    }
    let backend = CpuBackend::with_instructions(CpuConfig { threads: None, precision }, instructions)?;
    let mut offer = Offer::of_cpu(precision, machine::available_memory_bytes());
    offer.kv_element = wanted_kv_element(args).unwrap_or(offer.kv_element);
    Ok(Opened::Cpu(backend, offer))
}

fn open_cuda(args: &EngineArgs, checkpoint: &Checkpoint<'_>) -> Result<Opened, CudaError> {
    let element = match args.dtype {
        Dtype::Float16 => Element::F16,
        Dtype::Bfloat16 => Element::BF16,
        // Half precision holds what a model in half precision was trained with; bfloat16 holds everything else.
        _ if checkpoint.tensors().any(|tensor| tensor.format == TensorFormat::F16) => Element::F16,
        _ => Element::BF16,
    };
    let arithmetic = if args.batch_invariant { Arithmetic::BatchInvariant } else { Arithmetic::Fastest };
    let backend = CudaBackend::open(&CudaConfig { ordinal: GPU, element, arithmetic, ..CudaConfig::default() })?;
    if args.cpu_instructions.is_some() {
        output::note("warning: --cpu-instructions has no effect on a GPU");
    }
    let (free_bytes, total_bytes) = backend.memory_bytes()?;
    let share = args.gpu_memory_utilization.unwrap_or(DEFAULT_GPU_SHARE);
    let offer = Offer::of_gpu(backend.activation_element(), free_bytes, total_bytes, share);
    Ok(Opened::Cuda(Box::new(backend), offer))
}

/// How fast so many bytes are copied between the pools: by PCIe, or inside of main memory.
pub(crate) fn copy_rates(gpu: Option<usize>, bytes: usize) -> Result<CopyRates> {
    if let Some(ordinal) = gpu {
        return Ok(backend_cuda::measure_copy_rates(ordinal, bytes)?);
    }
    let (from, mut to) = (vec![1_u8; bytes], vec![0_u8; bytes]);
    let start = Instant::now();
    to.copy_from_slice(std::hint::black_box(&from));
    std::hint::black_box(&to);
    let rate = bytes as f64 / start.elapsed().as_secs_f64();
    Ok(CopyRates { to_device: rate, to_host: rate })
}

impl Offer {
    pub(crate) fn of_cpu(precision: Precision, available_bytes: Option<u64>) -> Self {
        Self {
            kv_element: if precision == Precision::Exact { Element::F32 } else { Element::BF16 }.into(),
            default_max_num_seqs: 64,
            default_max_num_batched_tokens: 512,
            default_max_mixed_prefill_tokens: 24,
            memory: MemoryOffer::Host { available_bytes },
            warm_up: WarmUp::Off,
            not_on_gpu: None,
        }
    }

    /// What others use of the GPU, and what the driver and the kernels' code have taken, counts as used.
    fn of_gpu(element: Element, free_bytes: u64, total_bytes: u64, share: f64) -> Self {
        let used_bytes = total_bytes - free_bytes;
        let share_bytes = (total_bytes as f64 * share) as u64;
        Self {
            kv_element: element.into(),
            default_max_num_seqs: 512,
            default_max_num_batched_tokens: 8192,
            default_max_mixed_prefill_tokens: u32::MAX,
            memory: MemoryOffer::Gpu {
                share_bytes,
                usable_bytes: share_bytes.saturating_sub(used_bytes + GPU_RESERVE_BYTES),
                free_bytes,
            },
            warm_up: WarmUp::EveryOp,
            not_on_gpu: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_counts() {
        let usable = |free_bytes, share| match Offer::of_gpu(Element::BF16, free_bytes, 80 << 30, share).memory {
            MemoryOffer::Gpu { usable_bytes, .. } => usable_bytes,
            MemoryOffer::Host { .. } => unreachable!("a GPU's memory"),
        };
        assert_eq!(usable(79 << 30, 0.5), (39 << 30) - GPU_RESERVE_BYTES);
        assert_eq!(usable(20 << 30, 0.5), 0, "others have taken more than the share");
    }
}
