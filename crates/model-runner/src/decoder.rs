//! The dense decoder that all architectures share: its weights on a backend, and the order of its ops. Knows layers, not
//! rows, requests or where tensors came from.

use std::ops::Range;

use tensor_backend::{
    Backend, Embed, GatedMatMul, GatherRows, MatMul, MatMulAddRmsNorm, PagedAttention, QkNorm, RmsNorm, RopeAppend,
    WeightRole,
};

use crate::{
    ModelError,
    activations::Activations,
    loader::{ATTENTION_OUTPUT, DOWN, GATE_UP, Loader, QKV, embedding_role},
    rope::rotary_frequencies,
    tensor_id::{LayerTensor, TensorId},
};

/// Weights and fixed numbers of one model.
pub(crate) struct Decoder<B: Backend> {
    embedding: B::Weight,
    layers: Vec<Layer<B>>,
    final_norm: B::Buffer,
    /// `None`: the embedding is also the output head.
    head: Option<B::Weight>,
    rope: B::Buffer,
    num_heads: usize,
    attention_scale: f32,
    sliding_window: Option<usize>,
    eps: f32,
}

struct Layer<B: Backend> {
    input_norm: B::Buffer,
    qkv: B::Weight,
    qkv_bias: Option<B::Buffer>,
    /// Of queries, of keys.
    qk_norm: Option<(B::Buffer, B::Buffer)>,
    attention_output: B::Weight,
    post_attention_norm: B::Buffer,
    gate_up: B::Weight,
    down: B::Weight,
}

/// What a step works on, beside the weights.
pub(crate) struct StepState<'s, B: Backend> {
    pub(crate) backend: &'s mut B,
    pub(crate) activations: &'s mut Activations<B>,
    pub(crate) inputs: &'s B::Inputs,
    pub(crate) sampler: &'s B::Sampler,
    pub(crate) kv: &'s mut B::Kv,
    /// Tokens of the step, at least 1.
    pub(crate) rows: usize,
}

impl<B: Backend> Decoder<B> {
    /// Loads all weights, for contexts up to `max_model_len` tokens.
    pub(crate) fn load(loader: &mut Loader<'_, '_, B>, max_model_len: u32) -> Result<Self, ModelError> {
        let checkpoint = loader.checkpoint();
        let config = checkpoint.config();
        let embedding = loader.weight(&[TensorId::Embedding], embedding_role(checkpoint))?;
        let layers =
            (0..config.num_layers).map(|layer| Layer::load(loader, layer)).collect::<Result<Vec<_>, ModelError>>()?;
        let final_norm = loader.vector(&[TensorId::FinalNorm])?;
        let head = match config.tie_word_embeddings {
            true => None,
            false => Some(loader.weight(&[TensorId::OutputHead], WeightRole::Product)?),
        };
        let frequencies = rotary_frequencies(&config.rope, config.head_dim);
        Ok(Self {
            embedding,
            layers,
            final_norm,
            head,
            rope: loader.rotary_table(&frequencies, max_model_len as usize)?,
            num_heads: config.num_heads as usize,
            attention_scale: 1.0 / (config.head_dim as f32).sqrt(),
            sliding_window: config.sliding_window.map(|window| window as usize),
            eps: config.rms_norm_eps,
        })
    }

    /// Enqueues everything up to the final norm: appends the KV of all of the step's tokens, and leaves their normed
    /// residuals in `activations.normed`.
    pub(crate) fn forward(&self, step: &mut StepState<'_, B>) -> Result<(), B::Error> {
        let StepState { backend, activations, inputs, sampler, rows, .. } = step;
        backend.embed(Embed {
            inputs,
            sampler,
            table: &self.embedding,
            out: &mut activations.residual,
            rows: *rows,
        })?;
        let first = &self.layers[0];
        backend.rms_norm(RmsNorm {
            x: &activations.residual,
            weight: &first.input_norm,
            eps: self.eps,
            out: &mut activations.normed,
            rows: *rows,
        })?;
        for (index, layer) in self.layers.iter().enumerate() {
            self.attend(step, index, layer)?;
            let next_norm = self.layers.get(index + 1).map_or(&self.final_norm, |next| &next.input_norm);
            self.feed_forward(step, layer, next_norm)?;
        }
        Ok(())
    }

    /// Enqueues the output head for a range of the step's logit jobs, after [`forward`](Self::forward).
    pub(crate) fn logits(&self, step: &mut StepState<'_, B>, jobs: Range<usize>) -> Result<(), B::Error> {
        let StepState { backend, activations, inputs, .. } = step;
        let rows = jobs.len();
        backend.gather_rows(GatherRows { inputs, jobs, x: &activations.normed, out: &mut activations.gathered })?;
        backend.matmul(MatMul {
            x: &activations.gathered,
            weight: self.head.as_ref().unwrap_or(&self.embedding),
            bias: None,
            out: &mut activations.logits,
            rows,
        })
    }

    /// Normed residual through attention onto the residual stream, which is normed for the MLP. Appends the layer's KV.
    fn attend(&self, step: &mut StepState<'_, B>, index: usize, layer: &Layer<B>) -> Result<(), B::Error> {
        let StepState { backend, activations, inputs, kv, rows, .. } = step;
        let rows = *rows;
        backend.matmul(MatMul {
            x: &activations.normed,
            weight: &layer.qkv,
            bias: layer.qkv_bias.as_ref(),
            out: &mut activations.qkv,
            rows,
        })?;
        backend.rope_append(RopeAppend {
            inputs,
            qkv: &mut activations.qkv,
            rope: &self.rope,
            qk_norm: layer.qk_norm.as_ref().map(|(q_weight, k_weight)| QkNorm { q_weight, k_weight, eps: self.eps }),
            kv,
            layer: index,
            num_heads: self.num_heads,
            rows,
        })?;
        backend.paged_attention(PagedAttention {
            inputs,
            qkv: &activations.qkv,
            kv,
            layer: index,
            num_heads: self.num_heads,
            scale: self.attention_scale,
            sliding_window: self.sliding_window,
            out: &mut activations.attention,
            rows,
        })?;
        backend.matmul_add_rms_norm(MatMulAddRmsNorm {
            x: &activations.attention,
            weight: &layer.attention_output,
            product: &mut activations.branch,
            residual: &mut activations.residual,
            norm: &layer.post_attention_norm,
            eps: self.eps,
            out: &mut activations.normed,
            rows,
        })
    }

    /// Normed residual through the MLP onto the residual stream, which is normed for what comes next.
    fn feed_forward(
        &self,
        step: &mut StepState<'_, B>,
        layer: &Layer<B>,
        next_norm: &B::Buffer,
    ) -> Result<(), B::Error> {
        let StepState { backend, activations, rows, .. } = step;
        let rows = *rows;
        backend.gated_matmul(GatedMatMul {
            x: &activations.normed,
            weight: &layer.gate_up,
            out: &mut activations.mlp,
            rows,
        })?;
        backend.matmul_add_rms_norm(MatMulAddRmsNorm {
            x: &activations.mlp,
            weight: &layer.down,
            product: &mut activations.branch,
            residual: &mut activations.residual,
            norm: next_norm,
            eps: self.eps,
            out: &mut activations.normed,
            rows,
        })
    }
}

impl<B: Backend> Layer<B> {
    fn load(loader: &mut Loader<'_, '_, B>, layer: u32) -> Result<Self, ModelError> {
        use LayerTensor::{InputNorm, KeyBias, KeyNorm, PostAttentionNorm, QueryBias, QueryNorm, ValueBias};
        let (has_bias, has_norm) = (loader.checkpoint().has_qkv_bias(), loader.checkpoint().has_qk_norm());
        Ok(Self {
            input_norm: loader.layer_vector(layer, &[InputNorm])?,
            qkv: loader.layer_weight(layer, QKV)?,
            qkv_bias: has_bias.then(|| loader.layer_vector(layer, &[QueryBias, KeyBias, ValueBias])).transpose()?,
            qk_norm: match has_norm {
                true => Some((loader.layer_vector(layer, &[QueryNorm])?, loader.layer_vector(layer, &[KeyNorm])?)),
                false => None,
            },
            attention_output: loader.layer_weight(layer, ATTENTION_OUTPUT)?,
            post_attention_norm: loader.layer_vector(layer, &[PostAttentionNorm])?,
            gate_up: loader.layer_weight(layer, GATE_UP)?,
            down: loader.layer_weight(layer, DOWN)?,
        })
    }
}
