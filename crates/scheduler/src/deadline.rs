//! Ends requests whose deadline passed or cannot be met any more, so that no step is spent on an answer that comes too late.
//!
//! Each request with a deadline has an entry under the time at which it would be lost if nothing of it was computed until
//! then: its deadline less the time that the rest of its work takes, by the measured costs of steps. When that time comes
//! it is looked at again, and ended or entered under a later time. So a step looks at those entries only whose time has
//! come, however many wait.

use std::time::Duration;

use serving_types::{FinishReason, Timestamp};

use crate::queue::Urgency;
use crate::request::RequestIndex;
use crate::{Scheduler, Update};

/// A request is begun only if it has this many times the time that it needs: what it shares its steps with is not known
/// yet, and an answer that is given up half-way has cost what another one would have needed.
const START_MARGIN: u32 = 2;

impl Scheduler {
    /// Ends every request whose deadline is not after `now`, or cannot be met by what steps cost lately.
    pub fn expire(&mut self, now: Timestamp, updates: &mut Vec<Update>) {
        while let Some(&(check_at, id)) = self.deadlines.first() {
            if check_at > now {
                break;
            }
            let index = self.by_id[&id];
            match self.check_time(index) {
                // An idle engine begins whatever there is any time for: if nothing ran, costs that were too high once would
                // never be measured again.
                Some(check_at)
                    if check_at <= now && self.running.len() == 0 && self.next_deadline(index) > Some(now) =>
                {
                    self.set_check_time(index, self.next_deadline(index));
                }
                Some(check_at) if check_at <= now => self.end(index, FinishReason::Deadline, updates),
                check_at => self.set_check_time(index, check_at),
            }
        }
    }

    /// Tells how long the step took that was completed last; at most once a step.
    pub fn observe_step(&mut self, took: Duration) {
        if let Some((step, shape)) = self.last_completed.take() {
            self.cost.observe(step, shape, self.fetched_through, took);
        }
    }

    /// How long a waiting request can wait, and what it would cost to begin it as of now.
    pub(crate) fn urgency(&self, index: RequestIndex) -> Urgency {
        match self.first_token_deadline(index) {
            Some(_) => Urgency::Hurried { num_new_blocks: self.config.blocks_for(self.num_uncached_tokens(index)) },
            None => Urgency::Patient,
        }
    }

    /// When a request has to be looked at, as of now: the latest time at which it can still meet its deadlines.
    pub(crate) fn check_time(&self, index: RequestIndex) -> Option<Timestamp> {
        self.next_deadline(index)?;
        let request = &self.requests[index];
        let to_next_token = self.time_to_next_token(index);
        // It may stop as soon as it is allowed to.
        let num_more = request.sampling.min_tokens.saturating_sub(request.usage.output_tokens + 1);
        let to_end = to_next_token.saturating_add(self.cost.estimate(0, num_more));
        let before = |deadline: Option<Timestamp>, needed: Duration| deadline.map(|at| at.before(needed));
        before(self.first_token_deadline(index), to_next_token)
            .into_iter()
            .chain(before(request.deadline, to_end))
            .min()
    }

    /// The first deadline that is not met yet.
    fn next_deadline(&self, index: RequestIndex) -> Option<Timestamp> {
        self.first_token_deadline(index).into_iter().chain(self.requests[index].deadline).min()
    }

    /// The first token is out as soon as there is one, and then this deadline is met.
    fn first_token_deadline(&self, index: RequestIndex) -> Option<Timestamp> {
        let request = &self.requests[index];
        request.first_token_deadline.filter(|_| request.usage.output_tokens == 0)
    }

    /// The least time until a request's next token if it is computed from now on.
    fn time_to_next_token(&self, index: RequestIndex) -> Duration {
        let request = &self.requests[index];
        match request.slot {
            Some(slot) => {
                let running = &self.running[slot];
                let num_prefill_tokens = running.num_unplanned().unwrap_or(0);
                self.cost.estimate(num_prefill_tokens.into(), u32::from(num_prefill_tokens == 0))
            }
            None => {
                // Prompts under way go first.
                let num_prefill_tokens = u64::from(self.num_uncached_tokens(index)) + self.num_backlog_tokens;
                self.cost.estimate(num_prefill_tokens, 1).saturating_mul(START_MARGIN)
            }
        }
    }

    /// Known tokens of a waiting request that would have to be computed.
    fn num_uncached_tokens(&self, index: RequestIndex) -> u32 {
        let request = &self.requests[index];
        request.num_tokens() - self.kv.matched_tokens(&request.keys, request.matchable_tokens())
    }

    /// Moves a request's entry.
    pub(crate) fn set_check_time(&mut self, index: RequestIndex, check_at: Option<Timestamp>) {
        let request = &mut self.requests[index];
        if let Some(before) = request.check_at.take() {
            self.deadlines.remove(&(before, request.id));
        }
        request.check_at = check_at;
        if let Some(check_at) = check_at {
            self.deadlines.insert((check_at, request.id));
        }
    }
}
