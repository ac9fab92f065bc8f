//! The real demo model, where it is at hand: its hyperparameters and its tensors.

use std::path::PathBuf;

use model_format::{Gguf, ModelConfig, RopeConfig, RopeScaling, TensorFormat, dequantize};

const FILE: &str = "models/SmolLM2-135M-Instruct.Q4_1.gguf";

/// The model's bytes, or `None` with a note where it was not fetched. With `PAGEWISE_REQUIRE_MODEL` absence is a failure.
fn demo_model() -> Option<Vec<u8>> {
    let var = |name| std::env::var_os(name).map(PathBuf::from);
    let cache = var("PAGEWISE_CACHE")
        .or_else(|| var("XDG_CACHE_HOME").map(|cache| cache.join("pagewise")))
        .or_else(|| var("HOME").map(|home| home.join(".cache/pagewise")));
    let path =
        var("PAGEWISE_TEST_MODEL").or_else(|| cache.map(|cache| cache.join(FILE))).unwrap_or_else(|| FILE.into());
    match std::fs::read(&path) {
        Ok(file) => Some(file),
        Err(e) => {
            assert!(var("PAGEWISE_REQUIRE_MODEL").is_none(), "the demo model is not at {}: {e}", path.display());
            eprintln!("skipped: the demo model is not at {}; fetch it with 'cargo xtask pull-demo'", path.display());
            None
        }
    }
}

#[test]
fn describes_the_demo_model() {
    let Some(file) = demo_model() else { return };
    let gguf = Gguf::parse(&file).expect("the demo model is valid");
    assert_eq!((gguf.version(), gguf.metadata().iter().len(), gguf.tensors().len()), (3, 33, 272));
    let tokens = gguf.metadata().strings("tokenizer.ggml.tokens").expect("strings").expect("a vocabulary");
    assert_eq!((tokens.len(), tokens[2].as_str()), (49_152, "<|im_end|>"));

    let config = ModelConfig::from_gguf(&gguf, &file).expect("the demo model is supported");
    assert_eq!(config.architecture, "llama");
    assert_eq!((config.hidden_size, config.intermediate_size, config.vocab_size), (576, 1536, 49_152));
    assert_eq!((config.num_layers, config.num_heads, config.num_kv_heads, config.head_dim), (30, 9, 3, 64));
    assert_eq!(config.rope, RopeConfig { theta: 100_000.0, scaling: RopeScaling::None });
    assert_eq!((config.bos_token_id, config.eos_token_ids.as_slice()), (Some(1), [0, 2].as_slice()));
    assert!(config.tie_word_embeddings);
    assert!(!config.attention_bias);

    let query = gguf.tensor("blk.0.attn_q.weight").expect("the tensor");
    assert_eq!((query.format, query.shape.as_slice()), (TensorFormat::Q4_1, [576, 576].as_slice()));
    let mut values = vec![0.0; 576 * 576];
    dequantize(query.format, &file[query.data.clone()], &mut values);
    let mean = values.iter().sum::<f32>() / values.len() as f32;
    assert!(mean.abs() < 0.01, "weights are centred; the mean is {mean}");
    assert!(values.iter().all(|x| x.abs() < 10.0), "weights are small");
}
