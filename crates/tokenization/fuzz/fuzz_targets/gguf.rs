//! Any GGUF file gives a tokenizer or an error, and any tokenizer encodes and decodes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use model_format::Gguf;
use tokenization::{ChatTemplate, SpecialText, SpecialTokens, Tokenizer};

fuzz_target!(|file: &[u8]| {
    let Ok(gguf) = Gguf::parse(file) else { return };
    let Ok(tokenizer) = Tokenizer::from_gguf(&gguf) else { return };
    let ids = tokenizer.encode("ab <s>1 Ünï你\n", SpecialTokens::Add).expect("a short text");
    tokenizer.decode(&ids, SpecialText::Keep).expect("its own ids");
    _ = ChatTemplate::from_gguf(&gguf, &tokenizer);
});
