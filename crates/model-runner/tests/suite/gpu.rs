//! The runner on the GPU. Without one each test says so and is skipped; with `PAGEWISE_REQUIRE_CUDA=1` it fails instead.
//!
//! A model in bfloat16 has no golden bits: products of different shapes add in different orders. It is measured as
//! transformers in bfloat16 was on the same positions, by the distance of its log-probabilities from those of the float32
//! reference.

use backend_cpu::Precision;
use backend_cuda::{Arithmetic, CudaBackend, CudaConfig};
use model_format::ModelConfig;
use model_runner::{Checkpoint, Recording, RunnerConfig, WarmUp};
use serde::Deserialize;
use serving_types::{BlockId, HostBlockId, HostCopy, SamplingParams, TokenId};
use tensor_backend::{Element, KvElement};

use crate::{
    driver::{Ask, Driver, Position, Sequence, runner_config},
    smollm2::{Case, Golden, Perplexity, fixture, model_file, perplexity, smollm2_config},
    tiny::parse_gguf,
};

/// What `fixtures/smollm2/make_bf16.py` measured.
#[derive(Deserialize)]
struct OfTransformers {
    /// Over all output positions and the reference's five most likely tokens.
    mean_abs_logprob_difference: f64,
}

/// The backend that computes in the element of its KV pool, if this machine has what it takes.
fn backend(kv_element: KvElement, arithmetic: Arithmetic) -> Option<CudaBackend> {
    let KvElement::Float(element) = kv_element else { panic!("{kv_element:?} on a GPU") };
    match CudaBackend::open(&CudaConfig { element, arithmetic, ..CudaConfig::default() }) {
        Ok(backend) => Some(backend),
        Err(error) => {
            assert!(std::env::var_os("PAGEWISE_REQUIRE_CUDA").is_none_or(|value| value != "1"), "{error:?}");
            println!("skipped: {error}");
            None
        }
    }
}

fn driver(checkpoint: &Checkpoint<'_>, config: &RunnerConfig) -> Option<Driver<CudaBackend>> {
    Some(Driver::with_backend(backend(config.kv_element, Arithmetic::Fastest)?, checkpoint, config))
}

/// SmolLM2 on the GPU.
fn smollm2(config: &RunnerConfig) -> Option<Driver<CudaBackend>> {
    let file = model_file()?;
    let checkpoint = Checkpoint::from_gguf(&parse_gguf(&file), &file).expect("a valid checkpoint");
    driver(&checkpoint, config)
}

fn bf16_config() -> RunnerConfig {
    RunnerConfig { kv_element: Element::BF16.into(), max_batch_rows: 32, warm_up: WarmUp::EveryOp, ..smollm2_config() }
}

/// Distance from the reference, summed over positions.
#[derive(Default)]
struct Distance {
    sum: f64,
    num: usize,
    /// Positions at which the reference is sure and the most likely token is another.
    others: Vec<String>,
}

impl Distance {
    /// Adds the output positions of a case.
    fn add(&mut self, name: &str, case: &Case, outputs: &[Position]) {
        assert_eq!(outputs.len(), case.top5_logprobs.len());
        for (step, (position, reference)) in outputs.iter().zip(&case.top5_logprobs).enumerate() {
            for (token, logprob) in reference {
                let found = position.top.iter().find(|(found, _)| found == token);
                let &(_, found) = found.unwrap_or_else(|| panic!("{name}, {step}: {token} is not among the likely"));
                self.sum += f64::from((found - logprob).abs());
                self.num += 1;
            }
            if reference[0].1 - reference[1].1 > 0.5 && position.top[0].0 != reference[0].0 {
                self.others.push(format!("{name}, output {step}"));
            }
        }
    }

    /// At most 1.1 times as far as transformers in bfloat16, and sure where the reference is.
    #[track_caller]
    fn check(&self, way: &str) {
        let theirs: OfTransformers = fixture("bf16.json");
        let ours = self.sum / self.num as f64;
        println!("{way}: {ours:.5}, transformers in bfloat16: {:.5}", theirs.mean_abs_logprob_difference);
        assert!(self.others.is_empty(), "{way}: {:?}", self.others);
        assert!(ours <= 1.1 * theirs.mean_abs_logprob_difference, "{way}: {ours}");
    }
}

/// The output positions of a case, with the reference's ids fed in, its tokens in chunks.
fn teacher_forced(driver: &mut Driver<CudaBackend>, slot: u32, case: &Case, chunk: usize) -> Vec<Position> {
    let ids = [case.prompt_ids.as_slice(), &case.output_ids].concat();
    driver.score(slot, &ids, chunk, 20).split_off(case.prompt_ids.len() - 1)
}

#[test]
fn smollm2_is_as_near_to_its_reference_as_transformers_however_prompts_are_cut() {
    let Some(mut driver) = smollm2(&RunnerConfig { num_blocks: 1600, ..bf16_config() }) else { return };
    let golden: Golden = fixture("golden.json");
    // Whole prompts, chunks that begin behind a cached prefix, and decode rows alone.
    for chunk in [512, 33, 1] {
        let mut distance = Distance::default();
        for (slot, case) in (0..).zip(&golden.cases) {
            distance.add(&format!("chat {slot}"), case, &teacher_forced(&mut driver, slot, case, chunk));
        }
        distance.check(&format!("chunks of {chunk}"));
    }
    let text: Perplexity = fixture("perplexity-ids.json");
    let found = perplexity(&driver.score(0, &text.ids, 512, 0));
    println!("perplexity: {found:.4}, of the reference: {:.4}", text.ppl);
    assert!((found / text.ppl - 1.0).abs() < 1e-2, "{found} for {}", text.ppl);
}

/// A prefix that another request has computed, its blocks shared; then all cases in one batch, and a crowd around them.
#[test]
fn smollm2_is_as_near_behind_a_shared_prefix_and_in_a_crowd() {
    let Some(mut driver) = smollm2(&RunnerConfig { num_blocks: 1600, ..bf16_config() }) else { return };
    let golden: Golden = fixture("golden.json");
    let mut warm = Distance::default();
    for (slot, case) in (0..).zip(&golden.cases) {
        let ids = [case.prompt_ids.as_slice(), &case.output_ids].concat();
        // Whole blocks, so that at least one token of the prompt is left.
        let cut = (case.prompt_ids.len() - 1) / 16 * 16;
        let mut first = driver.open(slot, &ids, &SamplingParams::default());
        driver.row(&mut first, &ids[..cut], Ask::default());
        driver.run();
        let mut second = driver.open(slot + 8, &ids, &SamplingParams::default());
        second.len = cut as u32;
        second.blocks.clone_from(&first.blocks);
        let targets = &ids[case.prompt_ids.len()..];
        let ask = Ask { score: Some(((case.prompt_ids.len() - 1 - cut) as u32, targets)), num_top: 20, sample: false };
        driver.row(&mut second, &ids[cut..ids.len() - 1], ask);
        driver.run();
        warm.add(&format!("chat {slot}"), case, &driver.positions(0));
    }
    warm.check("behind a shared prefix");

    let mut crowd = Distance::default();
    let mut outputs = vec![Vec::new(); 32];
    let mut sequences = Vec::new();
    let chosen = |row: usize| &golden.cases[row % golden.cases.len()];
    for row in 0..32 {
        let case = chosen(row);
        let mut sequence = driver.open(row as u32, &case.prompt_ids, &SamplingParams::default());
        let len = case.prompt_ids.len();
        driver.row(&mut sequence, &case.prompt_ids[..len - 1], Ask::default());
        driver.run();
        sequences.push(sequence);
    }
    for step in 0..chosen(0).output_ids.len() {
        for (row, sequence) in sequences.iter_mut().enumerate() {
            let case = chosen(row);
            let last = if step == 0 { *case.prompt_ids.last().expect("a prompt") } else { case.output_ids[step - 1] };
            let target = [case.output_ids[step]];
            driver.row(sequence, &[last], Ask { score: Some((0, &target)), num_top: 20, sample: false });
        }
        driver.run();
        for (row, outputs) in outputs.iter_mut().enumerate() {
            outputs.extend(driver.positions(row));
        }
    }
    for (row, outputs) in outputs.iter().enumerate() {
        crowd.add(&format!("row {row}"), chosen(row), outputs);
    }
    crowd.check("in a crowd of 32");
}

/// A case on its way through steps that it shares with others.
struct Passage<'c> {
    case: &'c Case,
    ids: Vec<TokenId>,
    sequence: Sequence,
    outputs: Vec<Position>,
}

impl<'c> Passage<'c> {
    fn new(driver: &mut Driver<CudaBackend>, slot: u32, case: &'c Case) -> Self {
        let ids = [case.prompt_ids.as_slice(), &case.output_ids].concat();
        let sequence = driver.open(slot, &ids, &SamplingParams::default());
        Self { case, ids, sequence, outputs: Vec::new() }
    }

    /// Adds a row of up to `chunk` tokens to the step, or of one behind the prompt, that scores what is output. False if none
    /// is left.
    fn add_row(&mut self, driver: &mut Driver<CudaBackend>, chunk: usize) -> bool {
        let (start, last) = (self.sequence.len as usize, self.case.prompt_ids.len() - 1);
        let end = if start > last { start + 1 } else { self.case.prompt_ids.len().min(start + chunk) };
        if start + 1 == self.ids.len() {
            return false;
        }
        let first = last.max(start).min(end);
        let ask =
            Ask { score: Some(((first - start) as u32, &self.ids[first + 1..end + 1])), num_top: 20, sample: false };
        let ask = if first == end { Ask::default() } else { ask };
        driver.row(&mut self.sequence, &self.ids[start..end], ask);
        true
    }
}

/// Prompts join one after the other, in chunks, while those before them decode: steps of both kinds of rows.
#[test]
fn smollm2_is_as_near_where_prompts_and_decodes_share_steps() {
    let Some(mut driver) = smollm2(&RunnerConfig { num_blocks: 1600, ..bf16_config() }) else { return };
    let golden: Golden = fixture("golden.json");
    let mut passages: Vec<Passage<'_>> = Vec::new();
    for step in 0.. {
        if let Some(case) = golden.cases.get(step) {
            passages.push(Passage::new(&mut driver, step as u32, case));
        }
        let rows: Vec<usize> = (0..passages.len()).filter(|&index| passages[index].add_row(&mut driver, 9)).collect();
        if rows.is_empty() {
            break;
        }
        driver.run();
        for (row, index) in rows.into_iter().enumerate() {
            passages[index].outputs.extend(driver.positions(row));
        }
    }
    let mut distance = Distance::default();
    for (index, passage) in passages.iter().enumerate() {
        distance.add(&format!("chat {index}"), passage.case, &passage.outputs);
    }
    distance.check("prompts and decodes in one step");
}

/// Half of the output is decoded; then the blocks are gone, and prompt and output so far are computed again in one row.
#[test]
fn smollm2_is_as_near_when_it_was_preempted() {
    let Some(mut driver) = smollm2(&RunnerConfig { num_blocks: 1600, ..bf16_config() }) else { return };
    let golden: Golden = fixture("golden.json");
    let mut distance = Distance::default();
    for (slot, case) in (0..).zip(&golden.cases) {
        let half = case.output_ids.len() / 2;
        let mut outputs = Vec::new();
        let mut before = Passage::new(&mut driver, slot, case);
        while outputs.len() < half && before.add_row(&mut driver, 512) {
            driver.run();
            outputs.extend(driver.positions(0));
        }
        let mut after = Passage::new(&mut driver, slot, case);
        let done = case.prompt_ids.len() + half;
        driver.row(&mut after.sequence, &after.ids[..done - 1], Ask::default());
        driver.run();
        while after.add_row(&mut driver, 1) {
            driver.run();
            outputs.extend(driver.positions(0));
        }
        distance.add(&format!("chat {slot}"), case, &outputs);
    }
    distance.check("preempted");
}

/// What comes back from the host's pool, to other blocks and while others decode, gives the same bits as what never left.
#[test]
fn a_prefix_that_comes_back_from_the_host_gives_the_same_bits() {
    let config = RunnerConfig { num_blocks: 1600, num_host_blocks: 200, ..bf16_config() };
    let Some(mut driver) = smollm2(&config) else { return };
    let golden: Golden = fixture("golden.json");
    let other = &golden.cases[0];
    let text: Perplexity = fixture("perplexity-ids.json");
    let ids = &text.ids[..500];
    let cut = 480;
    let mut first = driver.open(0, ids, &SamplingParams::default());
    driver.row(&mut first, &ids[..cut], Ask::default());
    driver.run();
    let blocks = first.blocks.clone();
    let ask = Ask { score: Some((0, &ids[cut + 1..])), num_top: 20, sample: false };
    let behind = |driver: &mut Driver<CudaBackend>, slot: u32, blocks: &[BlockId]| {
        let mut sequence = driver.open(slot, ids, &SamplingParams::default());
        (sequence.len, sequence.blocks) = (cut as u32, blocks.to_vec());
        driver.row(&mut sequence, &ids[cut..ids.len() - 1], ask);
        driver.run();
        driver.positions(0)
    };
    let expected = behind(&mut driver, 1, &blocks);

    // Somebody decodes from here on, also while copies are under way.
    let mut company = Passage::new(&mut driver, 2, other);
    let mut step = |driver: &mut Driver<CudaBackend>| {
        if !company.add_row(driver, 512) {
            company = Passage::new(driver, 2, other);
            company.add_row(driver, 512);
        }
        driver.run().fetched_through
    };
    step(&mut driver);
    let host: Vec<HostBlockId> = (0..blocks.len() as u32).rev().map(HostBlockId).collect();
    for (&from, &to) in blocks.iter().zip(&host) {
        driver.host_copy(HostCopy::Offload { from, to });
    }
    step(&mut driver);
    // The places are overwritten at once.
    let mut intruder = driver.open(3, ids, &SamplingParams::default());
    intruder.blocks.clone_from(&blocks);
    driver.row(&mut intruder, &ids[1..cut + 1], Ask::default());
    driver.run();
    let places: Vec<BlockId> = blocks.iter().map(|_| driver.take_block()).collect();
    for (&from, &to) in host.iter().zip(&places) {
        driver.host_copy(HostCopy::Fetch { from, to });
    }
    let fetching = Some(driver.batch.step);
    let mut num_steps = 1;
    while step(&mut driver) < fetching {
        num_steps += 1;
    }
    println!("a prefix of {} blocks came back within {num_steps} steps", blocks.len());
    assert_eq!(bits(&behind(&mut driver, 4, &places)), bits(&expected));
}

fn bits(positions: &[Position]) -> Vec<u32> {
    positions.iter().flat_map(|position| position.top.iter().map(|(_, logprob)| logprob.to_bits())).collect()
}

/// Scores sequences whole; then in chunks, token by token as decodes, and all at a time, each in chunks of its own, so that it
/// is now a decode among prompts and now a prompt among decodes. Every position has the same bits, however it was computed:
/// so has what is computed again after a preemption.
fn check_batch_invariance(checkpoint: &Checkpoint<'_>, config: &RunnerConfig, sequences: &[Vec<TokenId>]) {
    let Some(backend) = backend(config.kv_element, Arithmetic::BatchInvariant) else { return };
    let mut driver = Driver::with_backend(backend, checkpoint, config);
    let mut score = |slot, ids: &[TokenId], chunk| bits(&driver.score(slot, ids, chunk, 20));
    let slots = || 0..sequences.len() as u32;
    let expected: Vec<Vec<u32>> = slots().zip(sequences).map(|(slot, ids)| score(slot, ids, ids.len())).collect();
    for chunk in [1, 7, 33, 100] {
        for ((slot, ids), expected) in slots().zip(sequences).zip(&expected) {
            assert_eq!(&score(slot, ids, chunk), expected, "sequence {slot} in chunks of {chunk}");
        }
    }
    let mut crowd: Vec<Sequence> =
        slots().zip(sequences).map(|(slot, ids)| driver.open(slot, ids, &SamplingParams::default())).collect();
    let mut found = vec![Vec::new(); sequences.len()];
    for step in 0.. {
        let mut in_step = Vec::new();
        for (index, (sequence, ids)) in crowd.iter_mut().zip(sequences).enumerate() {
            let (start, last) = (sequence.len as usize, ids.len() - 1);
            let end = last.min(start + [1, 1, 5, 40][(index + step) % 4]);
            if start < last {
                let ask = Ask { score: Some((0, &ids[start + 1..end + 1])), num_top: 20, sample: false };
                driver.row(sequence, &ids[start..end], ask);
                in_step.push(index);
            }
        }
        if in_step.is_empty() {
            break;
        }
        driver.run();
        for (row, index) in in_step.into_iter().enumerate() {
            found[index].extend(bits(&driver.positions(row)));
        }
    }
    assert_eq!(found, expected, "in a crowd");
}

#[test]
fn in_batch_invariant_arithmetic_results_depend_on_nothing_but_the_request() {
    if let Some(file) = model_file() {
        let checkpoint = Checkpoint::from_gguf(&parse_gguf(&file), &file).expect("a valid checkpoint");
        let golden: Golden = fixture("golden.json");
        let sequences: Vec<_> =
            golden.cases.iter().map(|case| [case.prompt_ids.as_slice(), &case.output_ids].concat()).collect();
        check_batch_invariance(&checkpoint, &RunnerConfig { num_blocks: 1600, ..bf16_config() }, &sequences);
    }
    let models = [
        random_model("LlamaForCausalLM", &serde_json::json!({"model_type": "llama"})),
        random_model("MistralForCausalLM", &serde_json::json!({"model_type": "mistral", "sliding_window": 100})),
        random_model("Qwen3ForCausalLM", &serde_json::json!({"model_type": "qwen3", "head_dim": 128})),
    ];
    let sequences: Vec<Vec<TokenId>> =
        (0..20).map(|seed| (0..100 + 20 * seed).map(|i| (i * i * 7 + i * (seed + 1)) % 512).collect()).collect();
    for model in models {
        let checkpoint = Checkpoint::dummy(model, 5).expect("a supported architecture");
        let config = RunnerConfig {
            kv_element: Element::BF16.into(),
            max_model_len: 1024,
            max_batch_tokens: 600,
            max_batch_rows: 32,
            max_top_logprobs: 20,
            num_blocks: 4000,
            ..runner_config()
        };
        check_batch_invariance(&checkpoint, &config, &sequences);
    }
}

#[test]
fn recorded_steps_and_steps_enqueued_anew_give_the_same_bits() {
    let golden: Golden = fixture("golden.json");
    let sampling = SamplingParams { logprobs: Some(5), ..SamplingParams::default() };
    let run = |recording| {
        let mut driver = smollm2(&RunnerConfig { recording, ..bf16_config() })?;
        let mut sequences = Vec::new();
        for (slot, case) in (0..).zip(&golden.cases) {
            let mut sequence = driver.open(slot, &case.prompt_ids, &sampling);
            driver.row(&mut sequence, &case.prompt_ids, Ask::sample());
            sequences.push(sequence);
        }
        let mut found: Vec<(TokenId, Vec<u32>)> = Vec::new();
        for _ in 0..40 {
            driver.run();
            for row in 0..sequences.len() {
                let bits = driver.positions(row)[0].top.iter().map(|(_, logprob)| logprob.to_bits()).collect();
                found.push((driver.sampled(row), bits));
            }
            // Rows leave one by one, so that more than one size is replayed.
            if found.len().is_multiple_of(7) && sequences.len() > 1 {
                sequences.pop();
            }
            sequences.iter_mut().for_each(|sequence| driver.row_of_last_sampled(sequence, Ask::sample()));
        }
        Some(found)
    };
    let Some(recorded) = run(Recording::DecodeSteps) else { return };
    assert_eq!(Some(recorded), run(Recording::Off));
}

/// A model of random weights with heads of a size that the GPU's kernels are made for.
fn random_model(architecture: &str, extra: &serde_json::Value) -> ModelConfig {
    let mut config = serde_json::json!({
        "architectures": [architecture], "hidden_act": "silu", "hidden_size": 256, "intermediate_size": 384,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 512,
        "rms_norm_eps": 1e-5, "max_position_embeddings": 1024, "rope_theta": 10000.0, "torch_dtype": "float32",
    });
    config.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
    ModelConfig::from_json(&config.to_string()).expect("a valid config")
}

#[test]
fn every_architecture_is_near_to_the_exact_cpu_path() {
    let llama3 = serde_json::json!({"model_type": "llama", "rope_scaling": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 128,
    }});
    let models = [
        random_model("LlamaForCausalLM", &llama3),
        random_model("MistralForCausalLM", &serde_json::json!({"model_type": "mistral", "sliding_window": 100})),
        random_model("Qwen2ForCausalLM", &serde_json::json!({"model_type": "qwen2"})),
        random_model("Qwen3ForCausalLM", &serde_json::json!({"model_type": "qwen3", "head_dim": 128})),
    ];
    let tokens: Vec<TokenId> = (0..600).map(|i| (i * i * 7 + i) % 512).collect();
    for model in models {
        let checkpoint = Checkpoint::dummy(model.clone(), 5).expect("a supported architecture");
        let config =
            RunnerConfig { max_model_len: 1024, max_batch_tokens: 600, max_top_logprobs: 20, ..runner_config() };
        let expected = Driver::new(Precision::Exact, &checkpoint, &config).score(0, &tokens, 600, 20);
        for (element, tolerance) in [(Element::BF16, 0.1), (Element::F16, 1.5e-2)] {
            let config = RunnerConfig { kv_element: element.into(), num_blocks: 160, ..config };
            let Some(mut driver) = driver(&checkpoint, &config) else { return };
            for (slot, chunk) in [(0, 600), (1, 37), (2, 1)] {
                let scored = driver.score(slot, &tokens, chunk, 20);
                let difference = |(ours, exact): (&Position, &Position)| (ours.logprob - exact.logprob).abs();
                let worst = scored.iter().zip(&expected).map(difference).fold(0.0, f32::max);
                println!("{} in {element:?}, chunks of {chunk}: {worst:.5}", model.architecture);
                assert!(worst < tolerance, "{} in {element:?}, chunks of {chunk}: {worst}", model.architecture);
            }
        }
    }
}
