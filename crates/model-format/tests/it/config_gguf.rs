//! Hyperparameters from GGUF metadata: what keys and tensors mean, and what is refused by name.

use model_format::{
    ConfigSource, FormatError, Gguf, ModelConfig, RopeConfig, RopeScaling, TensorFormat,
    gguf::{Value, Writer},
    quantize,
};

fn entries() -> Vec<(&'static str, Value)> {
    vec![
        ("general.architecture", "llama".into()),
        ("general.type", "model".into()),
        ("general.name", "Tiny".into()),
        ("general.quantization_version", 2_u32.into()),
        ("llama.block_count", 2_u32.into()),
        ("llama.context_length", 512_u32.into()),
        ("llama.embedding_length", 64_u32.into()),
        ("llama.feed_forward_length", 96_u32.into()),
        ("llama.attention.head_count", 4_u32.into()),
        ("llama.attention.head_count_kv", 2_u32.into()),
        ("llama.attention.layer_norm_rms_epsilon", 1e-5_f32.into()),
        ("llama.rope.freq_base", 50_000_f32.into()),
        ("llama.rope.dimension_count", 16_u32.into()),
        ("tokenizer.ggml.tokens", vec!["a", "b", "c", "d"].into()),
        ("tokenizer.ggml.bos_token_id", 1_u32.into()),
        ("tokenizer.ggml.eos_token_id", 2_u32.into()),
        ("tokenizer.ggml.eot_token_id", 3_u32.into()),
    ]
}

/// The bytes of the file above with some entries replaced, added, or removed, and vectors of ones added as tensors.
pub(crate) fn edited(edits: &[(&'static str, Option<Value>)], tensors: &[(&str, usize)]) -> Vec<u8> {
    let mut entries = entries();
    for (key, value) in edits {
        entries.retain(|(existing, _)| existing != key);
        entries.extend(value.clone().map(|value| (*key, value)));
    }
    let mut writer = Writer::new();
    for (key, value) in entries {
        writer.metadata(key, value);
    }
    for (name, len) in tensors {
        writer.tensor(name, TensorFormat::F32, &[*len], &quantize(TensorFormat::F32, &vec![1.0; *len]));
    }
    writer.finish()
}

pub(crate) fn parse(file: &[u8]) -> Result<ModelConfig, FormatError> {
    ModelConfig::from_gguf(&Gguf::parse(file)?, file)
}

fn config(edits: &[(&'static str, Option<Value>)], tensors: &[(&str, usize)]) -> ModelConfig {
    parse(&edited(edits, tensors)).unwrap_or_else(|e| panic!("{edits:?}: {e}"))
}

fn some(value: impl Into<Value>) -> Option<Value> {
    Some(value.into())
}

#[test]
fn in_full() {
    let expected = ModelConfig {
        architecture: "llama".to_owned(),
        source: ConfigSource::Gguf,
        hidden_size: 64,
        intermediate_size: 96,
        num_layers: 2,
        num_heads: 4,
        num_kv_heads: 2,
        head_dim: 16,
        vocab_size: 4,
        rms_norm_eps: 1e-5,
        max_position_embeddings: 512,
        rope: RopeConfig { theta: 50_000.0, scaling: RopeScaling::None },
        sliding_window: None,
        tie_word_embeddings: true,
        attention_bias: false,
        bos_token_id: Some(1),
        eos_token_ids: vec![2, 3],
        dtype: None,
    };
    assert_eq!(config(&[], &[]), expected);
    let gguf = Gguf::parse(&edited(&[], &[])).expect("a valid file");
    assert_eq!(ModelConfig::architecture_from_gguf(&gguf), Ok("llama"));
}

#[test]
fn accepted_variants() {
    assert_eq!(config(&[("llama.attention.head_count_kv", None)], &[]).num_kv_heads, 4);
    assert_eq!(config(&[("llama.attention.head_count_kv", some(vec![2, 2]))], &[]).num_kv_heads, 2);
    assert_eq!(config(&[("llama.feed_forward_length", some(vec![96_u32, 96]))], &[]).intermediate_size, 96);
    assert_eq!(config(&[("llama.vocab_size", some(8_u32))], &[]).vocab_size, 8);
    assert_eq!(config(&[("llama.attention.sliding_window", some(128_u32))], &[]).sliding_window, Some(128));
    assert_eq!(config(&[("llama.attention.sliding_window", some(0_u32))], &[]).sliding_window, None);
    assert_eq!(config(&[("llama.rope.freq_base", None)], &[]).rope.theta, 10_000.0);
    assert!(!config(&[], &[("output.weight", 4)]).tie_word_embeddings);
    assert!(config(&[], &[("blk.0.attn_q.bias", 4)]).attention_bias);
    let wide = [
        ("llama.attention.key_length", some(32_u32)),
        ("llama.attention.value_length", some(32_u32)),
        ("llama.rope.dimension_count", some(32_u32)),
    ];
    assert_eq!(config(&wide, &[]).head_dim, 32);
    let neutral = [
        ("llama.expert_count", some(0_u32)),
        ("llama.attention.causal", some(true)),
        ("llama.rope.scaling.finetuned", some(false)),
        ("llama.tensor_data_layout", some("Meta AI original pth")),
        ("quantize.imatrix.file", some("imatrix.dat")),
        ("split.count", some(1_u32)),
    ];
    assert_eq!(config(&neutral, &[]), config(&[], &[]));
}

#[test]
fn end_tokens_are_those_that_are_named_and_those_that_llama_cpp_knows_by_their_text() {
    let tokens = ["<|end_of_text|>", "<|eot_id|>", "b", "<|im_end|>", "<|endoftext|>", "<|eom_id|>", "<|im_start|>"];
    let ends = |types: [i32; 7]| {
        let edits = [
            ("tokenizer.ggml.tokens", some(tokens.to_vec())),
            ("tokenizer.ggml.token_type", some(types.to_vec())),
            ("tokenizer.ggml.eot_token_id", None),
        ];
        config(&edits, &[]).eos_token_ids
    };
    // Token 2 is named by its id. A text alone makes no control token.
    assert_eq!(ends([3; 7]), [0, 1, 2, 3, 4, 5]);
    assert_eq!(ends([3, 1, 1, 1, 4, 1, 3]), [0, 2]);
}

#[test]
fn rope_scaling() {
    let scaling = |edits: &[_], tensors: &[_]| config(edits, tensors).rope.scaling;
    let factor = ("llama.rope.scaling.factor", some(4_f32));
    assert_eq!(scaling(std::slice::from_ref(&factor), &[]), RopeScaling::Linear { factor: 4.0 });
    assert_eq!(scaling(&[("llama.rope.scale_linear", some(2_f32))], &[]), RopeScaling::Linear { factor: 2.0 });
    assert_eq!(scaling(&[("llama.rope.scale_linear", some(1_f32))], &[]), RopeScaling::None);
    assert_eq!(scaling(&[("llama.rope.scaling.type", some("none")), factor.clone()], &[]), RopeScaling::None);
    let yarn = [
        ("llama.rope.scaling.type", some("yarn")),
        factor.clone(),
        ("llama.rope.scaling.original_context_length", some(128_u32)),
        ("llama.rope.scaling.yarn_ext_factor", some(1_f32)),
        ("llama.rope.scaling.attn_factor", some(2_f32)),
        ("llama.rope.scaling.yarn_beta_fast", some(24_f32)),
    ];
    let expected = RopeScaling::Yarn {
        factor: 4.0,
        original_max_position_embeddings: 128,
        attention_factor: 2.0 * (0.1 * 4_f64.ln() + 1.0),
        beta_fast: 24.0,
        beta_slow: 1.0,
    };
    assert_eq!(scaling(&yarn, &[]), expected);
    assert_eq!(scaling(&[], &[("rope_freqs.weight", 8)]), RopeScaling::Factors(vec![1.0; 8]));
}

#[test]
fn refused_by_name() {
    let case = |expected: &'static str, key: &'static str, value: Option<Value>| (expected, vec![(key, value)], vec![]);
    let with_tensor = |expected: &'static str, name: &'static str, len: usize| (expected, vec![], vec![(name, len)]);
    let cases = [
        case("`general.architecture` is missing", "general.architecture", None),
        case("`general.architecture` has 100000 bytes", "general.architecture", some("a".repeat(100_000))),
        case("`general.type` = adapter", "general.type", some("adapter")),
        case("one of 3 parts of a model", "split.count", some(3_u32)),
        case("`general.quantization_version` = 1", "general.quantization_version", some(1_u32)),
        case("`llama.block_count` is missing", "llama.block_count", None),
        case("`llama.context_length` is missing", "llama.context_length", None),
        case("`llama.attention.layer_norm_rms_epsilon` is", "llama.attention.layer_norm_rms_epsilon", None),
        case("`llama.vocab_size` is missing", "tokenizer.ggml.tokens", None),
        case("`llama.block_count` holds \"2\"", "llama.block_count", some("2")),
        case("`llama.attention.head_count_kv` =", "llama.attention.head_count_kv", some(vec![2, 1])),
        case("`llama.attention.head_count_kv` =", "llama.attention.head_count_kv", some(Vec::<u32>::new())),
        case("`llama.expert_count` = 8", "llama.expert_count", some(8_u32)),
        case("`llama.expert_used_count` = 2", "llama.expert_used_count", some(2_u32)),
        case("`llama.attention.scale` = 0.5", "llama.attention.scale", some(0.5_f32)),
        case("`llama.attn_logit_softcapping` = 50", "llama.attn_logit_softcapping", some(50_f32)),
        case("`llama.final_logit_softcapping` = 30", "llama.final_logit_softcapping", some(30_f32)),
        case("`llama.logit_scale` = 0.5", "llama.logit_scale", some(0.5_f32)),
        case("`llama.attention.layer_norm_epsilon` = ", "llama.attention.layer_norm_epsilon", some(1e-5_f32)),
        case("`llama.attention.causal` = false", "llama.attention.causal", some(false)),
        case("`llama.attention.mystery` = [i32; 1]", "llama.attention.mystery", some(vec![1])),
        case("`llama.rope.dimension_sections` =", "llama.rope.dimension_sections", some(vec![4, 4])),
        case("`llama.rope.dimension_count` = 8", "llama.rope.dimension_count", some(8_u32)),
        case("`llama.attention.value_length` = 8", "llama.attention.value_length", some(8_u32)),
        case("`llama.rope.scaling.type` = longrope", "llama.rope.scaling.type", some("longrope")),
        case("yarn_log_multiplier` = 0.1", "llama.rope.scaling.yarn_log_multiplier", some(0.1_f32)),
        case("yarn_ext_factor` = 0.5", "llama.rope.scaling.yarn_ext_factor", some(0.5_f32)),
        case("`llama.tensor_data_layout` =", "llama.tensor_data_layout", some("rows")),
        case("not a multiple of 0 heads", "llama.attention.head_count", some(0_u32)),
        case("4 heads cannot share 3", "llama.attention.head_count_kv", some(3_u32)),
        case("the special token 9", "tokenizer.ggml.eos_token_id", some(9_u32)),
        with_tensor("`blk.0.attn_output.bias` = a bias", "blk.0.attn_output.bias", 4),
        with_tensor("`blk.1.ffn_up.bias` = a bias", "blk.1.ffn_up.bias", 4),
        with_tensor("`rope_factors_long.weight` =", "rope_factors_long.weight", 8),
        with_tensor("7 rope frequency divisors; 8 are", "rope_freqs.weight", 7),
        (
            "`rope_freqs.weight` = beside linear scaling",
            vec![("llama.rope.scaling.factor", some(2_f32))],
            vec![("rope_freqs.weight", 8)],
        ),
    ];
    for (expected, edits, tensors) in cases {
        match parse(&edited(&edits, &tensors)) {
            Ok(_) => panic!("accepted: {edits:?} {tensors:?}"),
            Err(error) => assert!(error.to_string().contains(expected), "expected `{expected}`, got `{error}`"),
        }
    }
    // The bytes that a description is used with need not be those that it came from.
    let file = edited(&[], &[("rope_freqs.weight", 8)]);
    let gguf = Gguf::parse(&file).expect("a valid file");
    let elsewhere = ModelConfig::from_gguf(&gguf, &file[..100]);
    assert_eq!(elsewhere, Err(FormatError::Missing { key: "rope_freqs.weight".to_owned() }));
}
