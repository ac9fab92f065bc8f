//! Every op of the `Backend` trait on the CPU: a readable reference for each, and a fast one beside it.
//!
//! There is one arithmetic for each stored weight format, at every batch size. [`Precision::Exact`] dequantises weights to
//! f32 when they are loaded and multiplies in f32: the reference path. [`Precision::Native`] multiplies the stored formats
//! directly: activations are quantised to blocks of 32 signed bytes, sums inside of a block are exact integers, and blocks
//! are summed in f32 in ascending order. What meets bf16 (activations its weights, queries its keys, attention's weights its
//! values) is rounded to bf16, and elements of either below 2^-56 are zeros. These products and those of all other elements
//! are added in f32, in ascending order. Neither the other rows nor the chunking, the number of threads or the
//! [`Instructions`] change a bit of a row's result.
//!
//! - `ops` has the ops: shapes, threads, cache blocking.
//! - `weight` has the rows of weights in a `layout` for each format; `panel` and `pairs` are the formats, with their plain
//!   products, and `quantise` the activations; `kv` is the KV pool, `head_scale` its signed bytes.
//! - `simd` has the inner loops in plain and vector versions, `pool` and `team` the threads, `memory` the pages; these have all
//!   `unsafe`.
//! - `limits` measures what the machine can do at most, for benchmarks.
//!
//! The crate knows no models, requests or block allocation.

mod buffer;
mod error;
mod float;
mod head_scale;
mod inputs;
mod instructions;
mod kv;
mod layout;
mod limits;
mod memory;
mod ops;
mod pairs;
mod panel;
mod pool;
mod quantise;
mod simd;
mod team;
mod weight;

pub use buffer::Buffer;
pub use error::CpuError;
pub use inputs::Inputs;
pub use instructions::Instructions;
pub use kv::Kv;
pub use limits::CpuLimits;
pub use ops::{Sampler, Samples};
pub use weight::Weight;

use core::ops::Range;

use serving_types::{BatchOutput, BlockCopy, HostCopy, RowSlot, SamplingParams};
use tensor_backend::{
    AddRmsNorm, Backend, Element, Embed, GatedMatMul, GatherRows, InputLimits, KvLayout, MatMul, PagedAttention,
    RmsNorm, RopeAppend, Sample, SamplerLimits, SlotHistory, StepInputs, WeightPart, WeightRole,
};

use crate::ops::ProductScratch;
use crate::pool::{Cores, Pool};
use crate::simd::Path;

/// How weights are held and multiplied.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Precision {
    /// Dequantised to f32 when loaded, f32 arithmetic: the reference.
    Exact,
    /// The stored formats, multiplied directly.
    #[default]
    Native,
}

/// What a [`CpuBackend`] is made from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CpuConfig {
    /// Compute threads; `None`: as many as the machine has processors for this process.
    pub threads: Option<usize>,
    /// How weights are held and multiplied.
    pub precision: Precision,
}

/// The CPU as a device. Ops run as they are called.
#[derive(Debug)]
pub struct CpuBackend {
    cores: Cores,
    precision: Precision,
    scratch: ProductScratch,
    /// Bytes of everything that was handed out.
    handed_out: u64,
}

impl CpuBackend {
    /// A backend with its own threads and the fastest instructions of this machine.
    ///
    /// # Errors
    /// The threads could not be started.
    pub fn new(config: CpuConfig) -> Result<Self, CpuError> {
        Self::with_instructions(config, Instructions::best())
    }

    /// A backend with forced instructions: to test and to compare.
    ///
    /// # Errors
    /// The machine lacks the instructions, or the threads could not be started.
    pub fn with_instructions(config: CpuConfig, instructions: Instructions) -> Result<Self, CpuError> {
        let available = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            cores: Cores {
                path: Path::new(instructions)?,
                pool: Pool::new(config.threads.unwrap_or(available).max(1))?,
            },
            precision: config.precision,
            scratch: ProductScratch::default(),
            handed_out: 0,
        })
    }

    /// Counts what is about to be handed out.
    fn count<T>(&mut self, new: T, bytes: fn(&T) -> u64) -> T {
        self.handed_out += bytes(&new);
        new
    }
}

impl Backend for CpuBackend {
    type Buffer = Buffer;
    type Weight = Weight;
    type Kv = Kv;
    /// A second region of the same memory.
    type HostKv = Kv;
    type Inputs = Inputs;
    type Sampler = Sampler;
    type Samples = Samples;
    type Graph = core::convert::Infallible;
    type Error = CpuError;

    fn describe(&self) -> String {
        let threads = self.cores.pool.num_threads();
        let plural = if threads == 1 { "" } else { "s" };
        format!("cpu, {threads} thread{plural}, {}", self.cores.path.instructions())
    }

    fn activation_element(&self) -> Element {
        Element::F32
    }

    fn max_steps_in_flight(&self) -> u32 {
        1
    }

    fn allocated_bytes(&self) -> u64 {
        self.handed_out + self.scratch.bytes()
    }

    fn alloc(&mut self, rows: usize, cols: usize, element: Element) -> Result<Buffer, CpuError> {
        if element != Element::F32 {
            return Err(CpuError::BufferElement(element));
        }
        let buffer = Buffer::new(rows, cols)?;
        Ok(self.count(buffer, Buffer::bytes))
    }

    fn write(&mut self, buffer: &mut Buffer, values: &[f32]) -> Result<(), CpuError> {
        buffer.write(values);
        Ok(())
    }

    fn read(&mut self, buffer: &Buffer, rows: Range<usize>) -> Result<Vec<f32>, CpuError> {
        Ok(buffer.rows(rows).to_vec())
    }

    fn load_weight(&mut self, parts: &[WeightPart<'_>], role: WeightRole) -> Result<Weight, CpuError> {
        let weight = Weight::load(parts, role, self.precision, &self.cores.pool)?;
        Ok(self.count(weight, Weight::bytes))
    }

    fn planned_weight_bytes(&self, parts: &[WeightPart<'_>], role: WeightRole) -> u64 {
        Weight::planned_bytes(parts, role, self.precision)
    }

    fn planned_scratch_bytes(&self, parts: &[WeightPart<'_>], role: WeightRole, rows: usize) -> u64 {
        let taken = Weight::planned_takes(parts, role, self.precision);
        ProductScratch::planned_bytes(self.cores.path, rows, parts[0].cols, taken)
    }

    fn reserve_scratch(&mut self, bytes: u64) -> Result<(), CpuError> {
        self.scratch.reserve(bytes)
    }

    fn alloc_kv(&mut self, layout: &KvLayout) -> Result<Kv, CpuError> {
        let kv = Kv::new(layout, &self.cores.pool)?;
        Ok(self.count(kv, Kv::bytes))
    }

    fn alloc_host_kv(&mut self, layout: &KvLayout) -> Result<Kv, CpuError> {
        Kv::new(layout, &self.cores.pool)
    }

    fn new_inputs(&mut self, limits: &InputLimits) -> Result<Inputs, CpuError> {
        let inputs = Inputs::new(limits)?;
        Ok(self.count(inputs, Inputs::bytes))
    }

    fn planned_inputs_bytes(&self, limits: &InputLimits) -> u64 {
        Inputs::planned_bytes(limits)
    }

    fn upload(&mut self, inputs: &mut Inputs, step: &StepInputs) -> Result<(), CpuError> {
        inputs.upload(step);
        Ok(())
    }

    fn new_sampler(&mut self, limits: &SamplerLimits) -> Result<Sampler, CpuError> {
        let sampler = Sampler::new(limits.max_slots, limits.vocab_size, self.cores.pool.num_threads())?;
        Ok(self.count(sampler, Sampler::bytes))
    }

    fn planned_sampler_bytes(&self, limits: &SamplerLimits) -> u64 {
        Sampler::planned_bytes(limits.max_slots, limits.vocab_size, self.cores.pool.num_threads())
    }

    fn open_slot(
        &mut self,
        sampler: &mut Sampler,
        slot: RowSlot,
        params: &SamplingParams,
        history: SlotHistory<'_>,
    ) -> Result<(), CpuError> {
        sampler.open_slot(slot, params, history);
        Ok(())
    }

    fn new_samples(&mut self, max_jobs: usize, max_top: usize) -> Result<Samples, CpuError> {
        let samples = Samples::new(max_jobs, max_top)?;
        Ok(self.count(samples, Samples::bytes))
    }

    fn planned_samples_bytes(&self, max_jobs: usize, max_top: usize) -> u64 {
        Samples::planned_bytes(max_jobs, max_top)
    }

    fn read_samples(
        &mut self,
        samples: &Samples,
        row_jobs: &[Range<u32>],
        output: &mut BatchOutput,
    ) -> Result<(), CpuError> {
        ops::read_samples(samples, row_jobs, output);
        Ok(())
    }

    fn record(
        &mut self,
        _enqueue: impl FnOnce(&mut Self) -> Result<(), CpuError>,
    ) -> Result<core::convert::Infallible, CpuError> {
        unreachable!("the CPU names no numbers of rows to record")
    }

    fn replay(&mut self, graph: &core::convert::Infallible) -> Result<(), CpuError> {
        match *graph {}
    }

    fn embed(&mut self, op: Embed<'_, Self>) -> Result<(), CpuError> {
        ops::embed(op);
        Ok(())
    }

    fn rms_norm(&mut self, op: RmsNorm<'_, Self>) -> Result<(), CpuError> {
        ops::rms_norm(&self.cores, op);
        Ok(())
    }

    fn add_rms_norm(&mut self, op: AddRmsNorm<'_, Self>) -> Result<(), CpuError> {
        ops::add_rms_norm(&self.cores, op);
        Ok(())
    }

    fn matmul(&mut self, op: MatMul<'_, Self>) -> Result<(), CpuError> {
        ops::matmul(&self.cores, &mut self.scratch, op);
        Ok(())
    }

    fn gated_matmul(&mut self, op: GatedMatMul<'_, Self>) -> Result<(), CpuError> {
        ops::gated_matmul(&self.cores, &mut self.scratch, op);
        Ok(())
    }

    fn rope_append(&mut self, op: RopeAppend<'_, Self>) -> Result<(), CpuError> {
        ops::rope_append(&self.cores, op);
        Ok(())
    }

    fn paged_attention(&mut self, op: PagedAttention<'_, Self>) -> Result<(), CpuError> {
        ops::paged_attention(&self.cores, op);
        Ok(())
    }

    fn gather_rows(&mut self, op: GatherRows<'_, Self>) -> Result<(), CpuError> {
        ops::gather_rows(op);
        Ok(())
    }

    fn sample(&mut self, op: Sample<'_, Self>) -> Result<(), CpuError> {
        ops::sample(&self.cores.pool, op);
        Ok(())
    }

    fn copy_blocks(&mut self, kv: &mut Kv, copies: &[BlockCopy]) -> Result<(), CpuError> {
        kv.copy_blocks(copies);
        Ok(())
    }

    fn copy_host_blocks(&mut self, kv: &mut Kv, host: &mut Kv, copies: &[HostCopy]) -> Result<(), CpuError> {
        for copy in copies {
            match *copy {
                HostCopy::Fetch { from, to } => kv.copy_block_from(host, from.0 as usize, to.0 as usize),
                HostCopy::Offload { from, to } => host.copy_block_from(kv, from.0 as usize, to.0 as usize),
            }
        }
        Ok(())
    }
}
