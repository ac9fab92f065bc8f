//! Every architecture and every rotary scaling against transformers, from safetensors and from GGUF.

use backend_cpu::Precision;
use model_format::{ModelConfig, RopeScaling};
use model_runner::Checkpoint;

use crate::{
    driver::{Driver, runner_config},
    tiny::{Expected, Tiny, parse_gguf},
};

const TOLERANCE: f32 = 1e-3;

/// The largest relative difference between the log-probabilities of a checkpoint and the expected ones, over all
/// positions and tokens.
fn difference(checkpoint: &Checkpoint<'_>, expected: &Expected) -> f32 {
    let mut driver = Driver::new(Precision::Exact, checkpoint, &runner_config());
    let vocab = checkpoint.config().vocab_size;
    // Any target will do for the last position: all tokens are reported.
    let tokens: Vec<u32> = expected.prompt.iter().copied().chain([0]).collect();
    let scored = driver.score(0, &tokens, tokens.len(), vocab);
    assert_eq!(scored.len(), expected.log_probs.len());
    let mut largest = 0.0_f32;
    for (position, row) in scored.iter().zip(&expected.log_probs) {
        assert_eq!(position.top.len(), vocab as usize);
        for (token, logprob) in &position.top {
            let wanted = row[*token as usize];
            largest = largest.max((logprob - wanted).abs() / wanted.abs().max(1.0));
        }
    }
    largest
}

#[derive(Clone, Copy, PartialEq)]
enum Stored {
    Safetensors,
    Gguf,
}

/// The model computes what transformers does; with the feature that it is here for switched off, it does not.
fn check(name: &str, stored: Stored, switch_off: fn(&mut ModelConfig)) {
    let (tiny, expected) = (Tiny::read(name), Expected::read(name));
    let gguf = match stored {
        Stored::Safetensors => None,
        Stored::Gguf => Some(tiny.to_gguf()),
    };
    let checkpoint = match &gguf {
        Some(file) => Checkpoint::from_gguf(&parse_gguf(file), file).expect("a valid checkpoint"),
        None => tiny.checkpoint(),
    };
    let found = difference(&checkpoint, &expected);
    assert!(found < TOLERANCE, "{name}: off by {found}");

    let mut config = tiny.config();
    switch_off(&mut config);
    let without = Checkpoint::from_safetensors(config, &tiny.parsed()).expect("a valid checkpoint");
    let found = difference(&without, &expected);
    assert!(found > 10.0 * TOLERANCE, "{name}: switching the feature off changes only {found}");
}

fn no_scaling(config: &mut ModelConfig) {
    config.rope.scaling = RopeScaling::None;
}

#[test]
fn llama_with_llama3_scaling_is_as_in_transformers() {
    check("llama-llama3-rope", Stored::Safetensors, no_scaling);
    check("llama-llama3-rope", Stored::Gguf, no_scaling);
}

#[test]
fn llama_with_yarn_scaling_is_as_in_transformers() {
    let no_amplitude = |config: &mut ModelConfig| {
        let RopeScaling::Yarn { attention_factor, .. } = &mut config.rope.scaling else { panic!("yarn") };
        *attention_factor = 1.0;
    };
    check("llama-yarn", Stored::Safetensors, no_scaling);
    check("llama-yarn", Stored::Gguf, no_amplitude);
}

#[test]
fn llama_with_linear_scaling_and_a_tied_head_is_as_in_transformers() {
    check("llama-linear-rope", Stored::Safetensors, no_scaling);
    check("llama-linear-rope", Stored::Gguf, no_scaling);
}

#[test]
fn mistral_with_a_sliding_window_is_as_in_transformers() {
    check("mistral-sliding-window", Stored::Safetensors, |config| config.sliding_window = None);
    check("mistral-sliding-window", Stored::Safetensors, |config| config.sliding_window = Some(9));
}

#[test]
fn qwen2_is_as_in_transformers() {
    check("qwen2", Stored::Safetensors, |config| config.rope.theta = 10_000.0);
    check("qwen2", Stored::Gguf, |config| config.sliding_window = Some(8));
}

#[test]
fn qwen3_is_as_in_transformers() {
    check("qwen3", Stored::Safetensors, |config| config.rope.theta = 10_000.0);
    check("qwen3", Stored::Gguf, |config| config.rms_norm_eps = 0.5);
}

#[test]
fn shards_are_one_model() {
    let tiny = Tiny::read("llama-linear-rope-sharded");
    assert_eq!(tiny.shards.len(), 2);
    let found = difference(&tiny.checkpoint(), &Expected::read("llama-linear-rope"));
    assert!(found < TOLERANCE, "off by {found}");
}
