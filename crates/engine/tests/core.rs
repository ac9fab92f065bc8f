//! The core in virtual time over an executor whose KV memory is checked: sharing, chunking, preemption and failures change
//! nothing that a request can see but when it ends.

use std::sync::Arc;
use std::time::Duration;

use engine::{Command, EngineConfig, EngineCore, EngineRequest, Event, PrefixKeys, Salt, Step};
use serving_types::{
    ExecutorLimits, FinishReason, RequestClass, RequestId, SamplingParams, StepId, Timestamp, TokenId,
};
use sim::{FakeExecutor, FakeModel, Faults, Report, Scenario, SimRequest, Transcript, run, small_limits};

/// Tokens that no other start value gives.
fn tokens(start: u32, num_tokens: u32) -> Vec<TokenId> {
    (0..num_tokens).map(|position| (start * 7 + position * position * 3 + position) % 50).collect()
}

fn greedy(max_tokens: u32) -> SamplingParams {
    SamplingParams { max_tokens, ..SamplingParams::default() }
}

/// A mixed crowd: prompts of 1 to 60 tokens, half of them sharing 24, with every kind of sampling.
fn crowd(num_requests: u32) -> Vec<SimRequest> {
    let request = |nth: u32| {
        let mut prompt = if nth.is_multiple_of(2) { tokens(0, 24) } else { Vec::new() };
        prompt.extend(tokens(nth + 1, 1 + nth * 5 % 37));
        let sampling = SamplingParams {
            temperature: (nth % 3) as f32,
            seed: u64::from(nth),
            repetition_penalty: if nth.is_multiple_of(4) { 1.3 } else { 1.0 },
            max_tokens: 1 + nth * 11 % 40,
            stop_token_ids: vec![nth % 50],
            min_tokens: nth % 5,
            logprobs: nth.is_multiple_of(5).then_some(2),
            prompt_logprobs: nth.is_multiple_of(7).then_some(1),
            ..SamplingParams::default()
        };
        SimRequest { arrival: Timestamp(u64::from(nth / 8) * 1_500_000), ..SimRequest::new(prompt, sampling) }
    };
    (0..num_requests).map(request).collect()
}

fn roomy(max_steps_in_flight: u32) -> ExecutorLimits {
    ExecutorLimits {
        num_blocks: 600,
        max_batch_rows: 40,
        max_batch_tokens: 4096,
        max_steps_in_flight,
        ..small_limits()
    }
}

fn core(limits: ExecutorLimits) -> EngineCore {
    let model = FakeModel { seed: 1, vocab_size: limits.vocab_size };
    let executor = FakeExecutor::new(model, limits, Faults::default());
    EngineCore::new(Box::new(executor), EngineConfig::default()).unwrap()
}

fn submit(id: u64, prompt: &[TokenId], sampling: SamplingParams, block_size: u32) -> Command {
    let mut keys = PrefixKeys::new(&Salt::default(), block_size);
    keys.extend(prompt);
    let (id, sampling) = (RequestId(id), Arc::new(sampling));
    Command::Submit(Box::new(EngineRequest {
        id,
        prompt: keys,
        sampling,
        class: RequestClass::default(),
        first_token_deadline: None,
        deadline: None,
    }))
}

/// The request as it is answered when nobody else is there.
fn alone(request: &SimRequest, limits: ExecutorLimits) -> Transcript {
    let request = SimRequest { arrival: Timestamp(0), timeout: None, cancel_at: None, ..request.clone() };
    run(&Scenario::new(limits, vec![request])).transcripts.remove(0)
}

/// Everything but the usage, which tells how the work was done.
fn answer(transcript: &Transcript) -> Transcript {
    let mut answer = transcript.clone();
    let finished = answer.finished.as_mut().expect("every request ends");
    (finished.1.cached_tokens, finished.1.preemptions) = (0, 0);
    answer
}

/// Runs a crowd on `limits` and compares each answer with the expected one.
fn check_crowd(what: &str, limits: ExecutorLimits, expected: &[Transcript]) -> Report {
    let mut scenario = Scenario::new(limits, crowd(32));
    // Of what runs out of blocks nothing is foreseen.
    scenario.config.expected_output_tokens = 1;
    let report = run(&scenario);
    for (nth, (transcript, expected)) in report.transcripts.iter().zip(expected).enumerate() {
        assert_eq!(answer(transcript), answer(expected), "{what}: request {nth}");
    }
    report
}

#[test]
fn company_and_chunks_and_preemption_change_no_answer() {
    let expected: Vec<Transcript> = crowd(32).iter().map(|request| alone(request, roomy(1))).collect();
    for max_steps_in_flight in [1, 2, 3] {
        let roomy = roomy(max_steps_in_flight);
        let report = check_crowd("whole prompts", roomy, &expected);
        assert!(report.stats.prefix_hit_tokens > 0, "the crowd shares prefixes");
        for max_batch_tokens in [1, 7, 33] {
            check_crowd("chunks", ExecutorLimits { max_batch_tokens, ..roomy }, &expected);
        }
        for max_batch_rows in [1, 2, 5] {
            check_crowd("few rows", ExecutorLimits { max_batch_rows, ..roomy }, &expected);
        }
        for (block_size, num_blocks) in [(1, 100), (4, 25), (4, 40), (16, 8), (64, 3)] {
            let tiny = ExecutorLimits { block_size, num_blocks, max_batch_tokens: 40, ..roomy };
            let report = check_crowd("tiny pools", tiny, &expected);
            assert!(block_size > 16 || report.stats.preemptions > 0, "{num_blocks} blocks of {block_size} are too few");
            for num_host_blocks in [num_blocks / 2, 8 * num_blocks] {
                let with_host = check_crowd("a host pool", ExecutorLimits { num_host_blocks, ..tiny }, &expected);
                // With longer blocks there is next to nothing that is not computed as quickly.
                let is_small = num_host_blocks < num_blocks || block_size > 4;
                assert!(is_small || with_host.stats.host_hit_tokens > 0, "{num_host_blocks} host blocks are of use");
            }
        }
    }
}

#[test]
fn a_prefix_hit_answers_as_a_cold_start() {
    for max_steps_in_flight in [1, 2] {
        let limits = roomy(max_steps_in_flight);
        // The same prompt one after the other, then twice at the same moment, then one token longer.
        let mut requests = vec![SimRequest::new(tokens(3, 41), greedy(9)); 4];
        requests.push(SimRequest::new(tokens(3, 42), greedy(9)));
        for (request, at_ms) in requests.iter_mut().zip([0, 20, 40, 40, 60]) {
            request.arrival = Timestamp(at_ms * 1_000_000);
        }
        let scenario = Scenario::new(limits, requests);
        let report = run(&scenario);
        for (request, transcript) in scenario.requests.iter().zip(&report.transcripts) {
            assert_eq!(answer(transcript), answer(&alone(request, limits)));
        }
        let cached: Vec<u32> =
            report.transcripts.iter().map(|seen| seen.finished.clone().unwrap().1.cached_tokens).collect();
        assert_eq!(cached, [0, 40, 40, 40, 40], "full blocks of the shared prompt are computed once");
    }
}

#[test]
fn requests_of_one_batch_share_their_prompt() {
    let samples =
        |sample_index| SimRequest::new(tokens(5, 30), SamplingParams { temperature: 1.0, sample_index, ..greedy(6) });
    let report = run(&Scenario::new(roomy(1), (0..4).map(samples).collect()));
    let cached: Vec<u32> =
        report.transcripts.iter().map(|seen| seen.finished.clone().unwrap().1.cached_tokens).collect();
    assert_eq!(cached, [0, 28, 28, 28]);
    assert_eq!(
        report.stats.computed_tokens,
        30 + 3 * 2 + 4 * 5,
        "the prompt once, its tail and the outputs four times"
    );
}

#[test]
fn requests_end_for_their_length() {
    for (num_prompt, max_tokens, expected) in [(10, 1, 1), (10, 16, 16), (199, 16, 1), (190, 16, 10), (1, 500, 199)] {
        for max_steps_in_flight in [1, 2] {
            let request = SimRequest::new(tokens(1, num_prompt), greedy(max_tokens));
            let seen = alone(&request, roomy(max_steps_in_flight));
            assert_eq!(seen.tokens.len(), expected, "{num_prompt} + {max_tokens}");
            assert_eq!(seen.finished.unwrap().0, FinishReason::Length);
        }
    }
}

#[test]
fn impossible_requests_are_refused_with_the_reason() {
    let limits = small_limits();
    let small_pool = ExecutorLimits { num_blocks: 5, ..limits };
    for (limits, prompt, sampling, expected) in [
        (limits, vec![], greedy(1), "the prompt is empty"),
        (limits, tokens(1, 3), greedy(0), "max_tokens is 0"),
        (limits, tokens(1, 200), greedy(1), "the prompt has 200 tokens"),
        (small_pool, tokens(1, 12), greedy(10), "may need 6 KV blocks"),
        (limits, vec![1, 50, 51], greedy(1), "token 50 is not in the model's vocabulary"),
        (limits, tokens(1, 3), SamplingParams { logprobs: Some(6), ..greedy(1) }, "logprobs asks for the 6"),
    ] {
        let mut outbox = Vec::new();
        let mut inbox = vec![submit(9, &prompt, sampling, limits.block_size)];
        assert_eq!(core(limits).step(Timestamp(0), &mut inbox, &mut outbox), Step::Idle);
        let [Event::Finished { reason: FinishReason::Failed(cause), .. }] = &outbox[..] else { panic!("{outbox:?}") };
        assert!(cause.contains(expected), "{cause}");
    }
    // What just fits is taken.
    let just_fits = SimRequest::new(tokens(1, 12), greedy(9));
    assert_eq!(alone(&just_fits, small_pool).tokens.len(), 9);
}

#[test]
fn cancels_and_deadlines_end_a_request_where_it_is() {
    for max_steps_in_flight in [1, 2] {
        // Before it runs, in its first chunk, while it decodes, in the step in which it ends, and after that.
        for at_ms in [0, 1, 2, 5, 9, 12, 13, 14, 100] {
            let limits = ExecutorLimits { max_batch_tokens: 16, ..roomy(max_steps_in_flight) };
            let long = SimRequest::new(tokens(1, 50), greedy(10));
            let at = Timestamp(at_ms * 1_000_000);
            let cancelled = SimRequest { cancel_at: Some(at), ..long.clone() };
            let late = SimRequest { timeout: Some(Duration::from_millis(at_ms)), ..long.clone() };
            let report = run(&Scenario::new(limits, vec![long, cancelled, late]));
            let reasons: Vec<_> = report.transcripts.iter().map(|seen| seen.finished.clone().unwrap().0).collect();
            assert_eq!(reasons[0], FinishReason::Length);
            if at_ms == 100 {
                assert_eq!(reasons[1..], [FinishReason::Length, FinishReason::Length]);
            } else if at_ms < 9 {
                assert_eq!(reasons[1..], [FinishReason::Cancelled, FinishReason::Deadline]);
            }
        }
    }
}

#[test]
fn a_cancel_frees_all_blocks_within_a_step() {
    for max_steps_in_flight in [1, 2] {
        for steps_before in 0..8 {
            let mut core = core(roomy(max_steps_in_flight));
            let mut inbox = vec![submit(1, &tokens(1, 30), greedy(30), 4), submit(2, &tokens(1, 24), greedy(30), 4)];
            let mut outbox = Vec::new();
            for _ in 0..steps_before {
                core.step(Timestamp(0), &mut inbox, &mut outbox);
            }
            inbox.extend([Command::Cancel(RequestId(1)), Command::Cancel(RequestId(2))]);
            outbox.clear();
            core.step(Timestamp(0), &mut inbox, &mut outbox);
            let ends = outbox.iter().map(|event| match event {
                Event::Finished { id, reason, .. } => (id.0, reason.clone()),
                event => panic!("{event:?} after the cancel"),
            });
            assert_eq!(ends.collect::<Vec<_>>(), [(1, FinishReason::Cancelled), (2, FinishReason::Cancelled)]);
            let stats = core.stats();
            assert_eq!((stats.num_running, stats.num_waiting), (0, 0));
            assert_eq!((stats.blocks_active, stats.blocks_in_transit), (0, 0), "after {steps_before} steps");
        }
    }
}

#[test]
fn a_failed_step_fails_its_rows_and_recomputes_those_who_trusted_it() {
    // The first request fills the first step alone; the second, planned while that is in flight, matches what it promised.
    let limits = ExecutorLimits { max_batch_tokens: 16, ..roomy(2) };
    let mut second = tokens(1, 16);
    second.extend(tokens(2, 8));
    let requests = vec![SimRequest::new(tokens(1, 17), greedy(4)), SimRequest::new(second, greedy(4))];
    let faults = Faults { failed_step: Some(StepId(0)), ..Faults::default() };
    let report = run(&Scenario { faults, ..Scenario::new(limits, requests.clone()) });
    let [first, second] = &report.transcripts[..] else { panic!("two requests") };
    assert_eq!(first.finished.clone().unwrap().0, FinishReason::Failed("a fake step failure".into()));
    assert_eq!(answer(second), answer(&alone(&requests[1], limits)));
    let usage = second.finished.clone().unwrap().1;
    assert_eq!((usage.cached_tokens, usage.preemptions), (16, 1), "it matched and was computed again");
}

#[test]
fn what_a_faulty_row_computed_fails_nobody_else() {
    for max_steps_in_flight in [1, 2] {
        // The first chunk of the first request is faulty, which shows when its last one is sampled; the second request
        // matches what is known by then, and computes all of it itself when it is seen to be faulty too. The third one comes
        // after that.
        let limits = ExecutorLimits { max_batch_tokens: 16, ..roomy(max_steps_in_flight) };
        let arriving = |at_ms: u64| SimRequest {
            arrival: Timestamp(at_ms * 1_000_000),
            ..SimRequest::new(tokens(1, 40), greedy(5))
        };
        let faults = Faults { faulty_step: Some(StepId(0)), ..Faults::default() };
        let requests = vec![arriving(0), arriving(2), arriving(20)];
        let report = run(&Scenario { faults, ..Scenario::new(limits, requests.clone()) });
        let [first, second, third] = &report.transcripts[..] else { panic!("three requests") };
        let cause = "the model's logits are not finite".into();
        assert_eq!((&first.tokens[..], first.finished.clone().unwrap().0), (&[][..], FinishReason::Failed(cause)));
        for (seen, request) in [second, third].into_iter().zip(&requests[1..]) {
            assert_eq!(answer(seen), answer(&alone(request, limits)));
        }
        let usage = second.finished.clone().unwrap().1;
        assert!(usage.cached_tokens > 0 && usage.preemptions == 1, "it matched and was computed again: {usage:?}");
    }
}

#[test]
fn failures_stay_where_they_happen() {
    for max_steps_in_flight in [1, 2, 3] {
        for seed in 0..8 {
            let limits = ExecutorLimits { num_blocks: 200, max_batch_tokens: 24, ..roomy(max_steps_in_flight) };
            for faults in [
                Faults { seed, row_fault: 20, ..Faults::default() },
                Faults { seed, launch_failure: 50, ..Faults::default() },
                Faults { seed, finish_failure: 50, ..Faults::default() },
            ] {
                let report = run(&Scenario { faults, ..Scenario::new(limits, crowd(32)) });
                assert_eq!(report.end, Step::Idle);
                let failed = report
                    .transcripts
                    .iter()
                    .filter(|seen| matches!(seen.finished, Some((FinishReason::Failed(_), _))));
                assert!(failed.count() < 32, "not all fail");
            }
        }
    }
}

#[test]
fn whoever_follows_a_failed_step_is_computed_again() {
    let mut num_recomputed = 0;
    for seed in 0..100 {
        // Each comes one step after the one before, while that is still at its prompt, which is nearly the same.
        let request = |nth: u32| {
            let mut prompt = tokens(0, 20 + nth % 3 * 10);
            prompt.extend(tokens(nth, nth % 4 + 1));
            SimRequest { arrival: Timestamp(u64::from(nth) * 1_000_000), ..SimRequest::new(prompt, greedy(12)) }
        };
        let max_steps_in_flight = 2 + seed as u32 % 2;
        let limits = ExecutorLimits { max_batch_tokens: 16, max_batch_rows: 5, ..roomy(max_steps_in_flight) };
        let faults = Faults { seed, finish_failure: 80, ..Faults::default() };
        let report = run(&Scenario { faults, ..Scenario::new(limits, (0..24).map(request).collect()) });
        num_recomputed += report.stats.preemptions;
    }
    assert!(num_recomputed > 10, "only {num_recomputed} requests had matched what was never computed");
}

#[test]
fn a_lost_device_ends_everything_with_one_cause() {
    for max_steps_in_flight in [1, 2] {
        let faults = Faults { device_loss: Some(StepId(5)), ..Faults::default() };
        let mut requests = crowd(32);
        requests[31].arrival = Timestamp(50_000_000);
        let report = run(&Scenario { faults, ..Scenario::new(roomy(max_steps_in_flight), requests) });
        assert_eq!(report.end, Step::DeviceLost("a fake loss".into()));
        let cause = FinishReason::Failed("a fake loss".into());
        let failed = report.transcripts.iter().filter(|seen| seen.finished.clone().unwrap().0 == cause);
        assert!(failed.count() > 10);
        assert_eq!(report.transcripts[31].finished.clone().unwrap().0, cause, "also one that comes later");
    }
}

#[test]
fn a_drain_finishes_what_it_can_and_cancels_the_rest() {
    for (timeout_ms, expected_cancelled) in [(1000, 0), (3, 2), (0, 3)] {
        let mut requests: Vec<SimRequest> =
            [3, 20, 30].map(|max_tokens| SimRequest::new(tokens(max_tokens, 10), greedy(max_tokens))).into();
        requests.push(SimRequest { arrival: Timestamp(2_000_000), ..SimRequest::new(tokens(9, 4), greedy(4)) });
        let drain = Some((Timestamp(1_000_000), Duration::from_millis(timeout_ms)));
        let report = run(&Scenario { drain, ..Scenario::new(roomy(1), requests) });
        assert_eq!(report.end, Step::Drained { num_cancelled: expected_cancelled });
        let late = report.transcripts[3].finished.clone().unwrap().0;
        assert_eq!(late, FinishReason::Failed("the engine is shutting down".into()));
    }
}
