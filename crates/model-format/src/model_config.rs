//! The hyperparameters of a dense decoder in one vocabulary, whatever file they came from. It knows no architecture's
//! tensors or graph; which architectures can be computed is the runner's business.

mod from_gguf;
mod from_json;
mod rope;

use std::fmt::Display;

pub use rope::{RopeConfig, RopeScaling};

use crate::{FormatError, TensorFormat};

/// Where a configuration came from. It decides the architecture's spelling, the tensors' names and, for Llama, the order of
/// the rows of the query and key projections: GGUF stores each head's rotary pairs interleaved, Hugging Face in halves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigSource {
    /// The metadata of a GGUF file.
    Gguf,
    /// The config.json of a Hugging Face folder.
    HuggingFace,
}

/// Hyperparameters of a dense decoder.
///
/// Both constructors refuse by name every field that changes the mathematics and is not represented here, so a value of
/// this type says everything that a computation needs to know.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// The architecture as the file names it: "LlamaForCausalLM" (config.json) or "llama" (GGUF).
    pub architecture: String,
    /// The kind of file.
    pub source: ConfigSource,
    /// Width of the residual stream.
    pub hidden_size: u32,
    /// Width of the gated MLP (SiLU).
    pub intermediate_size: u32,
    /// Number of decoder layers.
    pub num_layers: u32,
    /// Number of query heads; a multiple of `num_kv_heads`.
    pub num_heads: u32,
    /// Number of key and value heads.
    pub num_kv_heads: u32,
    /// Width of a head, of queries, keys and values alike; even. All of it is rotated.
    pub head_dim: u32,
    /// Number of tokens in the vocabulary, padding included: rows of the embedding.
    pub vocab_size: u32,
    /// The epsilon of every RMS norm.
    pub rms_norm_eps: f32,
    /// The longest sequence, in tokens, that the file says the model is made for.
    pub max_position_embeddings: u32,
    /// The rotary position embedding.
    pub rope: RopeConfig,
    /// Each position attends to this many last positions, itself included, in every layer; `None`: to all.
    pub sliding_window: Option<u32>,
    /// Whether the output projection is the embedding.
    pub tie_word_embeddings: bool,
    /// Whether the query, key and value projections have a bias. GGUF shows it by its tensors; config.json implies it by
    /// the architecture (Qwen2), which is the runner's to know.
    pub attention_bias: bool,
    /// The token that begins a sequence.
    pub bos_token_id: Option<u32>,
    /// The tokens that end a sequence, all in the vocabulary; empty where the file names none.
    pub eos_token_ids: Vec<u32>,
    /// The element type that config.json recommends for weights.
    pub dtype: Option<TensorFormat>,
}

/// The largest values that are believed, several times those of any known model. They keep products of a few of them
/// within 64 bits, and a lying file from asking for absurd memory.
mod limits {
    pub(super) const MAX_LAYERS: u32 = 1 << 10;
    pub(super) const MAX_HEADS: u32 = 1 << 12;
    pub(super) const MAX_HEAD_DIM: u32 = 1 << 12;
    pub(super) const MAX_WIDTH: u32 = 1 << 20;
    pub(super) const MAX_VOCAB_SIZE: u32 = 1 << 24;
    pub(super) const MAX_POSITIONS: u32 = 1 << 30;
}

impl ModelConfig {
    /// Checks what must hold between fields, whatever file they came from.
    fn validate(self) -> Result<Self, FormatError> {
        use limits::{MAX_HEAD_DIM, MAX_HEADS, MAX_LAYERS, MAX_POSITIONS, MAX_VOCAB_SIZE, MAX_WIDTH};
        for (name, value, max) in [
            ("hidden size", self.hidden_size, MAX_WIDTH),
            ("intermediate size", self.intermediate_size, MAX_WIDTH),
            ("number of layers", self.num_layers, MAX_LAYERS),
            ("number of heads", self.num_heads, MAX_HEADS),
            ("number of key-value heads", self.num_kv_heads, MAX_HEADS),
            ("head dimension", self.head_dim, MAX_HEAD_DIM),
            ("vocabulary size", self.vocab_size, MAX_VOCAB_SIZE),
            ("number of positions", self.max_position_embeddings, MAX_POSITIONS),
            ("sliding window", self.sliding_window.unwrap_or(1), MAX_POSITIONS),
        ] {
            ensure(value >= 1 && value <= max, format_args!("the {name} is {value}; 1 to {max} is possible"))?;
        }
        let Self { num_heads, num_kv_heads, head_dim, rms_norm_eps, vocab_size, .. } = self;
        ensure(
            num_heads.is_multiple_of(num_kv_heads),
            format_args!("{num_heads} heads cannot share {num_kv_heads} key-value heads evenly"),
        )?;
        ensure(head_dim.is_multiple_of(2), format_args!("a head dimension of {head_dim} has no rotary pairs"))?;
        ensure(
            rms_norm_eps.is_finite() && rms_norm_eps >= 0.0,
            format_args!("the RMS norm epsilon is {rms_norm_eps}"),
        )?;
        for &token_id in self.bos_token_id.iter().chain(&self.eos_token_ids) {
            ensure(
                token_id < vocab_size,
                format_args!("the special token {token_id} is outside the vocabulary of {vocab_size}"),
            )?;
        }
        self.rope.validate(head_dim)?;
        Ok(self)
    }
}

fn ensure(holds: bool, otherwise: impl Display) -> Result<(), FormatError> {
    if holds { Ok(()) } else { Err(FormatError::corrupt(otherwise)) }
}
