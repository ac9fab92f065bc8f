//! Plays a scenario in virtual time and checks what must hold. Knows nothing that a client of the engine could not know,
//! but the model behind it.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use engine::{Command, EngineCore, EngineRequest, EngineStats, Event, PrefixKeys, Step, TokenLogprobs};
use serving_types::{FinishReason, RequestClass, RequestId, RowFault, StepId, TenantId, Timestamp, TokenId, Usage};

use crate::{FakeExecutor, FakeModel, Scenario, SimRequest};

/// What a client saw.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Transcript {
    /// The output, in order of arrival.
    pub tokens: Vec<TokenId>,
    /// Log-probabilities of the output, if asked for.
    pub logprobs: Vec<TokenLogprobs>,
    /// Log-probabilities of the prompt, if asked for.
    pub prompt_logprobs: Option<Vec<TokenLogprobs>>,
    /// The end.
    pub finished: Option<(FinishReason, Usage)>,
}

/// What came of a run.
#[derive(Clone, PartialEq, Debug)]
pub struct Report {
    /// One for each request of the scenario, in its order.
    pub transcripts: Vec<Transcript>,
    /// Figures at the end.
    pub stats: EngineStats,
    /// How the last call of the engine ended.
    pub end: Step,
}

/// Plays a scenario to its end.
///
/// # Panics
/// With a description, if anything does not hold.
#[must_use]
pub fn run(scenario: &Scenario) -> Report {
    play(scenario, |core| core)
}

/// The same with a journal of the engine.
///
/// # Panics
/// As [`run`].
#[must_use]
pub fn run_with_journal(scenario: &Scenario, journal: Box<dyn Write + Send>) -> Report {
    play(scenario, |core| core.with_journal(journal))
}

fn play(scenario: &Scenario, equip: impl FnOnce(EngineCore) -> EngineCore) -> Report {
    let mut run = Run::new(scenario, equip);
    let end = run.play();
    run.check_end(&end);
    let stats = run.core.stats();
    Report { transcripts: run.transcripts.into_values().collect(), stats, end }
}

struct Run<'a> {
    scenario: &'a Scenario,
    model: FakeModel,
    core: EngineCore,
    /// Rows that had a fault of their own.
    num_faulty: Arc<AtomicU64>,
    now: Timestamp,
    /// What clients will do, by time; what comes first in the scenario comes first at the same time.
    agenda: BTreeMap<(Timestamp, usize), Command>,
    transcripts: BTreeMap<RequestId, Transcript>,
    /// Cancels of clients that have just seen enough.
    reactions: Vec<Command>,
    /// Tokens computed until now.
    num_tokens: u64,
    /// When the last step that could fail was finished.
    calm_since: Option<Timestamp>,
    /// Steps that may still be taken, once all have come and nothing fails any more.
    steps_left: Option<u64>,
}

impl<'a> Run<'a> {
    fn new(scenario: &'a Scenario, equip: impl FnOnce(EngineCore) -> EngineCore) -> Self {
        let model = FakeModel { seed: scenario.model_seed, vocab_size: scenario.limits.vocab_size };
        let executor = FakeExecutor::new(model, scenario.limits, scenario.faults);
        let num_faulty = executor.num_faulty();
        let core = EngineCore::new(Box::new(executor), scenario.config).expect("the scenario's limits allow a request");
        let core = equip(core);
        let mut agenda = BTreeMap::new();
        let mut plan = |at, command| {
            let place = agenda.len();
            agenda.insert((at, place), command);
        };
        let ids = (0..scenario.requests.len() as u64).map(RequestId);
        for (id, request) in ids.clone().zip(&scenario.requests) {
            let mut prompt = PrefixKeys::new(&request.salt, scenario.limits.block_size);
            prompt.extend(&request.prompt);
            let sampling = request.sampling.clone();
            // Some of everything; it counts only under a policy that looks at it.
            let class = RequestClass { tenant: TenantId(id.0 % 3), priority: id.0 as i32 % 2 };
            let [first_token_deadline, deadline] = [request.first_token_timeout, request.timeout]
                .map(|timeout| timeout.map(|timeout| request.arrival.after(timeout)));
            plan(
                request.arrival,
                Command::Submit(Box::new(EngineRequest {
                    id,
                    prompt,
                    sampling,
                    class,
                    first_token_deadline,
                    deadline,
                })),
            );
            if let Some(at) = request.cancel_at {
                plan(at.max(request.arrival), Command::Cancel(id));
            }
        }
        if let Some((at, timeout)) = scenario.drain {
            plan(at, Command::Drain { cancel_at: at.after(timeout) });
        }
        for &at in &scenario.clears {
            plan(at, Command::ClearPrefixCache);
        }
        let transcripts = ids.map(|id| (id, Transcript::default())).collect();
        let (now, reactions) = (Timestamp(0), Vec::new());
        Self {
            scenario,
            model,
            core,
            num_faulty,
            now,
            agenda,
            transcripts,
            reactions,
            num_tokens: 0,
            calm_since: None,
            steps_left: None,
        }
    }

    fn play(&mut self) -> Step {
        let (mut inbox, mut outbox) = (Vec::new(), Vec::new());
        loop {
            inbox.append(&mut self.reactions);
            while let Some(entry) = self.agenda.first_entry().filter(|entry| entry.key().0 <= self.now) {
                inbox.push(entry.remove());
            }
            let cancelled: Vec<RequestId> = inbox.iter().filter_map(cancelled).collect();
            let step = self.core.step(self.now, &mut inbox, &mut outbox);
            assert!(inbox.is_empty(), "a step obeys all commands");
            for event in outbox.drain(..) {
                self.hear(event);
            }
            for id in cancelled {
                assert!(self.transcripts[&id].finished.is_some(), "request {id} goes on after its cancel was seen");
            }
            self.core.check_invariants();
            match step {
                Step::Worked => self.finish_step(),
                Step::Idle | Step::Drained { .. } | Step::DeviceLost(_) => match self.agenda.first_key_value() {
                    Some((&(at, _), _)) => self.now = self.now.max(at),
                    None => return step,
                },
            }
        }
    }

    /// Lets the time of a step pass. Once nothing fails any more and nobody comes any more, counts down.
    fn finish_step(&mut self) {
        let num_steps = self.core.stats().steps;
        let num_tokens = self.core.stats().computed_tokens;
        let num_new_tokens = (num_tokens - core::mem::replace(&mut self.num_tokens, num_tokens)) as u32;
        let step_time = self.scenario.faults.step_time(StepId(num_steps));
        self.now = self.now.after(step_time + self.scenario.token_time * num_new_tokens);
        if self.calm_since.is_none() && self.scenario.faults.is_calm(StepId(num_steps)) {
            self.calm_since = Some(self.now);
        }
        if self.calm_since.is_some() && self.agenda.is_empty() {
            let bound = self.liveness_bound();
            let left = self.steps_left.get_or_insert(bound);
            *left = left.checked_sub(1).expect("all have come and nothing fails, but the end does not come");
        }
    }

    /// Steps in which everybody who is left must end. Some request advances by a token or more, or waits for the blocks of
    /// the steps in flight, in each step; and no request that advances is preempted by all others, so a few times what there
    /// is to compute is enough.
    fn liveness_bound(&self) -> u64 {
        let requests = self.scenario.requests.iter().zip(self.transcripts.values());
        let unfinished = requests.filter(|(_, transcript)| transcript.finished.is_none());
        let max_len = u64::from(self.scenario.limits.max_model_len);
        let num_tokens: u64 = unfinished
            .map(|(request, _)| (request.prompt.len() as u64 + u64::from(request.sampling.max_tokens)).min(max_len))
            .sum();
        100 + 2 * num_tokens * (1 + u64::from(self.scenario.limits.max_steps_in_flight))
    }

    fn hear(&mut self, event: Event) {
        let id = event.id();
        let transcript = self.transcripts.get_mut(&id).expect("an event of a request that exists");
        assert_eq!(transcript.finished, None, "request {id} ended, and then came {event:?}");
        let request = &self.scenario.requests[id.0 as usize];
        let is_over = |timeout: Duration| request.arrival.after(timeout) <= self.now;
        let is_late = request.timeout.is_some_and(is_over)
            || (transcript.tokens.is_empty() && request.first_token_timeout.is_some_and(is_over));
        assert!(
            !is_late || matches!(event, Event::Finished { .. }),
            "after the deadline of request {id} came {event:?}"
        );
        match event {
            Event::Token { token, logprobs, .. } => {
                transcript.tokens.push(token);
                transcript.logprobs.extend(logprobs.map(|logprobs| *logprobs));
                let enough = request.cancel_after_tokens;
                if enough.is_some_and(|enough| enough as usize == transcript.tokens.len()) {
                    self.reactions.push(Command::Cancel(id));
                }
            }
            Event::PromptLogprobs { logprobs, .. } => {
                assert_eq!(transcript.prompt_logprobs, None, "prompt log-probabilities of request {id} come once");
                assert!(transcript.tokens.is_empty(), "prompt log-probabilities of request {id} come first");
                transcript.prompt_logprobs = Some(logprobs);
            }
            Event::Finished { reason, usage, .. } => transcript.finished = Some((reason, usage)),
        }
    }

    fn check_end(&self, end: &Step) {
        let stats = self.core.stats();
        assert_eq!((stats.num_waiting, stats.num_running), (0, 0), "nobody is left");
        assert_eq!((stats.blocks_active, stats.blocks_in_transit), (0, 0), "no block is held: {stats:?}");
        assert_eq!(stats.blocks_free + stats.blocks_cached, stats.blocks_total, "no block is lost: {stats:?}");
        for (request, transcript) in self.scenario.requests.iter().zip(self.transcripts.values()) {
            self.check_transcript(request, transcript, end);
        }
        self.check_faults();
    }

    /// A fault fails the request that had it, and nobody who matched what that one computed.
    fn check_faults(&self) {
        let cause = RowFault::NonFiniteLogits.to_string();
        let is_failed =
            |(reason, _): &(FinishReason, Usage)| matches!(reason, FinishReason::Failed(of) if *of == cause);
        let ends = self.transcripts.values().filter_map(|transcript| transcript.finished.as_ref());
        let num_failed = ends.filter(|end| is_failed(end)).count() as u64;
        let num_faulty = self.num_faulty.load(Ordering::Relaxed);
        assert!(num_failed <= num_faulty, "{num_faulty} rows had a fault, and {num_failed} requests failed of one");
    }

    /// Compares what a client saw with what it would have seen alone.
    fn check_transcript(&self, request: &SimRequest, seen: &Transcript, end: &Step) {
        let (reason, usage) = seen.finished.as_ref().expect("every request ends");
        let alone = self.model.complete(&request.prompt, &request.sampling, self.scenario.limits.max_model_len);
        assert!(alone.tokens.starts_with(&seen.tokens), "alone {:?}, here {:?}", alone.tokens, seen.tokens);
        assert_eq!(usage.output_tokens as usize, seen.tokens.len(), "usage counts what was sent");
        assert_eq!(usage.prompt_tokens as usize, request.prompt.len(), "usage counts the prompt");
        assert!(usage.cached_tokens < usage.prompt_tokens, "a prompt is never matched whole");
        let num_shareable = self.num_shareable_tokens(request);
        assert!(usage.cached_tokens <= num_shareable, "{} tokens found of {num_shareable}", usage.cached_tokens);
        let faults = &self.scenario.faults;
        let comes_in_storm = self.calm_since.is_none_or(|calm| request.arrival < calm);
        let may_fail = (comes_in_storm && !faults.is_calm(StepId(0)))
            || faults.failed_step.is_some()
            || faults.faulty_step.is_some()
            || matches!(end, Step::DeviceLost(_) | Step::Drained { .. });
        match reason {
            FinishReason::StopToken(_) | FinishReason::Length => {
                assert_eq!((&seen.tokens, reason), (&alone.tokens, &alone.reason), "a request ends as it does alone");
            }
            FinishReason::Cancelled => {
                let may_cancel = request.cancel_at.is_some() || request.cancel_after_tokens.is_some();
                assert!(may_cancel || self.scenario.drain.is_some(), "nobody cancelled");
            }
            FinishReason::Deadline => {
                let has_first = request.first_token_timeout.is_some() && seen.tokens.is_empty();
                assert!(request.timeout.is_some() || has_first, "there was no deadline");
            }
            FinishReason::Failed(cause) => assert!(may_fail, "nothing was to fail, but: {cause}"),
        }
        self.check_logprobs(request, seen);
    }

    /// Tokens of a prompt, in full blocks, that its own tenant's other requests ever had too. What is found beyond these
    /// is another tenant's.
    fn num_shareable_tokens(&self, request: &SimRequest) -> u32 {
        let others = self.scenario.requests.iter().zip(self.transcripts.values());
        let others = others.filter(|(other, _)| !std::ptr::eq(*other, request) && other.salt == request.salt);
        let longest = others.map(|(other, transcript)| {
            let tokens = other.prompt.iter().chain(&transcript.tokens);
            tokens.zip(&request.prompt).take_while(|(other, own)| other == own).count() as u32
        });
        let block_size = self.scenario.limits.block_size;
        longest.max().unwrap_or(0) / block_size * block_size
    }

    fn check_logprobs(&self, request: &SimRequest, seen: &Transcript) {
        let expect = |prefix, token, num_top| {
            let (logprob, rank) = self.model.score(prefix, token);
            TokenLogprobs { token, logprob, rank, top: self.model.top(prefix, num_top).collect() }
        };
        let (mut of_prompt, mut of_output) = (Vec::new(), Vec::new());
        let mut prefix = self.model.root();
        for (position, &token) in request.prompt.iter().chain(&seen.tokens).enumerate() {
            if position >= request.prompt.len() {
                of_output.extend(request.sampling.logprobs.map(|num_top| expect(prefix, token, num_top)));
            } else if position > 0 {
                of_prompt.extend(request.sampling.prompt_logprobs.map(|num_top| expect(prefix, token, num_top)));
            }
            prefix = self.model.extend(prefix, token);
        }
        assert_eq!(seen.logprobs, of_output, "log-probabilities of the output");
        match &seen.prompt_logprobs {
            Some(seen) => assert_eq!(*seen, of_prompt, "log-probabilities of the prompt"),
            None => assert!(seen.tokens.is_empty() || of_prompt.is_empty(), "the prompt is scored before the output"),
        }
    }
}

fn cancelled(command: &Command) -> Option<RequestId> {
    match command {
        Command::Cancel(id) => Some(*id),
        Command::Submit(_) | Command::ClearPrefixCache | Command::Drain { .. } => None,
    }
}
