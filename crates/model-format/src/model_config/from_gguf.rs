//! A [`ModelConfig`] from a GGUF file's metadata, in llama.cpp's vocabulary. Strict: a key below `{architecture}.` is read,
//! has the one value that is implemented, or refuses the file. Keys elsewhere describe the file, the tokenizer or its
//! making.

use std::collections::BTreeSet;

use super::{
    ConfigSource, ModelConfig, RopeConfig, RopeScaling, ensure,
    rope::{YARN_BETA_FAST, YARN_BETA_SLOW, yarn_attention_factor},
};
use crate::{
    FormatError, Gguf, TensorFormat, dequantize,
    gguf::{Metadata, Value},
};

/// llama.cpp's default where a file does not say.
const DEFAULT_ROPE_THETA: f32 = 10_000.0;
const MAX_ARCHITECTURE_BYTES: usize = 64;
const ROPE_FREQS: &str = "rope_freqs.weight";
const TOKENS: &str = "tokenizer.ggml.tokens";

impl ModelConfig {
    /// The architecture that a GGUF file names, and nothing else: ask for it first, so that a model of an unknown
    /// architecture is refused as such and not for the first of its unknown keys.
    pub fn architecture_from_gguf(gguf: &Gguf) -> Result<&str, FormatError> {
        const KEY: &str = "general.architecture";
        let architecture = gguf.metadata().string(KEY)?.ok_or_else(|| FormatError::missing(KEY))?;
        // It becomes part of every key and message.
        ensure(
            architecture.len() <= MAX_ARCHITECTURE_BYTES,
            format_args!("`{KEY}` has {} bytes; at most {MAX_ARCHITECTURE_BYTES} are allowed", architecture.len()),
        )?;
        Ok(architecture)
    }

    /// The hyperparameters in a GGUF file. `file` is the bytes that `gguf` was parsed from; the divisors of scaled rotary
    /// frequencies are tensor data there.
    ///
    /// # Errors
    /// A missing, mistyped or contradictory key, any key below `{architecture}.` that is not implemented, and a file that is
    /// only a part of a model.
    pub fn from_gguf(gguf: &Gguf, file: &[u8]) -> Result<Self, FormatError> {
        refuse_other_kinds(gguf)?;
        refuse_other_biases(gguf)?;
        let architecture = Self::architecture_from_gguf(gguf)?;
        let keys = &mut Keys::new(gguf.metadata(), architecture);
        let hidden_size = keys.require("embedding_length", Keys::u32)?;
        let num_heads = keys.require("attention.head_count", Keys::uniform_u32)?;
        let max_position_embeddings = keys.require("context_length", Keys::u32)?;
        let config = Self {
            architecture: architecture.to_owned(),
            source: ConfigSource::Gguf,
            hidden_size,
            intermediate_size: keys.require("feed_forward_length", Keys::uniform_u32)?,
            num_layers: keys.require("block_count", Keys::u32)?,
            num_heads,
            num_kv_heads: keys.uniform_u32("attention.head_count_kv")?.unwrap_or(num_heads),
            head_dim: head_dim(keys, hidden_size, num_heads)?,
            vocab_size: vocab_size(keys)?,
            rms_norm_eps: keys.require("attention.layer_norm_rms_epsilon", Keys::f32)?,
            max_position_embeddings,
            rope: RopeConfig {
                theta: f64::from(keys.f32("rope.freq_base")?.unwrap_or(DEFAULT_ROPE_THETA)),
                scaling: rope_scaling(keys, gguf, file, max_position_embeddings)?,
            },
            sliding_window: keys.u32("attention.sliding_window")?.filter(|window| *window > 0),
            tie_word_embeddings: gguf.tensor("output.weight").is_none(),
            attention_bias: gguf.tensor("blk.0.attn_q.bias").is_some(),
            bos_token_id: gguf.metadata().u32("tokenizer.ggml.bos_token_id")?,
            eos_token_ids: eos_token_ids(gguf.metadata())?,
            dtype: None,
        };
        keys.refuse_the_rest()?;
        config.validate()
    }
}

/// Refuses a file that is no whole model, or whose quantised blocks predate the current layouts.
fn refuse_other_kinds(gguf: &Gguf) -> Result<(), FormatError> {
    let metadata = gguf.metadata();
    if let Some(kind) = metadata.string("general.type")?.filter(|kind| *kind != "model") {
        return Err(FormatError::unsupported("general.type", kind));
    }
    if let Some(num_parts) = metadata.u32("split.count")?.filter(|num_parts| *num_parts > 1) {
        return Err(FormatError::PartOfModel { num_parts });
    }
    if let Some(version) = metadata.u32("general.quantization_version")?.filter(|version| *version != 2) {
        return Err(FormatError::unsupported("general.quantization_version", version));
    }
    Ok(())
}

/// GGUF says by its tensors alone which projections have a bias.
fn refuse_other_biases(gguf: &Gguf) -> Result<(), FormatError> {
    const IMPLEMENTED: [&str; 3] = [".attn_q.bias", ".attn_k.bias", ".attn_v.bias"];
    let is_other = |name: &str| name.ends_with(".bias") && !IMPLEMENTED.iter().any(|bias| name.ends_with(bias));
    match gguf.tensors().iter().find(|tensor| is_other(&tensor.name)) {
        Some(tensor) => Err(FormatError::unsupported(&tensor.name, "a bias")),
        None => Ok(()),
    }
}

fn head_dim(keys: &mut Keys<'_>, hidden_size: u32, num_heads: u32) -> Result<u32, FormatError> {
    let head_dim = match keys.u32("attention.key_length")? {
        Some(key_length) => key_length,
        None if hidden_size.checked_rem(num_heads) == Some(0) => hidden_size / num_heads,
        None => {
            return Err(FormatError::corrupt(format_args!(
                "an embedding length of {hidden_size} is not a multiple of {num_heads} heads"
            )));
        }
    };
    // Values as wide as keys, and all of the head rotated: nothing else is implemented.
    for key in ["attention.value_length", "rope.dimension_count"] {
        if let Some(other) = keys.u32(key)?.filter(|other| *other != head_dim) {
            return Err(FormatError::unsupported(keys.full(key), format_args!("{other} (heads are {head_dim} wide)")));
        }
    }
    Ok(head_dim)
}

fn vocab_size(keys: &mut Keys<'_>) -> Result<u32, FormatError> {
    if let Some(vocab_size) = keys.u32("vocab_size")? {
        return Ok(vocab_size);
    }
    let tokens = keys.metadata.strings(TOKENS)?.ok_or_else(|| FormatError::missing(keys.full("vocab_size")))?;
    u32::try_from(tokens.len()).map_err(|_| FormatError::corrupt(format_args!("`{TOKENS}` is too long")))
}

/// The tokens that end an answer, in ascending order. A chat model has several (end of turn, of message, of text), and
/// converters write down one or two; the others are known by their text, as in llama.cpp.
fn eos_token_ids(metadata: &Metadata) -> Result<Vec<u32>, FormatError> {
    const KEYS: [&str; 3] =
        ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];
    const TEXTS: [&str; 5] = ["<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|im_end|>", "<|endoftext|>"];
    /// `LLAMA_TOKEN_TYPE_CONTROL`.
    const CONTROL: i32 = 3;
    let mut ids = BTreeSet::new();
    for key in KEYS {
        ids.extend(metadata.u32(key)?);
    }
    let texts = metadata.strings(TOKENS)?.unwrap_or_default();
    let types = metadata.i32s("tokenizer.ggml.token_type")?.unwrap_or_default();
    let tokens = (0..).zip(texts.iter().zip(types));
    ids.extend(tokens.filter(|(_, (text, kind))| *kind == CONTROL && TEXTS.contains(&text.as_str())).map(|(id, _)| id));
    Ok(ids.into_iter().collect())
}

fn rope_scaling(
    keys: &mut Keys<'_>,
    gguf: &Gguf,
    file: &[u8],
    max_position_embeddings: u32,
) -> Result<RopeScaling, FormatError> {
    for name in ["rope_factors_long.weight", "rope_factors_short.weight"] {
        if gguf.tensor(name).is_some() {
            return Err(FormatError::unsupported(name, "a tensor of longrope scaling"));
        }
    }
    let factor = keys.f32("rope.scaling.factor")?.or(keys.f32("rope.scale_linear")?);
    // 0 and 1 both mean that nothing is scaled.
    let factor = factor.filter(|factor| *factor != 0.0 && *factor != 1.0).map(f64::from);
    let scaling_type = keys.string("rope.scaling.type")?.unwrap_or("linear");
    let original = keys.u32("rope.scaling.original_context_length")?.unwrap_or(max_position_embeddings);
    let attention_factor = f64::from(keys.f32("rope.scaling.attn_factor")?.unwrap_or(1.0));
    let beta_fast = keys.f32("rope.scaling.yarn_beta_fast")?.map_or(YARN_BETA_FAST, f64::from);
    let beta_slow = keys.f32("rope.scaling.yarn_beta_slow")?.map_or(YARN_BETA_SLOW, f64::from);
    let scaling = match (scaling_type, factor) {
        ("none", _) | ("linear" | "yarn", None) => RopeScaling::None,
        ("linear", Some(factor)) => RopeScaling::Linear { factor },
        ("yarn", Some(factor)) => RopeScaling::Yarn {
            factor,
            original_max_position_embeddings: original,
            // llama.cpp multiplies the file's factor and the paper's.
            attention_factor: attention_factor * yarn_attention_factor(factor),
            beta_fast,
            beta_slow,
        },
        _ => return Err(FormatError::unsupported(keys.full("rope.scaling.type"), scaling_type)),
    };
    match (rope_factors(gguf, file)?, scaling) {
        (None, scaling) => Ok(scaling),
        (Some(factors), RopeScaling::None) => Ok(RopeScaling::Factors(factors)),
        (Some(_), _) => Err(FormatError::unsupported(ROPE_FREQS, format_args!("beside {scaling_type} scaling"))),
    }
}

/// The divisors of the rotary frequencies, if the file has them.
fn rope_factors(gguf: &Gguf, file: &[u8]) -> Result<Option<Vec<f32>>, FormatError> {
    let Some(tensor) = gguf.tensor(ROPE_FREQS) else { return Ok(None) };
    let (TensorFormat::F32, &[len]) = (tensor.format, tensor.shape.as_slice()) else {
        return Err(FormatError::unsupported(
            ROPE_FREQS,
            format_args!("{} of shape {:?}", tensor.format, tensor.shape),
        ));
    };
    let bytes = file.get(tensor.data.clone()).ok_or_else(|| FormatError::missing(ROPE_FREQS))?;
    let mut factors = vec![0.0; len];
    dequantize(TensorFormat::F32, bytes, &mut factors);
    Ok(Some(factors))
}

/// The keys below `{architecture}.`, and which of them have been asked for.
struct Keys<'a> {
    metadata: &'a Metadata,
    prefix: String,
    asked: BTreeSet<&'static str>,
}

impl<'a> Keys<'a> {
    fn new(metadata: &'a Metadata, architecture: &str) -> Self {
        Self { metadata, prefix: format!("{architecture}."), asked: BTreeSet::new() }
    }

    fn full(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn ask(&mut self, key: &'static str) -> String {
        self.asked.insert(key);
        self.full(key)
    }

    fn u32(&mut self, key: &'static str) -> Result<Option<u32>, FormatError> {
        self.metadata.u32(&self.ask(key))
    }

    fn f32(&mut self, key: &'static str) -> Result<Option<f32>, FormatError> {
        self.metadata.f32(&self.ask(key))
    }

    fn string(&mut self, key: &'static str) -> Result<Option<&'a str>, FormatError> {
        self.metadata.string(&self.ask(key))
    }

    fn require<T>(
        &mut self,
        key: &'static str,
        get: fn(&mut Self, &'static str) -> Result<Option<T>, FormatError>,
    ) -> Result<T, FormatError> {
        get(self, key)?.ok_or_else(|| FormatError::missing(self.full(key)))
    }

    /// A number that a file may also give layer by layer, if it is the same for all of them.
    fn uniform_u32(&mut self, key: &'static str) -> Result<Option<u32>, FormatError> {
        let full = self.ask(key);
        if !matches!(self.metadata.get(&full), Some(Value::Array(_))) {
            return self.metadata.u32(&full);
        }
        let values = self.metadata.u32s(&full)?.unwrap_or_default();
        match values.first() {
            Some(first) if values.iter().all(|value| value == first) => Ok(Some(*first)),
            _ => Err(FormatError::unsupported(full, "a value of its own for each layer")),
        }
    }

    /// Refuses every key that was not asked for, unless its value says that it changes nothing.
    fn refuse_the_rest(&self) -> Result<(), FormatError> {
        for (key, value) in self.metadata.iter() {
            let Some(suffix) = key.strip_prefix(&self.prefix) else { continue };
            if !self.asked.contains(suffix) && !changes_nothing(suffix, value) {
                return Err(FormatError::unsupported(key, value));
            }
        }
        Ok(())
    }
}

/// Values of keys that leave the mathematics as implemented.
fn changes_nothing(suffix: &str, value: &Value) -> bool {
    match (suffix, value) {
        ("expert_count" | "expert_used_count", Value::U32(0)) => true,
        ("use_parallel_residual", Value::Bool(false)) => true,
        ("attention.causal", Value::Bool(true)) => true,
        ("rope.scaling.finetuned", Value::Bool(_)) => true,
        // llama.cpp's default, and what every file has that names it.
        ("rope.scaling.yarn_ext_factor", Value::F32(factor)) => *factor == 1.0,
        // The one order of rows that Llama files have ever had in GGUF.
        ("tensor_data_layout", Value::String(layout)) => layout == "Meta AI original pth",
        _ => false,
    }
}
