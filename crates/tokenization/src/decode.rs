//! Incremental decoding: a token in, the text that is certain out. Knows the tokenizer, and neither streams nor stop
//! strings.

use std::sync::Arc;

use serving_types::TokenId;

use crate::tokenizer::{SpecialText, Tokenizer};

/// Decodes a growing sequence of tokens. The pieces of text it gives, in order, are exactly [`Tokenizer::decode`] of the
/// whole sequence (where that is no error), and every one is valid UTF-8.
///
/// A character may be split over several tokens. Its bytes are held back until it is complete or can no longer become a
/// character, so at most three bytes are ever pending and a push costs no more than its own token.
pub struct IncrementalDecoder {
    tokenizer: Arc<Tokenizer>,
    special: SpecialText,
    /// The start of a character that the next token may complete.
    pending: Vec<u8>,
    /// The text of the last push; kept for its allocation.
    text: String,
    /// The vocabulary writes a space before the first word and no text has come yet.
    drop_space: bool,
}

impl IncrementalDecoder {
    /// A decoder at the beginning of a sequence.
    #[must_use]
    pub fn new(tokenizer: Arc<Tokenizer>, special: SpecialText) -> Self {
        let drop_space = tokenizer.drops_leading_space;
        Self { tokenizer, special, pending: Vec::new(), text: String::new(), drop_space }
    }

    /// A decoder in the middle of a text, such as a completion of a prompt: the space before its first word is part of it.
    #[must_use]
    pub fn continuing(tokenizer: Arc<Tokenizer>, special: SpecialText) -> Self {
        Self { drop_space: false, ..Self::new(tokenizer, special) }
    }

    /// Takes the next token and gives the text that has become certain, which may be empty. A token outside of the
    /// tokenizer's vocabulary has no text: models have more rows than tokens, for alignment.
    pub fn push(&mut self, token: TokenId) -> &str {
        let mut bytes = self.tokenizer.bytes_to_show(token, self.special).unwrap_or_default();
        if self.drop_space && !bytes.is_empty() {
            self.drop_space = false;
            bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
        }
        self.text.clear();
        self.pending.extend_from_slice(bytes);
        take_certain(&mut self.pending, &mut self.text);
        &self.text
    }

    /// Ends the sequence: what is left of an incomplete character, as U+FFFD. The decoder is then at a beginning again.
    pub fn flush(&mut self) -> String {
        let rest = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        self.drop_space = self.tokenizer.drops_leading_space;
        rest
    }
}

/// Moves the bytes whose text cannot change any more from `pending` to `text`. An ill-formed sequence becomes U+FFFD as
/// in [`String::from_utf8_lossy`]: one for each maximal part of it that starts a character (Unicode 15, section 3.9).
fn take_certain(pending: &mut Vec<u8>, text: &mut String) {
    let mut taken = 0;
    for chunk in pending.utf8_chunks() {
        text.push_str(chunk.valid());
        taken += chunk.valid().len();
        let ill_formed = chunk.invalid();
        let may_be_completed = taken + ill_formed.len() == pending.len()
            && str::from_utf8(ill_formed).is_err_and(|e| e.error_len().is_none());
        if ill_formed.is_empty() || may_be_completed {
            break;
        }
        text.push(char::REPLACEMENT_CHARACTER);
        taken += ill_formed.len();
    }
    pending.drain(..taken);
    assert!(pending.len() < 4, "four bytes are a character or ill-formed");
}
