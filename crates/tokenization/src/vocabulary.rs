//! The table of a model's tokens: id, name in the file, and the bytes that it decodes to. Knows no way to encode.

use std::collections::HashMap;

use serving_types::TokenId;

use crate::error::TokenizerError;

/// The largest vocabulary, in tokens. The largest published ones have about 260,000.
pub(crate) const MAX_VOCAB_TOKENS: u32 = 1 << 22;

/// What encoding and decoding need to know about a token besides its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TokenKind {
    /// Made from text by the model's algorithm.
    Ordinary,
    /// Recognised verbatim in the text before the algorithm runs; text like any other when decoded.
    UserDefined,
    /// Recognised verbatim too, and not shown to users: the borders of texts and turns.
    Special,
}

pub(crate) struct Token {
    /// As the file names it, for instance `Ġthe`, `▁the` or `<0x0A>`. Not unique when empty.
    pub(crate) text: Box<str>,
    /// As it decodes.
    pub(crate) bytes: Box<[u8]>,
    pub(crate) kind: TokenKind,
}

/// Tokens by id and by text. Ids may have gaps (tokenizer.json leaves some in padded vocabularies).
#[derive(Default)]
pub(crate) struct Vocabulary {
    tokens: Vec<Option<Token>>,
    ids: HashMap<Box<str>, TokenId>,
}

impl Vocabulary {
    /// Adds a token. Ids and texts must be new; an empty text gets no entry by text, and may repeat.
    pub(crate) fn insert(&mut self, id: TokenId, token: Token) -> Result<(), TokenizerError> {
        if id >= MAX_VOCAB_TOKENS {
            return Err(corrupt(format!("token id {id} is not below the limit of {MAX_VOCAB_TOKENS} tokens")));
        }
        let index = id as usize;
        if let Some(Some(other)) = self.tokens.get(index) {
            return Err(corrupt(format!("token id {id} is both {:?} and {:?}", other.text, token.text)));
        }
        if !token.text.is_empty()
            && let Some(other) = self.ids.insert(token.text.clone(), id)
        {
            return Err(corrupt(format!("token {:?} has the ids {other} and {id}", token.text)));
        }
        if self.tokens.len() <= index {
            self.tokens.resize_with(index + 1, || None);
        }
        self.tokens[index] = Some(token);
        Ok(())
    }

    /// One more than the largest id.
    pub(crate) fn size(&self) -> u32 {
        self.tokens.len() as u32
    }

    pub(crate) fn get(&self, id: TokenId) -> Option<&Token> {
        self.tokens.get(id as usize)?.as_ref()
    }

    pub(crate) fn id_of(&self, text: &str) -> Option<TokenId> {
        self.ids.get(text).copied()
    }

    /// All tokens in the order of their ids.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (TokenId, &Token)> {
        self.tokens.iter().enumerate().filter_map(|(id, token)| Some((id as TokenId, token.as_ref()?)))
    }
}

/// The byte of a byte-fallback token, which is written `<0x0A>`.
pub(crate) fn byte_token(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_hexdigit())).then(|| u8::from_str_radix(digits, 16).ok())?
}

/// The character that SentencePiece writes for a space, U+2581.
pub(crate) const SPACE_MARK: char = '▁';

/// The bytes of a SentencePiece token that is not a byte token: its text, with real spaces.
pub(crate) fn piece_bytes(text: &str) -> Box<[u8]> {
    text.replace(SPACE_MARK, " ").into_bytes().into()
}

pub(crate) fn corrupt(what: impl Into<String>) -> TokenizerError {
    TokenizerError::Corrupt { what: what.into() }
}
