//! Replays the files where fuzzing starts, valid and broken, and mutations of them: a value or an error, never a panic.

use std::fs;
use std::path::PathBuf;

use model_format::Gguf;
use proptest::prelude::*;
use proptest::sample::Index;
use tokenization::{
    ChatMessage, ChatTemplate, RenderOptions, SpecialText, SpecialTokens, TemplateError, Tokenizer, TokenizerError,
};

use crate::fixtures::{byte_level_tokenizer, fixed_seed};

const TEXT: &str = "ab <s>1 Ünï你\n";

/// The files of one fuzz target: name and content, in order.
fn files(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = PathBuf::from(format!("{}/fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR")));
    let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a readable folder").path()).collect();
    paths.sort();
    let name = |path: &PathBuf| path.file_stem().expect("a name").to_string_lossy().into_owned();
    paths.iter().map(|path| (name(path), fs::read(path).expect("a readable file"))).collect()
}

/// Runs every file, of which exactly those named in `accepted` must be, and then mutations of the accepted ones: some
/// bytes set, and a part repeated or left out.
fn check<E>(target: &str, accepted: &[&str], run: impl Fn(&[u8]) -> Result<(), E>) {
    let files = files(target);
    let names: Vec<&str> = files.iter().filter(|(_, file)| run(file).is_ok()).map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, accepted);

    let sound: Vec<&Vec<u8>> =
        files.iter().filter(|(name, _)| names.contains(&name.as_str())).map(|(_, f)| f).collect();
    let bytes = prop_oneof![any::<u8>(), prop::sample::select(b"\0\x01\xFF{}[]%\"0 ".to_vec())];
    let edits = prop::collection::vec((any::<Index>(), bytes), 0..4);
    let part = any::<(Index, Index, bool)>();
    proptest!(fixed_seed(1000), |(file in any::<Index>(), edits in edits, (from, to, repeat) in part)| {
        let mut mutant = (*file.get(&sound)).clone();
        for (at, byte) in edits {
            let at = at.index(mutant.len());
            mutant[at] = byte;
        }
        let (from, to) = (from.index(mutant.len()), to.index(mutant.len()));
        let part: Vec<u8> = mutant.get(from..to).unwrap_or_default().to_vec();
        if repeat {
            mutant.splice(to..to, part);
        } else {
            mutant.drain(from..from + part.len());
        }
        _ = run(&mutant);
    });
}

#[test]
fn gguf_files() {
    check("gguf", &["bpe", "sentencepiece"], |file| -> Result<(), TokenizerError> {
        let gguf = Gguf::parse(file)?;
        let tokenizer = Tokenizer::from_gguf(&gguf)?;
        let ids = tokenizer.encode(TEXT, SpecialTokens::Add)?;
        tokenizer.decode(&ids, SpecialText::Keep).map(|_| ())
    });
}

#[test]
fn tokenizer_json_files() {
    check("tokenizer_json", &["bpe", "endless_pattern", "truncation"], |file| -> Result<(), TokenizerError> {
        let tokenizer = Tokenizer::from_json(file, None)?;
        let ids = tokenizer.encode(TEXT, SpecialTokens::Add)?;
        tokenizer.decode(&ids, SpecialText::Keep).map(|_| ())
    });
}

#[test]
fn chat_templates() {
    let tokenizer = byte_level_tokenizer();
    let accepted = ["chatml", "llama2", "llama3", "mistral", "pythonisms", "qwen2.5", "qwen3"];
    check("chat_template", &accepted, |file| -> Result<(), TemplateError> {
        let template = ChatTemplate::new(&String::from_utf8_lossy(file), &tokenizer)?;
        let messages = ["user", "assistant"].map(|role| ChatMessage { role: role.into(), content: "hé".into() });
        let options = RenderOptions { add_generation_prompt: true, now_unix_s: Some(0), ..RenderOptions::default() };
        template.render(&messages, options).map(|_| ())
    });
}
