//! Tokenizers from tokenizer.json, through the tokenizers crate. Knows the file's decoder well enough to decode without it.
//!
//! Decoding is done on bytes here (see [`crate::vocabulary`]), so that it is exact, incremental and the same for all
//! kinds of files. It differs from the tokenizers crate in one thing: among byte tokens that are not valid UTF-8, what is
//! valid is kept and each ill-formed part becomes one U+FFFD, where that crate gives a U+FFFD for every byte of the run.

use serde::Deserialize;
use serde_json::Value;
use serving_types::TokenId;

use crate::byte_level;
use crate::error::TokenizerError;
use crate::tokenizer::{Encoder, NamedTokens, Tokenizer, guarded};
use crate::vocabulary::{SPACE_MARK, Token, TokenKind, Vocabulary, byte_token, corrupt, piece_bytes};

/// The parts of the file that are read here; the tokenizers crate reads the rest.
#[derive(Deserialize)]
struct TokenizerFile {
    #[serde(default)]
    added_tokens: Vec<AddedTokenEntry>,
    decoder: Option<Decoder>,
    model: Model,
}

#[derive(Deserialize)]
struct AddedTokenEntry {
    id: TokenId,
    content: String,
}

#[derive(Deserialize)]
struct Model {
    dropout: Option<f32>,
}

/// The decoders of the models that are supported; of others only the name matters.
#[derive(Deserialize)]
#[serde(tag = "type")]
enum Decoder {
    ByteLevel,
    Metaspace {
        replacement: char,
        /// "always", "first" or "never"; older files have `add_prefix_space`.
        prepend_scheme: Option<String>,
        add_prefix_space: Option<bool>,
    },
    Sequence {
        decoders: Vec<Decoder>,
    },
    Replace {
        pattern: Value,
        content: String,
    },
    ByteFallback,
    Fuse,
    Strip {
        content: char,
        start: usize,
        stop: usize,
    },
    #[serde(untagged)]
    Other {
        #[serde(rename = "type")]
        name: String,
    },
}

/// How a token's text becomes bytes.
#[derive(Default)]
struct DecodeRule {
    byte_level: bool,
    space_mark: bool,
    byte_tokens: bool,
    drops_leading_space: bool,
}

impl Tokenizer {
    /// The tokenizer of a Hugging Face model folder. `tokenizer_config_json` names the BOS and EOS tokens; without it
    /// neither is known. Truncation and padding that the file may ask for are not done.
    ///
    /// # Errors
    /// A file that is not a tokenizer.json, contradicts itself, or decodes in a way that is not supported (named in the
    /// message).
    pub fn from_json(tokenizer_json: &[u8], tokenizer_config_json: Option<&str>) -> Result<Self, TokenizerError> {
        let file: TokenizerFile =
            serde_json::from_slice(tokenizer_json).map_err(|e| corrupt(format!("tokenizer.json: {e}")))?;
        if let Some(dropout) = file.model.dropout.filter(|&dropout| dropout != 0.0) {
            return Err(unsupported("model.dropout", dropout.to_string(), "null"));
        }
        let rule = decode_rule(file.decoder.as_ref())?;

        let mut pipeline = guarded(|| tokenizers::Tokenizer::from_bytes(tokenizer_json))?;
        pipeline.with_padding(None);
        guarded(|| pipeline.with_truncation(None).map(|_| ()))?;
        for added in &file.added_tokens {
            // The tokenizers crate numbers added tokens itself, and only warns if the file says otherwise.
            let id = pipeline.token_to_id(&added.content);
            if id != Some(added.id) && !added.content.is_empty() {
                let actual = id.map_or("no id".to_owned(), |id| format!("the id {id}"));
                return Err(corrupt(format!(
                    "tokenizer.json gives the added token {:?} the id {}, and its vocabulary {actual}",
                    added.content, added.id
                )));
            }
        }
        let vocabulary = vocabulary(&pipeline, &rule)?;
        let named = tokenizer_config_json.map_or(Ok(NamedTokens::default()), |json| named_tokens(json, &vocabulary))?;
        Ok(Self {
            vocabulary,
            encoder: Encoder::Pipeline(Box::new(pipeline)),
            named,
            prefix: None,
            suffix: None,
            drops_leading_space: rule.drops_leading_space,
        })
    }
}

fn vocabulary(pipeline: &tokenizers::Tokenizer, rule: &DecodeRule) -> Result<Vocabulary, TokenizerError> {
    let added = pipeline.get_added_tokens_decoder();
    let mut texts: Vec<(TokenId, String)> = pipeline.get_vocab(true).into_iter().map(|(text, id)| (id, text)).collect();
    texts.sort_unstable();
    let mut vocabulary = Vocabulary::default();
    for (id, text) in texts {
        let (kind, bytes) = match added.get(&id) {
            Some(token) if token.special => (TokenKind::Special, text.as_bytes().into()),
            Some(_) if rule.byte_level => (TokenKind::UserDefined, text.as_bytes().into()),
            Some(_) => (TokenKind::UserDefined, rule.bytes_of(&text)),
            None => (TokenKind::Ordinary, rule.bytes_of(&text)),
        };
        vocabulary.insert(id, Token { text: text.into(), bytes, kind })?;
    }
    Ok(vocabulary)
}

impl DecodeRule {
    fn bytes_of(&self, text: &str) -> Box<[u8]> {
        if self.byte_level {
            return byte_level::bytes_of(text);
        }
        match byte_token(text) {
            Some(byte) if self.byte_tokens => [byte].into(),
            _ if self.space_mark => piece_bytes(text),
            _ => text.as_bytes().into(),
        }
    }
}

/// Reduces the file's decoder to a rule for single tokens.
fn decode_rule(decoder: Option<&Decoder>) -> Result<DecodeRule, TokenizerError> {
    let mut rule = DecodeRule::default();
    let steps = match decoder {
        None => return Err(unsupported_decoder("null")),
        Some(Decoder::Sequence { decoders }) => decoders.as_slice(),
        Some(decoder) => std::slice::from_ref(decoder),
    };
    for step in steps {
        match step {
            Decoder::ByteLevel if steps.len() == 1 => rule.byte_level = true,
            Decoder::ByteLevel => return Err(unsupported_decoder("ByteLevel among others")),
            Decoder::ByteFallback => rule.byte_tokens = true,
            Decoder::Fuse => {}
            Decoder::Replace { pattern, content }
                if pattern["String"] == String::from(SPACE_MARK).as_str() && content == " " =>
            {
                rule.space_mark = true;
            }
            Decoder::Strip { content: ' ', start: 1, stop: 0 } => rule.drops_leading_space = true,
            Decoder::Metaspace { replacement: SPACE_MARK, prepend_scheme, add_prefix_space } => {
                rule.space_mark = true;
                rule.drops_leading_space = match prepend_scheme {
                    Some(scheme) => scheme != "never",
                    None => add_prefix_space.unwrap_or(true),
                };
            }
            other => return Err(unsupported_decoder(other.name())),
        }
    }
    Ok(rule)
}

impl Decoder {
    fn name(&self) -> &str {
        match self {
            Self::ByteLevel => "ByteLevel",
            Self::Metaspace { .. } => "Metaspace with another mark",
            Self::Sequence { .. } => "nested Sequence",
            Self::Replace { .. } => "Replace of another pattern",
            Self::ByteFallback => "ByteFallback",
            Self::Fuse => "Fuse",
            Self::Strip { .. } => "Strip of other characters",
            Self::Other { name } => name,
        }
    }
}

fn unsupported_decoder(name: &str) -> TokenizerError {
    unsupported(
        "the decoder",
        name.to_owned(),
        "ByteLevel, Metaspace, or Replace, ByteFallback, Fuse and Strip in sequence",
    )
}

fn unsupported(what: &'static str, name: String, supported: &str) -> TokenizerError {
    TokenizerError::Unsupported { what, name, supported: supported.to_owned() }
}

/// The tokens with a role in tokenizer_config.json: a string, an object with `content`, or null. A text that is not in
/// the vocabulary has no id, yet templates may print it.
fn named_tokens(tokenizer_config_json: &str, vocabulary: &Vocabulary) -> Result<NamedTokens, TokenizerError> {
    let config: Value =
        serde_json::from_str(tokenizer_config_json).map_err(|e| corrupt(format!("tokenizer_config.json: {e}")))?;
    let mut named = NamedTokens::default();
    for role in ["bos_token", "eos_token", "unk_token", "pad_token"] {
        let text = match &config[role] {
            Value::Null => continue,
            Value::String(text) => text,
            Value::Object(token) if token.get("content").is_some_and(Value::is_string) => {
                token["content"].as_str().unwrap_or_default()
            }
            other => return Err(corrupt(format!("tokenizer_config.json: `{role}` is {other}"))),
        };
        let id = vocabulary.id_of(text);
        match role {
            "bos_token" => named.bos = id,
            "eos_token" => named.eos = id,
            _ => {}
        }
        named.texts.insert(role, text.to_owned());
    }
    Ok(named)
}
