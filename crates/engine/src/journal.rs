//! A journal of everything that went into the core and of every batch that came of it: one line of JSON for each. What is
//! written can be played again, and the batches must be the same. Knows no file; it is given a writer.
//!
//! Prompts are in it, so it is as secret as they are. Salts are not: they are numbered as they come.

use std::io::{self, Write};
use std::sync::Arc;

use kv_paging::{PrefixCaching, PrefixKeys, Salt};
use serde::{Deserialize, Serialize};
use serving_types::{
    Batch, BatchOutput, CopyId, ExecutorError, ExecutorLimits, PositionLogprobs, RequestClass, RequestId, RowOutput,
    SamplingParams, StepId, Timestamp, TokenId,
};

use crate::{Command, EngineConfig, EngineRequest, Policy};

/// The policies, by the numbers that journals give them.
const POLICIES: [Policy; 3] = [Policy::FirstCome, Policy::Priority, Policy::Fair];

/// One line.
#[derive(Serialize, Deserialize, Debug)]
pub enum JournalEntry {
    /// The first one: what the engine was made from.
    Begin {
        /// Of the executor.
        limits: ExecutorLimits,
        /// Of the configuration.
        max_requests: usize,
        /// Of the configuration.
        prefix_caching: bool,
        /// Of the configuration: its place among the policies.
        policy: usize,
        /// Of the configuration.
        max_mixed_prefill_tokens: u32,
        /// Of the configuration.
        expected_output_tokens: u32,
    },
    /// A call of [`EngineCore::step`](crate::EngineCore::step). What it does follows, until the next one.
    Step {
        /// Its time.
        now: Timestamp,
        /// What was asked.
        commands: Vec<JournalCommand>,
    },
    /// A batch was launched.
    Launch {
        /// The batch.
        batch: Batch,
        /// If the launch failed, how.
        error: Option<ExecutorError>,
    },
    /// The oldest step was finished.
    Finish(Result<JournalOutput, ExecutorError>),
}

/// A [`Command`].
#[derive(Serialize, Deserialize, Debug)]
#[expect(missing_docs, reason = "the fields are those of the command")]
pub enum JournalCommand {
    Submit {
        id: RequestId,
        /// Equal for requests with equal salts.
        salt: u32,
        prompt: Vec<TokenId>,
        sampling: Arc<SamplingParams>,
        class: RequestClass,
        first_token_deadline: Option<Timestamp>,
        deadline: Option<Timestamp>,
    },
    Cancel(RequestId),
    ClearPrefixCache,
    Drain {
        cancel_at: Timestamp,
    },
}

/// What of a [`BatchOutput`] decides what comes next: all but the log-probabilities' values.
#[derive(Serialize, Deserialize, Debug)]
pub struct JournalOutput {
    rows: Vec<RowOutput>,
    tokens: Vec<TokenId>,
    num_logprobs: usize,
    finished_copies: Vec<CopyId>,
    fetched_through: Option<StepId>,
}

impl JournalEntry {
    /// The configuration of a first entry.
    #[must_use]
    pub fn config(&self) -> Option<EngineConfig> {
        let Self::Begin {
            max_requests,
            prefix_caching,
            policy,
            max_mixed_prefill_tokens,
            expected_output_tokens,
            limits: _,
        } = self
        else {
            return None;
        };
        let prefix_caching = if *prefix_caching { PrefixCaching::On } else { PrefixCaching::Off };
        Some(EngineConfig {
            max_requests: *max_requests,
            prefix_caching,
            policy: *POLICIES.get(*policy)?,
            max_mixed_prefill_tokens: *max_mixed_prefill_tokens,
            expected_output_tokens: *expected_output_tokens,
        })
    }
}

impl JournalCommand {
    /// The command again, for an engine with this block size. The salt is made from its number.
    #[must_use]
    pub fn into_command(self, block_size: u32) -> Command {
        match self {
            Self::Submit { id, salt: number, prompt: tokens, sampling, class, first_token_deadline, deadline } => {
                let mut salt = [0; 32];
                salt[..4].copy_from_slice(&number.to_le_bytes());
                let mut prompt = PrefixKeys::new(&Salt::from_bytes(salt), block_size);
                prompt.extend(&tokens);
                Command::Submit(Box::new(EngineRequest { id, prompt, sampling, class, first_token_deadline, deadline }))
            }
            Self::Cancel(id) => Command::Cancel(id),
            Self::ClearPrefixCache => Command::ClearPrefixCache,
            Self::Drain { cancel_at } => Command::Drain { cancel_at },
        }
    }
}

impl JournalOutput {
    /// The output again, with zeros for log-probabilities.
    #[must_use]
    pub fn into_output(self) -> BatchOutput {
        let Self { rows, tokens, num_logprobs, finished_copies, fetched_through } = self;
        let nothing = PositionLogprobs { token: 0, logprob: 0.0, rank: 0, top: 0..0 };
        let (logprobs, top) = (vec![nothing; num_logprobs], Vec::new());
        BatchOutput { rows, tokens, logprobs, top, finished_copies, fetched_through }
    }
}

/// Writes entries until a write fails.
pub(crate) struct Journal {
    sink: Box<dyn Write + Send>,
    /// Salts by their number.
    salts: Vec<Salt>,
    error: Option<io::Error>,
}

impl Journal {
    pub(crate) fn new(sink: Box<dyn Write + Send>, limits: ExecutorLimits, config: EngineConfig) -> Self {
        let mut journal = Self { sink, salts: Vec::new(), error: None };
        let EngineConfig { max_requests, prefix_caching, policy, max_mixed_prefill_tokens, expected_output_tokens } =
            config;
        let policy = POLICIES.iter().position(|listed| *listed == policy).expect("every policy is listed");
        let prefix_caching = prefix_caching == PrefixCaching::On;
        journal.write(&JournalEntry::Begin {
            limits,
            max_requests,
            prefix_caching,
            policy,
            max_mixed_prefill_tokens,
            expected_output_tokens,
        });
        journal
    }

    pub(crate) fn error(&self) -> Option<&io::Error> {
        self.error.as_ref()
    }

    pub(crate) fn step(&mut self, now: Timestamp, commands: &[Command]) {
        let commands = commands.iter().map(|command| self.command(command)).collect();
        self.write(&JournalEntry::Step { now, commands });
    }

    pub(crate) fn launch(&mut self, batch: &Batch, error: Option<&ExecutorError>) {
        self.write(&JournalEntry::Launch { batch: batch.clone(), error: error.cloned() });
    }

    pub(crate) fn finish(&mut self, result: Result<&BatchOutput, &ExecutorError>) {
        let outcome = result.map_err(Clone::clone).map(|output| JournalOutput {
            rows: output.rows.clone(),
            tokens: output.tokens.clone(),
            num_logprobs: output.logprobs.len(),
            finished_copies: output.finished_copies.clone(),
            fetched_through: output.fetched_through,
        });
        self.write(&JournalEntry::Finish(outcome));
    }

    fn command(&mut self, command: &Command) -> JournalCommand {
        match command {
            Command::Submit(request) => {
                let EngineRequest { id, prompt, sampling, class, first_token_deadline, deadline } = &**request;
                JournalCommand::Submit {
                    id: *id,
                    salt: self.number(prompt.salt()),
                    prompt: prompt.tokens().to_vec(),
                    sampling: Arc::clone(sampling),
                    class: *class,
                    first_token_deadline: *first_token_deadline,
                    deadline: *deadline,
                }
            }
            Command::Cancel(id) => JournalCommand::Cancel(*id),
            Command::ClearPrefixCache => JournalCommand::ClearPrefixCache,
            Command::Drain { cancel_at } => JournalCommand::Drain { cancel_at: *cancel_at },
        }
    }

    fn number(&mut self, salt: &Salt) -> u32 {
        let known = self.salts.iter().position(|known| known == salt);
        known.unwrap_or_else(|| {
            self.salts.push(*salt);
            self.salts.len() - 1
        }) as u32
    }

    /// One line, whole when this returns, so that a crash leaves what led to it.
    fn write(&mut self, entry: &JournalEntry) {
        if self.error.is_some() {
            return;
        }
        let mut line = serde_json::to_vec(entry).expect("the entry's maps have keys that JSON can hold");
        line.push(b'\n');
        self.error = self.sink.write_all(&line).and_then(|()| self.sink.flush()).err();
    }
}
