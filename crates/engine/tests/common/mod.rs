//! What the tests with real threads share: an engine on a fake executor that can be held before each step.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use engine::{Engine, EngineConfig, EngineCore, Event, PrefixKeys, RequestHandle, Salt, SubmitError, SubmitRequest};
use serving_types::{
    Batch, BatchOutput, Executor, ExecutorError, ExecutorLimits, FinishReason, InFlight, MemoryEntry, SamplingParams,
    TokenId, Usage,
};
use sim::{FakeExecutor, FakeModel, Faults, small_limits};

pub(crate) const MODEL: FakeModel = FakeModel { seed: 1, vocab_size: 50 };
pub(crate) const MAX_REQUESTS: usize = 6;

/// Waits for a permit before each launch, until the other end is dropped.
struct Held {
    inner: FakeExecutor,
    permits: Receiver<()>,
}

impl Executor for Held {
    fn limits(&self) -> ExecutorLimits {
        self.inner.limits()
    }

    fn memory(&self) -> Vec<MemoryEntry> {
        self.inner.memory()
    }

    fn launch(&mut self, batch: &Batch) -> Result<InFlight, ExecutorError> {
        let _ = self.permits.recv();
        self.inner.launch(batch)
    }

    fn finish(&mut self, step: InFlight, output: &mut BatchOutput) -> Result<(), ExecutorError> {
        self.inner.finish(step, output)
    }
}

/// An engine that stands still before each step until it gets a permit, or for good runs once the sender is dropped.
pub(crate) fn held_engine(faults: Faults) -> (Engine, Sender<()>) {
    let (sender, permits) = bounded(0);
    let limits = ExecutorLimits { max_steps_in_flight: 2, ..small_limits() };
    let executor = Held { inner: FakeExecutor::new(MODEL, limits, faults), permits };
    let config = EngineConfig { max_requests: MAX_REQUESTS, ..EngineConfig::default() };
    (Engine::spawn(EngineCore::new(Box::new(executor), config).unwrap()), sender)
}

pub(crate) fn running_engine(faults: Faults) -> Engine {
    held_engine(faults).0
}

pub(crate) fn request(engine: &Engine, prompt: &[TokenId], max_tokens: u32) -> SubmitRequest {
    let mut keys = PrefixKeys::new(&Salt::default(), engine.limits().block_size);
    keys.extend(prompt);
    let sampling = Arc::new(SamplingParams { max_tokens, ..SamplingParams::default() });
    SubmitRequest::new(keys, sampling)
}

pub(crate) fn submit(engine: &Engine, prompt: &[TokenId], max_tokens: u32) -> Result<RequestHandle, SubmitError> {
    engine.submit(request(engine, prompt, max_tokens))
}

/// Reads a stream to its end.
pub(crate) fn read(mut handle: RequestHandle) -> (Vec<TokenId>, FinishReason, Usage) {
    let mut tokens = Vec::new();
    loop {
        match handle.next_blocking().expect("an end comes first") {
            Event::Token { token, .. } => tokens.push(token),
            Event::PromptLogprobs { .. } => {}
            Event::Finished { reason, usage, .. } => {
                assert_eq!(handle.next_blocking(), None, "nothing follows the end");
                return (tokens, reason, usage);
            }
        }
    }
}

/// Waits for something that another thread brings about.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < give_up, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
