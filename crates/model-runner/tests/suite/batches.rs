//! Batches against themselves: how work is cut into steps and rows changes no result, bit for bit, and a row's failure
//! stays its own.

use backend_cpu::Precision;
use model_runner::{Checkpoint, RunnerConfig, WarmUp};
use serving_types::{BlockId, CopyId, Executor as _, HostBlockId, HostCopy, RowFault, SamplingParams, TokenId};
use tensor_backend::{Element, KvElement};

use crate::{
    driver::{Ask, Driver, Position, Sequence, runner_config},
    tiny::Tiny,
};

const MODEL: &str = "llama-llama3-rope";

/// How weights are multiplied, and what the KV pool holds.
type Arithmetic = (Precision, KvElement);

const EXACT: Arithmetic = (Precision::Exact, KvElement::Float(Element::F32));
const NATIVE: Arithmetic = (Precision::Native, KvElement::Float(Element::BF16));
const BYTES: Arithmetic = (Precision::Native, KvElement::Int8);

fn driver(checkpoint: &Checkpoint<'_>, (precision, kv_element): Arithmetic) -> Driver {
    Driver::new(precision, checkpoint, &RunnerConfig { kv_element, ..runner_config() })
}

/// Tokens of no meaning, different for each seed.
fn tokens(seed: u32, len: u32) -> Vec<TokenId> {
    (0..len).map(|i| (seed * 31 + i * i * 7 + i) % 128).collect()
}

fn bits(positions: &[Position]) -> Vec<u32> {
    positions.iter().map(|position| position.logprob.to_bits()).collect()
}

#[test]
fn chunks_and_single_tokens_score_as_the_whole() {
    let tiny = Tiny::read(MODEL);
    let prompt = tokens(1, 120);
    for arithmetic in [EXACT, NATIVE, BYTES] {
        let mut driver = driver(&tiny.checkpoint(), arithmetic);
        // 119 scored positions need two slices of logits.
        let whole = driver.score(0, &prompt, prompt.len(), 3);
        assert_eq!(whole.len(), prompt.len() - 1);
        for (slot, chunk) in [(1, 1), (2, 7), (3, 16), (4, 64), (5, 65)] {
            assert_eq!(driver.score(slot, &prompt, chunk, 3), whole, "{arithmetic:?}, chunks of {chunk}");
        }
    }
}

#[test]
fn a_crowd_of_prefill_and_decode_rows_yields_what_each_yields_alone() {
    let tiny = Tiny::read(MODEL);
    let sampled = SamplingParams { temperature: 1.0, seed: 7, max_tokens: 12, ..SamplingParams::default() };
    let greedy = SamplingParams { max_tokens: 12, ..SamplingParams::default() };
    let requests =
        [(tokens(1, 5), &greedy), (tokens(2, 33), &sampled), (tokens(3, 17), &greedy), (tokens(4, 1), &sampled)];

    let mut alone = driver(&tiny.checkpoint(), NATIVE);
    let expected: Vec<Vec<TokenId>> =
        requests.iter().map(|(prompt, sampling)| alone.generate(0, prompt, prompt.len(), sampling)).collect();
    assert_ne!(expected[0], expected[2]);

    // Request `i` joins at step `i`; prompts come in chunks of 9, so that steps mix both kinds of rows.
    let mut crowd = driver(&tiny.checkpoint(), NATIVE);
    let mut sequences: Vec<Sequence> = Vec::new();
    let mut outputs = vec![Vec::new(); requests.len()];
    for step in 0.. {
        if let Some((prompt, sampling)) = requests.get(step) {
            sequences.push(crowd.open(step as u32, prompt, sampling));
        }
        let mut samplers = Vec::new();
        for (index, sequence) in sequences.iter_mut().enumerate() {
            let (prompt, sampling) = &requests[index];
            let done = sequence.len as usize;
            if done < prompt.len() {
                let end = prompt.len().min(done + 9);
                crowd.row(sequence, &prompt[done..end], Ask { sample: end == prompt.len(), ..Ask::default() });
                samplers.push((end == prompt.len()).then_some(index));
            } else if outputs[index].len() < sampling.max_tokens as usize {
                crowd.row_of_last_sampled(sequence, Ask::sample());
                samplers.push(Some(index));
            }
        }
        if samplers.is_empty() {
            break;
        }
        crowd.run();
        for (row, index) in samplers.into_iter().enumerate() {
            match index {
                Some(index) => outputs[index].push(crowd.sampled(row)),
                None => assert!(crowd.output.rows[row].tokens.is_empty()),
            }
        }
    }
    assert_eq!(outputs, expected);
}

#[test]
fn a_preempted_sequence_goes_on_as_if_it_had_not_been() {
    let tiny = Tiny::read(MODEL);
    let prompt = tokens(5, 20);
    let base = SamplingParams { max_tokens: 16, ..SamplingParams::default() };
    for sampling in [
        base.clone(),
        SamplingParams { temperature: 1.0, seed: 3, ..base.clone() },
        SamplingParams { temperature: 0.8, repetition_penalty: 1.5, presence_penalty: 1.0, ..base.clone() },
    ] {
        let mut driver = driver(&tiny.checkpoint(), NATIVE);
        let whole = driver.generate(0, &prompt, prompt.len(), &sampling);
        let so_far = [prompt.as_slice(), &whole[..9]].concat();
        assert_eq!(driver.generate(1, &so_far, prompt.len(), &sampling), whole);
    }
}

#[test]
fn a_warm_up_leaves_nothing_behind() {
    let tiny = Tiny::read(MODEL);
    let prompt = tokens(5, 20);
    let base = SamplingParams { max_tokens: 16, ..SamplingParams::default() };
    let config = RunnerConfig { num_host_blocks: 3, ..runner_config() };
    let [mut cold, mut warm] = [WarmUp::Off, WarmUp::EveryOp]
        .map(|warm_up| Driver::new(Precision::Native, &tiny.checkpoint(), &RunnerConfig { warm_up, ..config }));
    assert_eq!(cold.executor.memory(), warm.executor.memory());
    for (slot, sampling) in (0..).zip([
        base.clone(),
        SamplingParams { temperature: 1.0, seed: 3, ..base.clone() },
        SamplingParams { temperature: 0.8, repetition_penalty: 1.5, presence_penalty: 1.0, ..base.clone() },
    ]) {
        let expected = cold.generate(slot, &prompt, prompt.len(), &sampling);
        assert_eq!(warm.generate(slot, &prompt, prompt.len(), &sampling), expected);
    }
    warm.run();
    assert_eq!(warm.output.fetched_through, cold.run().fetched_through);
}

#[test]
fn scores_come_before_the_sample_of_the_same_row() {
    let tiny = Tiny::read(MODEL);
    let mut driver = driver(&tiny.checkpoint(), EXACT);
    let prompt = tokens(6, 10);
    let whole = driver.score(0, &prompt, prompt.len(), 2);

    let sampling = SamplingParams { logprobs: Some(4), ..SamplingParams::default() };
    let mut sequence = driver.open(1, &prompt, &sampling);
    driver.row(&mut sequence, &prompt, Ask { score: Some((3, &prompt[4..])), num_top: 2, sample: true });
    driver.run();
    let token = driver.sampled(0);
    let positions = driver.positions(0);
    assert_eq!(positions[..6], whole[3..]);
    let [sample] = &positions[6..] else { panic!("one position for the sample") };
    assert_eq!((sample.token, sample.top.len(), sample.top[0]), (token, 4, (token, sample.logprob)));
}

#[test]
fn a_copied_block_reads_as_its_source_and_then_goes_its_own_way() {
    [EXACT, BYTES].into_iter().for_each(check_copied_block);
}

fn check_copied_block(arithmetic: Arithmetic) {
    let tiny = Tiny::read(MODEL);
    let mut driver = driver(&tiny.checkpoint(), arithmetic);
    let prompt = tokens(8, 24);
    let branches = [tokens(9, 9), tokens(10, 9)];
    let expected = branches.each_ref().map(|branch| {
        let whole = [prompt.as_slice(), branch].concat();
        driver.score(0, &whole, whole.len(), 1)[prompt.len()..].to_vec()
    });
    assert_ne!(bits(&expected[0]), bits(&expected[1]));

    let greedy = SamplingParams::default();
    let mut parent = driver.open(1, &prompt, &greedy);
    driver.row(&mut parent, &prompt, Ask::default());
    driver.run();
    // The fork shares the parent's full block, and has a copy of the one that both will write.
    let copy = driver.take_block();
    driver.copy(77, parent.blocks[1], copy);
    let mut fork = driver.open(2, &prompt, &greedy);
    fork.len = parent.len;
    fork.blocks = vec![parent.blocks[0], copy];
    for (sequence, branch) in [(&mut parent, &branches[0]), (&mut fork, &branches[1])] {
        driver.row(sequence, branch, Ask { score: Some((0, &branch[1..])), num_top: 1, sample: false });
    }
    driver.run();
    assert_eq!(driver.output.finished_copies, [CopyId(77)]);
    for (row, expected) in expected.iter().enumerate() {
        assert_eq!(&driver.positions(row), expected, "{arithmetic:?}");
    }
}

#[test]
fn a_block_that_comes_back_from_the_host_reads_as_it_did() {
    [EXACT, BYTES].into_iter().for_each(check_block_from_host);
}

fn check_block_from_host((precision, kv_element): Arithmetic) {
    let tiny = Tiny::read(MODEL);
    let config = RunnerConfig { num_host_blocks: 3, kv_element, ..runner_config() };
    let mut driver = Driver::new(precision, &tiny.checkpoint(), &config);
    let (prompt, branch) = (tokens(8, 32), tokens(9, 9));
    let whole = [prompt.as_slice(), &branch].concat();
    let expected = driver.score(0, &whole, whole.len(), 1)[prompt.len()..].to_vec();

    let greedy = SamplingParams::default();
    let mut sequence = driver.open(1, &prompt, &greedy);
    driver.row(&mut sequence, &prompt, Ask::default());
    driver.run();
    let host = [2, 0].map(HostBlockId);
    for (&from, to) in sequence.blocks.iter().zip(host) {
        driver.host_copy(HostCopy::Offload { from, to });
    }
    driver.run();
    // A step without rows waits for the copies back.
    sequence.blocks = host.map(|_| driver.take_block()).to_vec();
    for (from, &to) in host.into_iter().zip(&sequence.blocks) {
        driver.host_copy(HostCopy::Fetch { from, to });
    }
    driver.run();
    assert!(driver.output.fetched_through.is_some(), "they have arrived");
    let mut moved = driver.open(2, &prompt, &greedy);
    (moved.len, moved.blocks) = (sequence.len, sequence.blocks);
    driver.row(&mut moved, &branch, Ask { score: Some((0, &branch[1..])), num_top: 1, sample: false });
    driver.run();
    assert_eq!(driver.positions(0), expected, "{kv_element:?}");
}

#[test]
fn a_step_of_nothing_but_a_copy_reports_it() {
    let tiny = Tiny::read(MODEL);
    let mut driver = driver(&tiny.checkpoint(), EXACT);
    driver.copy(5, BlockId(0), BlockId(1));
    let output = driver.run();
    assert_eq!((output.finished_copies.as_slice(), output.rows.len()), ([CopyId(5)].as_slice(), 0));
}

#[test]
fn a_poisoned_row_fails_alone() {
    const POISON: TokenId = 13;
    let mut tiny = Tiny::read(MODEL);
    let [(shard, _)] = &tiny.parsed()[..] else { panic!("one shard") };
    let embedding = shard.tensor("model.embed_tokens.weight").expect("an embedding").data.clone();
    let row_bytes = embedding.len() / tiny.config().vocab_size as usize;
    for value in tiny.shards[0][embedding][POISON as usize * row_bytes..][..row_bytes].chunks_exact_mut(4) {
        value.copy_from_slice(&f32::NAN.to_le_bytes());
    }
    let sound = [tokens(1, 6), tokens(2, 20)].map(|tokens| replace(&tokens, POISON));
    let poisoned = [&sound[0][..], &[POISON], &sound[1]].concat();
    let greedy = SamplingParams { max_tokens: 3, ..SamplingParams::default() };

    for arithmetic in [EXACT, NATIVE, BYTES] {
        let mut driver = driver(&tiny.checkpoint(), arithmetic);
        let alone: Vec<TokenId> =
            sound.iter().map(|prompt| driver.generate(0, prompt, prompt.len(), &greedy)[0]).collect();

        let [_, fallen, _] = [(1, &sound[0]), (2, &poisoned), (3, &sound[1])].map(|(slot, prompt)| {
            let mut sequence = driver.open(slot, prompt, &greedy);
            driver.row(&mut sequence, prompt, Ask::sample());
            sequence
        });
        driver.run();
        assert_eq!((driver.sampled(0), driver.sampled(2)), (alone[0], alone[1]), "{arithmetic:?}");
        assert_eq!(driver.output.rows[1].fault, Some(RowFault::NonFiniteLogits));
        assert!(driver.output.rows[1].tokens.is_empty());

        // A sound sequence inherits the slot and the blocks that hold NaN.
        let mut heir = driver.open(2, &sound[1], &greedy);
        heir.blocks = fallen.blocks;
        driver.row(&mut heir, &sound[1], Ask::sample());
        driver.run();
        assert_eq!(driver.sampled(0), alone[1], "{arithmetic:?}, in blocks that held NaN");
    }
}

fn replace(tokens: &[TokenId], unwanted: TokenId) -> Vec<TokenId> {
    tokens.iter().map(|&token| if token == unwanted { token + 1 } else { token }).collect()
}
