//! The demo model's own vocabulary and chat template against the reference (`fixtures/smollm2`).

use std::path::PathBuf;
use std::sync::Arc;

use model_format::Gguf;
use proptest::prelude::*;
use serde::Deserialize;
use tokenization::{
    ChatMessage, ChatTemplate, IncrementalDecoder, RenderOptions, SpecialText, SpecialTokens, Tokenizer,
};

use crate::fixtures::fixed_seed;

#[derive(Deserialize)]
struct Cases<T> {
    cases: Vec<T>,
}

#[derive(Deserialize)]
struct TokenizerCase {
    text: String,
    ids: Vec<u32>,
}

#[derive(Deserialize)]
struct GoldenCase {
    messages: Vec<Message>,
    prompt: String,
    prompt_ids: Vec<u32>,
    output_ids: Vec<u32>,
    output_text: String,
}

#[derive(Deserialize)]
struct Message {
    role: String,
    content: String,
}

fn cases<T: serde::de::DeserializeOwned>(name: &str) -> Vec<T> {
    let path = format!("{}/../../fixtures/smollm2/{name}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    serde_json::from_str::<Cases<T>>(&text).unwrap_or_else(|e| panic!("{path}: {e}")).cases
}

/// Where `pagewise pull` puts the demo model, unless `PAGEWISE_TEST_MODEL` says otherwise.
fn model_path() -> PathBuf {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    variable("PAGEWISE_TEST_MODEL").unwrap_or_else(|| {
        let cache = variable("PAGEWISE_CACHE")
            .or_else(|| variable("XDG_CACHE_HOME").map(|cache| cache.join("pagewise")))
            .or_else(|| variable("HOME").map(|home| home.join(".cache/pagewise")))
            .unwrap_or_default();
        cache.join("models/SmolLM2-135M-Instruct.Q4_1.gguf")
    })
}

/// The demo model, or `None` with a note if it is not here and need not be.
fn demo_model() -> Option<Gguf> {
    let path = model_path();
    if !path.exists() {
        let note = format!("the demo model is not at {}; fetch it with 'cargo xtask pull-demo'", path.display());
        assert!(std::env::var_os("PAGEWISE_REQUIRE_MODEL").is_none(), "{note}");
        println!("skipped: {note}");
        return None;
    }
    let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    Some(Gguf::parse(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
}

#[test]
fn the_demo_model_tokenizes_and_renders_as_the_reference() {
    let Some(gguf) = demo_model() else { return };
    let tokenizer = Arc::new(Tokenizer::from_gguf(&gguf).expect("a supported vocabulary"));
    assert_eq!((tokenizer.vocab_size(), tokenizer.bos_token_id(), tokenizer.eos_token_id()), (49152, Some(1), Some(2)));

    for case in cases::<TokenizerCase>("tokenizer-cases.json") {
        for special in [SpecialTokens::Omit, SpecialTokens::Add] {
            assert_eq!(tokenizer.encode(&case.text, special).as_ref(), Ok(&case.ids), "{:?}", case.text);
        }
    }

    let template = ChatTemplate::from_gguf(&gguf, &tokenizer).expect("a valid template").expect("a template");
    for case in cases::<GoldenCase>("golden.json") {
        let messages: Vec<ChatMessage> =
            case.messages.into_iter().map(|m| ChatMessage { role: m.role, content: m.content }).collect();
        let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
        assert_eq!(template.render(&messages, options).as_ref(), Ok(&case.prompt));
        assert_eq!(tokenizer.encode(&case.prompt, SpecialTokens::Omit).as_ref(), Ok(&case.prompt_ids));
        assert_eq!(tokenizer.decode(&case.prompt_ids, SpecialText::Keep).as_ref(), Ok(&case.prompt));

        let whole = tokenizer.decode(&case.output_ids, SpecialText::Keep).expect("known ids");
        let skipped = tokenizer.decode(&case.output_ids, SpecialText::Skip).expect("known ids");
        assert!([&whole, &skipped].contains(&&case.output_text), "{whole:?}");
    }

    proptest!(fixed_seed(256), |(tokens in prop::collection::vec(0..tokenizer.vocab_size(), 0..60))| {
        let mut decoder = IncrementalDecoder::new(Arc::clone(&tokenizer), SpecialText::Skip);
        let mut text = String::new();
        for &token in &tokens {
            text.push_str(decoder.push(token));
        }
        text.push_str(&decoder.flush());
        prop_assert_eq!(text, tokenizer.decode(&tokens, SpecialText::Skip).expect("known tokens"));
    });
}
