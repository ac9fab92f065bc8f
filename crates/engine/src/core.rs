//! The step loop without IO: commands and time in, events out, one executor. Knows no clock, thread or channel.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io::{self, Write};

use kv_paging::PrefixCaching;
use scheduler::{ConfigError, EXPECTED_OUTPUT_TOKENS, NewRequest, Planned, Policy, Scheduler, SchedulerConfig, Update};
use serving_types::{
    Batch, BatchOutput, Executor, ExecutorError, ExecutorLimits, FinishReason, InFlight, MemoryEntry, RequestId,
    StepId, Timestamp, Usage,
};

use crate::journal::Journal;
use crate::refusal::Door;
use crate::{Command, EngineRequest, EngineStats, Event, Refusal, TokenLogprobs};

/// What an engine may decide for itself; everything else follows from the executor's limits.
#[derive(Clone, Copy, Debug)]
pub struct EngineConfig {
    /// Most requests that are accepted and have not ended.
    pub max_requests: usize,
    /// Whether requests share the KV of equal prefixes.
    pub prefix_caching: PrefixCaching,
    /// Who comes first when not all can be served.
    pub policy: Policy,
    /// Most tokens of prompts in a step in which other requests generate: bounds the gaps between their tokens.
    pub max_mixed_prefill_tokens: u32,
    /// Tokens that an output is taken to become before any has ended.
    pub expected_output_tokens: u32,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            max_requests: 4096,
            prefix_caching: PrefixCaching::On,
            policy: Policy::default(),
            max_mixed_prefill_tokens: u32::MAX,
            expected_output_tokens: EXPECTED_OUTPUT_TOKENS,
        }
    }
}

/// What a call of [`EngineCore::step`] came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// A step was finished; call again.
    Worked,
    /// There is nothing to do until a command comes.
    Idle,
    /// A drain is done: nothing is left and nothing more is taken.
    Drained {
        /// Requests that had to be cancelled because their time was up.
        num_cancelled: usize,
    },
    /// The device is gone, all requests have ended with this cause, and no call will do anything again.
    DeviceLost(String),
}

/// The engine, to be stepped by its owner.
pub struct EngineCore {
    executor: Box<dyn Executor>,
    door: Door,
    scheduler: Scheduler,
    next_step: StepId,
    /// Steps that are not finished, oldest first; at most `max_steps_in_flight`.
    launched: VecDeque<Launched>,
    /// Prompt log-probabilities of requests whose prompt is not scored to its end.
    prompt_scores: BTreeMap<RequestId, Vec<TokenLogprobs>>,
    /// When the last call came, if it finished a step.
    worked_at: Option<Timestamp>,
    drain: Option<Drain>,
    lost: Option<String>,
    config: EngineConfig,
    journal: Option<Journal>,
    steps: u64,
    failed_steps: u64,
    // Arenas, reused from step to step.
    batch: Batch,
    output: BatchOutput,
    updates: Vec<Update>,
}

impl fmt::Debug for EngineCore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineCore").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// A planned step between launch and finish.
enum Launched {
    Running(InFlight),
    /// The launch failed. Its place in the queue is kept, because steps end in order.
    Failed(StepId, String),
}

struct Drain {
    cancel_at: Timestamp,
    num_cancelled: usize,
}

impl EngineCore {
    /// An engine without requests on an executor.
    ///
    /// # Errors
    /// The executor's limits allow no request at all.
    pub fn new(executor: Box<dyn Executor>, config: EngineConfig) -> Result<Self, ConfigError> {
        let limits = executor.limits();
        let scheduler_config = SchedulerConfig {
            policy: config.policy,
            max_mixed_prefill_tokens: config.max_mixed_prefill_tokens,
            expected_output_tokens: config.expected_output_tokens,
            ..SchedulerConfig::from_limits(&limits, config.max_requests, config.prefix_caching)
        };
        Ok(Self {
            executor,
            door: Door { limits, config: scheduler_config },
            scheduler: Scheduler::new(scheduler_config)?,
            next_step: StepId(0),
            launched: VecDeque::new(),
            prompt_scores: BTreeMap::new(),
            worked_at: None,
            drain: None,
            lost: None,
            config,
            journal: None,
            steps: 0,
            failed_steps: 0,
            batch: Batch::new(),
            output: BatchOutput::default(),
            updates: Vec::new(),
        })
    }

    /// Records all that goes in and every batch, one line of JSON each ([`JournalEntry`](crate::JournalEntry)), from now on;
    /// for a journal that can be played again, before the first step.
    #[must_use]
    pub fn with_journal(self, sink: Box<dyn Write + Send>) -> Self {
        Self { journal: Some(Journal::new(sink, self.door.limits, self.config)), ..self }
    }

    /// Why the journal ended before the engine did, if a write failed. The engine goes on.
    #[must_use]
    pub fn journal_error(&self) -> Option<&io::Error> {
        self.journal.as_ref().and_then(Journal::error)
    }

    /// Obeys the commands, then works: launches as many steps as may be in flight and finishes the oldest. Blocks only
    /// where the executor does.
    ///
    /// Empties `inbox` and appends to `outbox`. `now` must not go back.
    pub fn step(&mut self, now: Timestamp, inbox: &mut Vec<Command>, outbox: &mut Vec<Event>) -> Step {
        if let Some(journal) = &mut self.journal {
            journal.step(now, inbox);
        }
        for command in inbox.drain(..) {
            self.obey(command, outbox);
        }
        if let Some(cause) = &self.lost {
            return Step::DeviceLost(cause.clone());
        }
        // Without a pause in between, a step takes from one call to the next.
        if let Some(began) = self.worked_at.take() {
            self.scheduler.observe_step(now.since(began));
        }
        self.scheduler.expire(now, &mut self.updates);
        if let Some(drain) = self.drain.as_mut().filter(|drain| drain.cancel_at <= now) {
            drain.num_cancelled += self.scheduler.num_requests();
            self.scheduler.end_all(&FinishReason::Cancelled, &mut self.updates);
        }
        self.emit(outbox);

        match self.work() {
            Ok(true) => {
                self.worked_at = Some(now);
                self.emit(outbox);
                Step::Worked
            }
            Ok(false) => match &self.drain {
                Some(drain) => Step::Drained { num_cancelled: drain.num_cancelled },
                None => Step::Idle,
            },
            Err(cause) => {
                self.scheduler.abandon(&cause, &mut self.updates);
                self.launched.clear();
                self.emit(outbox);
                self.lost = Some(cause.clone());
                Step::DeviceLost(cause)
            }
        }
    }

    /// What the executor can take.
    #[must_use]
    pub fn limits(&self) -> ExecutorLimits {
        self.door.limits
    }

    /// The executor's memory, line by line.
    #[must_use]
    pub fn memory(&self) -> Vec<MemoryEntry> {
        self.executor.memory()
    }

    /// Figures of this moment.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        let blocks = self.scheduler.block_usage();
        let totals = self.scheduler.stats();
        EngineStats {
            num_waiting: self.scheduler.num_waiting() as u32,
            num_running: self.scheduler.num_running() as u32,
            blocks_free: blocks.free,
            blocks_cached: blocks.cached,
            blocks_active: blocks.active,
            blocks_in_transit: blocks.in_transit,
            blocks_total: blocks.total,
            steps: self.steps,
            failed_steps: self.failed_steps,
            computed_tokens: totals.planned_tokens,
            output_tokens: totals.output_tokens,
            prefix_query_tokens: totals.prefix_query_tokens,
            prefix_hit_tokens: totals.prefix_hit_tokens,
            host_hit_tokens: totals.host_hit_tokens,
            preemptions: totals.preemptions,
            finished_requests: totals.finished_requests,
            ..EngineStats::default()
        }
    }

    /// Panics with a description if the engine contradicts itself. For tests and simulation: takes time in proportion to
    /// everything there is.
    pub fn check_invariants(&self) {
        self.scheduler.check_invariants();
        assert!(self.launched.len() <= self.door.limits.max_steps_in_flight as usize, "too many steps in flight");
        assert!(self.prompt_scores.len() <= self.scheduler.num_requests(), "scores of a request that has ended");
    }

    /// Which requests are refused, for asking on another thread.
    pub(crate) fn door(&self) -> Door {
        self.door
    }

    /// Puts something around the executor that behaves like it.
    pub(crate) fn map_executor(self, wrap: impl FnOnce(Box<dyn Executor>) -> Box<dyn Executor>) -> Self {
        Self { executor: wrap(self.executor), ..self }
    }

    fn obey(&mut self, command: Command, outbox: &mut Vec<Event>) {
        match command {
            Command::Submit(request) => {
                let (id, prompt_tokens) = (request.id, request.prompt.num_tokens());
                if let Err(cause) = self.submit(*request) {
                    let usage = Usage { prompt_tokens, ..Usage::default() };
                    outbox.push(Event::Finished { id, reason: FinishReason::Failed(cause), usage });
                }
            }
            Command::Cancel(id) => self.scheduler.cancel(id, &mut self.updates),
            Command::ClearPrefixCache => self.scheduler.clear_prefix_cache(),
            Command::Drain { cancel_at } => {
                // A second drain may only bring the end nearer.
                let drain = self.drain.get_or_insert(Drain { cancel_at, num_cancelled: 0 });
                drain.cancel_at = drain.cancel_at.min(cancel_at);
            }
        }
    }

    /// Takes a request, or says why not.
    fn submit(&mut self, request: EngineRequest) -> Result<(), String> {
        if let Some(cause) = &self.lost {
            return Err(cause.clone());
        }
        if self.drain.is_some() {
            return Err("the engine is shutting down".into());
        }
        let EngineRequest { id, prompt, sampling, class, first_token_deadline, deadline } = request;
        self.door
            .check(&prompt, &sampling)
            .and_then(|()| {
                Ok(self.scheduler.submit(NewRequest { id, prompt, sampling, class, first_token_deadline, deadline })?)
            })
            .map_err(|refusal: Refusal| refusal.to_string())
    }

    /// Launches what may be launched and finishes the oldest step. False if there was nothing to do; an error if the
    /// device is gone.
    fn work(&mut self) -> Result<bool, String> {
        // A failed launch is settled before anything is planned on top of it.
        while self.launched.len() < self.door.limits.max_steps_in_flight as usize
            && !matches!(self.launched.back(), Some(Launched::Failed(..)))
        {
            let step = self.next_step;
            if self.scheduler.plan(step, &mut self.batch) == Planned::Idle {
                break;
            }
            self.next_step = StepId(step.0 + 1);
            let launched = self.executor.launch(&self.batch);
            if let Some(journal) = &mut self.journal {
                journal.launch(&self.batch, launched.as_ref().err());
            }
            self.launched.push_back(match launched {
                Ok(in_flight) => Launched::Running(in_flight),
                Err(ExecutorError::Step(cause)) => Launched::Failed(step, cause),
                Err(ExecutorError::Device(cause)) => return Err(cause),
            });
        }
        let (step, result) = match self.launched.pop_front() {
            Some(Launched::Running(in_flight)) => {
                let step = in_flight.step();
                let result = self.executor.finish(in_flight, &mut self.output);
                if let Some(journal) = &mut self.journal {
                    journal.finish(result.as_ref().map(|()| &self.output));
                }
                (step, result)
            }
            Some(Launched::Failed(step, cause)) => (step, Err(ExecutorError::Step(cause))),
            None => {
                assert_eq!(self.scheduler.num_requests(), 0, "requests are here, but none can run");
                return Ok(false);
            }
        };
        self.steps += 1;
        match result {
            Ok(()) => self.scheduler.complete(step, &self.output, &mut self.updates),
            Err(ExecutorError::Step(cause)) => {
                self.failed_steps += 1;
                self.scheduler.fail_step(step, &cause, &mut self.updates);
            }
            Err(ExecutorError::Device(cause)) => return Err(cause),
        }
        Ok(true)
    }

    /// Turns what happened into events that stand alone: the arenas they point into are overwritten by the next step.
    fn emit(&mut self, outbox: &mut Vec<Event>) {
        for update in self.updates.drain(..) {
            match update {
                Update::Token { id, token, logprobs } => {
                    let logprobs =
                        logprobs.map(|position| Box::new(TokenLogprobs::from_output(&self.output, position)));
                    outbox.push(Event::Token { id, token, logprobs });
                }
                Update::PromptScored { id, logprobs, is_last } => {
                    let scores = self.prompt_scores.entry(id).or_default();
                    scores.extend(logprobs.map(|position| TokenLogprobs::from_output(&self.output, position)));
                    if is_last {
                        let logprobs = self.prompt_scores.remove(&id).unwrap_or_default();
                        outbox.push(Event::PromptLogprobs { id, logprobs });
                    }
                }
                Update::Finished { id, reason, usage } => {
                    self.prompt_scores.remove(&id);
                    outbox.push(Event::Finished { id, reason, usage });
                }
            }
        }
    }
}
