//! Plays an engine's journal again: the same commands, times and results must give the same batches. Knows no model; what
//! the executor answered is in the journal.

use std::collections::VecDeque;
use std::io::BufRead;
use std::sync::{Arc, Mutex, MutexGuard};

use engine::{Command, EngineCore, JournalCommand, JournalEntry};
use serving_types::{Batch, BatchOutput, Executor, ExecutorError, ExecutorLimits, InFlight, MemoryEntry};

/// What came of a replay in which every batch was the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Replayed {
    /// Calls of the engine.
    pub num_calls: u64,
    /// Batches that were compared.
    pub num_batches: u64,
}

/// Plays a journal again. A last line that was cut off, as by a crash, is passed over.
///
/// # Errors
/// With a description, if the journal cannot be read, or at the first batch that is not what it was.
///
/// # Panics
/// Where the engine did.
pub fn replay(journal: impl BufRead) -> Result<Replayed, String> {
    let mut entries = read(journal)?;
    let begin = entries.pop_front().ok_or("the journal is empty")?;
    let (JournalEntry::Begin { limits, .. }, Some(config)) = (&begin, begin.config()) else {
        return Err("the journal does not begin with the engine's limits".into());
    };
    let script = Arc::new(Mutex::new(Script { entries, num_batches: 0, difference: None }));
    let executor = ReplayExecutor { limits: *limits, script: Arc::clone(&script) };
    let mut core = EngineCore::new(Box::new(executor), config).map_err(|error| error.to_string())?;
    let (mut inbox, mut outbox, mut num_calls) = (Vec::new(), Vec::new(), 0);
    loop {
        let next = lock(&script).entries.pop_front();
        let (now, commands) = match next {
            Some(JournalEntry::Step { now, commands }) => (now, commands),
            Some(other) => return Err(format!("call {num_calls} of the engine left this out: {other:?}")),
            None => break,
        };
        let into_command = |command: JournalCommand| -> Command { command.into_command(limits.block_size) };
        inbox.extend(commands.into_iter().map(into_command));
        num_calls += 1;
        core.step(now, &mut inbox, &mut outbox);
        outbox.clear();
        match lock(&script).difference.take() {
            // The engine did no more than is written, and the journal was cut off here.
            Some(Difference::JournalEnds) => break,
            Some(Difference::Other(difference)) => return Err(format!("call {num_calls} of the engine: {difference}")),
            None => {}
        }
    }
    let num_batches = lock(&script).num_batches;
    Ok(Replayed { num_calls, num_batches })
}

fn read(journal: impl BufRead) -> Result<VecDeque<JournalEntry>, String> {
    let mut entries = VecDeque::new();
    let mut broken = None;
    for (number, line) in (1..).zip(journal.lines()) {
        if let Some(error) = broken {
            return Err(error);
        }
        let line = line.map_err(|error| format!("line {number}: {error}"))?;
        match serde_json::from_str(&line) {
            Ok(entry) => entries.push_back(entry),
            Err(error) => broken = Some(format!("line {number}: {error}")),
        }
    }
    Ok(entries)
}

/// What is still to come.
struct Script {
    entries: VecDeque<JournalEntry>,
    num_batches: u64,
    difference: Option<Difference>,
}

enum Difference {
    JournalEnds,
    Other(String),
}

impl Script {
    /// Notes what differs. The engine is told that its device is gone, so that it does nothing more.
    fn differ(&mut self, found: &str, entry: Option<JournalEntry>) -> ExecutorError {
        self.difference = Some(match entry {
            None => Difference::JournalEnds,
            Some(entry) => Difference::Other(format!("{found}; the journal says {entry:?}")),
        });
        ExecutorError::Device("the replay has come to an end".into())
    }
}

/// Answers what the journal says, if it is asked what the journal says.
struct ReplayExecutor {
    limits: ExecutorLimits,
    script: Arc<Mutex<Script>>,
}

impl Executor for ReplayExecutor {
    fn limits(&self) -> ExecutorLimits {
        self.limits
    }

    fn memory(&self) -> Vec<MemoryEntry> {
        Vec::new()
    }

    fn launch(&mut self, batch: &Batch) -> Result<InFlight, ExecutorError> {
        let mut script = lock(&self.script);
        match script.entries.pop_front() {
            Some(JournalEntry::Launch { batch: expected, error }) if expected == *batch => {
                script.num_batches += 1;
                error.map_or(Ok(InFlight::new(batch.step)), Err)
            }
            entry => Err(script.differ(&format!("launches {batch:?}"), entry)),
        }
    }

    fn finish(&mut self, step: InFlight, output: &mut BatchOutput) -> Result<(), ExecutorError> {
        let mut script = lock(&self.script);
        match script.entries.pop_front() {
            Some(JournalEntry::Finish(outcome)) => {
                *output = outcome?.into_output();
                Ok(())
            }
            entry => Err(script.differ(&format!("finishes step {}", step.step()), entry)),
        }
    }
}

fn lock(script: &Mutex<Script>) -> MutexGuard<'_, Script> {
    script.lock().expect("no thread panics with the script in hand")
}
