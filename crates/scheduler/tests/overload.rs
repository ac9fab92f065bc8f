//! More work than there is room for, in virtual time: who is served, is served in time, however many come.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use scheduler::{NewRequest, Planned, Policy, PrefixCaching, PrefixKeys, Scheduler, SchedulerConfig, Update};
use serving_types::{
    Batch, BatchOutput, RequestClass, RequestId, RowOutput, SamplingParams, StepId, Timestamp, TokenId,
};

const CONFIG: SchedulerConfig = SchedulerConfig {
    block_size: 16,
    num_blocks: 600,
    num_host_blocks: 0,
    max_batch_tokens: 384,
    max_mixed_prefill_tokens: 384,
    expected_output_tokens: 1,
    max_batch_rows: 32,
    max_model_len: 2048,
    max_waiting: usize::MAX,
    prefix_caching: PrefixCaching::Off,
    policy: Policy::FirstCome,
};
/// What a request wants: its first token by then, and the others at this pace in the mean.
const MAX_TTFT: Duration = Duration::from_secs(1);
const MAX_MEAN_ITL: Duration = Duration::from_millis(50);
/// How long requests come.
const SPAN: Duration = Duration::from_secs(60);
const NUM_OUTPUT_TOKENS: u32 = 20;

/// SplitMix64 (Steele, Lea and Flood, 2014), as a number below one.
fn draw(state: &mut u64) -> f64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut bits = *state;
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((bits ^ (bits >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

/// Lengths of prompts; 275 tokens on average.
#[derive(Clone, Copy)]
enum Prompts {
    Equal,
    /// 50 to 950 tokens.
    Unequal,
}

/// Requests in their order: when each comes (Poisson), and the tokens of its prompt.
fn arrivals(requests_per_second: f64, prompts: Prompts) -> Vec<(Timestamp, u32)> {
    let (mut state, mut now, mut arrivals) = (1, Duration::ZERO, Vec::new());
    while now < SPAN {
        now += Duration::from_secs_f64(-(1.0 - draw(&mut state)).ln() / requests_per_second);
        let num_tokens = match prompts {
            Prompts::Equal => 275.0,
            Prompts::Unequal => 50.0 + draw(&mut state) * draw(&mut state) * 900.0,
        };
        arrivals.push((Timestamp(0).after(now), num_tokens as u32));
    }
    arrivals
}

/// What a client saw.
#[derive(Default)]
struct Seen {
    first: Timestamp,
    last: Timestamp,
    num_tokens: u32,
}

/// Requests a second that get all they want, when so many come and it may `learn` from the cost of each step.
fn goodput(requests_per_second: f64, prompts: Prompts, learn: fn(&mut Scheduler, Duration)) -> f64 {
    let arrivals = arrivals(requests_per_second, prompts);
    let mut scheduler = Scheduler::new(CONFIG).unwrap();
    let mut seen: BTreeMap<RequestId, Seen> = BTreeMap::new();
    let (mut batch, mut output, mut updates) = (Batch::new(), BatchOutput::default(), Vec::new());
    let (mut now, mut step, mut next) = (Timestamp(0), 0, 0);
    while next < arrivals.len() || scheduler.num_requests() > 0 {
        while next < arrivals.len() && arrivals[next].0 <= now {
            scheduler.submit(request(next as u64, arrivals[next])).unwrap();
            next += 1;
        }
        scheduler.expire(now, &mut updates);
        if scheduler.plan(StepId(step), &mut batch) == Planned::Idle {
            now = arrivals.get(next).map_or(now, |(at, _)| now.max(*at));
            continue;
        }
        output.clear();
        for row in &batch.rows {
            let start = output.tokens.len() as u32;
            output.tokens.extend(row.sample.then_some(7));
            output.rows.push(RowOutput { tokens: start..output.tokens.len() as u32, ..RowOutput::default() });
        }
        // A machine that reads its weights in 10 ms and computes a token in 0.08 ms.
        let took = Duration::from_micros(10_000 + 80 * u64::from(batch.num_new_tokens()));
        now = now.after(took);
        updates.clear();
        scheduler.complete(StepId(step), &output, &mut updates);
        learn(&mut scheduler, took);
        step += 1;
        for update in &updates {
            if let Update::Token { id, .. } = update {
                let seen = seen.entry(*id).or_insert(Seen { first: now, ..Seen::default() });
                (seen.last, seen.num_tokens) = (now, seen.num_tokens + 1);
            }
        }
    }
    let is_good = |(id, seen): (&RequestId, &Seen)| {
        seen.num_tokens == NUM_OUTPUT_TOKENS
            && seen.first.since(arrivals[id.0 as usize].0) <= MAX_TTFT
            && seen.last.since(seen.first) <= MAX_MEAN_ITL * (NUM_OUTPUT_TOKENS - 1)
    };
    seen.iter().filter(|seen| is_good(*seen)).count() as f64 / SPAN.as_secs_f64()
}

fn request(id: u64, (arrival, num_prompt_tokens): (Timestamp, u32)) -> NewRequest {
    let mut prompt = PrefixKeys::new(&Default::default(), CONFIG.block_size);
    prompt.extend(&(0..num_prompt_tokens).map(|token| token + id as TokenId).collect::<Vec<_>>());
    let sampling =
        SamplingParams { max_tokens: NUM_OUTPUT_TOKENS, min_tokens: NUM_OUTPUT_TOKENS, ..SamplingParams::default() };
    NewRequest {
        id: RequestId(id),
        prompt,
        sampling: Arc::new(sampling),
        class: RequestClass::default(),
        first_token_deadline: Some(arrival.after(MAX_TTFT)),
        deadline: Some(arrival.after(MAX_TTFT + MAX_MEAN_ITL * NUM_OUTPUT_TOKENS)),
    }
}

fn peak_of_equal_prompts() -> f64 {
    let served = |load| goodput(f64::from(load) * 5.0, Prompts::Equal, Scheduler::observe_step);
    (1..=8).map(served).fold(0.0, f64::max)
}

#[test]
fn goodput_does_not_collapse() {
    let peak = peak_of_equal_prompts();
    assert!(peak > 25.0, "the machine serves {peak} requests/s");
    for times in [2.0, 5.0, 10.0] {
        let served = goodput(times * peak, Prompts::Equal, Scheduler::observe_step);
        let served_blindly = goodput(times * peak, Prompts::Equal, |_, _| {});
        println!("{times} x {peak:.1} requests/s: {served:.1} served well, without knowing costs {served_blindly:.1}");
        assert!(served >= 0.9 * peak, "{times} x {peak} requests/s: {served} are served well");
        assert!(served_blindly < 0.2 * peak, "it takes no skill: {served_blindly} of {peak}");
    }
}

#[test]
fn when_not_all_can_be_served_the_cheap_ones_are() {
    let peak = peak_of_equal_prompts();
    let served = goodput(2.0 * peak, Prompts::Unequal, Scheduler::observe_step);
    assert!(served > 1.3 * peak, "{served} requests/s, and {peak} if all cost the same");
}

#[test]
fn an_idle_engine_begins_what_seems_too_late() {
    let mut scheduler = Scheduler::new(CONFIG).unwrap();
    let (mut batch, mut updates) = (Batch::new(), Vec::new());
    let one_token = Arc::new(SamplingParams { max_tokens: 1, ..SamplingParams::default() });
    scheduler.submit(NewRequest { sampling: one_token, ..request(0, (Timestamp(0), 100)) }).unwrap();
    scheduler.plan(StepId(0), &mut batch);
    let mut output = BatchOutput { tokens: vec![7], ..BatchOutput::default() };
    output.rows.push(RowOutput { tokens: 0..1, ..RowOutput::default() });
    scheduler.complete(StepId(0), &output, &mut updates);
    scheduler.observe_step(Duration::from_secs(100));
    updates.clear();

    scheduler.submit(request(1, (Timestamp(0), 100))).unwrap();
    scheduler.expire(Timestamp(1), &mut updates);
    assert_eq!(updates, [], "it has a second left");
    assert_ne!(scheduler.plan(StepId(1), &mut batch), Planned::Idle);
}
