//! The buffers between ops, for the largest step. Knows their shapes, not the ops.

use model_format::ModelConfig;
use tensor_backend::{Backend, Element};

use crate::{
    ModelError, RunnerConfig,
    memory::{Line, Taken},
};

/// Buffers that live as long as the runner and are written anew by every step.
pub(crate) struct Activations<B: Backend> {
    /// `[tokens, hidden]`: the residual stream.
    pub(crate) residual: B::Buffer,
    /// `[tokens, hidden]`: the residual stream, normed.
    pub(crate) normed: B::Buffer,
    /// `[tokens, hidden]`: what attention or the MLP adds to the residual stream.
    pub(crate) branch: B::Buffer,
    /// `[tokens, (num_heads + 2 num_kv_heads) * head_dim]`
    pub(crate) qkv: B::Buffer,
    /// `[tokens, num_heads * head_dim]`
    pub(crate) attention: B::Buffer,
    /// `[tokens, intermediate]`
    pub(crate) mlp: B::Buffer,
    /// `[logit rows, hidden]`: normed residuals of the positions whose logits are made next.
    pub(crate) gathered: B::Buffer,
    /// `[logit rows, vocab]`, f32
    pub(crate) logits: B::Buffer,
}

/// The shapes of [`Activations`].
pub(crate) struct ActivationShapes {
    tokens: usize,
    logit_rows: usize,
    hidden: usize,
    intermediate: usize,
    q_width: usize,
    qkv_width: usize,
    vocab: usize,
}

impl ActivationShapes {
    pub(crate) fn new(model: &ModelConfig, runner: &RunnerConfig) -> Self {
        let head_dim = model.head_dim as usize;
        let (num_heads, num_kv_heads) = (model.num_heads as usize, model.num_kv_heads as usize);
        Self {
            tokens: runner.max_batch_tokens as usize,
            logit_rows: runner.logit_rows(),
            hidden: model.hidden_size as usize,
            intermediate: model.intermediate_size as usize,
            q_width: num_heads * head_dim,
            qkv_width: (num_heads + 2 * num_kv_heads) * head_dim,
            vocab: model.vocab_size as usize,
        }
    }

    /// Bytes of all buffers but the logits, with this element.
    pub(crate) fn activation_bytes(&self, element: Element) -> u64 {
        let a_token = 3 * self.hidden + self.qkv_width + self.q_width + self.intermediate;
        ((self.tokens * a_token + self.logit_rows * self.hidden) * element.bytes()) as u64
    }

    /// Bytes of the logits.
    pub(crate) fn logit_bytes(&self) -> u64 {
        (self.logit_rows * self.vocab * Element::F32.bytes()) as u64
    }
}

impl<B: Backend> Activations<B> {
    pub(crate) fn alloc(backend: &mut B, shapes: &ActivationShapes, taken: &mut Taken) -> Result<Self, ModelError> {
        let &ActivationShapes { tokens, logit_rows, hidden, intermediate, q_width, qkv_width, vocab } = shapes;
        let logits = backend.alloc(logit_rows, vocab, Element::F32).map_err(ModelError::backend)?;
        taken.put(Line::Logits, backend);
        let element = backend.activation_element();
        let mut alloc = |rows, cols| backend.alloc(rows, cols, element).map_err(ModelError::backend);
        let activations = Self {
            residual: alloc(tokens, hidden)?,
            normed: alloc(tokens, hidden)?,
            branch: alloc(tokens, hidden)?,
            qkv: alloc(tokens, qkv_width)?,
            attention: alloc(tokens, q_width)?,
            mlp: alloc(tokens, intermediate)?,
            gathered: alloc(logit_rows, hidden)?,
            logits,
        };
        taken.put(Line::Activations, backend);
        Ok(activations)
    }
}
