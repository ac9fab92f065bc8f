//! Any tokenizer.json gives a tokenizer or an error, and any tokenizer encodes, or says why not, and decodes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tokenization::{SpecialText, SpecialTokens, Tokenizer};

fuzz_target!(init: {
    // The crate catches the panics of the library below it; the fuzzer's hook would abort before that.
    std::panic::set_hook(Box::new(|_| {}));
}, |file: &[u8]| {
    let Ok(tokenizer) = Tokenizer::from_json(file, Some("{}")) else { return };
    let Ok(ids) = tokenizer.encode("ab <s>1 Ünï你\n", SpecialTokens::Add) else { return };
    // A post-processor may add ids that are not in the vocabulary.
    _ = tokenizer.decode(&ids, SpecialText::Skip);
});
