//! Incremental decoding against decoding at once.

use std::sync::Arc;

use proptest::prelude::*;
use tokenization::{IncrementalDecoder, SpecialText, SpecialTokens, Tokenizer};

use crate::fixtures::{byte_level_tokenizer, fixed_seed, sentencepiece_tokenizer};

/// The texts of all pushes, then of the flush.
fn pieces(tokenizer: &Arc<Tokenizer>, tokens: &[u32], special: SpecialText) -> Vec<String> {
    let mut decoder = IncrementalDecoder::new(Arc::clone(tokenizer), special);
    let mut pieces: Vec<String> = tokens.iter().map(|&token| decoder.push(token).to_owned()).collect();
    pieces.push(decoder.flush());
    pieces
}

/// The tokens of the single bytes of `text`.
fn byte_tokens(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    let token_of = |byte: u8| (0..tokenizer.vocab_size()).find(|&id| tokenizer.token_bytes(id) == Some(&[byte]));
    text.bytes().map(|byte| token_of(byte).expect("a token for every byte")).collect()
}

fn check(tokenizer: &Arc<Tokenizer>, tokens: &[u32]) {
    for special in [SpecialText::Keep, SpecialText::Skip] {
        let whole = tokenizer.decode(tokens, special).expect("known tokens");
        assert_eq!(pieces(tokenizer, tokens, special).concat(), whole, "{tokens:?} {special:?}");
    }
}

#[test]
fn any_tokens_decode_incrementally_as_at_once() {
    for tokenizer in [byte_level_tokenizer(), sentencepiece_tokenizer()] {
        let tokenizer = Arc::new(tokenizer);
        // All tokens, or bytes above 0x7F only: broken and whole characters of every length.
        let high_bytes: Vec<u32> = (0..tokenizer.vocab_size())
            .filter(|&id| tokenizer.token_bytes(id).is_some_and(|bytes| bytes.len() == 1 && bytes[0] > 0x7F))
            .collect();
        assert_eq!(high_bytes.len(), 128);
        let token = prop_oneof![0..tokenizer.vocab_size(), prop::sample::select(high_bytes)];
        proptest!(fixed_seed(256), |(tokens in prop::collection::vec(token, 0..40))| check(&tokenizer, &tokens));
        // Text as single bytes comes back whole, whatever the characters.
        proptest!(fixed_seed(256), |(text in "\\PC{0,12}")| {
            let tokens = byte_tokens(&tokenizer, &text);
            check(&tokenizer, &tokens);
            let shown = if tokens.is_empty() { "" } else { text.as_str() };
            let expected = tokenizer.decode(&tokens, SpecialText::Keep).expect("known tokens");
            prop_assert!(expected == shown || shown.strip_prefix(' ') == Some(&expected));
        });
    }
}

#[test]
fn a_character_split_over_tokens_comes_with_its_last_byte() {
    for tokenizer in [byte_level_tokenizer(), sentencepiece_tokenizer()] {
        let tokenizer = Arc::new(tokenizer);
        for text in ["👩\u{200d}👩\u{200d}👧🏽", "你好，世界", "é", "\u{10FFFF}\u{0}\u{FFFD}", "🇩🇪🇫🇷"]
        {
            let expected: Vec<String> = text
                .chars()
                .flat_map(|c| std::iter::repeat_n(String::new(), c.len_utf8() - 1).chain([c.to_string()]))
                .chain([String::new()])
                .collect();
            assert_eq!(pieces(&tokenizer, &byte_tokens(&tokenizer, text), SpecialText::Keep), expected, "{text}");
        }
    }
}

#[test]
fn ill_formed_bytes_become_replacement_characters_as_soon_as_that_is_certain() {
    let tokenizer = Arc::new(byte_level_tokenizer());
    let byte = |byte: u8| (0..tokenizer.vocab_size()).find(|&id| tokenizer.token_bytes(id) == Some(&[byte]));
    for (bytes, expected) in [
        (&[0xFF, b'a'][..], &["\u{FFFD}", "a", ""][..]),
        (&[0x80], &["\u{FFFD}", ""]),
        (&[0xE4, b'a'], &["", "\u{FFFD}a", ""]),
        (&[0xE4, 0xBD], &["", "", "\u{FFFD}"]),
        (&[0xE4, 0xBD, 0xE4, 0xBD, 0xA0], &["", "", "\u{FFFD}", "", "你", ""]),
        (&[0xF0, 0x9F, 0x91, 0xFF], &["", "", "", "\u{FFFD}\u{FFFD}", ""]),
        // A surrogate and an overlong form: no continuation can save them.
        (&[0xED, 0xA0, 0x80], &["", "\u{FFFD}\u{FFFD}", "\u{FFFD}", ""]),
        (&[0xC0, 0x80], &["\u{FFFD}", "\u{FFFD}", ""]),
    ] {
        let tokens: Vec<u32> = bytes.iter().map(|&b| byte(b).expect("a token for every byte")).collect();
        assert_eq!(pieces(&tokenizer, &tokens, SpecialText::Keep), expected, "{bytes:X?}");
    }
}

#[test]
fn a_token_outside_of_the_vocabulary_has_no_text() {
    let tokenizer = Arc::new(sentencepiece_tokenizer());
    let tokens = tokenizer.encode("Hello 你", SpecialTokens::Omit).expect("a short text");
    let mut decoder = IncrementalDecoder::new(Arc::clone(&tokenizer), SpecialText::Skip);
    let mut text = String::new();
    for _ in 0..2 {
        for &token in &tokens {
            assert_eq!(decoder.push(tokenizer.vocab_size()), "");
            text.push_str(decoder.push(token));
        }
        text.push_str(&decoder.flush());
    }
    // After a flush the decoder is at a beginning again, where the space before the first word is not shown.
    assert_eq!(text, "Hello 你Hello 你");
}

#[test]
fn a_continuation_keeps_the_space_before_its_first_word() {
    let tokenizer = Arc::new(sentencepiece_tokenizer());
    let tokens = tokenizer.encode("Hello", SpecialTokens::Omit).expect("a short text");
    let text = |mut decoder: IncrementalDecoder| -> String {
        tokens.iter().map(|&token| decoder.push(token).to_owned()).collect()
    };
    assert_eq!(text(IncrementalDecoder::new(Arc::clone(&tokenizer), SpecialText::Skip)), "Hello");
    assert_eq!(text(IncrementalDecoder::continuing(Arc::clone(&tokenizer), SpecialText::Skip)), " Hello");
}
