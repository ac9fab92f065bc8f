//! The engine's thread: sleeps on the inbox, reads the clock, steps the core, hands each event to its request's stream.
//! Knows no scheduling.

use std::any::Any;
use std::collections::HashMap;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use serving_types::{Batch, BatchOutput, Executor, ExecutorError, ExecutorLimits, InFlight, MemoryEntry, RequestId};

use crate::handle::{Shared, State};
use crate::stream::EventSender;
use crate::{Command, EngineCore, EngineRequest, Event, Step};

/// Most messages read between two steps, so that a flood of them cannot hold up the running requests.
const MAX_MESSAGES_PER_STEP: usize = 4096;

/// What handles send.
pub(crate) enum Message {
    Submit { request: Box<EngineRequest>, events: EventSender },
    Command(Command),
}

pub(crate) struct Driver {
    core: EngineCore,
    messages: Receiver<Message>,
    shared: Arc<Shared>,
    streams: HashMap<RequestId, EventSender>,
    inbox: Vec<Command>,
    outbox: Vec<Event>,
    step_time: Duration,
    executor_nanos: Arc<AtomicU64>,
}

impl Driver {
    pub(crate) fn new(core: EngineCore, messages: Receiver<Message>, shared: Arc<Shared>) -> Self {
        let executor_nanos = Arc::new(AtomicU64::new(0));
        let nanos = Arc::clone(&executor_nanos);
        Self {
            core: core.map_executor(|inner| Box::new(TimedExecutor { inner, nanos })),
            messages,
            shared,
            streams: HashMap::new(),
            inbox: Vec::new(),
            outbox: Vec::new(),
            step_time: Duration::ZERO,
            executor_nanos,
        }
    }

    /// Runs until the engine is drained, lost, or left by all its handles.
    pub(crate) fn run(mut self) {
        match self.run_to_end() {
            Some(num_cancelled) => {
                let Self { core, shared, .. } = self;
                // The executor's memory first: whoever waits for the end may end the process, and a device must not be in use
                // then.
                drop(core);
                shared.end(State::Stopped { num_cancelled });
            }
            // A lost device has nothing to give back, and whoever runs it is about to end the process.
            None => mem::forget(self.core),
        }
    }

    /// How many requests the drain cancelled; `None` if the core is lost, which is told here.
    fn run_to_end(&mut self) -> Option<usize> {
        loop {
            for message in self.messages.try_iter().take(MAX_MESSAGES_PER_STEP) {
                read(message, &mut self.inbox, &mut self.streams);
            }
            let started = Instant::now();
            let now = self.shared.now();
            let step = catch_unwind(AssertUnwindSafe(|| self.core.step(now, &mut self.inbox, &mut self.outbox)));
            match step {
                Ok(Step::Worked) => {
                    self.step_time += started.elapsed();
                    self.publish();
                    self.deliver();
                }
                Ok(Step::Idle) => {
                    self.publish();
                    self.deliver();
                    match self.messages.recv() {
                        Ok(message) => read(message, &mut self.inbox, &mut self.streams),
                        Err(_) => return Some(0),
                    }
                }
                Ok(Step::Drained { num_cancelled }) => {
                    self.publish();
                    self.deliver();
                    return Some(num_cancelled);
                }
                Ok(Step::DeviceLost(cause)) => {
                    self.publish();
                    self.shared.end(State::Failed(cause));
                    self.deliver();
                    return None;
                }
                Err(panic) => {
                    // The core may be broken and is not asked again. Streams that are dropped now end in their handles.
                    self.shared.end(State::Failed(format!("the engine panicked: {}", panic_message(&*panic))));
                    self.deliver();
                    return None;
                }
            }
        }
    }

    /// Hands out what happened.
    fn deliver(&mut self) {
        for event in self.outbox.drain(..) {
            let id = event.id();
            if matches!(event, Event::Finished { .. }) {
                // First the place, then the news, so that whoever hears of it finds the place free.
                self.shared.request_ended();
                if let Some(stream) = self.streams.remove(&id) {
                    stream.send(event);
                }
            } else if let Some(stream) = self.streams.get(&id) {
                stream.send(event);
            }
        }
    }

    fn publish(&self) {
        let mut stats = self.core.stats();
        stats.step_time = self.step_time;
        stats.executor_time = Duration::from_nanos(self.executor_nanos.load(Ordering::Relaxed));
        self.shared.publish_stats(stats);
    }
}

fn read(message: Message, inbox: &mut Vec<Command>, streams: &mut HashMap<RequestId, EventSender>) {
    inbox.push(match message {
        Message::Submit { request, events } => {
            streams.insert(request.id, events);
            Command::Submit(request)
        }
        Message::Command(command) => command,
    });
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

/// An executor with a stopwatch: the core reads no clock, and the figure that matters is what a step costs outside of it.
struct TimedExecutor {
    inner: Box<dyn Executor>,
    nanos: Arc<AtomicU64>,
}

impl TimedExecutor {
    fn time<T>(&mut self, call: impl FnOnce(&mut dyn Executor) -> T) -> T {
        let started = Instant::now();
        let result = call(&mut *self.inner);
        self.nanos.fetch_add(started.elapsed().as_nanos() as u64, Ordering::Relaxed);
        result
    }
}

impl Executor for TimedExecutor {
    fn limits(&self) -> ExecutorLimits {
        self.inner.limits()
    }

    fn memory(&self) -> Vec<MemoryEntry> {
        self.inner.memory()
    }

    fn launch(&mut self, batch: &Batch) -> Result<InFlight, ExecutorError> {
        self.time(|inner| inner.launch(batch))
    }

    fn finish(&mut self, step: InFlight, output: &mut BatchOutput) -> Result<(), ExecutorError> {
        self.time(|inner| inner.finish(step, output))
    }
}
