//! Checks of the sampling op: choices, scores, faults, and tokens that are fed back without a trip to the host.

use serving_types::{BatchOutput, RowFault, RowSlot, SamplingParams, TokenId};

use super::Options;
use super::fixture::{
    Random, RowSpec, StoredMatrix, input_limits, parameters, poisoned, read_poisoned, sampler_limits, step_of,
};
use super::reference::log_softmax;
use crate::{Backend, Embed, LogitChoice, LogitJob, Sample, SlotHistory, WeightRole};

const SLOTS: usize = 5;
const MAX_TOP: usize = 8;

/// A job of a slot: its logits and what to do with them.
struct Job {
    slot: u32,
    logits: Vec<f32>,
    choice: LogitChoice,
}

/// Runs jobs in ops of at most `per_op` and reads them, one row a job.
fn run<B: Backend>(backend: &mut B, sampler: &mut B::Sampler, jobs: &[Job], per_op: usize) -> BatchOutput {
    let vocab = jobs[0].logits.len();
    let limits = input_limits(jobs.len(), SLOTS, jobs.len());
    let row = RowSpec { slot: 0, start: 0, tokens: vec![0; jobs.len()], blocks: vec![] };
    let logit_jobs: Vec<LogitJob> = jobs
        .iter()
        .enumerate()
        .map(|(index, job)| LogitJob { token_index: index as u32, slot: RowSlot(job.slot), choice: job.choice })
        .collect();
    let mut inputs = backend.new_inputs(&limits).expect("inputs");
    backend.upload(&mut inputs, &step_of(&[row], &logit_jobs)).expect("an upload");
    let mut samples = backend.new_samples(jobs.len(), MAX_TOP).expect("samples");
    for start in (0..jobs.len()).step_by(per_op) {
        let range = start..jobs.len().min(start + per_op);
        let values: Vec<f32> = jobs[range.clone()].iter().flat_map(|job| job.logits.clone()).collect();
        let mut logits = parameters(backend, vocab, &values);
        let op = Sample { inputs: &inputs, jobs: range, logits: &mut logits, sampler, samples: &mut samples };
        backend.sample(op).expect("sampling");
    }
    let row_jobs: Vec<_> = (0..jobs.len() as u32).map(|job| job..job + 1).collect();
    let mut output = BatchOutput::default();
    backend.read_samples(&samples, &row_jobs, &mut output).expect("samples");
    assert_eq!(output.rows.len(), jobs.len());
    output
}

fn open<B: Backend>(backend: &mut B, sampler: &mut B::Sampler, slot: u32, params: &SamplingParams, tokens: &[TokenId]) {
    let history = SlotHistory { tokens, num_prompt_tokens: tokens.len() as u32 };
    backend.open_slot(sampler, RowSlot(slot), params, history).expect("a slot");
}

fn sample(slot: u32, logits: Vec<f32>, output_position: u32) -> Job {
    Job { slot, logits, choice: LogitChoice::Sample { output_position } }
}

/// The one token of each row.
fn tokens(output: &BatchOutput) -> Vec<TokenId> {
    output.rows.iter().map(|row| output.tokens_of(row)[0]).collect()
}

fn largest(logits: &[f32]) -> TokenId {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits.iter().position(|&logit| logit == max).expect("a largest") as TokenId
}

/// Greedy choices, biases, suppressed stop tokens, penalties with a history that grows, and seeded draws that stay inside of
/// what the filters keep, repeat, and do not depend on their neighbours.
///
/// # Panics
/// If a check fails.
pub fn check_choices<B: Backend>(backend: &mut B, _options: &Options) {
    for vocab in [3, 40, 1000, 5003] {
        let mut random = Random::new(vocab as u64);
        let mut sampler = backend.new_sampler(&sampler_limits(SLOTS, vocab)).expect("a sampler");
        let greedy = SamplingParams::default();
        for slot in 0..SLOTS as u32 {
            open(backend, &mut sampler, slot, &greedy, &[]);
        }
        let jobs: Vec<Job> = (0..SLOTS as u32)
            .map(|slot| {
                let mut logits = random.values(vocab);
                // Equals at the top: the lower id wins.
                let (a, b) = (random.below(vocab), random.below(vocab));
                (logits[a], logits[b]) = (5.0, 5.0);
                sample(slot, logits, 0)
            })
            .collect();
        let expected: Vec<TokenId> = jobs.iter().map(|job| largest(&job.logits)).collect();
        for per_op in [1, 2, SLOTS] {
            assert_eq!(
                tokens(&run(backend, &mut sampler, &jobs, per_op)),
                expected,
                "greedy of {vocab}, {per_op} an op"
            );
        }
        check_adjustments(backend, &mut sampler, vocab);
        check_draws(backend, &mut sampler, vocab);
    }
}

fn check_adjustments<B: Backend>(backend: &mut B, sampler: &mut B::Sampler, vocab: usize) {
    let mut logits = vec![0.0; vocab];
    logits[..3].copy_from_slice(&[3.0, 2.9, 2.0]);
    let bias = SamplingParams { logit_bias: vec![(2, 1.5)], ..SamplingParams::default() };
    let stop = SamplingParams { min_tokens: 2, stop_token_ids: vec![0], ..SamplingParams::default() };
    let repetition = SamplingParams { repetition_penalty: 2.0, ..SamplingParams::default() };
    let presence = SamplingParams { presence_penalty: 0.5, ..SamplingParams::default() };
    let frequency = SamplingParams { frequency_penalty: 0.06, ..SamplingParams::default() };
    // The tokens of four steps in a row, each sampled token joining the history.
    let cases: [(&SamplingParams, &[TokenId], [TokenId; 4]); 6] = [
        (&bias, &[], [2, 2, 2, 2]),
        (&stop, &[], [1, 1, 0, 0]),
        (&repetition, &[], [0, 1, 2, 0]),
        (&repetition, &[0], [1, 2, 0, 0]),
        (&presence, &[1], [0, 1, 0, 0]),
        (&frequency, &[1], [0, 0, 1, 0]),
    ];
    for (case, (params, prompt, expected)) in cases.into_iter().enumerate() {
        open(backend, sampler, 1, params, prompt);
        for (position, expected) in expected.into_iter().enumerate() {
            let jobs = [sample(1, logits.clone(), position as u32)];
            let got = tokens(&run(backend, sampler, &jobs, 1));
            assert_eq!(got, [expected], "vocabulary {vocab}, case {case}, position {position}");
        }
    }
}

fn check_draws<B: Backend>(backend: &mut B, sampler: &mut B::Sampler, vocab: usize) {
    let logits = Random::new(11).values(vocab);
    let mut order: Vec<TokenId> = (0..vocab as u32).collect();
    order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
    let warm = SamplingParams { temperature: 1.0, seed: 42, ..SamplingParams::default() };
    let top_k = SamplingParams { top_k: 2, ..warm.clone() };
    let one_by_p = SamplingParams { top_p: 1e-6, ..warm.clone() };
    let one_by_min_p = SamplingParams { min_p: 1.0, ..warm.clone() };
    let other_seed = SamplingParams { seed: 43, ..warm.clone() };
    let other_sample = SamplingParams { sample_index: 1, ..warm.clone() };
    let mut draws = |params: &SamplingParams, slot: u32| -> Vec<TokenId> {
        open(backend, sampler, slot, params, &[]);
        (0..64)
            .map(|position| {
                // A neighbour that samples something else must not matter.
                let neighbour = sample((slot + 1) % SLOTS as u32, vec![0.0; vocab], 0);
                let jobs = [neighbour, sample(slot, logits.clone(), position)];
                tokens(&run(backend, sampler, &jobs, 2))[1]
            })
            .collect()
    };
    let drawn = draws(&warm, 0);
    assert_eq!(drawn, draws(&warm, 3), "the same seed in another slot, vocabulary {vocab}");
    assert_ne!(drawn, draws(&other_seed, 0), "another seed, vocabulary {vocab}");
    assert_ne!(drawn, draws(&other_sample, 0), "another sample, vocabulary {vocab}");
    let two = draws(&top_k, 0);
    assert!(two.iter().all(|token| order[..2].contains(token)), "top_k, vocabulary {vocab}: {two:?}");
    assert!(order[..2].iter().all(|token| two.contains(token)), "both of top_k, vocabulary {vocab}: {two:?}");
    assert_eq!(draws(&one_by_p, 0), [order[0]; 64], "top_p, vocabulary {vocab}");
    assert_eq!(draws(&one_by_min_p, 0), [order[0]; 64], "min_p, vocabulary {vocab}");
}

/// Log-probabilities and ranks of known and of sampled tokens and of the most likely ones: of the model's own logits,
/// whatever the parameters.
///
/// # Panics
/// If a check fails.
pub fn check_scores<B: Backend>(backend: &mut B, _options: &Options) {
    const TOLERANCE: f64 = 1e-5;
    for vocab in [3, 40, 1000, 5003] {
        let mut random = Random::new(7 + vocab as u64);
        let mut sampler = backend.new_sampler(&sampler_limits(SLOTS, vocab)).expect("a sampler");
        let biased = SamplingParams {
            logit_bias: vec![(1, 100.0)],
            repetition_penalty: 3.0,
            logprobs: Some(4),
            ..SamplingParams::default()
        };
        open(backend, &mut sampler, 2, &biased, &[0]);
        let mut jobs: Vec<Job> = [0, 1, 5, MAX_TOP as u32]
            .into_iter()
            .map(|num_top| {
                let target = random.below(vocab) as TokenId;
                let mut logits = random.values(vocab);
                logits[vocab / 2] = logits[0];
                Job { slot: 4, logits, choice: LogitChoice::Score { target, num_top } }
            })
            .collect();
        jobs.push(sample(2, random.values(vocab), 0));
        let output = run(backend, &mut sampler, &jobs, 3);
        for (job, row) in jobs.iter().zip(&output.rows) {
            let (token, num_top) = match job.choice {
                LogitChoice::Score { target, num_top } => (target, num_top as usize),
                LogitChoice::Sample { .. } => (1, 4),
            };
            let what = format!("vocabulary {vocab}, token {token}, top {num_top}");
            let expected = log_softmax(&job.logits);
            let sampled = matches!(job.choice, LogitChoice::Sample { .. });
            assert_eq!(output.tokens_of(row), if sampled { &[1][..] } else { &[] }, "{what}");
            assert_eq!(row.logprobs.len(), 1, "{what}");
            let scored = &output.logprobs[row.logprobs.start as usize];
            let logit = job.logits[token as usize];
            assert_eq!(scored.token, token, "{what}");
            assert_eq!(scored.rank as usize, 1 + job.logits.iter().filter(|&&l| l > logit).count(), "{what}");
            assert!((f64::from(scored.logprob) - expected[token as usize]).abs() < TOLERANCE, "{what}");
            let mut order: Vec<TokenId> = (0..vocab as u32).collect();
            order.sort_by(|&a, &b| job.logits[b as usize].total_cmp(&job.logits[a as usize]));
            let top = &output.top[scored.top.start as usize..scored.top.end as usize];
            assert_eq!(top.len(), num_top.min(vocab), "{what}");
            for (&(token, logprob), &expected_token) in top.iter().zip(&order) {
                assert_eq!(token, expected_token, "{what}");
                assert!((f64::from(logprob) - expected[token as usize]).abs() < TOLERANCE, "{what}");
            }
        }
    }
}

/// A row with a logit that is not finite, or with every token masked, has a fault and no results; its neighbours go on.
///
/// # Panics
/// If a check fails.
pub fn check_faults<B: Backend>(backend: &mut B, _options: &Options) {
    let vocab = 37;
    let mut sampler = backend.new_sampler(&sampler_limits(SLOTS, vocab)).expect("a sampler");
    let everything =
        SamplingParams { min_tokens: 1, stop_token_ids: (0..vocab as u32).collect(), ..Default::default() };
    for slot in 0..SLOTS as u32 {
        open(backend, &mut sampler, slot, &SamplingParams::default(), &[]);
    }
    open(backend, &mut sampler, 4, &everything, &[]);
    let sound = || Random::new(2).values(vocab);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for at in [0, 20, vocab - 1] {
            let mut spoiled = sound();
            spoiled[at] = bad;
            let jobs = [
                sample(0, sound(), 0),
                sample(1, spoiled.clone(), 0),
                Job { slot: 2, logits: spoiled, choice: LogitChoice::Score { target: 3, num_top: 2 } },
                sample(3, sound(), 0),
                sample(4, sound(), 0),
            ];
            let output = run(backend, &mut sampler, &jobs, SLOTS);
            let fault = Some(RowFault::NonFiniteLogits);
            let faults: Vec<_> = output.rows.iter().map(|row| row.fault).collect();
            assert_eq!(faults, [None, fault, fault, None, fault], "{bad} at {at}");
            for row in &output.rows {
                assert_eq!(row.tokens.len(), usize::from(row.fault.is_none()));
                assert!(row.logprobs.is_empty());
            }
            assert_eq!(output.tokens, [largest(&sound()); 2]);
        }
    }
}

/// Tokens sampled by an op before, embedded without having been read.
///
/// # Panics
/// If a check fails.
pub fn check_fed_tokens<B: Backend>(backend: &mut B, options: &Options) {
    let (vocab, cols) = (50, 256);
    let format = options.formats[0];
    let table = StoredMatrix::random(format, vocab, cols, &mut Random::new(8));
    let weight = backend.load_weight(&[table.part()], WeightRole::TiedEmbedding).expect("a weight");
    let mut sampler = backend.new_sampler(&sampler_limits(SLOTS, vocab)).expect("a sampler");
    for slot in 0..SLOTS as u32 {
        open(backend, &mut sampler, slot, &SamplingParams::default(), &[]);
    }
    let mut random = Random::new(21);
    let jobs: Vec<Job> = [3, 0, 4].into_iter().map(|slot| sample(slot, random.values(vocab), 0)).collect();
    let sampled = tokens(&run(backend, &mut sampler, &jobs, 3));

    let rows: Vec<RowSpec> = [(4, vec![0]), (1, vec![7, 8]), (3, vec![0])]
        .into_iter()
        .map(|(slot, tokens)| RowSpec { slot, start: 0, tokens, blocks: vec![] })
        .collect();
    let mut step = step_of(&rows, &[]);
    step.fed = vec![(0, RowSlot(4)), (3, RowSlot(3))];
    let mut inputs = backend.new_inputs(&input_limits(4, SLOTS, 1)).expect("inputs");
    backend.upload(&mut inputs, &step).expect("an upload");
    let mut out = poisoned(backend, 4, cols);
    backend
        .embed(Embed { inputs: &inputs, sampler: &sampler, table: &weight, out: &mut out, rows: 4 })
        .expect("an embed");
    let got = read_poisoned(backend, &out, 4, "fed tokens");
    let expected: Vec<f32> =
        [sampled[2], 7, 8, sampled[0]].into_iter().flat_map(|token| table.row(token as usize)).copied().collect();
    assert_eq!(got, super::fixture::rounded(&expected, backend.activation_element()), "fed tokens");
}
