//! Replays the files where fuzzing starts, valid and broken: a value or an error, never a panic.

use std::fs;
use std::path::PathBuf;

use model_format::Gguf;
use tokenization::{
    ChatMessage, ChatTemplate, RenderOptions, SpecialText, SpecialTokens, TemplateError, Tokenizer, TokenizerError,
};

use crate::fixtures::byte_level_tokenizer;

const TEXT: &str = "ab <s>1 Ünï你\n";

/// The files of one fuzz target that `run` accepts, by name, in order.
fn accepted<E>(target: &str, run: impl Fn(&[u8]) -> Result<(), E>) -> Vec<String> {
    let folder = PathBuf::from(format!("{}/fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR")));
    let files = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<PathBuf> = files.map(|entry| entry.expect("a readable folder").path()).collect();
    paths.sort();
    let name = |path: &PathBuf| path.file_stem().expect("a name").to_string_lossy().into_owned();
    paths.iter().filter(|path| run(&fs::read(path).expect("a readable file")).is_ok()).map(name).collect()
}

#[test]
fn gguf_files() {
    let names = accepted("gguf", |file| -> Result<(), TokenizerError> {
        let gguf = Gguf::parse(file)?;
        let tokenizer = Tokenizer::from_gguf(&gguf)?;
        let ids = tokenizer.encode(TEXT, SpecialTokens::Add)?;
        tokenizer.decode(&ids, SpecialText::Keep).map(|_| ())
    });
    assert_eq!(names, ["bpe", "sentencepiece"]);
}

#[test]
fn tokenizer_json_files() {
    let names = accepted("tokenizer_json", |file| -> Result<(), TokenizerError> {
        let tokenizer = Tokenizer::from_json(file, None)?;
        let ids = tokenizer.encode(TEXT, SpecialTokens::Add)?;
        tokenizer.decode(&ids, SpecialText::Keep).map(|_| ())
    });
    assert_eq!(names, ["bpe", "endless_pattern", "truncation"]);
}

#[test]
fn chat_templates() {
    let tokenizer = byte_level_tokenizer();
    let names = accepted("chat_template", |file| -> Result<(), TemplateError> {
        let template = ChatTemplate::new(&String::from_utf8_lossy(file), &tokenizer)?;
        let messages = ["user", "assistant"].map(|role| ChatMessage { role: role.into(), content: "hé".into() });
        let options = RenderOptions { add_generation_prompt: true, now_unix_s: Some(0), ..RenderOptions::default() };
        template.render(&messages, options).map(|_| ())
    });
    assert_eq!(names, ["chatml", "llama2", "llama3", "mistral", "pythonisms", "qwen2.5", "qwen3"]);
}
