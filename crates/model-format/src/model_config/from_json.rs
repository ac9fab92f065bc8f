//! A [`ModelConfig`] from a Hugging Face config.json, in the spelling of transformers 4 or 5. Strict: a key is read, has
//! the one value that is implemented, is known to be harmless, or refuses the file.

use super::{
    ConfigSource, ModelConfig, RopeConfig, RopeScaling,
    rope::{YARN_BETA_FAST, YARN_BETA_SLOW, yarn_attention_factor},
};
use crate::{FormatError, TensorFormat, json::Object};

const FILE: &str = "config.json";

/// transformers' default for every architecture that is supported.
const DEFAULT_ROPE_THETA: f64 = 10_000.0;

/// What a `model_type` means where a config was saved without its model, and so without `architectures`.
const CAUSAL_MODELS: [(&str, &str); 4] = [
    ("llama", "LlamaForCausalLM"),
    ("mistral", "MistralForCausalLM"),
    ("qwen2", "Qwen2ForCausalLM"),
    ("qwen3", "Qwen3ForCausalLM"),
];

/// Keys that change the mathematics, with the texts of the values that leave it as implemented.
const IMPLEMENTED_ONLY_AS: [(&str, &[&str]); 10] = [
    ("add_cross_attention", &["false"]),
    // It would give the output projection of the attention a bias, too.
    ("attention_bias", &["false"]),
    ("hidden_act", &["\"silu\"", "\"swish\""]),
    ("is_encoder_decoder", &["false"]),
    ("mlp_bias", &["false"]),
    ("partial_rotary_factor", &["1", "1.0"]),
    ("pruned_heads", &["{}"]),
    ("rope_interleaved", &["false"]),
    ("use_mrope", &["false"]),
    ("use_qk_norm", &["false"]),
];

/// Keys that do not change the logits: training, bookkeeping, output options of the Python classes, and defaults of
/// generation, which belong to generation_config.json.
#[rustfmt::skip]
const HARMLESS: [&str; 69] = [
    "_attn_implementation", "_attn_implementation_autoset", "_commit_hash", "_from_model_config", "_name_or_path",
    "attention_dropout", "attn_implementation", "bad_words_ids", "begin_suppress_tokens", "chunk_size_feed_forward",
    "classifier_dropout", "cross_attention_hidden_size", "decoder_start_token_id", "diversity_penalty", "do_sample",
    "early_stopping", "embd_pdrop", "encoder_no_repeat_ngram_size", "exponential_decay_length_penalty", "finetuning_task",
    "forced_bos_token_id", "forced_eos_token_id", "gradient_checkpointing", "hidden_dropout", "id2label",
    "initializer_range", "is_decoder", "is_llama_config", "label2id", "length_penalty",
    "max_length", "max_sequence_length", "min_length", "no_repeat_ngram_size", "num_beam_groups",
    "num_beams", "num_return_sequences", "output_attentions", "output_hidden_states",
    "output_router_logits", "output_scores", "pad_token_id", "prefix", "pretraining_tp",
    "problem_type", "remove_invalid_values", "repetition_penalty", "resid_pdrop", "return_dict",
    "return_dict_in_generate", "sep_token_id", "suppress_tokens", "task_specific_params", "temperature",
    "tf_legacy_loss", "tie_encoder_decoder", "tokenizer_class", "top_k", "top_p",
    "torchscript", "transformers.js_config", "transformers_version", "typical_p", "unk_token_id",
    "unsloth_fixed", "unsloth_version", "use_bfloat16", "use_cache", "use_flash_attn",
];

impl ModelConfig {
    /// The architecture that a config.json names, and nothing else: ask for it first, so that a model of an unknown
    /// architecture is refused as such and not for the first of its unknown fields.
    pub fn architecture_from_json(config_json: &str) -> Result<String, FormatError> {
        architecture(&mut Object::parse(FILE, config_json)?)
    }

    /// The hyperparameters in the text of a config.json.
    ///
    /// # Errors
    /// A missing, mistyped or contradictory field, and any field that is neither implemented nor known to be harmless.
    pub fn from_json(config_json: &str) -> Result<Self, FormatError> {
        let mut fields = Object::parse(FILE, config_json)?;
        let architecture = architecture(&mut fields)?;
        let hidden_size = fields.require("hidden_size")?;
        let num_heads = fields.require("num_attention_heads")?;
        let num_layers = fields.require("num_hidden_layers")?;
        let vocab_size = fields.require("vocab_size")?;
        let max_position_embeddings = fields.require("max_position_embeddings")?;
        let config = Self {
            source: ConfigSource::HuggingFace,
            hidden_size,
            intermediate_size: fields.require("intermediate_size")?,
            num_layers,
            num_heads,
            num_kv_heads: num_kv_heads(&mut fields, &architecture, num_heads)?,
            head_dim: head_dim(&mut fields, &architecture, hidden_size, num_heads)?,
            vocab_size,
            rms_norm_eps: fields.require("rms_norm_eps")?,
            max_position_embeddings,
            rope: rope(&mut fields, max_position_embeddings)?,
            sliding_window: sliding_window(&mut fields, &architecture, num_layers)?,
            tie_word_embeddings: fields.take("tie_word_embeddings")?.unwrap_or(false),
            attention_bias: false,
            bos_token_id: fields.take("bos_token_id")?.filter(|id| *id < vocab_size),
            eos_token_ids: eos_token_ids(&mut fields, vocab_size)?,
            dtype: dtype(&mut fields)?,
            architecture,
        };
        refuse_the_rest(&mut fields)?;
        config.validate()
    }
}

fn architecture(fields: &mut Object<'_>) -> Result<String, FormatError> {
    const KEY: &str = "architectures";
    let model_type: Option<String> = fields.take("model_type")?;
    let Some(text) = fields.take_text(KEY) else {
        let known = CAUSAL_MODELS.iter().find(|(known, _)| model_type.as_deref() == Some(*known));
        return known.map(|(_, name)| (*name).to_owned()).ok_or_else(|| FormatError::missing(KEY));
    };
    match serde_json::from_str::<[String; 1]>(text) {
        Ok([architecture]) => Ok(architecture),
        Err(_) => Err(FormatError::unsupported(KEY, text)),
    }
}

/// Left out, it means as many as query heads in Llama, and a number of the class's own elsewhere, which is not guessed.
fn num_kv_heads(fields: &mut Object<'_>, architecture: &str, num_heads: u32) -> Result<u32, FormatError> {
    const KEY: &str = "num_key_value_heads";
    if !fields.contains(KEY) && architecture != "LlamaForCausalLM" {
        return Err(FormatError::missing(KEY));
    }
    Ok(fields.take(KEY)?.unwrap_or(num_heads))
}

/// Left out, it follows from the hidden size, except in Qwen3, where the class has a number of its own.
fn head_dim(fields: &mut Object<'_>, architecture: &str, hidden_size: u32, num_heads: u32) -> Result<u32, FormatError> {
    const KEY: &str = "head_dim";
    if let Some(head_dim) = fields.take(KEY)? {
        return Ok(head_dim);
    }
    if architecture.starts_with("Qwen3") {
        return Err(FormatError::missing(KEY));
    }
    match hidden_size.checked_rem(num_heads) {
        Some(0) => Ok(hidden_size / num_heads),
        _ => Err(FormatError::corrupt(format_args!(
            "{FILE}: hidden_size {hidden_size} is not a multiple of num_attention_heads {num_heads}"
        ))),
    }
}

/// Configs of models cut small keep the ids of the large vocabulary. A token outside of the model's own is never
/// generated, so it ends nothing.
fn eos_token_ids(fields: &mut Object<'_>, vocab_size: u32) -> Result<Vec<u32>, FormatError> {
    let mut ids = fields.take_one_or_many("eos_token_id")?;
    ids.retain(|id| *id < vocab_size);
    Ok(ids)
}

fn dtype(fields: &mut Object<'_>) -> Result<Option<TensorFormat>, FormatError> {
    let mut dtype = None;
    for key in ["torch_dtype", "dtype"] {
        let Some(name) = fields.take::<String>(key)? else { continue };
        dtype = Some(match name.strip_prefix("torch.").unwrap_or(&name) {
            "float32" => TensorFormat::F32,
            "float16" => TensorFormat::F16,
            "bfloat16" => TensorFormat::BF16,
            _ => return Err(FormatError::unsupported(key, name)),
        });
    }
    Ok(dtype)
}

/// The window of a model whose layers all have it. A model that mixes layers with and without one is refused.
fn sliding_window(fields: &mut Object<'_>, architecture: &str, num_layers: u32) -> Result<Option<u32>, FormatError> {
    const KEY: &str = "sliding_window";
    const SPARED: &str = "max_window_layers";
    // Left out, transformers would take 4096 for Mistral.
    if architecture == "MistralForCausalLM" && !fields.contains(KEY) {
        return Err(FormatError::missing(KEY));
    }
    let window: Option<u32> = fields.take(KEY)?;
    // Qwen's classes ask for the window twice, and the switch is off unless set. Others have no switch.
    let is_qwen = architecture.starts_with("Qwen");
    let is_used = fields.take("use_sliding_window")?.unwrap_or(!is_qwen);
    let max_window_layers: Option<u32> = fields.take(SPARED)?;
    let window = window.filter(|_| is_used);
    let layer_types = fields.take_text("layer_types");
    if let Some(layer_types) = layer_types.filter(|_| is_qwen) {
        return uniform_layer_types(layer_types, window, num_layers);
    }
    let window = match (window, max_window_layers) {
        // Left out, transformers would spare 28.
        (Some(_), None) if is_qwen => return Err(FormatError::missing(SPARED)),
        // The first `max_window_layers` layers attend to everything.
        (Some(_), Some(spared)) if spared >= num_layers => None,
        (Some(_), Some(spared)) if spared > 0 => return Err(FormatError::unsupported(SPARED, spared)),
        // transformers ignores the field in Llama models, and whoever wrote it did not mean that.
        (Some(window), _) if architecture == "LlamaForCausalLM" => return Err(FormatError::unsupported(KEY, window)),
        (window, _) => window,
    };
    // Llama's and Mistral's classes do not look at the layers' types, so these may only say the same.
    match layer_types {
        Some(text) if uniform_layer_types(text, window, num_layers)? != window => {
            Err(FormatError::unsupported("layer_types", text))
        }
        _ => Ok(window),
    }
}

fn uniform_layer_types(text: &str, window: Option<u32>, num_layers: u32) -> Result<Option<u32>, FormatError> {
    const KEY: &str = "layer_types";
    let layer_types: Vec<String> =
        serde_json::from_str(text).map_err(|e| FormatError::corrupt(format_args!("{FILE}: `{KEY}`: {e}")))?;
    if layer_types.len() != num_layers as usize {
        return Err(FormatError::corrupt(format_args!(
            "{FILE}: `{KEY}` has {} entries for {num_layers} layers",
            layer_types.len()
        )));
    }
    if layer_types.iter().all(|layer_type| layer_type == "full_attention") {
        return Ok(None);
    }
    if layer_types.iter().all(|layer_type| layer_type == "sliding_attention") {
        return window.map(Some).ok_or_else(|| FormatError::missing("sliding_window"));
    }
    Err(FormatError::unsupported(KEY, text))
}

/// Reads `rope_theta` and `rope_scaling` (transformers 4), or `rope_parameters` (transformers 5), which holds both.
fn rope(fields: &mut Object<'_>, max_position_embeddings: u32) -> Result<RopeConfig, FormatError> {
    let outer_theta: Option<f64> = fields.take("rope_theta")?;
    let old = fields.take_object("rope_scaling")?;
    let new = fields.take_object("rope_parameters")?;
    if old.is_some() && new.is_some() {
        return Err(FormatError::corrupt(format_args!("{FILE} has both `rope_scaling` and `rope_parameters`")));
    }
    let Some(mut parameters) = new.or(old) else {
        return Ok(RopeConfig { theta: outer_theta.unwrap_or(DEFAULT_ROPE_THETA), scaling: RopeScaling::None });
    };
    let inner_theta: Option<f64> = parameters.take("rope_theta")?;
    if let (Some(inner), Some(outer)) = (inner_theta, outer_theta)
        && inner != outer
    {
        return Err(FormatError::corrupt(format_args!("{FILE} has two values of `rope_theta`: {outer} and {inner}")));
    }
    let theta = inner_theta.or(outer_theta).unwrap_or(DEFAULT_ROPE_THETA);
    let scaling = rope_scaling(&mut parameters, max_position_embeddings)?;
    Ok(RopeConfig { theta, scaling })
}

fn rope_scaling(parameters: &mut Object<'_>, max_position_embeddings: u32) -> Result<RopeScaling, FormatError> {
    const ORIGINAL: &str = "original_max_position_embeddings";
    let old_spelling: Option<String> = parameters.take("type")?;
    let new_spelling: Option<String> = parameters.take("rope_type")?;
    let rope_type = new_spelling.or(old_spelling).unwrap_or_else(|| "default".to_owned());
    let scaling = match rope_type.as_str() {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: parameters.require("factor")? },
        "llama3" => RopeScaling::Llama3 {
            factor: parameters.require("factor")?,
            low_freq_factor: parameters.require("low_freq_factor")?,
            high_freq_factor: parameters.require("high_freq_factor")?,
            original_max_position_embeddings: parameters.require(ORIGINAL)?,
        },
        "yarn" => {
            let factor = parameters.require("factor")?;
            RopeScaling::Yarn {
                factor,
                original_max_position_embeddings: parameters.take(ORIGINAL)?.unwrap_or(max_position_embeddings),
                attention_factor: parameters.take("attention_factor")?.unwrap_or_else(|| yarn_attention_factor(factor)),
                beta_fast: parameters.take("beta_fast")?.unwrap_or(YARN_BETA_FAST),
                beta_slow: parameters.take("beta_slow")?.unwrap_or(YARN_BETA_SLOW),
            }
        }
        _ => return Err(FormatError::unsupported("rope_type", rope_type)),
    };
    // The other fields of every type change its formula, but for the note that a model was trained with it.
    parameters.take_text("finetuned");
    refuse_unless(parameters, "partial_rotary_factor", &["1", "1.0"])?;
    refuse_unless(parameters, "truncate", &["true"])?;
    match parameters.rest().next() {
        Some((key, value)) => Err(FormatError::unsupported(format_args!("{rope_type} rope: {key}"), value)),
        None => Ok(scaling),
    }
}

fn refuse_the_rest(fields: &mut Object<'_>) -> Result<(), FormatError> {
    for (key, implemented) in IMPLEMENTED_ONLY_AS {
        refuse_unless(fields, key, implemented)?;
    }
    match fields.rest().find(|(key, _)| !HARMLESS.contains(key)) {
        Some((key, value)) => Err(FormatError::unsupported(key, value)),
        None => Ok(()),
    }
}

/// Takes a field and refuses it unless its text is one of `implemented`.
fn refuse_unless(fields: &mut Object<'_>, key: &str, implemented: &[&str]) -> Result<(), FormatError> {
    match fields.take_text(key) {
        Some(text) if !implemented.contains(&text) => Err(FormatError::unsupported(key, text)),
        _ => Ok(()),
    }
}
