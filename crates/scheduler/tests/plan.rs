//! What the scheduler puts into a batch, row by row. Results are made up: each row that samples gets the token 7.

use std::sync::Arc;

use scheduler::{NewRequest, Planned, Policy, PrefixCaching, PrefixKeys, Refusal, Scheduler, SchedulerConfig, Update};
use serving_types::{
    Batch, BatchOutput, FinishReason, RequestClass, RequestId, Row, RowFault, RowInput, RowOutput, SamplingParams,
    StepId, Timestamp, TokenId,
};

const CONFIG: SchedulerConfig = SchedulerConfig {
    block_size: 4,
    num_blocks: 100,
    num_host_blocks: 0,
    max_batch_tokens: 16,
    max_mixed_prefill_tokens: 16,
    expected_output_tokens: 1,
    max_batch_rows: 4,
    max_model_len: 100,
    max_waiting: 10,
    prefix_caching: PrefixCaching::On,
    policy: Policy::FirstCome,
};

/// A scheduler with the caller that it needs.
struct Bench {
    scheduler: Scheduler,
    next_step: u64,
    next_id: u64,
    /// Rows of the steps in flight: whether each samples.
    in_flight: Vec<Vec<bool>>,
    batch: Batch,
    updates: Vec<Update>,
}

impl Bench {
    fn new(config: SchedulerConfig) -> Self {
        let scheduler = Scheduler::new(config).unwrap();
        Self { scheduler, next_step: 0, next_id: 0, in_flight: vec![], batch: Batch::new(), updates: vec![] }
    }

    /// A prompt of its own, shared with nobody.
    fn submit(&mut self, num_prompt_tokens: u32, max_tokens: u32) -> RequestId {
        let first = 100 * (self.next_id as TokenId + 1);
        self.submit_prompt(&(first..first + num_prompt_tokens).collect::<Vec<_>>(), max_tokens)
    }

    fn submit_prompt(&mut self, prompt: &[TokenId], max_tokens: u32) -> RequestId {
        self.try_submit(prompt, SamplingParams { max_tokens, ..SamplingParams::default() }, None).unwrap()
    }

    fn try_submit(
        &mut self,
        prompt: &[TokenId],
        sampling: SamplingParams,
        deadline: Option<Timestamp>,
    ) -> Result<RequestId, Refusal> {
        let id = RequestId(self.next_id);
        self.next_id += 1;
        let mut keys = PrefixKeys::new(&Default::default(), self.scheduler.config().block_size);
        keys.extend(prompt);
        self.scheduler.submit(NewRequest {
            id,
            prompt: keys,
            sampling: Arc::new(sampling),
            class: RequestClass::default(),
            first_token_deadline: None,
            deadline,
        })?;
        Ok(id)
    }

    /// Plans a step, and writes its rows as `start+tokens`, with `?` for a token that is on the device and `!` for a row
    /// that samples.
    fn plan(&mut self) -> String {
        let planned = self.scheduler.plan(StepId(self.next_step), &mut self.batch);
        self.scheduler.check_invariants();
        if planned == Planned::Idle {
            return "idle".into();
        }
        self.next_step += 1;
        self.in_flight.push(self.batch.rows.iter().map(|row| row.sample).collect());
        let text = |row: &Row| {
            let input = if row.input == RowInput::LastSampled { "?".into() } else { row.num_tokens().to_string() };
            format!("{}+{input}{}", row.start, if row.sample { "!" } else { "" })
        };
        self.batch.rows.iter().map(text).collect::<Vec<_>>().join(" ")
    }

    /// Completes the oldest step in flight.
    fn complete(&mut self) {
        self.complete_with(None);
    }

    /// Completes the oldest step in flight; each of its rows that samples has this fault instead of a token.
    fn complete_with(&mut self, fault: Option<RowFault>) {
        let step = StepId(self.next_step - self.in_flight.len() as u64);
        let mut output = BatchOutput::default();
        for samples in self.in_flight.remove(0) {
            let start = output.tokens.len() as u32;
            let fault = fault.filter(|_| samples);
            output.tokens.extend((samples && fault.is_none()).then_some(7));
            output.rows.push(RowOutput { tokens: start..output.tokens.len() as u32, fault, ..RowOutput::default() });
        }
        self.scheduler.complete(step, &output, &mut self.updates);
        self.scheduler.check_invariants();
    }

    fn step(&mut self) -> String {
        let rows = self.plan();
        self.complete();
        rows
    }
}

#[test]
fn decodes_come_first_then_chunks_then_admissions() {
    let mut bench = Bench::new(CONFIG);
    bench.submit(6, 9);
    bench.submit(30, 9);
    assert_eq!(bench.step(), "0+6! 0+8", "the second prompt gets the rest of the budget, in whole blocks");
    bench.submit(3, 9);
    assert_eq!(bench.step(), "6+1! 0+3! 8+12", "the third request is short, and the long prompt gets what is left");
    assert_eq!(bench.step(), "7+1! 3+1! 20+10!");
    assert_eq!(bench.step(), "8+1! 30+1! 4+1!");
}

#[test]
fn long_prompts_leave_half_of_a_step_to_those_who_wait() {
    let mut bench = Bench::new(CONFIG);
    bench.submit(90, 1);
    assert_eq!(bench.step(), "0+16", "alone, it gets everything");
    for _ in 0..6 {
        bench.submit(6, 1);
    }
    assert_eq!(bench.step(), "0+6! 0+2 16+8", "half for those who wait");
    assert_eq!(bench.step(), "2+4! 0+4 24+8", "and half for the long one");
    assert_eq!(bench.step(), "4+2! 0+6! 32+8");
    let mut num_steps = 0;
    while bench.scheduler.num_requests() > 0 {
        bench.step();
        num_steps += 1;
    }
    assert!(num_steps <= 6, "it takes all that the others leave: {num_steps} steps for 50 + 12 tokens");

    // However many long ones there are, a short one runs in the next step.
    let mut bench = Bench::new(CONFIG);
    for _ in 0..3 {
        bench.submit(60, 1);
        bench.step();
    }
    let short = bench.submit(5, 1);
    bench.step();
    let ended = bench.updates.iter().any(|update| matches!(update, Update::Finished { id, .. } if *id == short));
    assert!(ended, "{:?}", bench.updates);
}

#[test]
fn a_step_with_decodes_has_a_budget_of_its_own_for_prompts() {
    let mut bench = Bench::new(SchedulerConfig { max_mixed_prefill_tokens: 4, ..CONFIG });
    bench.submit(12, 4);
    assert_eq!(bench.step(), "0+12!", "nobody decodes yet");
    bench.submit(10, 2);
    assert_eq!(bench.step(), "12+1! 0+4");
    assert_eq!(bench.step(), "13+1! 4+4");
    bench.submit(3, 2);
    assert_eq!(bench.step(), "14+1! 8+2! 0+2", "what one prompt leaves, the next one takes");
    assert_eq!(bench.step(), "10+1! 2+1!", "the first has ended");
}

#[test]
fn the_budget_and_the_rows_are_never_exceeded() {
    let mut bench = Bench::new(SchedulerConfig { max_batch_tokens: 2, ..CONFIG });
    for _ in 0..6 {
        bench.submit(2, 3);
    }
    assert_eq!(bench.step(), "0+2!");
    assert_eq!(bench.step(), "2+1! 0+1");
    assert_eq!(bench.step(), "3+1! 1+1!", "the last token of a prompt is as good as a decode");
    assert_eq!(bench.step(), "2+1! 0+1", "the first has ended");
    for _ in 0..20 {
        bench.plan();
        assert!(bench.batch.num_new_tokens() <= 2);
        bench.complete();
        if bench.scheduler.num_requests() == 0 {
            break;
        }
    }
    assert_eq!(bench.plan(), "idle");

    let mut bench = Bench::new(CONFIG);
    for _ in 0..6 {
        bench.submit(2, 3);
    }
    assert_eq!(bench.step(), "0+2! 0+2! 0+2! 0+2!", "four rows");
    assert_eq!((bench.scheduler.num_running(), bench.scheduler.num_waiting()), (4, 2));
}

#[test]
fn a_step_is_planned_while_another_is_in_flight() {
    let mut bench = Bench::new(CONFIG);
    bench.submit(6, 3);
    bench.submit(2, 1);
    assert_eq!(bench.plan(), "0+6! 0+2!");
    assert_eq!(bench.plan(), "6+?!", "the second one ends with its first token, whatever that is");
    bench.complete();
    assert_eq!(bench.plan(), "7+?!");
    bench.complete();
    assert_eq!(bench.plan(), "idle", "its last token is on the way");
    bench.complete();
    assert_eq!(bench.scheduler.num_requests(), 0);
}

#[test]
fn an_overrun_row_is_dropped() {
    let mut bench = Bench::new(CONFIG);
    let sampling = SamplingParams { max_tokens: 9, stop_token_ids: vec![7], ..SamplingParams::default() };
    bench.try_submit(&[1, 2, 3, 4], sampling, None).unwrap();
    assert_eq!(bench.plan(), "0+4!");
    assert_eq!(bench.plan(), "4+?!");
    bench.complete();
    let [Update::Token { token: 7, .. }, Update::Finished { reason, .. }] = &bench.updates[..] else {
        panic!("{:?}", bench.updates)
    };
    assert_eq!(*reason, FinishReason::StopToken(7));
    let usage = bench.scheduler.block_usage();
    assert_eq!((usage.active, usage.in_transit), (0, 2), "the step in flight still writes its blocks");
    bench.complete();
    assert_eq!(bench.updates.len(), 2, "nothing comes of the overrun");
    assert_eq!(bench.scheduler.block_usage().in_transit, 0);
}

/// Requests of 8 tokens that generate 9 to 48 each, all at once, on room for about five whole ones: preemptions, and the steps
/// that it took to answer all.
fn run_crowd(expected_output_tokens: u32) -> (u64, u64) {
    let config = SchedulerConfig {
        num_blocks: 60,
        max_batch_tokens: 320,
        max_mixed_prefill_tokens: 320,
        max_batch_rows: 64,
        max_waiting: 64,
        ..CONFIG
    };
    let mut bench = Bench::new(SchedulerConfig { expected_output_tokens, ..config });
    for nth in 0..40 {
        bench.submit(8, 9 + nth * 7 % 40);
    }
    while bench.scheduler.num_requests() > 0 {
        bench.step();
    }
    (bench.scheduler.stats().preemptions, bench.next_step)
}

#[test]
fn no_more_are_admitted_than_will_find_blocks_to_the_end() {
    let (unforeseen, _) = run_crowd(1);
    let (preemptions, steps) = run_crowd(1024);
    // Blocks are foreseen as shares of tokens, so one may be missing now and then.
    assert!(4 * preemptions < unforeseen, "{preemptions} preemptions, and {unforeseen} if nothing is foreseen");
    // Each block of each for as long as it is held, over the blocks there are: no order of admission is quicker.
    let block_steps = |num_output: u32| (9..=8 + num_output).map(|num_tokens| num_tokens.div_ceil(4)).sum::<u32>();
    let least_steps = (0..40).map(|nth| block_steps(9 + nth * 7 % 40)).sum::<u32>() / 60;
    assert!(steps < 2 * u64::from(least_steps), "{steps} steps, and with a pool that is always full {least_steps}");
}

#[test]
fn the_youngest_makes_way_and_comes_back_before_those_who_came_later() {
    let mut bench = Bench::new(SchedulerConfig { num_blocks: 6, prefix_caching: PrefixCaching::Off, ..CONFIG });
    bench.submit(8, 9);
    bench.submit(8, 9);
    assert_eq!(bench.step(), "0+8! 0+8!", "two blocks each, and one each to grow into");
    bench.submit(1, 1);
    for start in 8..12 {
        assert_eq!(bench.step(), format!("{start}+1! {start}+1!"));
    }
    assert_eq!(bench.step(), "12+1!", "the pool is empty, and the second gives its blocks");
    assert_eq!(bench.scheduler.stats().preemptions, 1);
    assert_eq!(bench.scheduler.num_waiting(), 2, "the third may not overtake it");
    let next: Vec<String> = (0..4).map(|_| bench.step()).collect();
    assert_eq!(next, ["13+1!", "14+1!", "15+1!", "0+13! 0+1!"], "output so far is computed again with the prompt");
    let ended = bench.updates.iter().filter_map(|update| match update {
        Update::Finished { id, usage, .. } => Some((id.0, usage.output_tokens, usage.preemptions)),
        _ => None,
    });
    assert_eq!(ended.collect::<Vec<_>>(), [(0, 9, 0), (2, 1, 0)]);
}

#[test]
fn nobody_is_preempted_while_blocks_are_coming_back() {
    let mut bench = Bench::new(SchedulerConfig { num_blocks: 6, prefix_caching: PrefixCaching::Off, ..CONFIG });
    for _ in 0..3 {
        bench.submit(4, 20);
    }
    assert_eq!(bench.plan(), "0+4! 0+4! 0+4!");
    for start in 4..8 {
        assert_eq!(bench.plan(), format!("{start}+?! {start}+?! {start}+?!"));
        bench.complete();
    }
    // All six blocks are full. The youngest goes, but the step in flight names its blocks.
    assert_eq!(bench.plan(), "idle");
    assert_eq!(bench.scheduler.stats().preemptions, 1, "the second is not preempted as well");
    bench.complete();
    assert_eq!(bench.plan(), "8+1! 8+1!");
}

#[test]
fn equal_prompts_of_one_batch_are_computed_once() {
    let mut bench = Bench::new(CONFIG);
    let prompt: Vec<TokenId> = (0..10).collect();
    for _ in 0..3 {
        bench.submit_prompt(&prompt, 2);
    }
    assert_eq!(bench.step(), "0+10! 8+2! 8+2!");
    assert_eq!(bench.scheduler.stats().prefix_hit_tokens, 16);
}

#[test]
fn whoever_matched_what_may_be_faulty_computes_all_of_it_before_it_fails() {
    let mut bench = Bench::new(CONFIG);
    let prompt: Vec<TokenId> = (0..20).collect();
    let first = bench.submit_prompt(&prompt, 1);
    assert_eq!(bench.step(), "0+16", "no logits, so no fault would show");
    bench.scheduler.cancel(first, &mut bench.updates);
    let second = bench.submit_prompt(&prompt, 1);
    assert_eq!(bench.plan(), "16+4!");
    bench.complete_with(Some(RowFault::NonFiniteLogits));
    assert_eq!(bench.plan(), "0+16", "it may be the first one's fault");
    bench.complete();
    assert_eq!(bench.plan(), "16+4!");
    bench.complete_with(Some(RowFault::NonFiniteLogits));
    assert_eq!(bench.plan(), "idle");
    let ended = bench.updates.iter().filter_map(|update| match update {
        Update::Finished { id, reason, .. } => Some((*id, reason)),
        _ => None,
    });
    let reason = FinishReason::Failed(RowFault::NonFiniteLogits.to_string());
    assert_eq!(ended.collect::<Vec<_>>(), [(first, &FinishReason::Cancelled), (second, &reason)]);
    assert_eq!(bench.scheduler.block_usage().cached, 0, "nobody matches any of it");
}

#[test]
fn scores_are_asked_for_once_and_never_taken_from_the_cache() {
    let mut bench = Bench::new(CONFIG);
    let prompt: Vec<TokenId> = (0..20).collect();
    bench.submit_prompt(&prompt, 1);
    bench.step();
    bench.step();
    let sampling = SamplingParams { prompt_logprobs: Some(2), ..SamplingParams::default() };
    bench.try_submit(&prompt, sampling, None).unwrap();
    let mut scored = Vec::new();
    for _ in 0..2 {
        bench.plan();
        for row in &bench.batch.rows {
            let score = row.score.as_ref().expect("all rows of the prompt are scored");
            assert_eq!((score.first, score.num_top), (0, 2));
            scored.extend_from_slice(bench.batch.tokens_of(&score.targets));
        }
        let step = StepId(bench.next_step - 1);
        let mut output = BatchOutput::default();
        for row in &bench.batch.rows {
            let num_scored = row.score.as_ref().map_or(0, |score| score.targets.end - score.targets.start);
            output.tokens.push(7);
            let tokens = if row.sample { 0..1 } else { 0..0 };
            output.rows.push(RowOutput { tokens, logprobs: 0..num_scored, fault: None });
        }
        bench.in_flight.clear();
        bench.scheduler.complete(step, &output, &mut bench.updates);
    }
    assert_eq!(scored, (1..20).collect::<Vec<_>>(), "each token but the first");
}

#[test]
fn a_full_queue_refuses_and_a_deadline_ends() {
    let mut bench = Bench::new(SchedulerConfig { max_waiting: 2, ..CONFIG });
    let params = SamplingParams::default;
    bench.try_submit(&[1], params(), Some(Timestamp(50))).unwrap();
    bench.try_submit(&[1], params(), Some(Timestamp(40))).unwrap();
    assert_eq!(bench.try_submit(&[1], params(), None), Err(Refusal::QueueFull { max_waiting: 2 }));
    bench.scheduler.expire(Timestamp(39), &mut bench.updates);
    assert_eq!(bench.updates, []);
    bench.scheduler.expire(Timestamp(40), &mut bench.updates);
    let [Update::Finished { id: RequestId(1), reason: FinishReason::Deadline, .. }] = bench.updates[..] else {
        panic!("{:?}", bench.updates)
    };
    bench.try_submit(&[1], params(), None).unwrap();
}

#[test]
fn limits_under_which_nothing_runs_are_refused() {
    for (config, expected) in [
        (SchedulerConfig { num_blocks: 0, ..CONFIG }, "num_blocks is 0; it must be at least 1"),
        (SchedulerConfig { max_model_len: 1, ..CONFIG }, "max_model_len is 1; it must be at least 2"),
        (SchedulerConfig { max_batch_tokens: 0, ..CONFIG }, "max_batch_tokens is 0"),
        (SchedulerConfig { max_batch_rows: 0, ..CONFIG }, "max_batch_rows is 0"),
        (SchedulerConfig { block_size: 3, ..CONFIG }, "block_size must be a power of two"),
    ] {
        let error = Scheduler::new(config).err().unwrap().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
