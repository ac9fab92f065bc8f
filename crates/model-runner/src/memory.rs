//! The memory ledger: every named line that a runner takes, computed from shapes before anything is allocated. Knows
//! sizes, not where memory comes from.

use std::borrow::Cow;

use serving_types::MemoryEntry;
use tensor_backend::{Backend, Element, KvLayout};

use crate::{
    Checkpoint, KvBudget, ModelError, RunnerConfig, activations::ActivationShapes, loader::planned_weight_bytes,
};

/// What a runner will take.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemoryPlan {
    /// All lines, the KV pool last.
    pub entries: Vec<MemoryEntry>,
    /// Blocks of the KV pool.
    pub num_blocks: u32,
    /// Bytes of one block over all layers.
    pub block_bytes: u64,
}

/// Name of the ledger's line of weights, which is checked against what the backend took.
pub(crate) const WEIGHTS: &str = "weights";

/// The ledger of a model under these limits. Allocates nothing; the backend only says how large its layouts are.
///
/// # Errors
/// A limit out of range, or a budget without room for the KV pool.
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
    let mut entries: Vec<MemoryEntry> = [
        (WEIGHTS, planned_weight_bytes(backend, checkpoint)),
        ("norms and biases", (vector_elements * Element::F32.bytes()) as u64),
        ("rotary table", (rope_elements * Element::F32.bytes()) as u64),
        ("activations", shapes.activation_bytes(backend.activation_element())),
        ("logits", shapes.logit_bytes()),
    ]
    .into_iter()
    .map(|(name, bytes)| MemoryEntry { name: Cow::Borrowed(name), bytes })
    .collect();
    let taken = entries.iter().map(|entry| entry.bytes).sum();
    let block_bytes = kv_layout(checkpoint, runner, 1).block_bytes();
    let num_blocks = num_blocks(runner.kv_cache, taken, block_bytes)?;
    entries.push(MemoryEntry { name: Cow::Borrowed("kv blocks"), bytes: block_bytes * u64::from(num_blocks) });
    Ok(MemoryPlan { entries, num_blocks, block_bytes })
}

/// The KV pool of this many blocks.
pub(crate) fn kv_layout(checkpoint: &Checkpoint<'_>, runner: &RunnerConfig, num_blocks: u32) -> KvLayout {
    let model = checkpoint.config();
    KvLayout {
        num_layers: model.num_layers as usize,
        num_blocks: num_blocks as usize,
        block_size: runner.block_size as usize,
        num_kv_heads: model.num_kv_heads as usize,
        head_dim: model.head_dim as usize,
        element: runner.kv_element,
    }
}

/// Blocks that fit a budget, of which `taken` bytes go to everything else.
fn num_blocks(budget: KvBudget, taken: u64, block: u64) -> Result<u32, ModelError> {
    let (budget, taken) = match budget {
        KvBudget::Blocks(num_blocks) => (u64::from(num_blocks).saturating_mul(block), 0),
        KvBudget::PoolBytes(bytes) => (bytes, 0),
        KvBudget::TotalBytes(bytes) => (bytes, taken),
    };
    match budget.saturating_sub(taken) / block {
        0 => Err(ModelError::NoRoomForKv { budget, taken, block }),
        num_blocks => Ok(u32::try_from(num_blocks).unwrap_or(u32::MAX)),
    }
}
