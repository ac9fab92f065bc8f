//! The sampling values that a model's authors recommend, from generation_config.json or a GGUF file. It knows no request
//! and applies nothing.

use crate::{FormatError, Gguf, json::Object};

/// The values that a model's files recommend. `None` is whatever they do not say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationDefaults {
    /// The tokens that end an answer; empty where the file names none.
    pub eos_token_ids: Vec<u32>,
    /// Whether to sample at all; `false` recommends the most probable token.
    pub do_sample: Option<bool>,
    /// Divides the logits; at least 0.
    pub temperature: Option<f32>,
    /// Nucleus: keep the most probable tokens up to this total probability, in (0, 1].
    pub top_p: Option<f32>,
    /// Keep this many most probable tokens; 0 keeps all.
    pub top_k: Option<u32>,
    /// Keep tokens of at least this share of the most probable token's probability, in [0, 1].
    pub min_p: Option<f32>,
    /// Divides positive and multiplies negative logits of tokens already seen; above 0.
    pub repetition_penalty: Option<f32>,
    /// The most tokens of an answer.
    pub max_new_tokens: Option<u32>,
    /// Other keys, which no field above represents: worth a warning, since they are not applied.
    pub ignored: Vec<String>,
}

/// Keys that say how the file came to be, and options of the Python classes that choose no token.
#[rustfmt::skip]
const HARMLESS: [&str; 10] = [
    "_from_model_config", "bos_token_id", "cache_implementation", "output_attentions", "output_hidden_states",
    "output_scores", "pad_token_id", "return_dict_in_generate", "transformers_version", "use_cache",
];

impl GenerationDefaults {
    /// Parses the text of generation_config.json.
    ///
    /// # Errors
    /// Text that is no JSON object, and a value of the wrong type or out of its range, by name.
    pub fn from_json(json: &str) -> Result<Self, FormatError> {
        let mut fields = Object::parse("generation_config.json", json)?;
        let defaults = Self {
            eos_token_ids: fields.take_one_or_many("eos_token_id")?,
            do_sample: fields.take("do_sample")?,
            temperature: fields.take("temperature")?,
            top_p: fields.take("top_p")?,
            top_k: fields.take("top_k")?,
            min_p: fields.take("min_p")?,
            repetition_penalty: fields.take("repetition_penalty")?,
            max_new_tokens: fields.take("max_new_tokens")?,
            ignored: Vec::new(),
        };
        let mut ignored: Vec<String> =
            fields.rest().map(|(key, _)| key.to_owned()).filter(|key| !HARMLESS.contains(&key.as_str())).collect();
        ignored.sort_unstable();
        Self { ignored, ..defaults }.validate()
    }

    /// The values in a GGUF file, into which converters take some of generation_config.json. Its end tokens are in
    /// [`ModelConfig`](crate::ModelConfig).
    ///
    /// # Errors
    /// A value of the wrong type or out of its range, by name.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, FormatError> {
        const PREFIX: &str = "general.sampling.";
        const KEYS: [&str; 5] = ["temp", "top_p", "top_k", "min_p", "penalty_repeat"];
        let metadata = gguf.metadata();
        let [temperature, top_p, top_k, min_p, repetition_penalty] = KEYS.map(|key| format!("{PREFIX}{key}"));
        let others =
            metadata.iter().filter(|(key, _)| key.strip_prefix(PREFIX).is_some_and(|key| !KEYS.contains(&key)));
        let defaults = Self {
            temperature: metadata.f32(&temperature)?,
            top_p: metadata.f32(&top_p)?,
            top_k: metadata.u32(&top_k)?,
            min_p: metadata.f32(&min_p)?,
            repetition_penalty: metadata.f32(&repetition_penalty)?,
            ignored: others.map(|(key, _)| key.to_owned()).collect(),
            ..Self::default()
        };
        defaults.validate()
    }

    fn validate(self) -> Result<Self, FormatError> {
        let ensure = |key: &str, value: Option<f32>, is_valid: fn(f32) -> bool| match value {
            Some(value) if !is_valid(value) => {
                Err(FormatError::corrupt(format_args!("the recommended `{key}` = {value} is out of range")))
            }
            _ => Ok(()),
        };
        ensure("temperature", self.temperature, |value| value >= 0.0 && value.is_finite())?;
        ensure("top_p", self.top_p, |value| value > 0.0 && value <= 1.0)?;
        ensure("min_p", self.min_p, |value| (0.0..=1.0).contains(&value))?;
        ensure("repetition_penalty", self.repetition_penalty, |value| value > 0.0 && value.is_finite())?;
        Ok(self)
    }
}
