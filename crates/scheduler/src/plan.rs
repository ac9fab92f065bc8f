//! Chooses the rows of one step. The order and the reasons are in the crate's introduction. Knows no results.

use serving_types::{Batch, BlockId, OpenSlot, RequestId, Row, RowInput, Score, StepId};

use crate::Scheduler;
use crate::request::{RequestIndex, Running};
use crate::scheduler::kv_step;

/// What a plan came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Planned {
    /// The batch has rows: launch it, and report what became of it.
    Batch,
    /// Nothing can run until a step in flight is completed or a request comes. The step's number is unused.
    Idle,
}

/// What the scheduler remembers of a step until its results come.
#[derive(Debug)]
pub(crate) struct PlannedStep {
    pub(crate) step: StepId,
    pub(crate) rows: Vec<PlannedRow>,
}

/// One row of a planned step.
#[derive(Debug)]
pub(crate) struct PlannedRow {
    pub(crate) request: RequestIndex,
    pub(crate) id: RequestId,
    pub(crate) attempt: u32,
    /// The position after the row's last.
    pub(crate) end: u32,
    pub(crate) num_scored: u32,
    pub(crate) samples: bool,
}

/// A plan in the making.
struct Plan<'a> {
    step: StepId,
    batch: &'a mut Batch,
    rows: Vec<PlannedRow>,
    budget_tokens: u32,
    /// Blocks that running requests will need for tokens they already have.
    owed_blocks: u32,
    /// Some running request did not get what it could have used, so no new one may come.
    short_of_blocks: bool,
}

impl Scheduler {
    /// Plans a step: fills the batch with rows whose blocks exist.
    ///
    /// # Panics
    /// If step numbers do not rise.
    pub fn plan(&mut self, step: StepId, batch: &mut Batch) -> Planned {
        assert!(Some(step) > self.last_planned, "step {step} was planned already");
        batch.reset(step);
        let rows = self.spare_rows.pop().unwrap_or_default();
        let budget_tokens = self.config.max_batch_tokens;
        let mut plan = Plan { step, batch, rows, budget_tokens, owed_blocks: 0, short_of_blocks: false };
        self.plan_decodes(&mut plan);
        self.plan_chunks(&mut plan);
        if !plan.short_of_blocks {
            self.plan_admissions(&mut plan);
        }
        self.stats.planned_tokens += u64::from(self.config.max_batch_tokens - plan.budget_tokens);
        if plan.rows.is_empty() {
            self.spare_rows.push(plan.rows);
            return Planned::Idle;
        }
        self.in_flight.push_back(PlannedStep { step, rows: plan.rows });
        self.last_planned = Some(step);
        Planned::Batch
    }

    /// Rows of running requests that miss one token, in admission order.
    fn plan_decodes(&mut self, plan: &mut Plan<'_>) {
        let mut place = 0;
        // Preemption shortens the list behind `place` only.
        while place < self.running.len() && plan.budget_tokens > 0 {
            let index = self.running[place];
            let request = &self.requests[index];
            let running = request.running.as_ref().expect("the request is in the running list");
            let is_decode = running.num_planned + 1 == request.num_tokens() + running.num_pending;
            // With a sample in flight the row's input is that very sample. The device holds it for one step only, and the
            // request may end with it.
            let is_ready = running.num_pending == 0
                || (running.last_step.is_some_and(|last| last.0 + 1 == plan.step.0)
                    && request.num_tokens() + running.num_pending < request.max_len);
            if is_decode && is_ready {
                let end = running.num_planned + 1;
                let num_blocks = running.table.blocks().len();
                if self.take_blocks(place, end, plan) {
                    self.push_row(index, end, num_blocks, plan);
                } else {
                    plan.short_of_blocks = true;
                }
            }
            place += 1;
        }
    }

    /// Rows of running requests that miss more than one token: as many as budget and pool allow.
    fn plan_chunks(&mut self, plan: &mut Plan<'_>) {
        let mut place = 0;
        while place < self.running.len() {
            let index = self.running[place];
            place += 1;
            let request = &mut self.requests[index];
            let num_tokens = request.num_tokens();
            let running = request.expect_running();
            if running.num_planned + 1 >= num_tokens {
                continue;
            }
            if plan.budget_tokens > 0 {
                let num_blocks = running.table.blocks().len();
                let (start, block_size) = (running.num_planned, self.config.block_size);
                let wanted = chunk_end(start, num_tokens, plan.budget_tokens, block_size);
                if self.take_blocks(place - 1, wanted, plan) {
                    self.push_row(index, wanted, num_blocks, plan);
                } else {
                    plan.short_of_blocks = true;
                    // Less than wanted is better than nothing.
                    let fits = (num_blocks as u32 + self.kv.num_free()).saturating_mul(block_size).min(wanted);
                    if fits > start && self.kv.grow(&mut self.requests[index].expect_running().table, fits).is_ok() {
                        self.push_row(index, fits, num_blocks, plan);
                    }
                }
            }
            let num_blocks = self.requests[index].expect_running().table.blocks().len() as u32;
            plan.owed_blocks += self.config.blocks_for(num_tokens).saturating_sub(num_blocks);
        }
    }

    /// Admits waiting requests, first come first served, while budget, slots and blocks last.
    fn plan_admissions(&mut self, plan: &mut Plan<'_>) {
        while plan.budget_tokens > 0 && self.running.len() < self.config.max_batch_rows as usize {
            let Some((&arrival, &index)) = self.waiting.first_key_value() else { break };
            let request = &mut self.requests[index];
            let num_tokens = request.num_tokens();
            let admission = self.kv.admit(&request.keys, request.matchable_tokens());
            let (mut table, num_cached) = (admission.table, admission.num_cached_tokens);
            let needed_blocks = self.config.blocks_for(num_tokens) - table.blocks().len() as u32;
            // All its known tokens must fit beside what running requests still need for theirs, with a block to grow into
            // for each of them: otherwise it would be admitted only to be preempted.
            let reserved_blocks = plan.owed_blocks + self.running.len() as u32;
            let end = chunk_end(num_cached, num_tokens, plan.budget_tokens, self.config.block_size);
            if needed_blocks + reserved_blocks > self.kv.num_free() || self.kv.grow(&mut table, end).is_err() {
                self.kv.release(table, None);
                break;
            }
            self.stats.prefix_query_tokens += u64::from(num_tokens);
            self.stats.prefix_hit_tokens += u64::from(num_cached);
            if !request.was_admitted {
                request.was_admitted = true;
                request.usage.cached_tokens = num_cached;
            }
            self.waiting.remove(&arrival);
            self.running.push(index);
            let slot = self.free_slots.pop().expect("there are as many slots as running requests may be");
            plan.owed_blocks += self.config.blocks_for(num_tokens) - table.blocks().len() as u32;
            request.running = Some(Running {
                slot,
                table,
                num_planned: num_cached,
                num_computed: num_cached,
                num_promised: num_cached,
                num_pending: 0,
                last_step: None,
            });
            self.push_open(index, plan);
            self.push_row(index, end, 0, plan);
        }
    }

    /// Grows the table of the request at `place` to `end` tokens, at the cost of requests admitted later that have no row
    /// in this plan. False if it has to sit this step out.
    fn take_blocks(&mut self, place: usize, end: u32, plan: &mut Plan<'_>) -> bool {
        let index = self.running[place];
        loop {
            if self.kv.grow(&mut self.requests[index].expect_running().table, end).is_ok() {
                return true;
            }
            // Blocks on their way back may be enough; whoever is preempted now would not bring any sooner.
            if self.kv.usage().in_transit > 0 {
                return false;
            }
            let has_row = |later: RequestIndex| {
                self.requests[later].running.as_ref().is_some_and(|running| running.last_step == Some(plan.step))
            };
            let mut later = self.running[place + 1..].iter().rev().copied();
            let Some(youngest) = later.find(|&later| !has_row(later)) else { return false };
            self.preempt(youngest);
            plan.short_of_blocks = true;
        }
    }

    /// Hands the request's slot to it.
    fn push_open(&mut self, index: RequestIndex, plan: &mut Plan<'_>) {
        let request = &mut self.requests[index];
        let history_start = plan.batch.tokens.len() as u32;
        if request.sampling.has_penalties() {
            plan.batch.tokens.extend_from_slice(request.tokens());
        }
        plan.batch.opens.push(OpenSlot {
            slot: request.expect_running().slot,
            sampling: request.sampling.clone(),
            num_prompt_tokens: request.num_prompt_tokens(),
            history: history_start..plan.batch.tokens.len() as u32,
        });
    }

    /// Adds the row that computes a request's positions up to `end`. Its table covers them already; the blocks from
    /// `first_new_block` on are new to the executor.
    fn push_row(&mut self, index: RequestIndex, end: u32, first_new_block: usize, plan: &mut Plan<'_>) {
        let request = &mut self.requests[index];
        let (num_tokens, num_to_score) = (request.num_tokens(), request.num_to_score());
        let running = request.running.as_mut().expect("the request is in the running list");
        let start = running.num_planned;
        let batch = &mut *plan.batch;

        let input = if start < num_tokens {
            push_range(&mut batch.tokens, request.keys.tokens()[start as usize..end as usize].iter().copied())
        } else {
            None
        };
        let new_blocks = running.table.blocks()[first_new_block..].iter().map(|block| BlockId(block.index()));
        let new_blocks = push_range(&mut batch.blocks, new_blocks).unwrap_or(0..0);

        // Not again those that were scored before a preemption.
        let (score_start, score_end) = (start.max(request.num_scored), end.min(num_to_score));
        let score = (score_start < score_end).then(|| {
            let targets = request.keys.tokens()[score_start as usize + 1..=score_end as usize].iter().copied();
            Score {
                first: score_start - start,
                targets: push_range(&mut batch.tokens, targets).unwrap_or(0..0),
                num_top: request.sampling.prompt_logprobs.unwrap_or(0),
            }
        });

        let samples = end == num_tokens + running.num_pending;
        plan.rows.push(PlannedRow {
            request: index,
            id: request.id,
            attempt: request.attempt,
            end,
            num_scored: score_end.saturating_sub(score_start),
            samples,
        });
        batch.rows.push(Row {
            slot: running.slot,
            start,
            input: input.map_or(RowInput::LastSampled, RowInput::Tokens),
            new_blocks,
            score,
            sample: samples,
        });
        plan.budget_tokens -= end - start;
        running.num_planned = end;
        running.num_pending += u32::from(samples);
        running.last_step = Some(plan.step);

        let num_shareable = num_shareable(running, start, end.min(num_tokens)) / self.config.block_size;
        if num_shareable * self.config.block_size > running.num_promised {
            running.num_promised = num_shareable * self.config.block_size;
            self.kv.promise(&running.table, &request.keys, running.num_promised, kv_step(plan.step));
        }
    }
}

/// Where a chunk from `start` ends: at the last known token, or as far as the budget goes. In the latter case at a block's
/// border if it passes one, so that no block waits for the next chunk before it can be shared.
fn chunk_end(start: u32, num_tokens: u32, budget_tokens: u32, block_size: u32) -> u32 {
    let end = start.saturating_add(budget_tokens);
    if end >= num_tokens {
        return num_tokens;
    }
    let border = end - end % block_size;
    if border > start { border } else { end }
}

/// How many positions may be promised with the step that computes `start..end` of them.
///
/// A promise is withdrawn if its step fails, or if the block before it is withdrawn. So a block may hold what this step
/// computes and what is computed for certain, and nothing else: with another step in flight that could fail alone, only
/// blocks that it does not touch.
///
/// ```text
/// [ num_computed )[ in flight: start )[ this row: end )
///                  ^ promised with its own step as far as it fills whole blocks; the rest waits until it is computed
/// ```
fn num_shareable(running: &Running, start: u32, end: u32) -> u32 {
    if running.num_computed == start || running.num_promised == start { end } else { running.num_computed }
}

/// Appends items to an arena and names where they are; `None` if there were none.
fn push_range<T>(arena: &mut Vec<T>, items: impl Iterator<Item = T>) -> Option<core::ops::Range<u32>> {
    let start = arena.len() as u32;
    arena.extend(items);
    let end = arena.len() as u32;
    (start < end).then_some(start..end)
}
