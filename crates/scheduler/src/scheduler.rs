//! The scheduler's state and how requests enter and leave it. How a batch is chosen is in `plan`, what its results do in
//! `complete`. Knows no clock.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use kv_paging::{KvCache, KvCacheConfig, Usage as BlockUsage};
use serving_types::{FinishReason, RequestId, RowSlot, StepId, Timestamp, Usage};

use crate::plan::{PlannedRow, PlannedStep};
use crate::request::{Request, RequestIndex, RequestSlab};
use crate::{ConfigError, NewRequest, Refusal, SchedulerConfig, Update};

/// Decides what each step computes and owns every block while it is in use.
#[derive(Debug)]
pub struct Scheduler {
    pub(crate) config: SchedulerConfig,
    pub(crate) kv: KvCache,
    pub(crate) requests: RequestSlab,
    by_id: BTreeMap<RequestId, RequestIndex>,
    /// By arrival, so that a preempted request comes before all that arrived after it.
    pub(crate) waiting: BTreeMap<u64, RequestIndex>,
    /// In the order of admission.
    pub(crate) running: Vec<RequestIndex>,
    deadlines: BTreeSet<(Timestamp, RequestId)>,
    pub(crate) free_slots: Vec<RowSlot>,
    /// Planned and not yet completed or failed, oldest first.
    pub(crate) in_flight: VecDeque<PlannedStep>,
    /// Emptied row lists of past steps, for reuse.
    pub(crate) spare_rows: Vec<Vec<PlannedRow>>,
    pub(crate) last_planned: Option<StepId>,
    pub(crate) last_retired: Option<StepId>,
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
            ..KvCacheConfig::new(config.num_blocks, config.block_size)
        })
        .map_err(ConfigError::KvCache)?;
        Ok(Self {
            config,
            kv,
            requests: RequestSlab::default(),
            by_id: BTreeMap::new(),
            waiting: BTreeMap::new(),
            running: Vec::with_capacity(config.max_batch_rows as usize),
            deadlines: BTreeSet::new(),
            free_slots: (0..config.max_batch_rows).rev().map(RowSlot).collect(),
            in_flight: VecDeque::new(),
            spare_rows: Vec::new(),
            last_planned: None,
            last_retired: None,
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
        let NewRequest { id, prompt, sampling, deadline } = request;
        assert!(!self.by_id.contains_key(&id), "request {id} is here already");
        assert_eq!(prompt.block_size(), self.config.block_size, "the prefix keys of request {id} are of another pool");
        self.config.check(prompt.num_tokens(), &sampling)?;
        if self.waiting.len() >= self.config.max_waiting {
            return Err(Refusal::QueueFull { max_waiting: self.config.max_waiting });
        }
        let arrival = self.next_arrival;
        self.next_arrival += 1;
        let num_prompt_tokens = prompt.num_tokens();
        let index = self.requests.insert(Request {
            id,
            arrival,
            max_len: self.config.max_len(num_prompt_tokens, &sampling),
            sampling,
            deadline,
            keys: prompt,
            num_scored: 0,
            attempt: 0,
            was_admitted: false,
            usage: Usage { prompt_tokens: num_prompt_tokens, ..Usage::default() },
            running: None,
        });
        self.by_id.insert(id, index);
        self.waiting.insert(arrival, index);
        if let Some(deadline) = deadline {
            self.deadlines.insert((deadline, id));
        }
        Ok(())
    }

    /// Ends a request on its client's wish. One that has ended already is none of the scheduler's business any more.
    pub fn cancel(&mut self, id: RequestId, updates: &mut Vec<Update>) {
        if let Some(&index) = self.by_id.get(&id) {
            self.end(index, FinishReason::Cancelled, updates);
        }
    }

    /// Ends every request whose deadline is not after `now`.
    pub fn expire(&mut self, now: Timestamp, updates: &mut Vec<Update>) {
        while let Some(&(deadline, id)) = self.deadlines.first() {
            if deadline > now {
                break;
            }
            self.end(self.by_id[&id], FinishReason::Deadline, updates);
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
        let mut slots = BTreeSet::new();
        for &index in &self.running {
            let request = &self.requests[index];
            let running = request.running.as_ref().expect("a running request holds a slot");
            assert!(slots.insert(running.slot), "slot {} has two owners", running.slot);
            let capacity = running.table.blocks().len() as u32 * self.config.block_size;
            assert!(running.num_computed <= running.num_planned, "request {} is computed ahead of plan", request.id);
            assert!(running.num_planned <= capacity, "request {} was planned beyond its blocks", request.id);
            assert!(
                running.num_planned < request.num_tokens() + running.num_pending,
                "request {} has nothing left to compute",
                request.id
            );
            assert!(
                request.num_tokens() + running.num_pending <= request.max_len,
                "request {} is too long",
                request.id
            );
        }
        for &index in self.waiting.values() {
            assert!(self.requests[index].running.is_none(), "a waiting request holds nothing");
        }
        assert_eq!(slots.len() + self.free_slots.len(), self.config.max_batch_rows as usize, "a slot was lost");
        assert!(self.free_slots.iter().all(|slot| !slots.contains(slot)), "a free slot has an owner");
    }

    /// Sends a running request back to the queue; it will be computed again.
    pub(crate) fn preempt(&mut self, index: RequestIndex) {
        self.release(index);
        let request = &mut self.requests[index];
        request.attempt += 1;
        request.usage.preemptions += 1;
        self.stats.preemptions += 1;
        self.waiting.insert(request.arrival, index);
    }

    /// The one way out.
    pub(crate) fn end(&mut self, index: RequestIndex, reason: FinishReason, updates: &mut Vec<Update>) {
        if self.requests[index].running.is_some() {
            self.release(index);
        } else {
            self.waiting.remove(&self.requests[index].arrival).expect("a request is waiting or running");
        }
        let request = self.requests.remove(index);
        self.by_id.remove(&request.id);
        if let Some(deadline) = request.deadline {
            self.deadlines.remove(&(deadline, request.id));
        }
        self.stats.finished_requests += 1;
        updates.push(Update::Finished { id: request.id, reason, usage: request.usage });
    }

    /// Takes back the slot and the blocks of a running request. A step in flight may still read and write the blocks, so
    /// they become free only with it. The slot may be given away at once: the executor opens slots in launch order.
    fn release(&mut self, index: RequestIndex) {
        let running = self.requests[index].running.take().expect("the request is running");
        let place = self.running.iter().position(|&other| other == index).expect("the request is in the running list");
        self.running.remove(place);
        self.free_slots.push(running.slot);
        let after = running.last_step.filter(|&step| Some(step) > self.last_retired);
        self.kv.release(running.table, after.map(kv_step));
    }
}

/// The pool counts steps with a type of its own, so that it can be used alone.
pub(crate) fn kv_step(step: StepId) -> kv_paging::StepId {
    kv_paging::StepId(step.0)
}
