//! The byte-level alphabet of GPT-2: each of the 256 bytes written as one printable character. Knows no vocabulary.
//!
//! Printable Latin-1 bytes stand for themselves; the other 68 take the characters from U+0100 on, in order
//! (`bytes_to_unicode` of the GPT-2 release). A space is therefore written `Ġ`.

/// The byte that `character` stands for, or `None` if it is not of the alphabet.
pub(crate) fn byte_of(character: char) -> Option<u8> {
    let code = u32::from(character);
    match code {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => u8::try_from(code).ok(),
        0x100..=0x120 => Some((code - 0x100) as u8),
        0x121..=0x142 => Some((code - 0x121 + 0x7F) as u8),
        0x143 => Some(0xAD),
        _ => None,
    }
}

/// The bytes that a vocabulary entry stands for. An entry with a character outside of the alphabet, such as an added
/// token with a space in it, stands for its own text.
pub(crate) fn bytes_of(text: &str) -> Box<[u8]> {
    text.chars().map(byte_of).collect::<Option<Vec<u8>>>().unwrap_or_else(|| text.as_bytes().to_vec()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_is_a_bijection_and_agrees_with_the_tokenizers_crate() {
        let alphabet = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet();
        let mut bytes: Vec<u8> = alphabet.iter().map(|&c| byte_of(c).expect("a character of the alphabet")).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        assert!((0..0x400).filter_map(char::from_u32).all(|c| byte_of(c).is_some() == alphabet.contains(&c)));

        for (text, bytes) in [("Ġthe", &b" the"[..]), ("ĊĊ", b"\n\n"), ("ł", b"\xA0"), ("<|a b|>", b"<|a b|>")] {
            assert_eq!(*bytes_of(text), *bytes, "{text}");
        }
    }
}
