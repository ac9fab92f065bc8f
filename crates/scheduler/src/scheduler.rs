//! The scheduler's state and how requests enter and leave it. How a batch is chosen is in `plan`, what its results do in
//! `complete`. Knows no clock.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use kv_paging::{KvCache, KvCacheConfig, Usage as BlockUsage};
use serving_types::{FinishReason, RequestId, RowSlot, StepId, Timestamp, Usage};

use crate::cost::{StepCost, StepShape};
use crate::forecast::{Forecast, OutputLengths};
use crate::plan::{Attempt, PlannedRow, PlannedStep};
use crate::queue::WaitingQueue;
use crate::request::{Request, RequestIndex, RequestSlab};
use crate::running::RunningRequests;
use crate::{ConfigError, NewRequest, Refusal, SchedulerConfig, Update};

/// Decides what each step computes and owns every block while it is in use.
#[derive(Debug)]
pub struct Scheduler {
    pub(crate) config: SchedulerConfig,
    pub(crate) kv: KvCache,
    pub(crate) requests: RequestSlab,
    pub(crate) by_id: BTreeMap<RequestId, RequestIndex>,
    /// A preempted request comes back to its old place.
    pub(crate) waiting: WaitingQueue,
    pub(crate) running: RunningRequests,
    pub(crate) next_admission: u64,
    pub(crate) output_lengths: OutputLengths,
    /// Of one plan; kept for its memory.
    pub(crate) forecast: Forecast,
    /// Blocks to grow into that an admission must leave for each running request, whatever is foreseen. More after
    /// preemptions, which prove that too little was.
    pub(crate) num_spare_blocks: u32,
    /// The last attempt to admit a request, if it failed.
    pub(crate) last_failed: Option<Attempt>,
    /// When the deadlines of which request are to be looked at.
    pub(crate) deadlines: BTreeSet<(Timestamp, RequestId)>,
    pub(crate) cost: StepCost,
    /// The step that was completed last, until its cost is told.
    pub(crate) last_completed: Option<(StepId, StepShape)>,
    /// Tokens of running requests, as of the last plan, that must be computed before they go on decoding.
    pub(crate) num_backlog_tokens: u64,
    /// Planned and not yet completed or failed, oldest first.
    pub(crate) in_flight: VecDeque<PlannedStep>,
    /// Emptied row lists of past steps, for reuse.
    pub(crate) spare_rows: Vec<Vec<PlannedRow>>,
    pub(crate) last_planned: Option<StepId>,
    pub(crate) last_retired: Option<StepId>,
    /// By block, the last step whose copies from the host fill it. Empty without a host pool.
    pub(crate) fetching_steps: Vec<Option<StepId>>,
    /// The last step of which, as of all before it, these copies have arrived.
    pub(crate) fetched_through: Option<StepId>,
    next_arrival: u64,
    pub(crate) stats: SchedulerStats,
}

/// Running totals since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SchedulerStats {
    /// Tokens looked up in the prefix cache, over all admissions.
    pub prefix_query_tokens: u64,
    /// Of these, tokens whose KV was found.
    pub prefix_hit_tokens: u64,
    /// Of these, tokens whose KV was copied back from the host.
    pub host_hit_tokens: u64,
    /// Tokens planned to be computed, recomputed ones included.
    pub planned_tokens: u64,
    /// Tokens generated.
    pub output_tokens: u64,
    /// Preemptions.
    pub preemptions: u64,
    /// Requests that ended, for whatever reason.
    pub finished_requests: u64,
}

impl Scheduler {
    /// A scheduler without requests, over an empty pool.
    ///
    /// # Errors
    /// A limit under which nothing could run.
    pub fn new(config: SchedulerConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        let kv = KvCache::new(KvCacheConfig {
            prefix_caching: config.prefix_caching,
            num_host_blocks: config.num_host_blocks,
            ..KvCacheConfig::new(config.num_blocks, config.block_size)
        })
        .map_err(ConfigError::KvCache)?;
        Ok(Self {
            config,
            kv,
            requests: RequestSlab::default(),
            by_id: BTreeMap::new(),
            waiting: WaitingQueue::new(config.policy),
            running: RunningRequests::new(config.max_batch_rows),
            next_admission: 0,
            output_lengths: OutputLengths::new(config.expected_output_tokens),
            forecast: Forecast::default(),
            num_spare_blocks: 1,
            last_failed: None,
            deadlines: BTreeSet::new(),
            cost: StepCost::default(),
            last_completed: None,
            num_backlog_tokens: 0,
            in_flight: VecDeque::new(),
            spare_rows: Vec::new(),
            last_planned: None,
            last_retired: None,
            fetching_steps: if config.num_host_blocks > 0 {
                vec![None; config.num_blocks as usize]
            } else {
                Vec::new()
            },
            fetched_through: None,
            next_arrival: 0,
            stats: SchedulerStats::default(),
        })
    }

    /// The limits.
    #[must_use]
    pub fn config(&self) -> &SchedulerConfig {
        &self.config
    }

    /// Takes a request into the waiting queue.
    ///
    /// # Errors
    /// The request could never run, or the queue is full. Nothing is kept of it.
    ///
    /// # Panics
    /// If the id is in use or the keys are of another block size: bugs of the caller.
    pub fn submit(&mut self, request: NewRequest) -> Result<(), Refusal> {
        let NewRequest { id, prompt, sampling, class, first_token_deadline, deadline } = request;
        assert!(!self.by_id.contains_key(&id), "request {id} is here already");
        assert_eq!(prompt.block_size(), self.config.block_size, "the prefix keys of request {id} are of another pool");
        self.config.check(prompt.num_tokens(), &sampling)?;
        if self.waiting.len() >= self.config.max_waiting {
            return Err(Refusal::QueueFull { max_waiting: self.config.max_waiting });
        }
        let arrival = self.next_arrival;
        self.next_arrival += 1;
        let num_prompt_tokens = prompt.num_tokens();
        let class = self.waiting.effective(class);
        let index = self.requests.insert(Request {
            id,
            arrival,
            max_len: self.config.max_len(num_prompt_tokens, &sampling),
            sampling,
            class,
            first_token_deadline,
            deadline,
            check_at: None,
            keys: prompt,
            num_scored: 0,
            was_admitted: false,
            computes_all: false,
            usage: Usage { prompt_tokens: num_prompt_tokens, ..Usage::default() },
            slot: None,
        });
        self.by_id.insert(id, index);
        self.enqueue(index);
        self.set_check_time(index, self.check_time(index));
        Ok(())
    }

    /// Ends a request on its client's wish. One that has ended already is none of the scheduler's business any more.
    pub fn cancel(&mut self, id: RequestId, updates: &mut Vec<Update>) {
        if let Some(&index) = self.by_id.get(&id) {
            self.end(index, FinishReason::Cancelled, updates);
        }
    }

    /// Ends every request, with the same reason. Steps in flight still have to be completed or failed.
    pub fn end_all(&mut self, reason: &FinishReason, updates: &mut Vec<Update>) {
        while let Some((_, &index)) = self.by_id.first_key_value() {
            self.end(index, reason.clone(), updates);
        }
    }

    /// Forgets all cached prefixes. Running requests keep what they hold.
    pub fn clear_prefix_cache(&mut self) {
        self.kv.clear_prefix_cache();
    }

    /// Requests that have not ended.
    #[must_use]
    pub fn num_requests(&self) -> usize {
        self.by_id.len()
    }

    /// Requests that hold no slot and no block.
    #[must_use]
    pub fn num_waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Requests that hold a slot and blocks.
    #[must_use]
    pub fn num_running(&self) -> usize {
        self.running.len()
    }

    /// Where the pool's blocks are.
    #[must_use]
    pub fn block_usage(&self) -> BlockUsage {
        self.kv.usage()
    }

    /// Running totals.
    #[must_use]
    pub fn stats(&self) -> &SchedulerStats {
        &self.stats
    }

    /// Panics with a description if the scheduler or the pool below it contradicts itself. For tests and simulation:
    /// takes time in proportion to everything there is.
    pub fn check_invariants(&self) {
        self.kv.check_invariants();
        assert_eq!(self.by_id.len(), self.waiting.len() + self.running.len(), "a request is waiting or running");
        self.running.check_invariants();
        for slot in self.running.slots() {
            let running = &self.running[slot];
            let request = &self.requests[running.request];
            let id = request.id;
            assert_eq!(request.slot, Some(slot), "request {id} knows its slot");
            assert_eq!(running.num_tokens, request.num_tokens(), "tokens of request {id}");
            assert_eq!(Some(&running.last_token), request.tokens().last(), "the last token of request {id}");
            let capacity = running.num_blocks() * self.config.block_size;
            assert!(running.num_computed <= running.num_planned, "request {id} is computed ahead of plan");
            assert!(running.num_planned <= capacity, "request {id} was planned beyond its blocks");
            let num_tokens = running.num_tokens + running.num_pending;
            assert!(running.num_planned < num_tokens, "request {id} has nothing left to compute");
            assert!(num_tokens <= running.max_len, "request {id} is too long");
        }
        for index in self.waiting.iter() {
            assert!(self.requests[index].slot.is_none(), "a waiting request holds nothing");
        }
    }

    /// Sends a running request back to the queue; it will be computed again.
    pub(crate) fn preempt(&mut self, slot: RowSlot) {
        let index = self.release(slot);
        let request = &mut self.requests[index];
        request.usage.preemptions += 1;
        self.stats.preemptions += 1;
        self.enqueue(index);
    }

    /// Puts a request that holds nothing at its place in the queue.
    fn enqueue(&mut self, index: RequestIndex) {
        let urgency = self.urgency(index);
        let request = &self.requests[index];
        self.waiting.insert(request.class, request.arrival, urgency, index);
    }

    /// The one way out.
    pub(crate) fn end(&mut self, index: RequestIndex, reason: FinishReason, updates: &mut Vec<Update>) {
        match self.requests[index].slot {
            Some(slot) => {
                self.release(slot);
                self.num_spare_blocks = self.num_spare_blocks.saturating_sub(1).max(1);
            }
            None => {
                let request = &self.requests[index];
                self.waiting.remove(request.class, request.arrival);
            }
        }
        let request = self.requests.remove(index);
        self.by_id.remove(&request.id);
        if matches!(reason, FinishReason::StopToken(_) | FinishReason::Length) {
            self.output_lengths.observe(request.usage.output_tokens, request.max_output_tokens());
        }
        if let Some(check_at) = request.check_at {
            self.deadlines.remove(&(check_at, request.id));
        }
        self.stats.finished_requests += 1;
        updates.push(Update::Finished { id: request.id, reason, usage: request.usage });
    }

    /// Takes back a slot and the blocks of its owner. A step in flight may still read and write the blocks, so they become
    /// free only with it. The slot may be given away at once: the executor opens slots in launch order.
    fn release(&mut self, slot: RowSlot) -> RequestIndex {
        let running = self.running.remove(slot);
        self.requests[running.request].slot = None;
        let after = running.last_step.filter(|&step| Some(step) > self.last_retired);
        self.kv.release(running.table, after.map(kv_step));
        running.request
    }
}

/// The pool counts steps with a type of its own, so that it can be used alone.
pub(crate) fn kv_step(step: StepId) -> kv_paging::StepId {
    kv_paging::StepId(step.0)
}
