//! What an engine is worth under load: requests that come whether or not there is room, and count only if they are served in
//! time. Virtual time; a step takes what it would take on a machine. Knows no policy.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use engine::{Command, EngineConfig, EngineCore, EngineRequest, Event, PrefixKeys, Salt, Step};
use serving_types::{
    Batch, BatchOutput, Executor, ExecutorError, ExecutorLimits, InFlight, MemoryEntry, RequestClass, RequestId,
    RowOutput, SamplingParams, Timestamp,
};

use crate::fragmentation::NUM_POOL_SLOTS;
use crate::workload::{ChatRequest, MAX_CHAT_TOKENS, chat_mix};
use crate::{Random, StepCost};

/// In time is whose first token comes within this time,
pub const MAX_TTFT: Duration = Duration::from_secs(1);
/// and whose other tokens come at this distance on average.
pub const MAX_MEAN_ITL: Duration = Duration::from_millis(50);
/// A prompt of more tokens is a long one; about one in four is.
pub const LONG_PROMPT: u32 = 256;
/// How long requests come.
const SPAN: Duration = Duration::from_secs(120);
/// Requests that come before this find an engine that is not yet as full as it will be, and do not count.
const WARM_UP: Duration = Duration::from_secs(30);

/// Figures of one load.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct OverloadFigures {
    /// Requests that came a second.
    pub offered: f64,
    /// Of these, requests that were served in time.
    pub goodput: f64,
    /// Of these, requests that got all that they asked for, in time or not.
    pub completed: f64,
    /// Median time to the first token of requests that got one.
    pub median_ttft: Duration,
    /// Of requests with a [long prompt](LONG_PROMPT), the share that was served in time.
    pub goodput_of_long: f64,
}

/// Requests a second that the machine can serve when enough of them wait and nobody is in a hurry.
#[must_use]
pub fn capacity(seed: u64, cost: &StepCost) -> f64 {
    const NUM_REQUESTS: usize = 6000;
    let mut run = Run::new(cost);
    for (id, request) in chat_mix(seed, NUM_REQUESTS).into_iter().enumerate() {
        run.expect(RequestId(id as u64), Timestamp(0), &request, None);
    }
    run.play();
    // Not the end, when nobody waits any more.
    let mut ends: Vec<Timestamp> = run.clients.values().filter_map(|client| client.finished).collect();
    ends.sort_unstable();
    let (first, last) = (NUM_REQUESTS / 10, NUM_REQUESTS * 8 / 10);
    (last - first) as f64 / ends[last].since(ends[first]).as_secs_f64()
}

/// Requests come at so many a second (Poisson), each with the time in which it must be served as its deadline.
#[must_use]
pub fn simulate_load(seed: u64, cost: &StepCost, requests_per_second: f64) -> OverloadFigures {
    let mut random = Random::new(seed);
    let mut run = Run::new(cost);
    let mut arrivals = Vec::new();
    let mut arrival = Timestamp(0);
    loop {
        arrival = arrival.after(Duration::from_secs_f64(-random.unit().ln() / requests_per_second));
        if arrival > Timestamp(0).after(SPAN) {
            break;
        }
        arrivals.push(arrival);
    }
    for (id, request) in chat_mix(seed, arrivals.len()).into_iter().enumerate() {
        let timeout = MAX_TTFT + MAX_MEAN_ITL * (request.num_output_tokens - 1);
        run.expect(RequestId(id as u64), arrivals[id], &request, Some(timeout));
    }
    run.play();

    let counted: Vec<&Client> =
        run.clients.values().filter(|client| client.arrival >= Timestamp(0).after(WARM_UP)).collect();
    let seconds = (SPAN - WARM_UP).as_secs_f64();
    let rate =
        |is_counted: fn(&Client) -> bool| counted.iter().filter(|client| is_counted(client)).count() as f64 / seconds;
    let mut ttfts: Vec<Duration> = counted.iter().filter_map(|client| client.ttft()).collect();
    ttfts.sort_unstable();
    let long = || counted.iter().filter(|client| client.num_prompt_tokens > LONG_PROMPT);
    OverloadFigures {
        offered: rate(|_| true),
        goodput: rate(Client::is_in_time),
        completed: rate(Client::is_complete),
        median_ttft: ttfts.get(ttfts.len() / 2).copied().unwrap_or_default(),
        goodput_of_long: long().filter(|client| client.is_in_time()).count() as f64 / long().count().max(1) as f64,
    }
}

/// What a client saw.
struct Client {
    arrival: Timestamp,
    num_prompt_tokens: u32,
    num_wanted: u32,
    num_tokens: u32,
    first_token: Option<Timestamp>,
    last_token: Timestamp,
    finished: Option<Timestamp>,
}

impl Client {
    fn ttft(&self) -> Option<Duration> {
        self.first_token.map(|first| first.since(self.arrival))
    }

    fn is_complete(&self) -> bool {
        self.num_tokens == self.num_wanted
    }

    fn is_in_time(&self) -> bool {
        let Some(first) = self.first_token else { return false };
        let of_others = self.last_token.since(first);
        self.is_complete() && first.since(self.arrival) <= MAX_TTFT && of_others <= MAX_MEAN_ITL * (self.num_wanted - 1)
    }
}

struct Run {
    core: EngineCore,
    /// Time of the last step, in nanoseconds, which the executor knows.
    step_nanos: Arc<AtomicU64>,
    now: Timestamp,
    agenda: BTreeMap<(Timestamp, RequestId), Command>,
    clients: BTreeMap<RequestId, Client>,
}

impl Run {
    fn new(cost: &StepCost) -> Self {
        let step_nanos = Arc::new(AtomicU64::new(0));
        let executor = TimedExecutor::new(*cost, Arc::clone(&step_nanos));
        let config = EngineConfig { max_requests: 8192, ..EngineConfig::default() };
        let core = EngineCore::new(Box::new(executor), config).expect("the limits allow requests");
        Self { core, step_nanos, now: Timestamp(0), agenda: BTreeMap::new(), clients: BTreeMap::new() }
    }

    /// A client will come.
    fn expect(&mut self, id: RequestId, arrival: Timestamp, request: &ChatRequest, timeout: Option<Duration>) {
        let mut prompt = PrefixKeys::new(&Salt::default(), LIMITS.block_size);
        prompt.extend(&request.prompt);
        let sampling = SamplingParams { max_tokens: request.num_output_tokens, ..SamplingParams::default() };
        let deadline = timeout.map(|timeout| arrival.after(timeout));
        let first_token_deadline = timeout.map(|_| arrival.after(MAX_TTFT));
        let sampling = Arc::new(sampling);
        let request_of =
            EngineRequest { id, prompt, sampling, class: RequestClass::default(), first_token_deadline, deadline };
        self.agenda.insert((arrival, id), Command::Submit(Box::new(request_of)));
        let client = Client {
            arrival,
            num_prompt_tokens: request.prompt.len() as u32,
            num_wanted: request.num_output_tokens,
            num_tokens: 0,
            first_token: None,
            last_token: arrival,
            finished: None,
        };
        self.clients.insert(id, client);
    }

    fn play(&mut self) {
        let (mut inbox, mut outbox) = (Vec::new(), Vec::new());
        loop {
            while let Some(entry) = self.agenda.first_entry().filter(|entry| entry.key().0 <= self.now) {
                inbox.push(entry.remove());
            }
            match self.core.step(self.now, &mut inbox, &mut outbox) {
                Step::Worked => {
                    self.now = self.now.after(Duration::from_nanos(self.step_nanos.load(Ordering::Relaxed)));
                }
                Step::Idle => match self.agenda.first_key_value() {
                    Some((&(at, _), _)) => self.now = at,
                    None => return,
                },
                end => panic!("nobody ends the engine, but {end:?}"),
            }
            for event in outbox.drain(..) {
                let client = self.clients.get_mut(&event.id()).expect("an event of a client that came");
                match event {
                    // What a step computes is there when it ends.
                    Event::Token { .. } => {
                        client.num_tokens += 1;
                        client.first_token.get_or_insert(self.now);
                        client.last_token = self.now;
                    }
                    Event::Finished { .. } => client.finished = Some(self.now),
                    Event::PromptLogprobs { .. } => {}
                }
            }
        }
    }
}

/// The pool of the report on fragmentation, in blocks of 16.
const LIMITS: ExecutorLimits = ExecutorLimits {
    block_size: 16,
    num_blocks: NUM_POOL_SLOTS / 16,
    num_host_blocks: 0,
    max_batch_tokens: 2048,
    max_batch_rows: 512,
    max_model_len: MAX_CHAT_TOKENS,
    vocab_size: 32_000,
    max_top_logprobs: 0,
    max_steps_in_flight: 1,
};

/// Answers any token, and says how long that would have taken.
struct TimedExecutor {
    cost: StepCost,
    step_nanos: Arc<AtomicU64>,
    output: BatchOutput,
}

impl TimedExecutor {
    fn new(cost: StepCost, step_nanos: Arc<AtomicU64>) -> Self {
        Self { cost, step_nanos, output: BatchOutput::default() }
    }
}

impl Executor for TimedExecutor {
    fn limits(&self) -> ExecutorLimits {
        LIMITS
    }

    fn memory(&self) -> Vec<MemoryEntry> {
        Vec::new()
    }

    fn launch(&mut self, batch: &Batch) -> Result<InFlight, ExecutorError> {
        self.output.clear();
        let mut num_context_tokens = 0;
        for (nth, row) in batch.rows.iter().enumerate() {
            num_context_tokens += u64::from(row.start + row.num_tokens());
            let start = self.output.tokens.len() as u32;
            if row.sample {
                // No two requests go on alike.
                let token = (batch.step.0 as u32).wrapping_mul(0x9e37_79b9) ^ nth as u32;
                self.output.tokens.push(token % LIMITS.vocab_size);
            }
            let tokens = start..self.output.tokens.len() as u32;
            self.output.rows.push(RowOutput { tokens, ..RowOutput::default() });
        }
        let time = self.cost.step(u64::from(batch.num_new_tokens()), num_context_tokens);
        self.step_nanos.store(time.as_nanos() as u64, Ordering::Relaxed);
        Ok(InFlight::new(batch.step))
    }

    fn finish(&mut self, _step: InFlight, output: &mut BatchOutput) -> Result<(), ExecutorError> {
        core::mem::swap(output, &mut self.output);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn light_load_is_served_in_time() {
        let capacity = capacity(1, &StepCost::H100_8B);
        assert!(capacity > 10.0, "{capacity} requests/s");
        let figures = simulate_load(1, &StepCost::H100_8B, capacity / 4.0);
        assert!(figures.goodput > figures.offered * 0.99, "{figures:?}");
        assert_eq!(figures, simulate_load(1, &StepCost::H100_8B, capacity / 4.0), "the same seed, the same figures");
    }
}
