//! The fixtures as values, and as GGUF files.

use model_format::Gguf;
use model_format::gguf::Writer;
use proptest::test_runner::{Config, RngSeed};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokenization::Tokenizer;

pub(crate) fn text(name: &str) -> String {
    let path = format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

pub(crate) fn json<T: DeserializeOwned>(name: &str) -> T {
    serde_json::from_str(&text(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

pub(crate) fn parse(gguf: &Writer) -> Gguf {
    Gguf::parse(&gguf.finish()).expect("a valid GGUF file")
}

/// The same cases in every run.
pub(crate) fn fixed_seed(cases: u32) -> Config {
    Config { cases, rng_seed: RngSeed::Fixed(0x5EED), failure_persistence: None, ..Config::default() }
}

/// One byte-level vocabulary under several pre-tokenizers.
#[derive(Deserialize)]
pub(crate) struct ByteLevel {
    pub(crate) tokens: Vec<String>,
    pub(crate) merges: Vec<String>,
    pub(crate) special: Vec<String>,
    pub(crate) user_defined: Vec<String>,
    pub(crate) texts: Vec<String>,
    pub(crate) pre: serde_json::Map<String, Value>,
}

impl ByteLevel {
    pub(crate) fn load() -> Self {
        json("byte_level.json")
    }

    pub(crate) fn gguf(&self, pre: &str) -> Writer {
        let types = self.tokens.iter().map(|token| match token {
            t if self.special.contains(t) => 3,
            t if self.user_defined.contains(t) => 4,
            _ => 1,
        });
        let mut gguf = Writer::new();
        gguf.metadata("tokenizer.ggml.model", "gpt2")
            .metadata("tokenizer.ggml.pre", pre)
            .metadata("tokenizer.ggml.tokens", self.tokens.clone())
            .metadata("tokenizer.ggml.token_type", types.collect::<Vec<i32>>())
            .metadata("tokenizer.ggml.merges", self.merges.clone())
            .metadata("tokenizer.ggml.bos_token_id", 0_u32)
            .metadata("tokenizer.ggml.eos_token_id", 1_u32);
        gguf
    }

    /// The same vocabulary as a tokenizer.json.
    pub(crate) fn tokenizer_json(&self, pre: &str) -> Value {
        let added = self.special.iter().chain(&self.user_defined).map(|content| {
            serde_json::json!({
                "id": self.tokens.iter().position(|t| t == content), "content": content, "single_word": false,
                "lstrip": false, "rstrip": false, "normalized": false, "special": self.special.contains(content),
            })
        });
        let vocab: serde_json::Map<String, Value> =
            self.tokens.iter().enumerate().map(|(id, token)| (token.clone(), id.into())).collect();
        serde_json::json!({
            "version": "1.0",
            // Both must be ignored: a prompt is never cut or filled up behind the user's back.
            "truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
            "padding": {"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 1,
                        "pad_type_id": 0, "pad_token": "<|end|>"},
            "added_tokens": added.collect::<Vec<_>>(),
            "normalizer": self.pre[pre]["normalizer"],
            "pre_tokenizer": self.pre[pre]["pre_tokenizer"],
            "post_processor": null,
            "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                "ignore_merges": self.pre[pre]["ignore_merges"], "vocab": vocab, "merges": self.merges,
            },
        })
    }
}

#[derive(Deserialize)]
pub(crate) struct SentencePiece {
    pub(crate) models: Vec<SentencePieceModel>,
}

#[derive(Deserialize)]
pub(crate) struct SentencePieceModel {
    pub(crate) byte_fallback: bool,
    /// Text, score and type; the types have the same numbers as in GGUF.
    pub(crate) pieces: Vec<(String, f32, i32)>,
    pub(crate) cases: Vec<SentencePieceCase>,
}

#[derive(Deserialize)]
pub(crate) struct SentencePieceCase {
    pub(crate) text: String,
    pub(crate) ids: Vec<u32>,
    pub(crate) decoded: String,
}

impl SentencePieceModel {
    pub(crate) fn gguf(&self) -> Writer {
        let mut gguf = Writer::new();
        gguf.metadata("tokenizer.ggml.model", "llama")
            .metadata("tokenizer.ggml.tokens", self.pieces.iter().map(|p| p.0.clone()).collect::<Vec<_>>())
            .metadata("tokenizer.ggml.scores", self.pieces.iter().map(|p| p.1).collect::<Vec<_>>())
            .metadata("tokenizer.ggml.token_type", self.pieces.iter().map(|p| p.2).collect::<Vec<_>>())
            .metadata("tokenizer.ggml.bos_token_id", 1_u32)
            .metadata("tokenizer.ggml.eos_token_id", 2_u32);
        gguf
    }
}

/// A byte-level tokenizer that has a token for every byte.
pub(crate) fn byte_level_tokenizer() -> Tokenizer {
    Tokenizer::from_gguf(&parse(&ByteLevel::load().gguf("qwen2"))).expect("a valid vocabulary")
}

/// A SentencePiece tokenizer that has a token for every byte.
pub(crate) fn sentencepiece_tokenizer() -> Tokenizer {
    let fixture: SentencePiece = json("sentencepiece.json");
    Tokenizer::from_gguf(&parse(&fixture.models[0].gguf())).expect("a valid vocabulary")
}
