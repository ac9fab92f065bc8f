//! Checkpoints that lie, memory that is planned, and weights that are made up.

use std::sync::Arc;

use backend_cpu::Precision;
use model_format::{ConfigSource, Gguf, ModelConfig, Safetensors, TensorFormat, gguf::Writer};
use model_runner::{Checkpoint, LoadProgress, ModelError, ModelRunner, RunnerConfig, check_architecture, plan_memory};
use serde_json::{Map, Value, json};
use serving_types::{Batch, BatchOutput, BlockId, Executor, OpenSlot, Row, RowInput, RowSlot, SamplingParams};
use tensor_backend::{Element, KvElement};

use crate::{
    driver::{Driver, cpu, runner_config},
    tiny::{Tiny, parse_gguf},
};

/// A safetensors file of zeroed float32 tensors.
fn safetensors(tensors: &[(&str, &[usize])]) -> Vec<u8> {
    let mut header = Map::new();
    let mut end = 0;
    for (name, shape) in tensors {
        let start = end;
        end += shape.iter().product::<usize>() * 4;
        header.insert((*name).to_owned(), json!({"dtype": "F32", "shape": shape, "data_offsets": [start, end]}));
    }
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.resize(file.len() + end, 0);
    file
}

/// A model so small that its tensors can be listed.
fn small_config() -> ModelConfig {
    let json = json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": 4, "intermediate_size": 6, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 8, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 32, "tie_word_embeddings": true,
    });
    ModelConfig::from_json(&json.to_string()).expect("a valid config")
}

const SMALL: [(&str, &[usize]); 11] = [
    ("model.embed_tokens.weight", &[8, 4]),
    ("model.norm.weight", &[4]),
    ("model.layers.0.input_layernorm.weight", &[4]),
    ("model.layers.0.self_attn.q_proj.weight", &[4, 4]),
    ("model.layers.0.self_attn.k_proj.weight", &[2, 4]),
    ("model.layers.0.self_attn.v_proj.weight", &[2, 4]),
    ("model.layers.0.self_attn.o_proj.weight", &[4, 4]),
    ("model.layers.0.post_attention_layernorm.weight", &[4]),
    ("model.layers.0.mlp.gate_proj.weight", &[6, 4]),
    ("model.layers.0.mlp.up_proj.weight", &[6, 4]),
    ("model.layers.0.mlp.down_proj.weight", &[4, 6]),
];

/// The outcome for the small model with its list of tensors edited.
fn edited(edit: impl FnOnce(&mut Vec<(&'static str, &'static [usize])>)) -> Result<(), ModelError> {
    let mut tensors = SMALL.to_vec();
    edit(&mut tensors);
    let file = safetensors(&tensors);
    let shard = Safetensors::parse(&file).expect("a valid file");
    Checkpoint::from_safetensors(small_config(), &[(shard, &file)]).map(|_| ())
}

fn message(result: Result<(), ModelError>) -> String {
    result.expect_err("an error").to_string()
}

#[test]
fn tensors_must_be_those_of_the_config() {
    edited(|_| {}).expect("nothing is wrong");
    edited(|tensors| tensors.push(("lm_head.weight", &[8, 4]))).expect("a tied head may be stored");
    edited(|tensors| tensors.push(("model.layers.0.self_attn.rotary_emb.inv_freq", &[1]))).expect("an old buffer");
    for (wrong, expected) in [
        (
            edited(|tensors| tensors.retain(|(name, _)| !name.ends_with("q_proj.weight"))),
            vec!["lack", "model.layers.0.self_attn.q_proj.weight"],
        ),
        (edited(|tensors| tensors.truncate(1)), vec!["model.norm.weight", "…"]),
        (edited(|tensors| tensors[3].1 = &[4, 5]), vec!["q_proj.weight", "[4, 5]", "[4, 4]"]),
        (edited(|tensors| tensors[3].1 = &[16]), vec!["q_proj.weight", "[16]", "[4, 4]"]),
        (edited(|tensors| tensors[3].1 = &[1, 4, 4]), vec!["q_proj.weight", "[1, 4, 4]"]),
        (edited(|tensors| tensors[3].1 = &[]), vec!["q_proj.weight"]),
        (edited(|tensors| tensors[1].1 = &[4, 1]), vec!["model.norm.weight", "[4, 1]", "[4]"]),
        (edited(|tensors| tensors.push(("model.layers.0.self_attn.q_proj.bias", &[4]))), vec!["llama", "q_proj.bias"]),
        (edited(|tensors| tensors.push(("model.layers.1.input_layernorm.weight", &[4]))), vec!["layers.1"]),
        (edited(|tensors| tensors.push(("vision.weight", &[4]))), vec!["does not use", "vision.weight"]),
    ] {
        let message = message(wrong);
        assert!(expected.iter().all(|part| message.contains(part)), "{message} should name {expected:?}");
    }
}

#[test]
fn shards_must_not_repeat_a_tensor_or_end_early() {
    let file = safetensors(&SMALL);
    let shard = Safetensors::parse(&file).expect("a valid file");
    let twice = Checkpoint::from_safetensors(small_config(), &[(shard.clone(), &file), (shard.clone(), &file)]);
    assert!(message(twice.map(drop)).contains("twice"));
    let short = Checkpoint::from_safetensors(small_config(), &[(shard, &file[..file.len() - 8])]);
    assert!(message(short.map(drop)).contains("down_proj"));
}

#[test]
fn an_unknown_architecture_is_told_what_is_supported() {
    for (name, source, supported) in [
        ("GPT2LMHeadModel", ConfigSource::HuggingFace, "MistralForCausalLM"),
        ("mamba", ConfigSource::Gguf, "qwen3"),
        // Each kind of file has its own spelling.
        ("llama", ConfigSource::HuggingFace, "LlamaForCausalLM"),
    ] {
        let message = message(check_architecture(name, source));
        assert!(message.contains(name) && message.contains(supported), "{message}");
    }
    let file =
        Writer::new().metadata("general.architecture", "mamba").metadata("mamba.ssm.state_size", 16_u32).finish();
    let error = Checkpoint::from_gguf(&parse_gguf(&file), &file).expect_err("not supported");
    assert!(matches!(error, ModelError::UnsupportedArchitecture { .. }), "{error}");
}

#[test]
fn an_absurd_config_is_an_error_and_no_panic() {
    let tiny = Tiny::read("qwen3");
    let shards = tiny.parsed();
    let config: Map<String, Value> = serde_json::from_str(&tiny.config_json).expect("an object");
    let fields = [
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "vocab_size",
    ];
    let values = [0_u64, 1, 3, 15, 62, 1000, 1 << 10, 1 << 20, 1 << 24, (1 << 31) - 1, 1 << 31, u64::MAX];
    for field in fields {
        for value in values {
            let mut config = config.clone();
            config.insert(field.to_owned(), json!(value));
            let outcome = ModelConfig::from_json(&json!(config).to_string())
                .map_err(ModelError::from)
                .and_then(|config| Checkpoint::from_safetensors(config, &shards).map(drop));
            assert!(outcome.is_err(), "{field} = {value} passed");
        }
    }
}

/// Flips bytes of a file's header, a few at a time, and hands each file to `read`; returns how often it succeeded.
fn mutate(file: &mut [u8], header: usize, mut read: impl FnMut(&[u8]) -> Result<(), ModelError>) -> usize {
    let mut state = 1_u64;
    let mut random = |below: usize| {
        // Knuth's MMIX generator.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let mut num_read = 0;
    for _ in 0..600 {
        let places: Vec<usize> = (0..1 + random(3)).map(|_| random(header)).collect();
        let before: Vec<u8> = places.iter().map(|&place| file[place]).collect();
        places.iter().for_each(|&place| file[place] = random(256) as u8);
        num_read += usize::from(read(file).is_ok());
        places.iter().zip(before).rev().for_each(|(&place, byte)| file[place] = byte);
    }
    num_read
}

/// Loads a model and scores a prompt with it, whatever comes of it.
fn run(checkpoint: &Checkpoint<'_>) -> Result<(), ModelError> {
    let max_model_len = checkpoint.max_context_len().min(128);
    let config = RunnerConfig { max_model_len, ..runner_config() };
    let mut runner = ModelRunner::load(cpu(Precision::Native), checkpoint, &config, &mut |_| {})?;
    let mut batch = Batch::new();
    batch.tokens = vec![3, 1];
    batch.blocks = vec![BlockId(0)];
    let sampling = Arc::new(SamplingParams::default());
    batch.opens.push(OpenSlot { slot: RowSlot(0), sampling, num_prompt_tokens: 2, history: 0..0 });
    let input = RowInput::Tokens(0..2);
    batch.rows.push(Row { slot: RowSlot(0), start: 0, input, new_blocks: 0..1, score: None, sample: true });
    let step = runner.launch(&batch).expect("the step starts");
    runner.finish(step, &mut BatchOutput::default()).expect("the step ends");
    Ok(())
}

#[test]
fn a_mutated_file_is_an_error_or_runs() {
    let tiny = Tiny::read("qwen2");
    let mut gguf = tiny.to_gguf();
    let header = parse_gguf(&gguf).tensors().iter().map(|tensor| tensor.data.start).min().expect("tensors");
    let num_read = mutate(&mut gguf, header, |file| {
        let gguf = Gguf::parse(file)?;
        run(&Checkpoint::from_gguf(&gguf, file)?)
    });
    assert!((1..600).contains(&num_read), "{num_read} of 600 ran");

    let mut shard = tiny.shards[0].clone();
    let header = tiny.parsed()[0].0.tensors().iter().map(|tensor| tensor.data.start).min().expect("tensors");
    let num_read = mutate(&mut shard, header, |file| {
        let shard = Safetensors::parse(file)?;
        run(&Checkpoint::from_safetensors(tiny.config(), &[(shard, file)])?)
    });
    assert!(num_read < 600, "{num_read} of 600 ran");

    let mut json = tiny.config_json.clone().into_bytes();
    let header = json.len();
    let num_read = mutate(&mut json, header, |json| {
        let config = ModelConfig::from_json(&String::from_utf8_lossy(json))?;
        run(&Checkpoint::from_safetensors(config, &tiny.parsed())?)
    });
    assert!((1..600).contains(&num_read), "{num_read} of 600 ran");
}

#[test]
fn dummy_weights_are_seeded_and_finite() {
    let config = Tiny::read("qwen2").config();
    let prompt = [3, 1, 4, 1, 5, 9, 2, 6];
    let scores = |seed| {
        let checkpoint = Checkpoint::dummy(config.clone(), seed).expect("a known architecture");
        assert!(checkpoint.tensors().all(|tensor| tensor.format == TensorFormat::BF16));
        let mut driver = Driver::new(Precision::Native, &checkpoint, &runner_config());
        driver.score(0, &prompt, prompt.len(), 1)
    };
    let first = scores(1);
    assert_eq!(scores(1), first);
    assert_ne!(scores(2), first);
    assert!(first.iter().all(|position| position.logprob.is_finite() && position.logprob < -0.01));
    assert!(Checkpoint::dummy(ModelConfig { architecture: "Unknown".to_owned(), ..config }, 1).is_err());
}

#[test]
fn the_ledger_is_what_the_shapes_say() {
    let tiny = Tiny::read("llama-llama3-rope");
    let checkpoint = tiny.checkpoint();
    // Heads of 16 elements: 4 bytes each, or one each and a scale.
    for (kv_element, head_bytes) in [(Element::F32.into(), 16 * 4), (KvElement::Int8, 16 + 4)] {
        let backend = cpu(Precision::Exact);
        let config = RunnerConfig { kv_element, ..runner_config() };
        let plan = plan_memory(&backend, &checkpoint, &config).expect("a plan");
        let bytes_of = |name: &str| plan.entries.iter().find(|entry| entry.name == name).expect("a line").bytes;
        // 2 layers, keys and values, 16 tokens, 2 heads.
        assert_eq!(plan.block_bytes, 2 * 2 * 16 * 2 * head_bytes);
        assert_eq!(bytes_of("kv blocks"), 64 * plan.block_bytes);
        assert_eq!(bytes_of("norms and biases"), 5 * 64 * 4);
        assert_eq!(bytes_of("rotary table"), 128 * 16 * 4);
        // 64 logit rows of 128 tokens.
        assert_eq!(bytes_of("logits"), 64 * 128 * 4);
        assert!(bytes_of("weights") > 0);

        let runner = ModelRunner::load(backend, &checkpoint, &config, &mut |_| {}).expect("the model loads");
        assert_eq!(runner.memory(), plan.entries);
        assert_eq!(runner.limits().num_blocks, 64);
    }
}

#[test]
fn limits_out_of_range_are_named() {
    let tiny = Tiny::read("llama-llama3-rope");
    let checkpoint = tiny.checkpoint();
    let good = runner_config();
    for (name, config) in [
        ("block_size", RunnerConfig { block_size: 0, ..good }),
        ("num_blocks", RunnerConfig { num_blocks: 0, ..good }),
        ("max_model_len", RunnerConfig { max_model_len: 129, ..good }),
        ("max_model_len", RunnerConfig { max_model_len: 1, ..good }),
        ("max_batch_tokens", RunnerConfig { max_batch_tokens: 0, ..good }),
        ("max_batch_tokens", RunnerConfig { max_batch_tokens: u32::MAX, ..good }),
        ("max_batch_rows", RunnerConfig { max_batch_rows: 0, ..good }),
        ("max_top_logprobs", RunnerConfig { max_top_logprobs: 129, ..good }),
    ] {
        let backend = cpu(Precision::Exact);
        let message = message(ModelRunner::load(backend, &checkpoint, &config, &mut |_| {}).map(drop));
        assert!(message.contains(name), "{message} should name {name}");
    }
}

#[test]
fn progress_rises_to_the_total() {
    let tiny = Tiny::read("qwen3");
    let mut heard: Vec<LoadProgress> = Vec::new();
    let backend = cpu(Precision::Native);
    ModelRunner::load(backend, &tiny.checkpoint(), &runner_config(), &mut |progress| heard.push(progress))
        .expect("the model loads");
    assert_eq!(heard.split_off(heard.len() - 2), [LoadProgress::Buffers, LoadProgress::WarmUp]);
    let stored: u64 = tiny.checkpoint().tensors().map(|tensor| tensor.bytes).sum();
    let bytes_done = |progress: &LoadProgress| match *progress {
        LoadProgress::Tensors { bytes_done, bytes_total } if bytes_total == stored => bytes_done,
        other => panic!("{other:?} among the tensors of {stored} bytes"),
    };
    let heard: Vec<u64> = heard.iter().map(bytes_done).collect();
    assert!(heard.windows(2).all(|pair| pair[0] < pair[1]));
    assert_eq!((heard[0], heard[heard.len() - 1]), (0, stored));
}

#[test]
fn yarn_stretches_the_longest_context() {
    let context = |name: &str| Tiny::read(name).checkpoint().max_context_len();
    // 32 original positions times 4 are the stated 128.
    assert_eq!((context("llama-yarn"), context("qwen3")), (128, 128));
    let tiny = Tiny::read("llama-yarn");
    let config = ModelConfig { max_position_embeddings: 32, ..tiny.config() };
    let checkpoint = Checkpoint::from_safetensors(config, &tiny.parsed()).expect("a valid checkpoint");
    assert_eq!(checkpoint.max_context_len(), 128);
}
