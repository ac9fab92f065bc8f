//! SmolLM2-135M-Instruct in Q4_1 against its reference: what transformers computes in float32 on the dequantised weights.

use std::path::PathBuf;

use backend_cpu::Precision;
use model_format::{TensorFormat, dequantize, gguf::Writer, quantize};
use model_runner::{Checkpoint, RunnerConfig};
use serde::Deserialize;
use serving_types::{SamplingParams, TokenId};
use tensor_backend::{Element, KvElement};

use crate::{
    driver::{Ask, Driver, Position, runner_config},
    tiny::parse_gguf,
};

#[derive(Deserialize)]
pub(crate) struct Golden {
    pub(crate) cases: Vec<Case>,
}

/// A chat, and its greedy continuation.
#[derive(Deserialize)]
pub(crate) struct Case {
    pub(crate) prompt_ids: Vec<TokenId>,
    pub(crate) output_ids: Vec<TokenId>,
    /// Of each output token's position, most likely first.
    pub(crate) top5_logprobs: Vec<Vec<(TokenId, f32)>>,
}

#[derive(Deserialize)]
pub(crate) struct Perplexity {
    pub(crate) ids: Vec<TokenId>,
    pub(crate) ppl: f64,
}

pub(crate) fn fixture<T: for<'de> Deserialize<'de>>(name: &str) -> T {
    let fixtures = std::env::var_os("PAGEWISE_FIXTURES")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures")), PathBuf::from);
    let path = fixtures.join("smollm2").join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Where the demo model is kept: `$PAGEWISE_TEST_MODEL`, or where `cargo xtask pull-demo` puts it.
fn model_path() -> PathBuf {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("PAGEWISE_TEST_MODEL").unwrap_or_else(|| {
        let cache = variable("PAGEWISE_CACHE")
            .or_else(|| variable("XDG_CACHE_HOME").map(|cache| cache.join("pagewise")))
            .unwrap_or_else(|| variable("HOME").unwrap_or_default().join(".cache/pagewise"));
        cache.join("models/SmolLM2-135M-Instruct.Q4_1.gguf")
    })
}

/// The model file; `None`, said aloud, if it is not on this machine.
pub(crate) fn model_file() -> Option<Vec<u8>> {
    let path = model_path();
    let Ok(file) = std::fs::read(&path) else {
        let absent = format!("the demo model is not at {}; fetch it with 'cargo xtask pull-demo'", path.display());
        assert!(std::env::var_os("PAGEWISE_REQUIRE_MODEL").is_none_or(|value| value != "1"), "{absent}");
        println!("skipped: {absent}");
        return None;
    };
    Some(file)
}

/// Limits with room for the chats and for the text.
pub(crate) fn smollm2_config() -> RunnerConfig {
    RunnerConfig {
        num_blocks: 400,
        max_model_len: 2048,
        max_batch_tokens: 512,
        max_top_logprobs: 20,
        ..runner_config()
    }
}

/// The model on the CPU, with room for every test here.
fn driver(precision: Precision, kv_element: KvElement) -> Option<Driver> {
    Some(driver_of(&model_file()?, precision, kv_element))
}

fn driver_of(file: &[u8], precision: Precision, kv_element: KvElement) -> Driver {
    let checkpoint = Checkpoint::from_gguf(&parse_gguf(file), file).expect("a valid checkpoint");
    Driver::new(precision, &checkpoint, &RunnerConfig { kv_element, ..smollm2_config() })
}

/// The same model with its matrices in bfloat16.
fn in_bfloat16(file: &[u8]) -> Vec<u8> {
    let gguf = parse_gguf(file);
    let mut writer = Writer::new();
    for (key, value) in gguf.metadata().iter() {
        writer.metadata(key, value.clone());
    }
    for tensor in gguf.tensors() {
        let stored = &file[tensor.data.clone()];
        if tensor.shape.len() < 2 {
            writer.tensor(&tensor.name, tensor.format, &tensor.shape, stored);
            continue;
        }
        let mut values = vec![0.0; tensor.shape.iter().product()];
        dequantize(tensor.format, stored, &mut values);
        writer.tensor(&tensor.name, TensorFormat::BF16, &tensor.shape, &quantize(TensorFormat::BF16, &values));
    }
    writer.finish()
}

fn exact() -> Option<Driver> {
    driver(Precision::Exact, Element::F32.into())
}

/// What the CPU takes by default.
const NATIVE: KvElement = KvElement::Float(Element::BF16);

pub(crate) fn perplexity(positions: &[Position]) -> f64 {
    let sum: f64 = positions.iter().map(|position| f64::from(-position.logprob)).sum();
    (sum / positions.len() as f64).exp()
}

#[test]
fn the_exact_path_gives_the_golden_ids_and_log_probabilities() {
    let Some(mut driver) = exact() else { return };
    let golden: Golden = fixture("golden.json");
    let sampling = SamplingParams { logprobs: Some(5), ..SamplingParams::default() };
    let mut sequences = Vec::new();
    for (slot, case) in (0..).zip(&golden.cases) {
        let mut sequence = driver.open(slot, &case.prompt_ids, &sampling);
        driver.row(&mut sequence, &case.prompt_ids, Ask::sample());
        sequences.push(sequence);
    }
    let num_steps = golden.cases[0].output_ids.len();
    for step in 0..num_steps {
        driver.run();
        for (row, case) in golden.cases.iter().enumerate() {
            assert_eq!(driver.sampled(row), case.output_ids[step], "chat {row}, output {step}");
            let [position] = &driver.positions(row)[..] else { panic!("one position a row") };
            for (rank, (found, wanted)) in position.top.iter().zip(&case.top5_logprobs[step]).enumerate() {
                let difference = (found.1 - wanted.1).abs();
                assert!(difference < 1e-3, "chat {row}, output {step}, rank {rank}: {found:?} for {wanted:?}");
            }
        }
        if step + 1 < num_steps {
            sequences.iter_mut().for_each(|sequence| driver.row_of_last_sampled(sequence, Ask::sample()));
        }
    }
}

#[test]
fn the_exact_path_has_the_reference_perplexity() {
    let Some(mut driver) = exact() else { return };
    let text: Perplexity = fixture("perplexity-ids.json");
    let found = perplexity(&driver.score(0, &text.ids, 512, 0));
    assert!((found / text.ppl - 1.0).abs() < 1e-3, "{found} for {}", text.ppl);
}

#[test]
fn the_native_path_keeps_the_perplexity_however_the_prompt_is_cut() {
    [NATIVE, KvElement::Int8].into_iter().for_each(check_perplexity);
}

fn check_perplexity(kv_element: KvElement) {
    let Some(mut driver) = driver(Precision::Native, kv_element) else { return };
    let text: Perplexity = fixture("perplexity-ids.json");
    let scored = driver.score(0, &text.ids, 512, 0);
    let found = perplexity(&scored);
    assert!((found / text.ppl - 1.0).abs() < 1e-2, "{kv_element:?}: {found} for {}", text.ppl);

    // Chunks of other sizes, down to decode rows, give the same bits.
    let start = &text.ids[..160];
    for (slot, chunk) in [(1, 159), (2, 50), (3, 1)] {
        assert_eq!(driver.score(slot, start, chunk, 0), scored[..159], "{kv_element:?}, chunks of {chunk}");
    }
}

/// Activations are rounded to bfloat16 for such weights.
#[test]
fn bfloat16_weights_keep_the_perplexity() {
    let Some(file) = model_file() else { return };
    let text: Perplexity = fixture("perplexity-ids.json");
    let found = perplexity(&driver_of(&in_bfloat16(&file), Precision::Native, NATIVE).score(0, &text.ids, 512, 0));
    assert!((found / text.ppl - 1.0).abs() < 1e-2, "{found} for {}", text.ppl);
}

#[test]
fn the_native_path_agrees_where_the_reference_is_sure() {
    let Some(mut driver) = driver(Precision::Native, NATIVE) else { return };
    let golden: Golden = fixture("golden.json");
    let mut num_sure = 0;
    for (slot, case) in (0..).zip(&golden.cases) {
        let ids = [case.prompt_ids.as_slice(), &case.output_ids].concat();
        let scored = driver.score(slot, &ids, ids.len(), 1);
        let outputs = &scored[case.prompt_ids.len() - 1..];
        for (step, (position, top)) in outputs.iter().zip(&case.top5_logprobs).enumerate() {
            if top[0].1 - top[1].1 > 0.2 {
                num_sure += 1;
                assert_eq!(position.top[0].0, top[0].0, "chat {slot}, output {step}");
            }
        }
    }
    assert!(num_sure > 200, "only {num_sure} positions were compared");
}
