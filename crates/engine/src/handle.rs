//! The handles that other threads hold: [`Engine`] for the whole, [`RequestHandle`] for one request. Knows no step.

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use kv_paging::PrefixKeys;
use serving_types::{
    ExecutorLimits, FinishReason, MemoryEntry, RequestClass, RequestId, SamplingParams, Timestamp, Usage,
};

use crate::driver::{Driver, Message};
use crate::refusal::Door;
use crate::stream::{EventReceiver, event_stream};
use crate::{Command, EngineCore, EngineRequest, EngineStats, Event, Refusal};

/// How long [`Engine::drain`] waits for the engine's thread once the drain's own time is up: a few steps.
const DRAIN_GRACE: Duration = Duration::from_secs(10);

/// A running engine. Clones are handles of the same one; it stops when the last handle and the last [`RequestHandle`] are
/// gone.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
    inbox: Sender<Message>,
}

/// What the handles and the engine's thread have in common.
pub(crate) struct Shared {
    /// Timestamps count from here.
    origin: Instant,
    door: Door,
    memory: Vec<MemoryEntry>,
    next_id: AtomicU64,
    /// Requests that are accepted and have not ended.
    num_live: AtomicUsize,
    stats: Mutex<EngineStats>,
    state: Mutex<State>,
    state_changed: Condvar,
}

/// Where the engine is in its own life.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum State {
    Serving,
    Draining,
    Stopped { num_cancelled: usize },
    Failed(String),
}

/// Whether an engine can be used, for health checks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Health {
    /// It takes requests.
    Serving,
    /// It finishes what it has and takes no more.
    Draining,
    /// It was drained, and its thread is gone.
    Stopped,
    /// It is lost, with this cause. For the operator.
    Failed(String),
}

/// How a drain went.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DrainOutcome {
    /// Every request ended by itself.
    Finished,
    /// The time was up; so many requests were cancelled.
    Cancelled {
        /// The requests.
        num_requests: usize,
    },
    /// The engine had failed or failed meanwhile, with this cause.
    Failed(String),
    /// The engine's thread did not come back from a step.
    Stuck,
}

/// A request for tokens, as a handle takes it.
#[derive(Clone, Debug)]
pub struct SubmitRequest {
    /// The prompt with its prefix keys, of the engine's block size ([`Engine::limits`]). Hashing is the caller's work, so
    /// that it is not the engine thread's.
    pub prompt: PrefixKeys,
    /// Resolved and validated sampling parameters.
    pub sampling: Arc<SamplingParams>,
    /// Whose it is and how urgent; the engine's policy says what of it counts.
    pub class: RequestClass,
    /// How long from now its first token may take. A request that cannot meet this any more is ended at once, so that what
    /// it would have cost serves others.
    pub first_token_timeout: Option<Duration>,
    /// How long from now the request may take.
    pub timeout: Option<Duration>,
}

impl SubmitRequest {
    /// A request of the default class that may take as long as it takes.
    #[must_use]
    pub fn new(prompt: PrefixKeys, sampling: Arc<SamplingParams>) -> Self {
        Self { prompt, sampling, class: RequestClass::default(), first_token_timeout: None, timeout: None }
    }
}

/// Why a request was not taken.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SubmitError {
    /// As many requests as the engine accepts are here. Retry later.
    #[error("the engine holds {max_requests} requests, which is all it accepts; retry later")]
    Busy {
        /// The most it accepts.
        max_requests: usize,
    },
    /// The request could never be served. For the client.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The engine is being shut down. Try another one.
    #[error("the engine is shutting down")]
    ShuttingDown,
    /// The engine is lost, with this cause. For the operator.
    #[error("the engine has failed: {0}")]
    DeviceLost(String),
}

impl Engine {
    /// Gives the core a thread of its own.
    ///
    /// # Panics
    /// If the system has no thread left.
    #[must_use]
    pub fn spawn(core: EngineCore) -> Self {
        let shared = Arc::new(Shared {
            origin: Instant::now(),
            door: core.door(),
            memory: core.memory(),
            next_id: AtomicU64::new(0),
            num_live: AtomicUsize::new(0),
            stats: Mutex::new(core.stats()),
            state: Mutex::new(State::Serving),
            state_changed: Condvar::new(),
        });
        // Without a bound of its own, so that a cancel can always be left, even from a destructor. It is bounded all the
        // same: at most `max_requests` submissions are under way, and a handle cancels once.
        let (sender, inbox) = crossbeam_channel::unbounded();
        let driver = Driver::new(core, inbox, Arc::clone(&shared));
        std::thread::Builder::new()
            .name("pagewise-engine".into())
            .spawn(move || driver.run())
            .expect("the system can start a thread");
        Self { shared, inbox: sender }
    }

    /// Hands a request to the engine. Returns at once.
    ///
    /// # Errors
    /// The request was not taken, and nothing is kept of it.
    ///
    /// # Panics
    /// If the prompt's keys have another block size than the engine: a bug of the caller.
    pub fn submit(&self, request: SubmitRequest) -> Result<RequestHandle, SubmitError> {
        let SubmitRequest { prompt, sampling, class, first_token_timeout, timeout } = request;
        assert_eq!(prompt.block_size(), self.shared.door.limits.block_size, "the prompt's keys are of another pool");
        match &*self.shared.state() {
            State::Serving => {}
            State::Draining | State::Stopped { .. } => return Err(SubmitError::ShuttingDown),
            State::Failed(cause) => return Err(SubmitError::DeviceLost(cause.clone())),
        }
        self.shared.door.check(&prompt, &sampling)?;
        let max_requests = self.max_requests();
        self.shared
            .num_live
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |live| (live < max_requests).then_some(live + 1))
            .map_err(|_| SubmitError::Busy { max_requests })?;

        let id = RequestId(self.shared.next_id.fetch_add(1, Ordering::Relaxed));
        let prompt_tokens = prompt.num_tokens();
        let now = self.shared.now();
        let [first_token_deadline, deadline] =
            [first_token_timeout, timeout].map(|timeout| timeout.map(|timeout| now.after(timeout)));
        let (sender, events) = event_stream();
        let request = Box::new(EngineRequest { id, prompt, sampling, class, first_token_deadline, deadline });
        // If the engine stops before it reads this, the handle finds its stream closed and says so.
        let _ = self.inbox.send(Message::Submit { request, events: sender });
        Ok(RequestHandle {
            id,
            events,
            inbox: self.inbox.clone(),
            shared: Arc::clone(&self.shared),
            usage: Usage { prompt_tokens, ..Usage::default() },
            is_finished: false,
        })
    }

    /// Cancels a request by its id; nothing happens if it has ended.
    pub fn cancel(&self, id: RequestId) {
        let _ = self.inbox.send(Message::Command(Command::Cancel(id)));
    }

    /// Forgets all cached prefixes.
    pub fn clear_prefix_cache(&self) {
        let _ = self.inbox.send(Message::Command(Command::ClearPrefixCache));
    }

    /// Figures as of the last step.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        *lock(&self.shared.stats)
    }

    /// What the executor can take.
    #[must_use]
    pub fn limits(&self) -> ExecutorLimits {
        self.shared.door.limits
    }

    /// The most requests that are accepted at a time, those that wait included.
    #[must_use]
    pub fn max_requests(&self) -> usize {
        self.shared.door.config.max_waiting
    }

    /// The executor's memory, line by line.
    #[must_use]
    pub fn memory(&self) -> Vec<MemoryEntry> {
        self.shared.memory.clone()
    }

    /// Whether the engine can be used.
    #[must_use]
    pub fn health(&self) -> Health {
        match &*self.shared.state() {
            State::Serving => Health::Serving,
            State::Draining => Health::Draining,
            State::Stopped { .. } => Health::Stopped,
            State::Failed(cause) => Health::Failed(cause.clone()),
        }
    }

    /// Stops taking requests, lets those that are here finish, and cancels what is left after `timeout`. Every stream gets
    /// its end. Blocks until the engine's thread is done; a second call waits for the first one's drain.
    #[must_use]
    pub fn drain(&self, timeout: Duration) -> DrainOutcome {
        // None if it is beyond the clock's range.
        let give_up = Instant::now().checked_add(timeout.saturating_add(DRAIN_GRACE));
        let mut state = self.shared.state();
        if *state == State::Serving {
            *state = State::Draining;
        }
        if *state == State::Draining {
            let cancel_at = self.shared.now().after(timeout);
            let _ = self.inbox.send(Message::Command(Command::Drain { cancel_at }));
        }
        loop {
            match &*state {
                State::Stopped { num_cancelled: 0 } => return DrainOutcome::Finished,
                State::Stopped { num_cancelled } => return DrainOutcome::Cancelled { num_requests: *num_cancelled },
                State::Failed(cause) => return DrainOutcome::Failed(cause.clone()),
                State::Serving | State::Draining => {}
            }
            let left = give_up.map_or(Duration::MAX, |at| at.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return DrainOutcome::Stuck;
            }
            let waited = self.shared.state_changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("health", &self.health()).finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::default().after(self.origin.elapsed())
    }

    pub(crate) fn publish_stats(&self, stats: EngineStats) {
        *lock(&self.stats) = stats;
    }

    /// A request has ended, and another may come.
    pub(crate) fn request_ended(&self) {
        self.num_live.fetch_sub(1, Ordering::AcqRel);
    }

    /// The engine's thread has reached its end.
    pub(crate) fn end(&self, state: State) {
        *self.state() = state;
        self.state_changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// Locks values that are whole at every moment, so that a panic elsewhere does not spoil them.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One request's stream of events. Dropping it before the end cancels the request.
pub struct RequestHandle {
    id: RequestId,
    events: EventReceiver,
    inbox: Sender<Message>,
    shared: Arc<Shared>,
    /// What is known of it on this side, in case that the engine cannot tell any more.
    usage: Usage,
    is_finished: bool,
}

impl RequestHandle {
    /// The request's id.
    #[must_use]
    pub fn id(&self) -> RequestId {
        self.id
    }

    /// The next event; `None` after [`Event::Finished`]. Cancel-safe.
    pub async fn next(&mut self) -> Option<Event> {
        if self.is_finished {
            return None;
        }
        let event = self.events.recv().await;
        Some(self.pass_on(event))
    }

    /// As [`next`](Self::next), waiting on this thread.
    pub fn next_blocking(&mut self) -> Option<Event> {
        if self.is_finished {
            return None;
        }
        let event = self.events.recv_blocking();
        Some(self.pass_on(event))
    }

    /// Asks the engine to end the request. The stream goes on to its end, which is then usually
    /// `FinishReason::Cancelled`.
    pub fn cancel(&self) {
        let _ = self.inbox.send(Message::Command(Command::Cancel(self.id)));
    }

    /// Keeps count, and puts an end where the engine's thread went without one.
    fn pass_on(&mut self, event: Option<Event>) -> Event {
        let event = event.unwrap_or_else(|| {
            let cause = match &*self.shared.state() {
                State::Failed(cause) => cause.clone(),
                _ => "the engine has shut down".into(),
            };
            Event::Finished { id: self.id, reason: FinishReason::Failed(cause), usage: self.usage }
        });
        match event {
            Event::Token { .. } => self.usage.output_tokens += 1,
            Event::Finished { .. } => self.is_finished = true,
            Event::PromptLogprobs { .. } => {}
        }
        event
    }
}

impl fmt::Debug for RequestHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestHandle").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Drop for RequestHandle {
    fn drop(&mut self) {
        if !self.is_finished {
            self.cancel();
        }
    }
}
