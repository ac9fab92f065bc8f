//! Tokenizers from the metadata of a GGUF file: byte-level BPE (`gpt2`) and SentencePiece (`llama`). Knows no tensors.

use std::collections::HashSet;

use model_format::Gguf;
use model_format::gguf::Metadata;
use serving_types::TokenId;
use tokenizers::AddedToken;
use tokenizers::models::bpe::{BPE, Merges, Vocab};

use crate::byte_level;
use crate::error::TokenizerError;
use crate::pre_tokenizer::PreTokenizer;
use crate::sentencepiece::SentencePieceEncoder;
use crate::tokenizer::{Encoder, NamedTokens, Tokenizer};
use crate::vocabulary::{Token, TokenKind, Vocabulary, byte_token, corrupt, piece_bytes};

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TOKEN_TYPES: &str = "tokenizer.ggml.token_type";
const SCORES: &str = "tokenizer.ggml.scores";
const MERGES: &str = "tokenizer.ggml.merges";
const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";
const ADD_SPACE_PREFIX: &str = "tokenizer.ggml.add_space_prefix";
const REMOVE_EXTRA_WHITESPACES: &str = "tokenizer.ggml.remove_extra_whitespaces";

/// The numbers of `tokenizer.ggml.token_type` (`llama_token_type` in llama.cpp).
#[derive(Clone, Copy, PartialEq, Eq)]
enum TokenType {
    Normal,
    Unknown,
    Control,
    UserDefined,
    /// Fills the vocabulary up to the model's number of rows: never made from text, and without one.
    Unused,
    Byte,
}

impl Tokenizer {
    /// The tokenizer that a GGUF file carries.
    ///
    /// As in llama.cpp and the original tokenizers, a byte for which a byte-level vocabulary has no token is dropped when
    /// text is encoded (SmolLM2, for one, lacks some control characters).
    ///
    /// # Errors
    /// A missing or contradictory part of the vocabulary, or a kind of vocabulary or pre-tokenizer that is not supported:
    /// the message names it and lists what is.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, TokenizerError> {
        let metadata = gguf.metadata();
        match metadata.string(MODEL)?.ok_or(TokenizerError::Missing { key: MODEL })? {
            "gpt2" => byte_level_bpe(metadata),
            "llama" => sentencepiece(metadata),
            name => Err(TokenizerError::Unsupported {
                what: "the vocabulary",
                name: name.to_owned(),
                supported: "gpt2 (byte-level BPE), llama (SentencePiece)".to_owned(),
            }),
        }
    }
}

fn byte_level_bpe(metadata: &Metadata) -> Result<Tokenizer, TokenizerError> {
    refuse_true(metadata, ADD_SPACE_PREFIX)?;
    let pre_tokenizer = PreTokenizer::named(metadata.string(PRE)?.ok_or(TokenizerError::Missing { key: PRE })?)?;
    let types = token_types(metadata)?;
    let vocabulary = vocabulary(metadata, &types, |text, token_type| match token_type {
        TokenType::Normal | TokenType::Byte => byte_level::bytes_of(text),
        TokenType::Unknown | TokenType::Control | TokenType::UserDefined => text.as_bytes().into(),
        TokenType::Unused => [].into(),
    })?;
    let merges = metadata.strings(MERGES)?.ok_or(TokenizerError::Missing { key: MERGES })?;

    let by_text: Vocab =
        vocabulary.iter().filter(|(_, t)| !t.text.is_empty()).map(|(id, t)| (t.text.to_string(), id)).collect();
    let model = BPE::builder()
        .vocab_and_merges(by_text, parse_merges(merges, &vocabulary)?)
        .ignore_merges(pre_tokenizer.ignore_merges)
        .build()
        .map_err(|e| corrupt(e.to_string()))?;
    let mut pipeline = tokenizers::Tokenizer::new(model);
    pipeline.with_normalizer(pre_tokenizer.normalizer).map_err(|e| corrupt(e.to_string()))?;
    pipeline.with_pre_tokenizer(Some(pre_tokenizer.split));
    let verbatim = vocabulary.iter().filter(|(_, t)| t.kind != TokenKind::Ordinary && !t.text.is_empty());
    let verbatim = verbatim.map(|(_, t)| AddedToken::from(&*t.text, t.kind == TokenKind::Special).normalized(false));
    pipeline.add_tokens(verbatim).map_err(|e| corrupt(e.to_string()))?;

    finish(metadata, vocabulary, Encoder::Pipeline(Box::new(pipeline)), pre_tokenizer.add_bos, false)
}

fn sentencepiece(metadata: &Metadata) -> Result<Tokenizer, TokenizerError> {
    refuse_true(metadata, REMOVE_EXTRA_WHITESPACES)?;
    let types = token_types(metadata)?;
    let vocabulary = vocabulary(metadata, &types, |text, token_type| match token_type {
        TokenType::Normal | TokenType::UserDefined => piece_bytes(text),
        TokenType::Byte => byte_token(text).map_or_else(|| piece_bytes(text), |byte| [byte].into()),
        TokenType::Unknown | TokenType::Control => text.as_bytes().into(),
        TokenType::Unused => [].into(),
    })?;
    let scores = metadata.f32s(SCORES)?.ok_or(TokenizerError::Missing { key: SCORES })?;
    if scores.len() != vocabulary.size() as usize {
        return Err(corrupt(format!("{} scores for {} tokens", scores.len(), vocabulary.size())));
    }
    let space_prefix = metadata.bool(ADD_SPACE_PREFIX)?.unwrap_or(true);
    let is_piece = |id: TokenId| types.as_ref().is_none_or(|types| types[id as usize] == TokenType::Normal);
    let unknown = types.as_ref().and_then(|types| types.iter().position(|&t| t == TokenType::Unknown));
    let encoder =
        SentencePieceEncoder::new(&vocabulary, is_piece, scores, unknown.map(|id| id as TokenId), space_prefix)?;
    finish(metadata, vocabulary, Encoder::SentencePiece(encoder), true, space_prefix)
}

fn refuse_true(metadata: &Metadata, key: &'static str) -> Result<(), TokenizerError> {
    match metadata.bool(key)? {
        Some(true) => Err(TokenizerError::Unsupported { what: key, name: "true".into(), supported: "false".into() }),
        _ => Ok(()),
    }
}

/// `add_bos` says whether a text begins with BOS when the file does not.
fn finish(
    metadata: &Metadata,
    vocabulary: Vocabulary,
    encoder: Encoder,
    add_bos: bool,
    drops_leading_space: bool,
) -> Result<Tokenizer, TokenizerError> {
    let id = |key: &'static str| match metadata.u32(key)? {
        Some(id) if vocabulary.get(id).is_none() => {
            Err(corrupt(format!("`{key}` is {id}, and the vocabulary has {} tokens", vocabulary.size())))
        }
        id => Ok(id),
    };
    let bos = id("tokenizer.ggml.bos_token_id")?;
    let eos = id("tokenizer.ggml.eos_token_id")?;
    let mut named = NamedTokens { bos, eos, ..NamedTokens::default() };
    for (name, id) in [
        ("bos_token", bos),
        ("eos_token", eos),
        ("unk_token", id("tokenizer.ggml.unknown_token_id")?),
        ("pad_token", id("tokenizer.ggml.padding_token_id")?),
    ] {
        if let Some(token) = id.and_then(|id| vocabulary.get(id)) {
            named.texts.insert(name, token.text.to_string());
        }
    }
    let missing = |flag: &str, id: &str| corrupt(format!("`{flag}` is true and `{id}` is missing"));
    let prefix = match metadata.bool(ADD_BOS)?.unwrap_or(add_bos) {
        true => Some(bos.ok_or_else(|| missing(ADD_BOS, "tokenizer.ggml.bos_token_id"))?),
        false => None,
    };
    let suffix = match metadata.bool(ADD_EOS)?.unwrap_or(false) {
        true => Some(eos.ok_or_else(|| missing(ADD_EOS, "tokenizer.ggml.eos_token_id"))?),
        false => None,
    };
    Ok(Tokenizer { vocabulary, encoder, named, prefix, suffix, drops_leading_space })
}

/// The type of each token; `None` if the file does not say, and all are normal.
fn token_types(metadata: &Metadata) -> Result<Option<Vec<TokenType>>, TokenizerError> {
    let Some(numbers) = metadata.i32s(TOKEN_TYPES)? else { return Ok(None) };
    let types = numbers.iter().enumerate().map(|(id, number)| match number {
        // 0 is "undefined", which old converters wrote for normal tokens.
        0 | 1 => Ok(TokenType::Normal),
        2 => Ok(TokenType::Unknown),
        3 => Ok(TokenType::Control),
        4 => Ok(TokenType::UserDefined),
        5 => Ok(TokenType::Unused),
        6 => Ok(TokenType::Byte),
        _ => Err(corrupt(format!("token {id} has the type {number}; types are 0 to 6"))),
    });
    types.collect::<Result<Vec<_>, _>>().map(Some)
}

/// `bytes_of(text, type)` gives what a token decodes to.
fn vocabulary(
    metadata: &Metadata,
    types: &Option<Vec<TokenType>>,
    bytes_of: impl Fn(&str, TokenType) -> Box<[u8]>,
) -> Result<Vocabulary, TokenizerError> {
    let texts = metadata.strings(TOKENS)?.ok_or(TokenizerError::Missing { key: TOKENS })?;
    if let Some(types) = types
        && types.len() != texts.len()
    {
        return Err(corrupt(format!("{} token types for {} tokens", types.len(), texts.len())));
    }
    let mut vocabulary = Vocabulary::default();
    for (id, text) in texts.iter().enumerate() {
        let token_type = types.as_ref().map_or(TokenType::Normal, |types| types[id]);
        let kind = match token_type {
            TokenType::Normal | TokenType::Unused | TokenType::Byte => TokenKind::Ordinary,
            TokenType::UserDefined => TokenKind::UserDefined,
            TokenType::Unknown | TokenType::Control => TokenKind::Special,
        };
        let id = TokenId::try_from(id).map_err(|_| corrupt("there are more than 2^32 tokens"))?;
        vocabulary.insert(id, Token { text: text.as_str().into(), bytes: bytes_of(text, token_type), kind })?;
    }
    Ok(vocabulary)
}

/// Splits `Ġ t` into its sides. Both sides and their concatenation must be tokens; the tokenizers crate would panic on
/// some of those that are not.
fn parse_merges(merges: &[String], vocabulary: &Vocabulary) -> Result<Merges, TokenizerError> {
    let mut seen = HashSet::with_capacity(merges.len());
    let mut joined = String::new();
    let sides = merges.iter().enumerate().map(|(rank, merge)| {
        // A side is never empty, and the first may begin with a space.
        let space = merge.char_indices().skip(1).find(|&(_, c)| c == ' ').map(|(at, _)| at);
        let (left, right) = match space {
            Some(at) => (&merge[..at], &merge[at + 1..]),
            None => return Err(corrupt(format!("merge {rank}, {merge:?}, has no space between its sides"))),
        };
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        if let Some(absent) = [left, right, &joined].into_iter().find(|text| vocabulary.id_of(text).is_none()) {
            return Err(corrupt(format!("merge {rank}, {merge:?}, needs the token {absent:?}")));
        }
        if !seen.insert(merge.as_str()) {
            return Err(corrupt(format!("merge {rank}, {merge:?}, occurs twice")));
        }
        Ok((left.to_owned(), right.to_owned()))
    });
    sides.collect()
}
