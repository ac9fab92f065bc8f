//! The tokenizer of one model: text to ids and ids to text. Knows neither where it was loaded from nor who decodes what.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serving_types::TokenId;

use crate::error::TokenizerError;
use crate::sentencepiece::SentencePieceEncoder;
use crate::vocabulary::{TokenKind, Vocabulary};

/// The longest text that is tokenized at once; about a million tokens.
pub const MAX_TEXT_BYTES: usize = 4 << 20;

/// Whether encoding frames the text as the model wants whole texts to be framed, usually with a BOS token in front.
/// Prompts made by a chat template have their frame already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SpecialTokens {
    /// Add what the model's files say.
    Add,
    /// Only what is in the text.
    Omit,
}

/// Whether decoding shows special tokens (borders of texts and turns) as text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SpecialText {
    /// Show them, for instance as `<|im_end|>`.
    Keep,
    /// Leave them out.
    Skip,
}

/// Text to token ids and back. Immutable, so that threads share one by `Arc`.
pub struct Tokenizer {
    pub(crate) vocabulary: Vocabulary,
    pub(crate) encoder: Encoder,
    pub(crate) named: NamedTokens,
    /// Added in front of a text by [`SpecialTokens::Add`], where the pipeline does not do so itself.
    pub(crate) prefix: Option<TokenId>,
    /// Likewise at the end.
    pub(crate) suffix: Option<TokenId>,
    /// Encoding puts a space before a text, which decoding takes away.
    pub(crate) drops_leading_space: bool,
}

pub(crate) enum Encoder {
    /// Normaliser, pre-tokenizer, model and post-processor of the tokenizers crate. Decoding does not use it.
    Pipeline(Box<tokenizers::Tokenizer>),
    SentencePiece(SentencePieceEncoder),
}

/// The tokens that have a role.
#[derive(Default)]
pub(crate) struct NamedTokens {
    pub(crate) bos: Option<TokenId>,
    pub(crate) eos: Option<TokenId>,
    /// By the names that chat templates use: `bos_token`, `eos_token`, `unk_token`, `pad_token`.
    pub(crate) texts: BTreeMap<&'static str, String>,
}

impl Tokenizer {
    /// The tokens of `text`. Special tokens that are written out in it, such as `<|im_start|>`, are recognised, whoever wrote
    /// them: a chat template's output is text too. transformers and vLLM do the same.
    ///
    /// # Errors
    /// A text longer than [`MAX_TEXT_BYTES`], or one on which the model's own pre-tokenizer fails.
    pub fn encode(&self, text: &str, special: SpecialTokens) -> Result<Vec<TokenId>, TokenizerError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(TokenizerError::TextTooLong { bytes: text.len(), max_bytes: MAX_TEXT_BYTES });
        }
        let add = special == SpecialTokens::Add;
        let mut ids = Vec::new();
        ids.extend(self.prefix.filter(|_| add));
        match &self.encoder {
            Encoder::Pipeline(pipeline) => {
                let encoding = guarded(|| pipeline.encode_fast(text, add))?;
                ids.extend_from_slice(encoding.get_ids());
            }
            Encoder::SentencePiece(encoder) => encoder.encode(text, &mut ids),
        }
        ids.extend(self.suffix.filter(|_| add));
        Ok(ids)
    }

    /// The text of `tokens`. Bytes that are not UTF-8 become U+FFFD, as in [`String::from_utf8_lossy`].
    ///
    /// # Errors
    /// [`TokenizerError::UnknownToken`].
    pub fn decode(&self, tokens: &[TokenId], special: SpecialText) -> Result<String, TokenizerError> {
        let mut bytes = Vec::with_capacity(tokens.len() * 4);
        for &token in tokens {
            let unknown = || TokenizerError::UnknownToken { id: token, vocab_size: self.vocabulary.size() };
            bytes.extend_from_slice(self.bytes_to_show(token, special).ok_or_else(unknown)?);
        }
        let shown = if self.drops_leading_space { bytes.strip_prefix(b" ").unwrap_or(&bytes) } else { &bytes };
        Ok(String::from_utf8_lossy(shown).into_owned())
    }

    /// One more than the largest token id. Embeddings may have more rows, for alignment.
    #[must_use]
    pub fn vocab_size(&self) -> u32 {
        self.vocabulary.size()
    }

    /// A token as the vocabulary writes it, for instance `Ġthe` or `<0x0A>`.
    #[must_use]
    pub fn token_text(&self, id: TokenId) -> Option<&str> {
        Some(&self.vocabulary.get(id)?.text)
    }

    /// The bytes that a token adds to a text; they may be part of a character only.
    #[must_use]
    pub fn token_bytes(&self, id: TokenId) -> Option<&[u8]> {
        Some(&self.vocabulary.get(id)?.bytes)
    }

    /// The token that the vocabulary writes as `text`.
    #[must_use]
    pub fn id_of(&self, text: &str) -> Option<TokenId> {
        self.vocabulary.id_of(text)
    }

    /// Whether [`SpecialText::Skip`] leaves the token out.
    #[must_use]
    pub fn is_special(&self, id: TokenId) -> bool {
        self.vocabulary.get(id).is_some_and(|token| token.kind == TokenKind::Special)
    }

    /// The token that begins a text, if the tokenizer's files name one.
    #[must_use]
    pub fn bos_token_id(&self) -> Option<TokenId> {
        self.named.bos
    }

    /// The token that ends a text, if the tokenizer's files name one. The model's own files may name more.
    #[must_use]
    pub fn eos_token_id(&self) -> Option<TokenId> {
        self.named.eos
    }

    /// What a token adds to a decoded text; `None` if it is not in the vocabulary.
    pub(crate) fn bytes_to_show(&self, id: TokenId, special: SpecialText) -> Option<&[u8]> {
        let token = self.vocabulary.get(id)?;
        Some(if special == SpecialText::Skip && token.kind == TokenKind::Special { &[] } else { &token.bytes })
    }
}

/// Runs the tokenizers crate, which panics where it has no error to give: the regular-expression engine does so when a
/// pattern of a tokenizer.json backtracks beyond its limit, and the BPE loader on some merges that are not in the
/// vocabulary. Neither may take down more than the call, though the panic hook still reports it.
pub(crate) fn guarded<T>(run: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, TokenizerError> {
    let what = match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => error.to_string(),
        Err(panic) => match (panic.downcast_ref::<String>(), panic.downcast_ref::<&str>()) {
            (Some(message), _) => message.clone(),
            (None, Some(message)) => (*message).to_owned(),
            (None, None) => "it panicked".to_owned(),
        },
    };
    Err(TokenizerError::Pipeline { what })
}
