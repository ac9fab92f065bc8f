//! Vocabularies of every kind against the reference implementations, and broken ones.

use model_format::gguf::Writer;
use serde::Deserialize;
use serde_json::{Value, json};
use tokenization::{MAX_TEXT_BYTES, SpecialText, SpecialTokens, Tokenizer, TokenizerError};

use crate::fixtures::{self, ByteLevel, SentencePiece, parse};

#[test]
fn byte_level_vocabularies_agree_with_the_tokenizers_package() {
    let fixture = ByteLevel::load();
    for (pre, expected) in &fixture.pre {
        let from_gguf = Tokenizer::from_gguf(&parse(&fixture.gguf(pre))).expect("a valid vocabulary");
        let json = fixture.tokenizer_json(pre).to_string();
        let from_json = Tokenizer::from_json(json.as_bytes(), None).expect("a valid tokenizer.json");
        for (text, ids) in fixture.texts.iter().zip(expected["ids"].as_array().expect("a list a text")) {
            let ids: Vec<u32> = serde_json::from_value(ids.clone()).expect("token ids");
            for tokenizer in [&from_gguf, &from_json] {
                assert_eq!(tokenizer.encode(text, SpecialTokens::Omit).as_ref(), Ok(&ids), "{pre} {text:?}");
                let decoded = tokenizer.decode(&ids, SpecialText::Keep).expect("known ids");
                // Qwen 2 composes characters first.
                assert!(decoded == *text || pre == "qwen2" && text.contains("e\u{301}"), "{pre} {text:?} {decoded:?}");
            }
        }
    }
}

#[test]
fn the_default_pre_tokenizer_keeps_every_byte() {
    let fixture = ByteLevel::load();
    let tokenizer = Tokenizer::from_gguf(&parse(&fixture.gguf("default"))).expect("a valid vocabulary");
    for text in &fixture.texts {
        let ids = tokenizer.encode(text, SpecialTokens::Omit).expect("a short text");
        assert_eq!(tokenizer.decode(&ids, SpecialText::Keep).as_ref(), Ok(text));
    }
}

#[test]
fn sentencepiece_vocabularies_agree_with_the_sentencepiece_package() {
    let fixture: SentencePiece = fixtures::json("sentencepiece.json");
    for model in &fixture.models {
        let tokenizer = Tokenizer::from_gguf(&parse(&model.gguf())).expect("a valid vocabulary");
        for case in &model.cases {
            let ids = tokenizer.encode(&case.text, SpecialTokens::Omit);
            assert_eq!(ids.as_ref(), Ok(&case.ids), "{:?}", case.text);
            if model.byte_fallback {
                assert_eq!(tokenizer.decode(&case.ids, SpecialText::Keep).as_ref(), Ok(&case.decoded));
            }
        }
    }
}

#[derive(Deserialize)]
struct LlamaCases {
    cases: Vec<LlamaCase>,
}

#[derive(Deserialize)]
struct LlamaCase {
    text: String,
    omit: Vec<u32>,
    add: Vec<u32>,
    keep: String,
    skip: String,
}

#[test]
fn a_sentencepiece_model_is_the_same_from_gguf_and_from_tokenizer_json() {
    let from_json = Tokenizer::from_json(
        fixtures::text("llama_tokenizer.json").as_bytes(),
        Some(r#"{"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": false}, "pad_token": null}"#),
    )
    .expect("a valid tokenizer.json");
    let from_gguf = fixtures::sentencepiece_tokenizer();
    let fixture: LlamaCases = fixtures::json("llama_cases.json");
    for tokenizer in [&from_json, &from_gguf] {
        assert_eq!((tokenizer.bos_token_id(), tokenizer.eos_token_id()), (Some(1), Some(2)));
        assert_eq!(tokenizer.vocab_size(), 600);
        assert_eq!(tokenizer.id_of("<0x0A>"), Some(13));
        assert_eq!(tokenizer.token_text(13), Some("<0x0A>"));
        assert_eq!(tokenizer.token_bytes(13), Some(&b"\n"[..]));
        for case in &fixture.cases {
            assert_eq!(tokenizer.encode(&case.text, SpecialTokens::Omit).as_ref(), Ok(&case.omit), "{:?}", case.text);
            assert_eq!(tokenizer.encode(&case.text, SpecialTokens::Add).as_ref(), Ok(&case.add), "{:?}", case.text);
            assert_eq!(tokenizer.decode(&case.add, SpecialText::Keep).as_ref(), Ok(&case.keep), "{:?}", case.text);
            assert_eq!(tokenizer.decode(&case.add, SpecialText::Skip).as_ref(), Ok(&case.skip), "{:?}", case.text);
        }
    }
}

#[test]
fn whole_texts_are_framed_as_the_file_says() {
    let fixture = ByteLevel::load();
    let body = [fixture.tokens.iter().position(|t| t == "a").expect("a byte") as u32];
    for (pre, add_bos, add_eos, prefix, suffix) in [
        ("qwen2", None, None, &[][..], &[][..]),
        ("qwen2", Some(true), None, &[0], &[]),
        ("llama-bpe", None, None, &[0], &[]),
        ("llama-bpe", Some(false), Some(true), &[], &[1]),
        ("tekken", None, Some(true), &[0], &[1]),
    ] {
        let mut gguf = fixture.gguf(pre);
        if let Some(add_bos) = add_bos {
            gguf.metadata("tokenizer.ggml.add_bos_token", add_bos);
        }
        if let Some(add_eos) = add_eos {
            gguf.metadata("tokenizer.ggml.add_eos_token", add_eos);
        }
        let tokenizer = Tokenizer::from_gguf(&parse(&gguf)).expect("a valid vocabulary");
        let framed = tokenizer.encode("a", SpecialTokens::Add).expect("a short text");
        assert_eq!(framed, [prefix, &body, suffix].concat(), "{pre} {add_bos:?} {add_eos:?}");
        assert_eq!(tokenizer.encode("a", SpecialTokens::Omit).expect("a short text"), body);
        assert!(tokenizer.is_special(0));
        assert!(!tokenizer.is_special(body[0]));
    }
}

/// A vocabulary of three tokens, in which `key` is replaced by `value`, or left out.
fn small(model: &str, replaced: &str, value: Option<model_format::gguf::Value>) -> Writer {
    let mut gguf = Writer::new();
    let texts = |texts: [&str; 4]| texts.map(str::to_owned).to_vec();
    for (key, default) in [
        ("tokenizer.ggml.model", model.into()),
        ("tokenizer.ggml.pre", "gpt-2".into()),
        ("tokenizer.ggml.tokens", texts(["<unk>", "a", "b", "ab"]).into()),
        ("tokenizer.ggml.token_type", vec![2, 1, 1, 1].into()),
        ("tokenizer.ggml.scores", vec![0.0_f32, -1.0, -2.0, -3.0].into()),
        ("tokenizer.ggml.merges", vec!["a b".to_owned()].into()),
        ("tokenizer.ggml.bos_token_id", 0_u32.into()),
    ] {
        if key != replaced {
            let default: model_format::gguf::Value = default;
            gguf.metadata(key, default);
        }
    }
    if let Some(value) = value {
        gguf.metadata(replaced, value);
    }
    gguf
}

#[test]
fn broken_gguf_vocabularies_are_refused_with_the_reason() {
    let strings = |texts: &[&str]| Some(texts.iter().map(ToString::to_string).collect::<Vec<_>>().into());
    let longest_merge = "b".repeat(100) + " a";
    for (model, key, value, reason) in [
        ("gpt2", "tokenizer.ggml.model", None, "no `tokenizer.ggml.model`"),
        ("gpt2", "tokenizer.ggml.model", Some("rwkv".into()), "`rwkv`, which is not supported; supported: gpt2"),
        ("gpt2", "tokenizer.ggml.model", Some(7_u32.into()), "a string is expected"),
        ("gpt2", "tokenizer.ggml.pre", None, "no `tokenizer.ggml.pre`"),
        (
            "gpt2",
            "tokenizer.ggml.pre",
            Some("qwen9".into()),
            "`qwen9`, which is not supported; supported: gpt-2, phi-2",
        ),
        ("gpt2", "tokenizer.ggml.tokens", None, "no `tokenizer.ggml.tokens`"),
        ("gpt2", "tokenizer.ggml.tokens", strings(&["a", "b", "ab"]), "4 token types for 3 tokens"),
        ("gpt2", "tokenizer.ggml.tokens", strings(&["a", "b", "ab", "a"]), "\"a\" has the ids 0 and 3"),
        ("gpt2", "tokenizer.ggml.token_type", Some(vec![1, 1, 1, 9].into()), "token 3 has the type 9"),
        ("gpt2", "tokenizer.ggml.merges", None, "no `tokenizer.ggml.merges`"),
        ("gpt2", "tokenizer.ggml.merges", strings(&["ab"]), "merge 0, \"ab\", has no space"),
        ("gpt2", "tokenizer.ggml.merges", strings(&["a b", "a c"]), "merge 1, \"a c\", needs the token \"c\""),
        ("gpt2", "tokenizer.ggml.merges", strings(&["b a"]), "needs the token \"ba\""),
        ("gpt2", "tokenizer.ggml.merges", strings(&[&longest_merge]), "needs the token \"bbbb"),
        ("gpt2", "tokenizer.ggml.merges", strings(&["a b", "a b"]), "merge 1, \"a b\", occurs twice"),
        ("gpt2", "tokenizer.ggml.bos_token_id", Some(4_u32.into()), "`tokenizer.ggml.bos_token_id` is 4"),
        ("gpt2", "tokenizer.ggml.add_eos_token", Some(true.into()), "`tokenizer.ggml.eos_token_id` is missing"),
        ("gpt2", "tokenizer.ggml.add_space_prefix", Some(true.into()), "add_space_prefix `true`"),
        ("llama", "tokenizer.ggml.bos_token_id", None, "`tokenizer.ggml.bos_token_id` is missing"),
        ("llama", "tokenizer.ggml.scores", None, "no `tokenizer.ggml.scores`"),
        ("llama", "tokenizer.ggml.scores", Some(vec![0.0_f32].into()), "1 scores for 4 tokens"),
        (
            "llama",
            "tokenizer.ggml.scores",
            Some(vec![0.0, f32::NAN, 0.0, 0.0].into()),
            "score of token 1 is not a number",
        ),
        ("llama", "tokenizer.ggml.token_type", Some(vec![1, 1, 1, 1].into()), "neither 256 byte tokens nor an unknown"),
        ("llama", "tokenizer.ggml.remove_extra_whitespaces", Some(true.into()), "remove_extra_whitespaces `true`"),
    ] {
        let gguf = parse(&small(model, key, value));
        let message = Tokenizer::from_gguf(&gguf).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(message.contains(reason), "{key}: expected {reason:?}, got {message:?}");
    }
    for model in ["gpt2", "llama"] {
        let tokenizer = Tokenizer::from_gguf(&parse(&small(model, "", None))).expect("sound but for the replaced key");
        assert_eq!(tokenizer.decode(&[3], SpecialText::Keep).as_deref(), Ok("ab"));
        let unused = small(model, "tokenizer.ggml.token_type", Some(vec![2, 1, 1, 5].into()));
        let tokenizer = Tokenizer::from_gguf(&parse(&unused)).expect("a valid vocabulary");
        assert_eq!(tokenizer.decode(&[1, 3, 2], SpecialText::Keep).as_deref(), Ok("ab"));
    }
}

#[test]
fn broken_tokenizer_json_files_are_refused_with_the_reason() {
    let fixture = ByteLevel::load();
    let whole = fixture.tokenizer_json("qwen2");
    for (pointer, value, reason) in [
        ("/decoder", Value::Null, "the decoder `null`"),
        ("/decoder", json!({"type": "WordPiece", "prefix": "##", "cleanup": true}), "the decoder `WordPiece`"),
        ("/decoder", json!({"type": "Sequence", "decoders": [{"type": "CTC"}]}), "the decoder `CTC`"),
        ("/decoder", json!({"type": "Metaspace", "replacement": "_"}), "another mark"),
        ("/model/dropout", json!(0.1), "model.dropout"),
        ("/model/type", json!("Nonsense"), "failed"),
        ("/model/merges/0", json!("zz zz"), "out of vocabulary"),
        // The tokenizers crate panics on this one: its sides are longer together than any token.
        ("/model/vocab", json!({"a": 0, "b": 1}), "out of range"),
        ("/model/vocab/!", json!(u32::MAX), "token id 4294967295"),
        ("/model/vocab/!", json!(5), "token id 5 is both"),
        ("/added_tokens/0/id", json!(3), "the id 3, and its vocabulary the id 0"),
        (
            "/pre_tokenizer",
            json!({"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": false}),
            "fail",
        ),
        ("/version", json!("2.0"), "version"),
    ] {
        let mut broken = whole.clone();
        match broken.pointer_mut(pointer) {
            Some(place) => *place = value,
            None => panic!("{pointer} is not in the fixture"),
        }
        if pointer == "/model/vocab" {
            broken["model"]["merges"] = json!(["a b"]);
            broken["added_tokens"] = json!([]);
        }
        let message = Tokenizer::from_json(broken.to_string().as_bytes(), None).err().map(|e| e.to_string());
        assert!(
            message.as_ref().is_some_and(|m| m.contains(reason)),
            "{pointer}: expected {reason:?}, got {message:?}"
        );
    }
    let whole = whole.to_string();
    for cut in (0..whole.len()).step_by(997) {
        assert!(Tokenizer::from_json(&whole.as_bytes()[..cut], None).is_err(), "cut at {cut}");
    }
    for config in ["", "[", r#"{"bos_token": 7}"#] {
        assert!(Tokenizer::from_json(whole.as_bytes(), Some(config)).is_err(), "{config}");
    }
}

#[test]
fn texts_and_patterns_beyond_bounds_are_errors() {
    let fixture = ByteLevel::load();
    let tokenizer = fixtures::byte_level_tokenizer();
    let text = "a".repeat(MAX_TEXT_BYTES + 1);
    let error = TokenizerError::TextTooLong { bytes: MAX_TEXT_BYTES + 1, max_bytes: MAX_TEXT_BYTES };
    assert_eq!(tokenizer.encode(&text, SpecialTokens::Omit), Err(error));

    let unknown = TokenizerError::UnknownToken { id: 9999, vocab_size: tokenizer.vocab_size() };
    assert_eq!(tokenizer.decode(&[0, 9999], SpecialText::Keep), Err(unknown));

    // A pattern with exponential backtracking: the engine gives up, and only this call fails.
    let mut json = fixture.tokenizer_json("qwen2");
    json["pre_tokenizer"] =
        json!({"type": "Split", "pattern": {"Regex": "^(a|a|aa)+$"}, "behavior": "Isolated", "invert": false});
    let tokenizer = Tokenizer::from_json(json.to_string().as_bytes(), None).expect("a valid tokenizer.json");
    let result = tokenizer.encode(&("a".repeat(60) + "!"), SpecialTokens::Omit);
    assert!(matches!(result, Err(TokenizerError::Pipeline { .. })), "{result:?}");
    assert!(tokenizer.encode("aa", SpecialTokens::Omit).is_ok());
}
