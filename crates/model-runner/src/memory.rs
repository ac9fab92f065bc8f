//! The memory ledger: every named line that a runner takes, computed from shapes before anything is allocated. Knows
//! sizes, not where memory comes from.

use std::borrow::Cow;

use serving_types::MemoryEntry;
use tensor_backend::{Backend, Element, KvLayout};

use crate::{
    Checkpoint, ModelError, RunnerConfig,
    activations::ActivationShapes,
    loader::{planned_scratch_bytes, planned_weight_bytes},
};

/// What a runner will take.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemoryPlan {
    /// All lines of device memory, the KV pool last.
    pub entries: Vec<MemoryEntry>,
    /// Bytes of one block over all layers.
    pub block_bytes: u64,
}

impl MemoryPlan {
    pub(crate) fn bytes(&self, line: Line) -> u64 {
        self.entries[line as usize].bytes
    }
}

/// A line of the ledger, in its order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Line {
    Weights,
    Vectors,
    RotaryTable,
    Activations,
    Logits,
    Scratch,
    StepInputs,
    Sampler,
    Samples,
    KvBlocks,
}

impl Line {
    const COUNT: usize = Self::KvBlocks as usize + 1;

    fn name(self) -> &'static str {
        match self {
            Self::Weights => "weights",
            Self::Vectors => "norms and biases",
            Self::RotaryTable => "rotary table",
            Self::Activations => "activations",
            Self::Logits => "logits",
            Self::Scratch => "scratch",
            Self::StepInputs => "step inputs",
            Self::Sampler => "sampler",
            Self::Samples => "samples",
            Self::KvBlocks => "kv blocks",
        }
    }
}

/// The ledger of a model under these limits: all that a backend takes for it. Beside it are the host's few arrays of a
/// step's size, and what each running request brings. Allocates nothing; the backend only says how large its layouts are.
///
/// # Errors
/// A limit out of range.
pub fn plan_memory<B: Backend>(
    backend: &B,
    checkpoint: &Checkpoint<'_>,
    runner: &RunnerConfig,
) -> Result<MemoryPlan, ModelError> {
    let model = checkpoint.config();
    runner.check(model.vocab_size, checkpoint.max_context_len())?;
    let shapes = ActivationShapes::new(model, runner);
    let vector_elements: usize =
        checkpoint.tensors().filter(|tensor| tensor.shape.len() == 1).map(|tensor| tensor.shape[0]).sum();
    let rope_elements = runner.max_model_len as usize * model.head_dim as usize;
    let samples_bytes = backend.planned_samples_bytes(runner.max_jobs(), runner.max_top_logprobs as usize);
    let mut lines = vec![
        (Line::Weights, planned_weight_bytes(backend, checkpoint)),
        (Line::Vectors, (vector_elements * Element::F32.bytes()) as u64),
        (Line::RotaryTable, (rope_elements * Element::F32.bytes()) as u64),
        (Line::Activations, shapes.activation_bytes(backend.activation_element())),
        (Line::Logits, shapes.logit_bytes()),
        (Line::Scratch, planned_scratch_bytes(backend, checkpoint, runner)),
        (Line::StepInputs, backend.planned_inputs_bytes(&runner.input_limits(model))),
        (Line::Sampler, backend.planned_sampler_bytes(&runner.sampler_limits(model))),
        (Line::Samples, samples_bytes * u64::from(backend.max_steps_in_flight())),
    ];
    let block_bytes = kv_layout(checkpoint, runner).block_bytes();
    lines.push((Line::KvBlocks, block_bytes * u64::from(runner.num_blocks)));
    let entry = |(line, bytes): (Line, u64)| MemoryEntry { name: Cow::Borrowed(line.name()), bytes };
    Ok(MemoryPlan { entries: lines.into_iter().map(entry).collect(), block_bytes })
}

/// What a backend takes while a model is loaded, line by line.
#[derive(Debug)]
pub(crate) struct Taken {
    /// Bytes that the backend had taken at the last look.
    seen: u64,
    lines: [u64; Line::COUNT],
}

impl Taken {
    pub(crate) fn new<B: Backend>(backend: &B) -> Self {
        Self { seen: backend.allocated_bytes(), lines: [0; Line::COUNT] }
    }

    /// Puts on a line what the backend has taken since the last look.
    pub(crate) fn put<B: Backend>(&mut self, line: Line, backend: &B) {
        let now = backend.allocated_bytes();
        self.lines[line as usize] += now - self.seen;
        self.seen = now;
    }

    /// Fails where more or less was taken than planned.
    pub(crate) fn check(&self, plan: &MemoryPlan) -> Result<(), ModelError> {
        assert_eq!(plan.entries.len(), Line::COUNT);
        for (entry, &taken) in plan.entries.iter().zip(&self.lines) {
            if taken != entry.bytes {
                return Err(ModelError::Ledger { name: entry.name.clone(), planned: entry.bytes, taken });
            }
        }
        Ok(())
    }
}

/// The KV pool.
pub(crate) fn kv_layout(checkpoint: &Checkpoint<'_>, runner: &RunnerConfig) -> KvLayout {
    let model = checkpoint.config();
    KvLayout {
        num_layers: model.num_layers as usize,
        num_blocks: runner.num_blocks as usize,
        block_size: runner.block_size as usize,
        num_kv_heads: model.num_kv_heads as usize,
        head_dim: model.head_dim as usize,
        element: runner.kv_element,
    }
}

/// The host's KV pool: blocks of the same shape.
pub(crate) fn host_kv_layout(checkpoint: &Checkpoint<'_>, runner: &RunnerConfig) -> KvLayout {
    KvLayout { num_blocks: runner.num_host_blocks as usize, ..kv_layout(checkpoint, runner) }
}

/// What the host's KV pool takes of host memory.
pub(crate) fn host_kv_entry(layout: &KvLayout) -> MemoryEntry {
    MemoryEntry { name: Cow::Borrowed("kv blocks in host memory"), bytes: layout.total_bytes() }
}
