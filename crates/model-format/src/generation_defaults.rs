//! The sampling values that a model's authors recommend, from generation_config.json. It knows no request and applies
//! nothing.

use crate::{FormatError, json::Object};

/// The contents of generation_config.json. `None` is whatever the file does not say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationDefaults {
    /// The tokens that end an answer; empty where the file names none.
    pub eos_token_ids: Vec<u32>,
    /// The token that begins a prompt.
    pub bos_token_id: Option<u32>,
    /// The token that fills a batch.
    pub pad_token_id: Option<u32>,
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
    /// The most tokens of prompt and answer together.
    pub max_length: Option<u32>,
    /// Other keys of the file, which no field above represents: worth a warning, since they are not applied.
    pub ignored: Vec<String>,
}

/// Keys that say how the file came to be.
const HARMLESS: [&str; 4] = ["_from_model_config", "transformers_version", "use_cache", "cache_implementation"];

impl GenerationDefaults {
    /// Parses the text of generation_config.json.
    ///
    /// # Errors
    /// Text that is no JSON object, and a value of the wrong type or out of its range, by name.
    pub fn from_json(json: &str) -> Result<Self, FormatError> {
        let mut fields = Object::parse("generation_config.json", json)?;
        let defaults = Self {
            eos_token_ids: fields.take_one_or_many("eos_token_id")?,
            bos_token_id: fields.take("bos_token_id")?,
            pad_token_id: fields.take("pad_token_id")?,
            do_sample: fields.take("do_sample")?,
            temperature: take_within(&mut fields, "temperature", |value| value >= 0.0)?,
            top_p: take_within(&mut fields, "top_p", |value| value > 0.0 && value <= 1.0)?,
            top_k: fields.take("top_k")?,
            min_p: take_within(&mut fields, "min_p", |value| (0.0..=1.0).contains(&value))?,
            repetition_penalty: take_within(&mut fields, "repetition_penalty", |value| value > 0.0)?,
            max_new_tokens: fields.take("max_new_tokens")?,
            max_length: fields.take("max_length")?,
            ignored: Vec::new(),
        };
        let mut ignored: Vec<String> =
            fields.rest().map(|(key, _)| key.to_owned()).filter(|key| !HARMLESS.contains(&key.as_str())).collect();
        ignored.sort_unstable();
        Ok(Self { ignored, ..defaults })
    }
}

fn take_within(
    fields: &mut Object<'_>,
    key: &str,
    is_valid: impl FnOnce(f32) -> bool,
) -> Result<Option<f32>, FormatError> {
    let Some(value) = fields.take::<f32>(key)? else { return Ok(None) };
    if !value.is_finite() || !is_valid(value) {
        return Err(FormatError::corrupt(format_args!("generation_config.json: `{key}` = {value} is out of range")));
    }
    Ok(Some(value))
}
