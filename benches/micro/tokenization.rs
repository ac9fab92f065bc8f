//! Text to tokens and back, with the demo model's tokenizer: what a prompt costs before it reaches the engine, and a token on its
//! way to a reader. Knows no server.

use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Arc;

use benches::text::TEXT_IDS;
use criterion::{Criterion, Throughput};
use model_format::Gguf;
use tokenization::{IncrementalDecoder, SpecialText, SpecialTokens, Tokenizer};

/// Tokens of the text: a few thousand bytes.
const NUM_TOKENS: usize = 1024;

/// Encoding and incremental decoding, in tokens.
pub(super) fn tokenization(criterion: &mut Criterion) {
    let Some(tokenizer) = demo_tokenizer() else { return };
    let ids = &TEXT_IDS[..NUM_TOKENS];
    let text = tokenizer.decode(ids, SpecialText::Keep).expect("the ids are the tokenizer's own");
    let mut group = criterion.benchmark_group("tokenization");
    group.throughput(Throughput::Elements(NUM_TOKENS as u64));
    group.bench_function(format!("encode {NUM_TOKENS} tokens of text"), |bencher| {
        bencher.iter(|| tokenizer.encode(black_box(&text), SpecialTokens::Omit));
    });
    group.bench_function(format!("decode {NUM_TOKENS} tokens, one by one"), |bencher| {
        bencher.iter(|| {
            let mut decoder = IncrementalDecoder::new(Arc::clone(&tokenizer), SpecialText::Keep);
            ids.iter().map(|id| decoder.push(*id).len()).sum::<usize>()
        });
    });
    group.finish();
}

/// The demo model's, where `pagewise pull` keeps it or `PAGEWISE_TEST_MODEL` says; `None`, with a note, if it is not there.
fn demo_tokenizer() -> Option<Arc<Tokenizer>> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    let path = variable("PAGEWISE_TEST_MODEL").unwrap_or_else(|| {
        let cache = variable("PAGEWISE_CACHE")
            .or_else(|| variable("XDG_CACHE_HOME").map(|cache| cache.join("pagewise")))
            .or_else(|| variable("HOME").map(|home| home.join(".cache/pagewise")))
            .unwrap_or_default();
        cache.join("models/SmolLM2-135M-Instruct.Q4_1.gguf")
    });
    if !path.exists() {
        eprintln!("skipped: the demo model is not at {}; `cargo xtask pull-demo` fetches it", path.display());
        return None;
    }
    let file = std::fs::read(&path).expect("the demo model is readable");
    let gguf = Gguf::parse(&file).expect("the demo model is a GGUF file");
    Some(Arc::new(Tokenizer::from_gguf(&gguf).expect("the demo model has a vocabulary")))
}
