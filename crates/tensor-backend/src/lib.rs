//! The [`Backend`] trait: device memory and the dozen ops that dense decoders use, each with a named params struct.
//!
//! The trait is the seam between models and devices. A model-runner is generic over it and is monomorphised once, in the
//! binary; a backend knows buffers and arithmetic and never models, requests or block allocation.
//!
//! What makes an op: it is the largest span that any backend fuses (residual and norm; rotary embedding, QK-norm and KV
//! append), so that another backend may use several kernels for it. Its params hold buffers and values that are fixed
//! for a given model and batch size. Whatever changes from step to step, such as positions, block tables and sampling
//! jobs, is uploaded once a step as [`StepInputs`] and read by the ops from there; a captured graph can then be replayed.
//!
//! Ops are enqueued in call order and may run later; only [`Backend::read_samples`] and [`Backend::read`] wait.
//!
//! The `conformance` module (feature `conformance`) checks any backend op by op against float64 arithmetic.
#![forbid(unsafe_code)]

#[cfg(feature = "conformance")]
pub mod conformance;
mod inputs;
mod memory;
mod ops;
mod rope;
mod weights;

pub use inputs::{AttentionLayout, InputLimits, LogitChoice, LogitJob, StepInputs, TableUpdate};
pub use memory::{Element, KvElement, KvLayout};
pub use ops::{
    AddRmsNorm, Embed, GatedMatMul, GatherRows, MatMul, MatMulAddRmsNorm, PagedAttention, QkNorm, RmsNorm, RopeAppend,
    Sample,
};
pub use rope::RotaryFrequencies;
pub use weights::{RandomElements, RowOrder, WeightPart, WeightRole, split_mix64};

use core::ops::Range;
use core::time::Duration;

use serving_types::{BatchOutput, BlockCopy, BlockId, HostCopy, MemoryEntry, RowSlot, SamplingParams, TokenId};

/// A device: memory of a few opaque kinds, and the ops on it.
///
/// Shapes are row-major. `rows` of an op is how many leading rows of its buffers take part; buffers may be larger. No op
/// allocates once its scratch is reserved, or its shapes have been seen.
///
/// On the CPU an op's result for a row depends on that row alone: not on the other rows, the chunking or the number of
/// threads, bit for bit.
pub trait Backend: Sized + Send {
    /// A matrix of activations.
    type Buffer: Send;
    /// One or more stored matrices, concatenated by rows, in whatever layout the backend's products like.
    type Weight: Send;
    /// The KV pool of all layers.
    type Kv: Send;
    /// The host's KV pool of all layers.
    type HostKv: Send;
    /// Device mirror of [`StepInputs`], and the persistent block table of each row slot.
    type Inputs: Send;
    /// Sampling state of each row slot: parameters, penalty history, last sampled token.
    type Sampler: Send;
    /// Results of one step's [`Sample`] ops, kept until read.
    type Samples: Send;
    /// Ops that were recorded, to be enqueued again as a whole.
    type Graph: Send;
    /// Why an op, an allocation or an upload failed.
    type Error: std::error::Error + Send + Sync + 'static;

    /// What the device is, for a person: "cpu, 2 threads, avx512-vnni".
    fn describe(&self) -> String;

    /// Element of activations between ops.
    fn activation_element(&self) -> Element;

    /// Steps that may be enqueued before the first one's samples are read; 1 if ops run as they are called.
    fn max_steps_in_flight(&self) -> u32;

    // Memory. What is taken can be planned before, to the byte.

    /// Bytes of device memory that this backend has taken so far, its scratch included. What was dropped is not taken off.
    fn allocated_bytes(&self) -> u64;

    /// What the device holds now beside that, where it can be measured: the driver's context, code, recorded steps, and what
    /// other programs have.
    ///
    /// # Errors
    /// The device does not answer.
    fn measure_rest(&self) -> Result<Vec<MemoryEntry>, Self::Error> {
        Ok(Vec::new())
    }

    /// A zeroed matrix of `rows` by `cols`, which takes as many elements.
    ///
    /// # Errors
    /// Out of memory, or an element that this backend does not compute in.
    fn alloc(&mut self, rows: usize, cols: usize, element: Element) -> Result<Self::Buffer, Self::Error>;

    /// Overwrites the leading rows of a buffer with `values`, converted to its element.
    ///
    /// # Errors
    /// The transfer failed.
    fn write(&mut self, buffer: &mut Self::Buffer, values: &[f32]) -> Result<(), Self::Error>;

    /// The given rows as f32, after everything enqueued before. For tests and inspection, not for the step loop.
    ///
    /// # Errors
    /// An op enqueued before has failed, or the transfer did.
    fn read(&mut self, buffer: &Self::Buffer, rows: Range<usize>) -> Result<Vec<f32>, Self::Error>;

    /// Takes the rows of all `parts`, one after another, into one weight of `sum(rows)` by `cols`. The parts may differ in
    /// format. The bytes are not needed afterwards.
    ///
    /// # Errors
    /// Out of memory, or a format that this backend cannot multiply: named, never converted silently.
    fn load_weight(&mut self, parts: &[WeightPart<'_>], role: WeightRole) -> Result<Self::Weight, Self::Error>;

    /// As [`load_weight`](Self::load_weight), with elements that the device makes itself: those that
    /// [`RandomElements`] defines, seeded for each part. `None` if it makes none; then they come by way of the host.
    ///
    /// # Errors
    /// As for [`load_weight`](Self::load_weight).
    fn load_random_weight(
        &mut self,
        _parts: &[(WeightPart<'_>, RandomElements)],
        _role: WeightRole,
    ) -> Result<Option<Self::Weight>, Self::Error> {
        Ok(None)
    }

    /// Bytes that [`Backend::load_weight`] will take for parts of these shapes. Their `bytes` are not looked at.
    fn planned_weight_bytes(&self, parts: &[WeightPart<'_>], role: WeightRole) -> u64;

    /// Bytes of scratch that a product of up to `rows` rows with such a weight needs. Products run one after another, so
    /// a model needs as much as the most demanding of them.
    fn planned_scratch_bytes(&self, parts: &[WeightPart<'_>], role: WeightRole, rows: usize) -> u64;

    /// Takes scratch for all products that need at most `bytes`. Without it a product takes what it lacks when it runs.
    ///
    /// # Errors
    /// Out of memory.
    fn reserve_scratch(&mut self, bytes: u64) -> Result<(), Self::Error>;

    /// The KV pool, zeroed; it takes [`KvLayout::total_bytes`].
    ///
    /// # Errors
    /// Out of memory, or an unsupported element.
    fn alloc_kv(&mut self, layout: &KvLayout) -> Result<Self::Kv, Self::Error>;

    /// The KV pool in host memory, for as many blocks as the layout says; it takes [`KvLayout::total_bytes`], which
    /// are not counted as the device's.
    ///
    /// # Errors
    /// Out of memory, or an unsupported element.
    fn alloc_host_kv(&mut self, layout: &KvLayout) -> Result<Self::HostKv, Self::Error>;

    // Per-step state

    /// Room for the inputs of one step and for the block tables of all row slots.
    ///
    /// # Errors
    /// Out of memory.
    fn new_inputs(&mut self, limits: &InputLimits) -> Result<Self::Inputs, Self::Error>;

    /// Bytes that [`Backend::new_inputs`] will take.
    fn planned_inputs_bytes(&self, limits: &InputLimits) -> u64;

    /// Rows that the ops of this step are given: its tokens, and padding behind them where a backend works on certain sizes
    /// only. [`upload`](Self::upload) supplies the padding; what ops make of it is undefined and changes nothing else. If the
    /// step [is a decode](StepInputs::is_decode), its logit jobs are padded to as many.
    fn padded_rows(&self, _inputs: &Self::Inputs, step: &StepInputs) -> usize {
        step.num_tokens()
    }

    /// Sends one step's inputs and applies its table updates.
    ///
    /// # Errors
    /// The transfer failed.
    fn upload(&mut self, inputs: &mut Self::Inputs, step: &StepInputs) -> Result<(), Self::Error>;

    /// Sampling state of all row slots.
    ///
    /// # Errors
    /// Out of memory.
    fn new_sampler(&mut self, limits: &SamplerLimits) -> Result<Self::Sampler, Self::Error>;

    /// Bytes that [`Backend::new_sampler`] will take, without what each owner of a slot brings: its parameters and history.
    fn planned_sampler_bytes(&self, limits: &SamplerLimits) -> u64;

    /// Gives a slot a new owner. `history` is all of its tokens so far, the first `num_prompt_tokens` of them prompt; it
    /// is empty if `params` has no penalties.
    ///
    /// # Errors
    /// The transfer failed.
    fn open_slot(
        &mut self,
        sampler: &mut Self::Sampler,
        slot: RowSlot,
        params: &SamplingParams,
        history: SlotHistory<'_>,
    ) -> Result<(), Self::Error>;

    /// Room for the results of a step with up to `max_jobs` jobs and `max_top` most likely tokens each.
    ///
    /// # Errors
    /// Out of memory.
    fn new_samples(&mut self, max_jobs: usize, max_top: usize) -> Result<Self::Samples, Self::Error>;

    /// Bytes that [`Backend::new_samples`] will take.
    fn planned_samples_bytes(&self, max_jobs: usize, max_top: usize) -> u64;

    /// Waits for the step's [`Sample`] ops and appends, for each row of the step in turn, its [`RowOutput`] to `output`.
    /// `row_jobs` says which jobs belong to each row, as half-open ranges in row order.
    ///
    /// [`RowOutput`]: serving_types::RowOutput
    ///
    /// # Errors
    /// Any op of the step failed.
    fn read_samples(
        &mut self,
        samples: &Self::Samples,
        row_jobs: &[Range<u32>],
        output: &mut BatchOutput,
    ) -> Result<(), Self::Error>;

    // Gaps: how long the device has nothing to do between steps, for profiling. Nothing is measured by default.

    /// Measures gaps from the next step on.
    ///
    /// # Errors
    /// The device cannot.
    fn measure_gaps(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }

    /// The inputs of a step are uploaded, and its ops follow; it ends with its last [`Sample`].
    ///
    /// # Errors
    /// As for the ops.
    fn begin_step(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }

    /// The gap before the step whose samples were just read; to be asked for each step, in order. `None` before the first, or
    /// if none are measured.
    ///
    /// # Errors
    /// The device does not answer.
    fn read_gap(&mut self) -> Result<Option<Duration>, Self::Error> {
        Ok(None)
    }

    // Graphs. Where launching an op costs the host about as much as the device, steps that come again and again are recorded.

    /// The numbers of rows for which decode steps are worth recording, ascending; [`padded_rows`](Self::padded_rows) pads to
    /// these. None by default.
    fn graph_rows(&self, _inputs: &Self::Inputs) -> Vec<usize> {
        Vec::new()
    }

    /// Records the ops that `enqueue` enqueues, instead of running them. They have run before with the same buffers, so that
    /// all is ready.
    ///
    /// # Errors
    /// An op cannot be recorded.
    fn record(
        &mut self,
        enqueue: impl FnOnce(&mut Self) -> Result<(), Self::Error>,
    ) -> Result<Self::Graph, Self::Error>;

    /// Enqueues recorded ops.
    ///
    /// # Errors
    /// As for the ops.
    fn replay(&mut self, graph: &Self::Graph) -> Result<(), Self::Error>;

    // Ops

    /// `out[t] = table[token of t]`, where a token fed from the device is the last one that its slot sampled.
    ///
    /// # Errors
    /// As for all ops: the op could not be enqueued.
    fn embed(&mut self, op: Embed<'_, Self>) -> Result<(), Self::Error>;

    /// `out = x / sqrt(mean(x²) + eps) * weight`, row by row (Zhang and Sennrich, 2019).
    ///
    /// # Errors
    /// The op could not be enqueued.
    fn rms_norm(&mut self, op: RmsNorm<'_, Self>) -> Result<(), Self::Error>;

    /// `residual += x`, then `out = rms_norm(residual)`.
    ///
    /// # Errors
    /// The op could not be enqueued.
    fn add_rms_norm(&mut self, op: AddRmsNorm<'_, Self>) -> Result<(), Self::Error>;

    /// `out = x · weightᵀ (+ bias)`.
    ///
    /// Nothing here panics for what numbers are: a NaN or an infinity in a row of `x` spoils that row of `out`, and one among
    /// the elements or scales of a row of the weight that column, whose elements are then NaN or infinite. All others are as
    /// without it. The other products keep to this too.
    ///
    /// # Errors
    /// The op could not be enqueued.
    fn matmul(&mut self, op: MatMul<'_, Self>) -> Result<(), Self::Error>;

    /// `residual += x · weightᵀ`, then `out = rms_norm(residual)`: how a layer's branch ends. A backend may add before it
    /// rounds the product.
    ///
    /// # Errors
    /// An op could not be enqueued.
    fn matmul_add_rms_norm(&mut self, op: MatMulAddRmsNorm<'_, Self>) -> Result<(), Self::Error> {
        op.one_by_one(self)
    }

    /// `out = silu(x · gateᵀ) * (x · upᵀ)`, where `gate` and `up` are the two halves of one weight (Shazeer, 2020).
    ///
    /// # Errors
    /// The op could not be enqueued.
    fn gated_matmul(&mut self, op: GatedMatMul<'_, Self>) -> Result<(), Self::Error>;

    /// Norms (optionally) and rotates queries and keys in place, and appends keys and values to the KV pool.
    ///
    /// # Errors
    /// The op could not be enqueued.
    fn rope_append(&mut self, op: RopeAppend<'_, Self>) -> Result<(), Self::Error>;

    /// Causal attention of each new token over its row's context, read through the row's block table.
    ///
    /// # Errors
    /// The op could not be enqueued.
    fn paged_attention(&mut self, op: PagedAttention<'_, Self>) -> Result<(), Self::Error>;

    /// `out[j] = x[token of job j]` for a range of logit jobs.
    ///
    /// # Errors
    /// The op could not be enqueued.
    fn gather_rows(&mut self, op: GatherRows<'_, Self>) -> Result<(), Self::Error>;

    /// Samples or scores a range of logit jobs. A step without any has an empty range sampled, so that
    /// [`read_samples`](Self::read_samples) waits for its end all the same.
    ///
    /// # Errors
    /// The op could not be enqueued.
    fn sample(&mut self, op: Sample<'_, Self>) -> Result<(), Self::Error>;

    /// Copies whole blocks, all layers, in the order given, after the ops enqueued before and before those after.
    ///
    /// # Errors
    /// The op could not be enqueued.
    fn copy_blocks(&mut self, kv: &mut Self::Kv, copies: &[BlockCopy]) -> Result<(), Self::Error>;

    // Copies between the pools. A backend may do them beside the ops, which they would hold up otherwise.

    /// Starts to copy whole blocks, all layers, between a pool and the host's of the same shape of block. No block is read
    /// and written by copies of one call. The caller has waited for all ops that touched these blocks
    /// ([`read_samples`](Self::read_samples) or [`read`](Self::read)); copies that were started before and touch one of them
    /// are done first.
    ///
    /// # Errors
    /// A copy could not be enqueued.
    fn copy_host_blocks(
        &mut self,
        kv: &mut Self::Kv,
        host: &mut Self::HostKv,
        copies: &[HostCopy],
    ) -> Result<(), Self::Error>;

    /// Says which blocks ops will touch from now on that ops enqueued before did not: these are enqueued behind the copies under
    /// way that fill what they read, and behind those that touch what they write. By default there never are any under way.
    ///
    /// # Errors
    /// A copy has failed.
    fn order_after_host_copies(
        &mut self,
        _host: &mut Self::HostKv,
        _read: &[BlockId],
        _written: &[BlockId],
    ) -> Result<(), Self::Error> {
        Ok(())
    }

    /// Fetches under way. They arrive in the order in which they were started.
    ///
    /// # Errors
    /// A copy has failed.
    fn num_fetching(&mut self, _host: &mut Self::HostKv) -> Result<usize, Self::Error> {
        Ok(0)
    }

    /// Waits until some fetches have arrived, if any are under way.
    ///
    /// # Errors
    /// A copy has failed.
    fn await_fetches(&mut self, _host: &mut Self::HostKv) -> Result<(), Self::Error> {
        Ok(())
    }
}

/// Sizes of a [`Backend::Sampler`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SamplerLimits {
    /// Row slots.
    pub max_slots: usize,
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// Longest context of a slot's owner, in tokens.
    pub max_context_len: usize,
    /// Most jobs of one [`Sample`] op.
    pub max_jobs_at_once: usize,
}

/// What a slot's new owner has behind it.
#[derive(Clone, Copy, Debug)]
pub struct SlotHistory<'a> {
    /// Prompt, then output so far; empty if the owner has no penalties.
    pub tokens: &'a [TokenId],
    /// Length of the prompt.
    pub num_prompt_tokens: u32,
}
