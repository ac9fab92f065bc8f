//! Plays a scenario in virtual time and checks what must hold. Knows nothing that a client of the engine could not know,
//! but the model behind it.

use std::collections::BTreeMap;

use engine::{Command, EngineCore, EngineRequest, EngineStats, Event, PrefixKeys, Step, TokenLogprobs};
use serving_types::{FinishReason, RequestId, Timestamp, TokenId, Usage};

use crate::{FakeExecutor, FakeModel, Scenario, SimRequest};

/// Virtual time that a step takes.
const STEP_NANOS: u64 = 1_000_000;

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
    let mut run = Run::new(scenario);
    let end = run.play();
    run.check_end(&end);
    let stats = run.core.stats();
    Report { transcripts: run.transcripts.into_values().collect(), stats, end }
}

struct Run<'a> {
    scenario: &'a Scenario,
    model: FakeModel,
    core: EngineCore,
    now: Timestamp,
    /// What clients will do, by time; what comes first in the scenario comes first at the same time.
    agenda: BTreeMap<(Timestamp, usize), Command>,
    transcripts: BTreeMap<RequestId, Transcript>,
}

impl<'a> Run<'a> {
    fn new(scenario: &'a Scenario) -> Self {
        let model = FakeModel { seed: scenario.model_seed, vocab_size: scenario.limits.vocab_size };
        let executor = FakeExecutor::new(model, scenario.limits, scenario.faults);
        let core = EngineCore::new(Box::new(executor), scenario.config).expect("the scenario's limits allow a request");
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
            let deadline = request.timeout.map(|timeout| request.arrival.after(timeout));
            plan(request.arrival, Command::Submit(Box::new(EngineRequest { id, prompt, sampling, deadline })));
            if let Some(at) = request.cancel_at {
                plan(at.max(request.arrival), Command::Cancel(id));
            }
        }
        if let Some((at, timeout)) = scenario.drain {
            plan(at, Command::Drain { cancel_at: at.after(timeout) });
        }
        let transcripts = ids.map(|id| (id, Transcript::default())).collect();
        Self { scenario, model, core, now: Timestamp(0), agenda, transcripts }
    }

    fn play(&mut self) -> Step {
        let (mut inbox, mut outbox) = (Vec::new(), Vec::new());
        for _ in 0..self.max_steps() {
            while let Some(entry) = self.agenda.first_entry().filter(|entry| entry.key().0 <= self.now) {
                inbox.push(entry.remove());
            }
            let step = self.core.step(self.now, &mut inbox, &mut outbox);
            assert!(inbox.is_empty(), "a step obeys all commands");
            for event in outbox.drain(..) {
                self.hear(event);
            }
            self.core.check_invariants();
            match step {
                Step::Worked => self.now.0 += STEP_NANOS,
                Step::Idle | Step::Drained { .. } | Step::DeviceLost(_) => match self.agenda.first_key_value() {
                    Some((&(at, _), _)) => self.now = self.now.max(at),
                    None => return step,
                },
            }
        }
        panic!("no end after {} steps", self.max_steps());
    }

    /// Far more steps than any scenario needs: each computes one token of one request, each request is preempted for each
    /// token of every other.
    fn max_steps(&self) -> usize {
        let requests = &self.scenario.requests;
        let num_tokens: usize =
            requests.iter().map(|request| request.prompt.len() + request.sampling.max_tokens as usize).sum();
        1000 + num_tokens * requests.len()
    }

    fn hear(&mut self, event: Event) {
        let id = event.id();
        let transcript = self.transcripts.get_mut(&id).expect("an event of a request that exists");
        assert_eq!(transcript.finished, None, "request {id} ended, and then came {event:?}");
        match event {
            Event::Token { token, logprobs, .. } => {
                transcript.tokens.push(token);
                transcript.logprobs.extend(logprobs.map(|logprobs| *logprobs));
            }
            Event::PromptLogprobs { logprobs, .. } => {
                assert_eq!(transcript.prompt_logprobs, None, "prompt log-probabilities of request {id} come once");
                assert_eq!(transcript.tokens, [], "prompt log-probabilities of request {id} come first");
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
    }

    /// Compares what a client saw with what it would have seen alone.
    fn check_transcript(&self, request: &SimRequest, seen: &Transcript, end: &Step) {
        let (reason, usage) = seen.finished.as_ref().expect("every request ends");
        let alone = self.model.complete(&request.prompt, &request.sampling, self.scenario.limits.max_model_len);
        assert!(alone.tokens.starts_with(&seen.tokens), "alone {:?}, here {:?}", alone.tokens, seen.tokens);
        assert_eq!(usage.output_tokens as usize, seen.tokens.len(), "usage counts what was sent");
        assert_eq!(usage.prompt_tokens as usize, request.prompt.len(), "usage counts the prompt");
        assert!(usage.cached_tokens < usage.prompt_tokens, "a prompt is never matched whole");
        let faults = &self.scenario.faults;
        let may_fail = faults.launch_failure + faults.finish_failure + faults.row_fault > 0
            || faults.failed_step.is_some()
            || faults.faulty_step.is_some()
            || matches!(end, Step::DeviceLost(_) | Step::Drained { .. });
        match reason {
            FinishReason::StopToken(_) | FinishReason::Length => {
                assert_eq!((&seen.tokens, reason), (&alone.tokens, &alone.reason), "a request ends as it does alone");
            }
            FinishReason::Cancelled => {
                assert!(request.cancel_at.is_some() || self.scenario.drain.is_some(), "nobody cancelled");
            }
            FinishReason::Deadline => assert!(request.timeout.is_some(), "there was no deadline"),
            FinishReason::Failed(cause) => assert!(may_fail, "nothing was to fail, but: {cause}"),
        }
        self.check_logprobs(request, seen);
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
