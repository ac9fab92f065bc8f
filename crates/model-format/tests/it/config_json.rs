//! config.json of the supported families: what the published files mean, and what is refused by name.

use model_format::{ConfigSource, FormatError, ModelConfig, RopeConfig, RopeScaling, TensorFormat};

pub(crate) fn fixture(name: &str) -> String {
    let path = format!("{}/tests/fixtures/configs/{name}.json", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn plain(theta: f64) -> RopeConfig {
    RopeConfig { theta, scaling: RopeScaling::None }
}

fn llama3(factor: f64) -> RopeConfig {
    let scaling = RopeScaling::Llama3 {
        factor,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    RopeConfig { theta: 500_000.0, scaling }
}

fn yarn(factor: f64, original_max_position_embeddings: u32) -> RopeConfig {
    let attention_factor = 0.1 * factor.ln() + 1.0;
    let scaling = RopeScaling::Yarn {
        factor,
        original_max_position_embeddings,
        attention_factor,
        beta_fast: 32.0,
        beta_slow: 1.0,
    };
    RopeConfig { theta: 1_000_000.0, scaling }
}

#[test]
fn smollm2_in_full() {
    let expected = ModelConfig {
        architecture: "LlamaForCausalLM".to_owned(),
        source: ConfigSource::HuggingFace,
        hidden_size: 576,
        intermediate_size: 1536,
        num_layers: 30,
        num_heads: 9,
        num_kv_heads: 3,
        head_dim: 64,
        vocab_size: 49_152,
        rms_norm_eps: 1e-5,
        max_position_embeddings: 8192,
        rope: plain(100_000.0),
        sliding_window: None,
        tie_word_embeddings: true,
        attention_bias: false,
        bos_token_id: Some(1),
        eos_token_ids: vec![2],
        dtype: Some(TensorFormat::BF16),
    };
    let json = fixture("smollm2-135m-instruct");
    assert_eq!(ModelConfig::from_json(&json), Ok(expected));
    assert_eq!(ModelConfig::architecture_from_json(&json).as_deref(), Ok("LlamaForCausalLM"));
}

#[test]
fn published_files() {
    // Name, key-value heads, head dimension, window, tied, number of end tokens, rope.
    for (name, num_kv_heads, head_dim, window, tied, num_eos, rope) in [
        ("llama-2-7b-chat", 32, 128, None, false, 1, plain(10_000.0)),
        ("tinyllama-1.1b-chat", 4, 64, None, false, 1, plain(10_000.0)),
        ("llama-3.1-8b-instruct", 8, 128, None, false, 3, llama3(8.0)),
        ("llama-3.2-1b-instruct", 8, 64, None, true, 3, llama3(32.0)),
        ("mistral-7b-v0.1", 8, 128, Some(4096), false, 1, plain(10_000.0)),
        ("mistral-7b-instruct-v0.3", 8, 128, None, false, 1, plain(1_000_000.0)),
        ("qwen2.5-0.5b", 2, 64, None, true, 1, plain(1_000_000.0)),
        ("qwen2.5-7b-instruct-yarn", 4, 128, None, false, 1, yarn(4.0, 32_768)),
        ("qwen3-0.6b", 8, 128, None, true, 1, plain(1_000_000.0)),
        ("qwen3-transformers-5", 32, 128, None, false, 0, yarn(4.0, 8192)),
    ] {
        let config = ModelConfig::from_json(&fixture(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(config.num_kv_heads, num_kv_heads, "{name}");
        assert_eq!(config.head_dim, head_dim, "{name}");
        assert_eq!(config.sliding_window, window, "{name}");
        assert_eq!(config.tie_word_embeddings, tied, "{name}");
        assert_eq!(config.eos_token_ids.len(), num_eos, "{name}");
        assert_eq!(config.rope, rope, "{name}");
    }
}

/// The text of a fixture with some fields replaced, added, or removed (an empty text).
pub(crate) fn edited(name: &str, edits: &[(&str, &str)]) -> String {
    let mut fields: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(&fixture(name)).expect("the fixture is an object");
    for (key, value) in edits {
        if value.is_empty() {
            assert!(fields.remove(*key).is_some(), "{name} has no `{key}`");
        } else {
            fields.insert((*key).to_owned(), serde_json::from_str(value).expect("the edit is JSON"));
        }
    }
    serde_json::to_string(&fields).expect("an object")
}

const LLAMA: &str = "smollm2-135m-instruct";
const MISTRAL: &str = "mistral-7b-v0.1";
const QWEN2: &str = "qwen2.5-0.5b";
const QWEN3: &str = "qwen3-0.6b";

#[test]
fn accepted_variants() {
    let config =
        |name, edits: &[_]| ModelConfig::from_json(&edited(name, edits)).unwrap_or_else(|e| panic!("{edits:?}: {e}"));

    for name in [LLAMA, MISTRAL, QWEN2, QWEN3] {
        assert_eq!(config(name, &[("architectures", "")]), config(name, &[]), "the model type says as much");
    }
    assert_eq!(config(LLAMA, &[("num_key_value_heads", "")]).num_kv_heads, 9);
    assert_eq!(config(LLAMA, &[("num_key_value_heads", "null")]).num_kv_heads, 9);
    assert_eq!(config(LLAMA, &[("rope_theta", "")]).rope, plain(10_000.0));
    assert_eq!(config(LLAMA, &[("torch_dtype", ""), ("dtype", "\"float16\"")]).dtype, Some(TensorFormat::F16));
    assert!(config(LLAMA, &[("eos_token_id", "null")]).eos_token_ids.is_empty());
    let cut_small = config(LLAMA, &[("bos_token_id", "49152"), ("eos_token_id", "[2, 49152]")]);
    assert_eq!((cut_small.bos_token_id, cut_small.eos_token_ids), (None, vec![2]));
    assert_eq!(config(LLAMA, &[("quantization_config", "null"), ("num_experts", "null")]), config(LLAMA, &[]));
    assert_eq!(config(LLAMA, &[("partial_rotary_factor", "1.0"), ("hidden_act", "\"swish\"")]), config(LLAMA, &[]));

    let scaled = |text| config(LLAMA, &[("rope_scaling", text)]).rope.scaling;
    assert_eq!(scaled(r#"{"type": "linear", "factor": 2.5}"#), RopeScaling::Linear { factor: 2.5 });
    assert_eq!(scaled(r#"{"rope_type": "default"}"#), RopeScaling::None);
    assert_eq!(
        scaled(r#"{"rope_type": "yarn", "factor": 2, "attention_factor": 1.5, "beta_fast": 16, "beta_slow": 2}"#),
        RopeScaling::Yarn {
            factor: 2.0,
            original_max_position_embeddings: 8192,
            attention_factor: 1.5,
            beta_fast: 16.0,
            beta_slow: 2.0
        }
    );
    let parameters = r#"{"rope_theta": 7.5, "rope_type": "linear", "factor": 4.0, "finetuned": true}"#;
    let edits = [("rope_scaling", ""), ("rope_theta", ""), ("rope_parameters", parameters)];
    let new_spelling = config(LLAMA, &edits).rope;
    assert_eq!(new_spelling, RopeConfig { theta: 7.5, scaling: RopeScaling::Linear { factor: 4.0 } });

    // Qwen's window needs its switch, and then spares the first `max_window_layers` of 24 layers.
    let window = |edits: &[_]| config(QWEN2, edits).sliding_window;
    assert_eq!(window(&[("use_sliding_window", "")]), None);
    assert_eq!(window(&[("use_sliding_window", "true")]), None);
    assert_eq!(window(&[("use_sliding_window", "true"), ("max_window_layers", "0")]), Some(32_768));
    let layer_types = serde_json::to_string(&["sliding_attention"; 24]).expect("JSON");
    assert_eq!(window(&[("use_sliding_window", "true"), ("layer_types", &layer_types)]), Some(32_768));
    let layer_types = serde_json::to_string(&["full_attention"; 24]).expect("JSON");
    assert_eq!(window(&[("use_sliding_window", "true"), ("layer_types", &layer_types)]), None);
    let layer_types = [("layer_types", r#"["sliding_attention"]"#), ("num_hidden_layers", "1")];
    assert_eq!(config(MISTRAL, &layer_types).sliding_window, Some(4096));
}

/// What the message says, the fixture, and its edits.
type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)]);

#[test]
fn refused_by_name() {
    let mixed: Vec<&str> = (0..24).map(|i| if i < 3 { "full_attention" } else { "sliding_attention" }).collect();
    let mixed = serde_json::to_string(&mixed).expect("JSON");
    let mixed_layers = [("use_sliding_window", "true"), ("layer_types", mixed.as_str())];
    let cases: Vec<Case<'_>> = vec![
        ("`architectures` is missing", LLAMA, &[("architectures", ""), ("model_type", "")]),
        ("`architectures` is missing", LLAMA, &[("architectures", "null"), ("model_type", "\"gpt2\"")]),
        ("`model_type` = 7", LLAMA, &[("model_type", "7")]),
        ("`architectures` =", LLAMA, &[("architectures", "[]")]),
        ("`architectures` =", LLAMA, &[("architectures", r#"["A", "B"]"#)]),
        ("`hidden_size` is missing", LLAMA, &[("hidden_size", "")]),
        ("`rms_norm_eps` is missing", LLAMA, &[("rms_norm_eps", "")]),
        ("`vocab_size` = -1", LLAMA, &[("vocab_size", "-1")]),
        ("`vocab_size` = \"many\"", LLAMA, &[("vocab_size", "\"many\"")]),
        ("`hidden_act` = \"gelu\"", LLAMA, &[("hidden_act", "\"gelu\"")]),
        ("`attention_bias` = true", LLAMA, &[("attention_bias", "true")]),
        ("`mlp_bias` = true", LLAMA, &[("mlp_bias", "true")]),
        ("`rope_interleaved` = true", LLAMA, &[("rope_interleaved", "true")]),
        ("`partial_rotary_factor` = 0.5", LLAMA, &[("partial_rotary_factor", "0.5")]),
        ("`use_mrope` = true", QWEN2, &[("use_mrope", "true")]),
        ("`is_encoder_decoder` = true", LLAMA, &[("is_encoder_decoder", "true")]),
        ("`quantization_config` =", LLAMA, &[("quantization_config", r#"{"quant_method": "gptq"}"#)]),
        ("`num_experts` = 64", QWEN3, &[("num_experts", "64")]),
        ("`num_local_experts` = 8", MISTRAL, &[("num_local_experts", "8")]),
        ("`attn_logit_softcapping` = 50.0", LLAMA, &[("attn_logit_softcapping", "50.0")]),
        ("`final_logit_softcapping` = 30.0", LLAMA, &[("final_logit_softcapping", "30.0")]),
        ("`logit_scale` = 0.5", LLAMA, &[("logit_scale", "0.5")]),
        ("`query_pre_attn_scalar` = 256", LLAMA, &[("query_pre_attn_scalar", "256")]),
        ("`auto_map` =", LLAMA, &[("auto_map", r#"{"AutoModel": "modeling.Model"}"#)]),
        ("`vision_config` =", LLAMA, &[("vision_config", "{}")]),
        ("`torch_dtype` = int8", LLAMA, &[("torch_dtype", "\"int8\"")]),
        ("`sliding_window` = 128", LLAMA, &[("sliding_window", "128")]),
        ("`sliding_window` is missing", MISTRAL, &[("sliding_window", "")]),
        ("`num_key_value_heads` is missing", MISTRAL, &[("num_key_value_heads", "")]),
        ("`head_dim` is missing", QWEN3, &[("head_dim", "")]),
        ("`max_window_layers` = 12", QWEN2, &[("use_sliding_window", "true"), ("max_window_layers", "12")]),
        ("`max_window_layers` is missing", QWEN2, &[("use_sliding_window", "true"), ("max_window_layers", "")]),
        ("`layer_types` =", QWEN2, &mixed_layers),
        ("`layer_types` =", MISTRAL, &[("layer_types", r#"["full_attention"]"#), ("num_hidden_layers", "1")]),
        ("1 entries for 24 layers", QWEN2, &[("layer_types", r#"["full_attention"]"#)]),
        ("`rope_type` = dynamic", LLAMA, &[("rope_scaling", r#"{"type": "dynamic", "factor": 2.0}"#)]),
        ("`rope_type` = longrope", LLAMA, &[("rope_scaling", r#"{"type": "longrope"}"#)]),
        ("`rope_type` = mrope", QWEN2, &[("rope_scaling", r#"{"type": "mrope", "mrope_section": [16, 24, 24]}"#)]),
        ("default rope: mrope_section", QWEN2, &[("rope_scaling", r#"{"mrope_section": [16, 24, 24]}"#)]),
        ("yarn rope: mscale", LLAMA, &[("rope_scaling", r#"{"type": "yarn", "factor": 2.0, "mscale": 0.7}"#)]),
        ("`truncate` = false", LLAMA, &[("rope_scaling", r#"{"type": "yarn", "factor": 2.0, "truncate": false}"#)]),
        ("`factor` is missing", LLAMA, &[("rope_scaling", r#"{"type": "linear"}"#)]),
        ("the rope scaling factor is 0", LLAMA, &[("rope_scaling", r#"{"type": "linear", "factor": 0}"#)]),
        (
            "default rope: full_attention",
            QWEN3,
            &[("rope_parameters", r#"{"full_attention": {"rope_type": "default"}}"#)],
        ),
        ("both `rope_scaling` and", LLAMA, &[("rope_scaling", "{}"), ("rope_parameters", "{}")]),
        ("two values of `rope_theta`", LLAMA, &[("rope_parameters", r#"{"rope_theta": 1.0}"#)]),
        ("the rope theta is -1", LLAMA, &[("rope_theta", "-1")]),
        (
            "low_freq_factor 4 is not below",
            "llama-3.1-8b-instruct",
            &[(
                "rope_scaling",
                r#"{"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4,
                "original_max_position_embeddings": 8192}"#,
            )],
        ),
        ("9 heads cannot share 2", LLAMA, &[("num_key_value_heads", "2")]),
        ("the number of key-value heads is 0", LLAMA, &[("num_key_value_heads", "0")]),
        ("not a multiple of num_attention_heads 0", LLAMA, &[("num_attention_heads", "0")]),
        ("not a multiple of num_attention_heads 7", LLAMA, &[("num_attention_heads", "7")]),
        ("a head dimension of 63", LLAMA, &[("head_dim", "63")]),
        ("the number of layers is 4294967295", LLAMA, &[("num_hidden_layers", "4294967295")]),
        ("the vocabulary size is 4294967295", LLAMA, &[("vocab_size", "4294967295")]),
    ];
    for (expected, name, edits) in cases {
        match ModelConfig::from_json(&edited(name, edits)) {
            Ok(_) => panic!("accepted: {edits:?}"),
            Err(error) => assert!(error.to_string().contains(expected), "expected `{expected}`, got `{error}`"),
        }
    }
    let unsupported = ModelConfig::from_json(&edited(LLAMA, &[("mystery", "[1, 2]")]));
    let expected = FormatError::Unsupported { key: "mystery".to_owned(), value: "[1,2]".to_owned() };
    assert_eq!(unsupported, Err(expected));
    let twice = ModelConfig::from_json(r#"{"hidden_size": 1, "hidden_size": 2}"#);
    assert!(twice.is_err_and(|e| e.to_string().contains("key `hidden_size` twice")));
}
