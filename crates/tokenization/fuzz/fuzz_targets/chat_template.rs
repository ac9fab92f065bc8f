//! Any text is a chat template that renders, fails or is refused, within its budget.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tokenization::{ChatMessage, ChatTemplate, RenderOptions, Tokenizer};

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
    let json = include_bytes!("../corpus/tokenizer_json/bpe.json");
    Tokenizer::from_json(json, Some(r#"{"bos_token": "<s>"}"#)).expect("a valid tokenizer.json")
});

fuzz_target!(|source: &str| {
    let Ok(template) = ChatTemplate::new(source, &TOKENIZER) else { return };
    let messages = ["user", "assistant"].map(|role| ChatMessage { role: role.into(), content: "hé".into() });
    let options = RenderOptions { add_generation_prompt: true, now_unix_s: Some(0), ..RenderOptions::default() };
    _ = template.render(&messages, options);
});
