//! The pre-tokenizers that GGUF files name by `tokenizer.ggml.pre`: how text is cut before byte-level BPE joins bytes.
//! Knows no vocabulary.
//!
//! The names are llama.cpp's; each stands for the split that the models' own tokenizer.json files describe.

use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior};

use crate::error::TokenizerError;

/// A pre-tokenizer, and what else its name implies.
pub(crate) struct PreTokenizer {
    pub(crate) normalizer: Option<NormalizerWrapper>,
    pub(crate) split: PreTokenizerWrapper,
    /// A word that is a token as it stands is taken whole, even if the merges would not lead there.
    pub(crate) ignore_merges: bool,
    /// Whether a text begins with BOS when the file does not say.
    pub(crate) add_bos: bool,
}

/// How text is cut. Each stage cuts every piece of the stage before into the matches and what is between them.
#[derive(Clone, Copy)]
enum Stages {
    /// One regular expression.
    Regex(&'static str),
    /// Several, one after the other.
    Regexes(&'static [&'static str]),
    /// Every digit by itself, then [`GPT2`].
    DigitsThenGpt2,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEFAULT: &[&str] = &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"];

struct Named {
    names: &'static [&'static str],
    stages: Stages,
    nfc: bool,
    ignore_merges: bool,
    add_bos: bool,
}

const PLAIN: Named =
    Named { names: &[], stages: Stages::Regex(GPT2), nfc: false, ignore_merges: false, add_bos: false };

const KNOWN: &[Named] = &[
    Named { names: &["gpt-2", "phi-2", "mpt", "olmo", "jais"], ..PLAIN },
    Named {
        names: &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"],
        stages: Stages::DigitsThenGpt2,
        ..PLAIN
    },
    Named {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "midm-2.0", "lfm2"],
        stages: Stages::Regex(LLAMA3),
        ignore_merges: true,
        add_bos: true,
        ..PLAIN
    },
    Named { names: &["dbrx", "smaug-bpe"], stages: Stages::Regex(LLAMA3), ..PLAIN },
    Named { names: &["qwen2"], stages: Stages::Regex(QWEN2), nfc: true, ..PLAIN },
    Named { names: &["deepseek-r1-qwen", "megrez"], stages: Stages::Regex(QWEN2), ..PLAIN },
    Named { names: &["tekken"], stages: Stages::Regex(TEKKEN), ignore_merges: true, add_bos: true, ..PLAIN },
    Named { names: &["default"], stages: Stages::Regexes(DEFAULT), ..PLAIN },
];

impl PreTokenizer {
    /// The pre-tokenizer of that name in a GGUF file.
    pub(crate) fn named(name: &str) -> Result<Self, TokenizerError> {
        let Some(named) = KNOWN.iter().find(|known| known.names.contains(&name)) else {
            let supported: Vec<&str> = KNOWN.iter().flat_map(|known| known.names).copied().collect();
            return Err(TokenizerError::Unsupported {
                what: "the pre-tokenizer",
                name: name.to_owned(),
                supported: supported.join(", "),
            });
        };
        let mut stages: Vec<PreTokenizerWrapper> = match named.stages {
            Stages::Regex(regex) => vec![split(regex)],
            Stages::Regexes(regexes) => regexes.iter().map(|regex| split(regex)).collect(),
            Stages::DigitsThenGpt2 => vec![Digits::new(true).into(), split(GPT2)],
        };
        // Last, bytes become characters of the byte-level alphabet.
        stages.push(ByteLevel::new(false, false, false).into());
        Ok(Self {
            normalizer: named.nfc.then(|| NFC.into()),
            split: Sequence::new(stages).into(),
            ignore_merges: named.ignore_merges,
            add_bos: named.add_bos,
        })
    }
}

fn split(regex: &str) -> PreTokenizerWrapper {
    let pattern = SplitPattern::Regex(regex.to_owned());
    Split::new(pattern, SplitDelimiterBehavior::Isolated, false).expect("a constant pattern compiles").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_a_pre_tokenizer_and_others_are_refused_with_the_list() {
        for name in KNOWN.iter().flat_map(|known| known.names) {
            assert!(PreTokenizer::named(name).is_ok(), "{name}");
        }
        let message = PreTokenizer::named("kimi-k2").err().expect("not supported").to_string();
        assert!(message.contains("`kimi-k2`") && message.contains("smollm") && message.contains("qwen2"), "{message}");
    }
}
