//! Chooses the rows of one step. The order and the reasons are in the crate's introduction. Knows no results.

use core::cmp::Reverse;
use core::ops::{Range, RangeInclusive};

use kv_paging::{BlockTable, TierCopy};
use serving_types::{Batch, BlockId, HostBlockId, HostCopy, OpenSlot, Row, RowInput, RowSlot, StepId, TokenId};

use crate::Scheduler;
use crate::cost::StepShape;
use crate::forecast::Growing;
use crate::request::RequestIndex;
use crate::running::Running;
use crate::scheduler::kv_step;

/// Most blocks that an admission leaves for each running request to grow into.
const MAX_SPARE_BLOCKS: u32 = 8;

/// What a plan came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Planned {
    /// Launch the batch, and report what became of it. It has rows, or copies to start or to wait for.
    Batch,
    /// Nothing can run until a step in flight is completed or a request comes. The step's number is unused.
    Idle,
}

/// What the scheduler remembers of a step until its results come.
#[derive(Debug)]
pub(crate) struct PlannedStep {
    pub(crate) step: StepId,
    pub(crate) rows: Vec<PlannedRow>,
    pub(crate) shape: StepShape,
}

/// One row of a planned step.
#[derive(Debug)]
pub(crate) struct PlannedRow {
    pub(crate) slot: RowSlot,
    /// Tells the row's request from a later owner of the slot.
    pub(crate) admission: u64,
    /// The first block of the request's table.
    pub(crate) first_block: kv_paging::BlockId,
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
    shape: StepShape,
    budget_tokens: u32,
    /// Running requests that miss more than one token, as of before this step's chunks.
    num_prefills: u32,
    /// Blocks that running requests will need for tokens they already have.
    owed_blocks: u32,
    /// Some running request did not get what it could have used, so no new one may come.
    short_of_blocks: bool,
    /// Some running request waits for copies from the host.
    awaits_copies: bool,
    /// The forecast is of this plan's running requests.
    has_forecast: bool,
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
        let shape = StepShape::default();
        let mut plan = Plan {
            step,
            batch,
            rows,
            shape,
            budget_tokens,
            num_prefills: 0,
            owed_blocks: 0,
            short_of_blocks: false,
            awaits_copies: false,
            has_forecast: false,
        };
        self.num_backlog_tokens = 0;
        self.plan_decodes(&mut plan);
        if plan.shape.num_decodes > 0 {
            plan.budget_tokens = plan.budget_tokens.min(self.config.max_mixed_prefill_tokens);
        }
        let max_short_tokens = if self.waiting.len() > 0 { plan.budget_tokens } else { u32::MAX };
        let held_tokens = self.hold_for_long_prompts(max_short_tokens, &mut plan);
        self.plan_chunks(0..=max_short_tokens, &mut plan);
        if !plan.short_of_blocks {
            self.plan_admissions(&mut plan);
        }
        if held_tokens > 0 {
            plan.budget_tokens += held_tokens;
            self.plan_chunks(max_short_tokens + 1..=u32::MAX, &mut plan);
        }
        self.stats.planned_tokens += u64::from(plan.shape.num_decodes + plan.shape.num_prefill_tokens);
        // A step without rows starts copies. Another one waits for them, if there is nothing else to wait for.
        let is_of_use = !plan.batch.host_copies.is_empty() || (plan.awaits_copies && self.in_flight.is_empty());
        if plan.rows.is_empty() && !is_of_use {
            self.spare_rows.push(plan.rows);
            return Planned::Idle;
        }
        self.plan_offloads(&mut plan);
        self.in_flight.push_back(PlannedStep { step, rows: plan.rows, shape: plan.shape });
        self.last_planned = Some(step);
        Planned::Batch
    }

    /// Rows of running requests that miss one token, in admission order. Counts those that miss more, and what those will
    /// need that wait for copies.
    fn plan_decodes(&mut self, plan: &mut Plan<'_>) {
        let mut place = 0;
        // Preemption shortens the list behind `place` only.
        while place < self.running.len() {
            let slot = self.running.slot_at(place);
            let running = &self.running[slot];
            if running.awaits_copies(self.fetched_through) {
                plan.awaits_copies = true;
                plan.owed_blocks += self.config.blocks_for(running.num_tokens) - running.num_blocks();
                self.num_backlog_tokens += u64::from(running.num_unplanned().unwrap_or(0));
                place += 1;
                continue;
            }
            plan.num_prefills += u32::from(running.num_unplanned().is_some());
            if plan.budget_tokens > 0 && running.is_decoding() && running.has_input(plan.step) {
                let (end, num_blocks) = (running.num_planned + 1, running.num_blocks());
                if self.take_blocks(place, end, plan) {
                    self.push_row(slot, end, num_blocks, plan);
                } else {
                    plan.short_of_blocks = true;
                }
            }
            place += 1;
        }
    }

    /// Takes half of the budget aside for prompts under way of which more is left than `max_short_tokens`, if there are any,
    /// and reserves their blocks. They get their chunks after everybody else: at least that half, and whatever is left.
    fn hold_for_long_prompts(&self, max_short_tokens: u32, plan: &mut Plan<'_>) -> u32 {
        if max_short_tokens == u32::MAX || plan.budget_tokens == 0 || plan.num_prefills == 0 {
            return 0;
        }
        let mut num_long = 0;
        for slot in self.running.slots() {
            let running = &self.running[slot];
            if self.prefill_of(running).is_some_and(|num_tokens| num_tokens > max_short_tokens) {
                num_long += 1;
                plan.owed_blocks += self.config.blocks_for(running.num_tokens).saturating_sub(running.num_blocks());
            }
        }
        let held_tokens = if num_long > 0 { plan.budget_tokens.div_ceil(2) } else { 0 };
        plan.budget_tokens -= held_tokens;
        held_tokens
    }

    /// Tokens that a running request misses, if these are two or more and it waits for no copies.
    fn prefill_of(&self, running: &Running) -> Option<u32> {
        running.num_unplanned().filter(|_| !running.awaits_copies(self.fetched_through))
    }

    /// Rows of running requests that miss more than one token, and a number of them in `lengths`: as many as budget and
    /// pool allow.
    fn plan_chunks(&mut self, lengths: RangeInclusive<u32>, plan: &mut Plan<'_>) {
        if plan.num_prefills == 0 {
            // Most steps of a busy engine: another pass over all that runs would cost as much as the rows themselves.
            return;
        }
        let mut place = 0;
        while place < self.running.len() {
            let slot = self.running.slot_at(place);
            let running = &self.running[slot];
            let (start, num_tokens, num_blocks) = (running.num_planned, running.num_tokens, running.num_blocks());
            let is_due = self.prefill_of(running).is_some_and(|num_tokens| lengths.contains(&num_tokens));
            // Whoever was just admitted has its row.
            if is_due && running.last_step != Some(plan.step) {
                let block_size = self.config.block_size;
                let wanted = chunk_end(start, num_tokens, plan.budget_tokens, block_size);
                if wanted == start {
                    // The budget is used up.
                } else if self.take_blocks(place, wanted, plan) {
                    self.push_row(slot, wanted, num_blocks, plan);
                } else {
                    plan.short_of_blocks = true;
                    // Less than wanted is better than nothing.
                    let fits = (num_blocks + self.kv.num_free()).saturating_mul(block_size).min(wanted);
                    if fits > start && self.kv.grow(&mut self.running[slot].table, fits).is_ok() {
                        self.push_row(slot, fits, num_blocks, plan);
                    }
                }
                let running = &self.running[slot];
                plan.owed_blocks += self.config.blocks_for(num_tokens).saturating_sub(running.num_blocks());
                self.num_backlog_tokens += u64::from(running.num_unplanned().unwrap_or(0));
            }
            place += 1;
        }
    }

    /// Admits waiting requests in the queue's order while budget, slots and blocks last. Copies have a budget of their own, so
    /// that those who come first need not wait for the copies of all who come with them.
    fn plan_admissions(&mut self, plan: &mut Plan<'_>) {
        while plan.budget_tokens > 0
            && plan.shape.num_fetched_blocks < self.max_copied_blocks()
            && !self.running.is_full()
        {
            let Some(index) = self.waiting.first() else { break };
            // All its known tokens must fit beside what running requests still need for theirs, with room for all of them
            // to grow: otherwise it would be admitted only for somebody to be preempted.
            let reserved_blocks = plan.owed_blocks + self.running.len() as u32 * self.num_spare_blocks;
            let (class, arrival) = (self.requests[index].class, self.requests[index].arrival);
            let attempt = Attempt { arrival, reserved_blocks, num_free_blocks: self.kv.num_free() };
            if self.last_failed.is_some_and(|failed| failed.foretells(&attempt)) {
                break;
            }
            let request = &self.requests[index];
            let num_tokens = request.num_tokens();
            let admission = self.kv.admit(&request.keys, request.matchable_tokens());
            let (mut table, mut num_cached) = (admission.table, admission.num_cached_tokens);
            let needed_blocks = self.config.blocks_for(num_tokens) - table.blocks().len() as u32;
            let gain = self.output_lengths.expected_gain(request.usage.output_tokens, request.max_output_tokens());
            let growing = Growing { gain, num_blocks: needed_blocks };
            if needed_blocks + reserved_blocks > self.kv.num_free() || !self.will_fit(growing, plan) {
                self.kv.release(table, None);
                self.last_failed = Some(attempt);
                break;
            }
            self.last_failed = None;
            if plan.has_forecast {
                self.forecast.insert(growing);
            }
            num_cached += self.fetch(index, &mut table, plan);
            let fetched_by = self.fetched_by(&table);
            let end = if fetched_by.is_some() {
                num_cached
            } else {
                chunk_end(num_cached, num_tokens, plan.budget_tokens, self.config.block_size)
            };
            self.kv.grow(&mut table, end).expect("there is room for all of its tokens");
            let request = &mut self.requests[index];
            self.stats.prefix_query_tokens += u64::from(num_tokens);
            self.stats.prefix_hit_tokens += u64::from(num_cached);
            if !request.was_admitted {
                request.was_admitted = true;
                request.usage.cached_tokens = num_cached;
                // Computing it again is not the tenant's fault.
                self.waiting.charge_prompt(class.tenant, num_tokens - num_cached);
            }
            plan.owed_blocks += self.config.blocks_for(num_tokens) - table.blocks().len() as u32;
            let mut running = Running::new(index, request, self.next_admission, table, num_cached);
            running.fetched_by = fetched_by;
            self.next_admission += 1;
            self.waiting.admit(class, arrival);
            let slot = self.running.insert(running);
            self.requests[index].slot = Some(slot);
            if fetched_by.is_some() {
                plan.awaits_copies = true;
            } else {
                self.push_row(slot, end, 0, plan);
            }
            self.num_backlog_tokens += u64::from(num_tokens - end);
        }
    }

    /// Whether all running requests and this one will find the blocks that they are expected to need.
    fn will_fit(&mut self, candidate: Growing, plan: &mut Plan<'_>) -> bool {
        if self.running.len() == 0 {
            return true;
        }
        if !plan.has_forecast {
            let Self { forecast, running, config, output_lengths, .. } = self;
            forecast.fill(running.slots().map(|slot| running[slot].growing(config, output_lengths)));
            plan.has_forecast = true;
        }
        let room = self.kv.num_free().saturating_sub(plan.owed_blocks + candidate.num_blocks);
        self.forecast.peak_growth(candidate, self.config.block_size) <= room
    }

    /// Continues the table of a request that is admitted with what the host holds of its tokens, unless they are computed
    /// more quickly than copied back. Returns their number.
    fn fetch(&mut self, index: RequestIndex, table: &mut BlockTable, plan: &mut Plan<'_>) -> u32 {
        let request = &self.requests[index];
        let tokens = request.matchable_tokens();
        if self.config.num_host_blocks == 0 {
            return 0;
        }
        let num_tokens = self.kv.matched_tokens(&request.keys, tokens) - table.num_tokens();
        if num_tokens == 0 || !self.cost.prefers_copies(num_tokens / self.config.block_size, num_tokens) {
            return 0;
        }
        let num_fetched = self.kv.fetch(table, &request.keys, tokens, kv_step(plan.step));
        self.stats.host_hit_tokens += u64::from(num_fetched);
        plan.shape.num_fetched_blocks += num_fetched / self.config.block_size;
        self.kv.drain_copies(|copy| {
            plan.batch.host_copies.push(host_copy(copy));
            if let TierCopy::Fetch { to, .. } = copy {
                self.fetching_steps[to.index() as usize] = Some(plan.step);
            }
        });
        num_fetched
    }

    /// The last of the steps whose copies fill blocks of this table and have not arrived, its own or those of others whom it
    /// matched.
    fn fetched_by(&self, table: &BlockTable) -> Option<StepId> {
        if self.config.num_host_blocks == 0 {
            return None;
        }
        let steps = table.blocks().iter().map(|block| self.fetching_steps[block.index() as usize]);
        steps.max().flatten().filter(|&step| Some(step) > self.fetched_through)
    }

    /// Copies to the host what earlier steps have filled, so that whoever loses its blocks loses no work.
    fn plan_offloads(&mut self, plan: &mut Plan<'_>) {
        if self.config.num_host_blocks == 0 {
            return;
        }
        self.kv.offload(self.max_copied_blocks(), kv_step(plan.step));
        self.kv.drain_copies(|copy| plan.batch.host_copies.push(host_copy(copy)));
    }

    /// Blocks that a step may copy to the host: as many as it can fill, so that none wait for long. With so many copied back
    /// it is the last one who comes with that step.
    fn max_copied_blocks(&self) -> u32 {
        self.config.max_batch_tokens.div_ceil(self.config.block_size) + self.config.max_batch_rows
    }

    /// Grows the table of the request at `place` to `end` tokens, at the cost of less entitled ones that have no row in this
    /// plan. False if it has to sit this step out.
    fn take_blocks(&mut self, place: usize, end: u32, plan: &mut Plan<'_>) -> bool {
        let slot = self.running.slot_at(place);
        loop {
            if self.kv.grow(&mut self.running[slot].table, end).is_ok() {
                return true;
            }
            // Blocks on their way back may be enough; whoever is preempted now would not bring any sooner.
            if self.kv.usage().in_transit > 0 {
                return false;
            }
            let Some(victim) = self.least_entitled(place, plan.step) else { return false };
            self.preempt(victim);
            self.num_spare_blocks = (2 * self.num_spare_blocks).min(MAX_SPARE_BLOCKS);
            plan.short_of_blocks = true;
        }
    }

    /// Who behind `place` loses its blocks first: of the lowest priority, not spared, of the tenant that was served most, the
    /// youngest; in this order. Nobody who has a row in this step.
    fn least_entitled(&self, place: usize, step: StepId) -> Option<RowSlot> {
        let entitlement = |slot: &RowSlot| {
            let running = &self.running[*slot];
            let service = self.waiting.service(running.class.tenant);
            (running.class.priority, running.is_spared(), Reverse(service), Reverse(running.admission))
        };
        let candidates = self.running.slots_behind(place);
        candidates.filter(|&slot| self.running[slot].last_step != Some(step)).min_by_key(entitlement)
    }

    /// Hands the request's slot to it.
    fn push_open(&mut self, slot: RowSlot, plan: &mut Plan<'_>) {
        let request = &self.requests[self.running[slot].request];
        let history_start = plan.batch.tokens.len() as u32;
        if request.sampling.has_penalties() {
            plan.batch.tokens.extend_from_slice(request.tokens());
        }
        plan.batch.opens.push(OpenSlot {
            slot,
            sampling: request.sampling.clone(),
            num_prompt_tokens: request.num_prompt_tokens(),
            history: history_start..plan.batch.tokens.len() as u32,
        });
    }

    /// Adds the row that computes a request's positions up to `end`. Its table covers them already; the blocks from
    /// `first_new_block` on are new to the executor, or all of them if this is the first row.
    fn push_row(&mut self, slot: RowSlot, end: u32, first_new_block: u32, plan: &mut Plan<'_>) {
        let is_first = self.running[slot].last_step.is_none();
        if is_first {
            self.push_open(slot, plan);
        }
        let first_new_block = if is_first { 0 } else { first_new_block };
        let running = &mut self.running[slot];
        let (start, num_tokens) = (running.num_planned, running.num_tokens);
        let batch = &mut *plan.batch;

        // A decode does not look at the request, which is somewhere else in memory.
        let input = if start >= num_tokens {
            RowInput::LastSampled
        } else if start + 1 == num_tokens {
            RowInput::Tokens(push_range(&mut batch.tokens, &[running.last_token]))
        } else {
            let tokens = &self.requests[running.request].tokens()[start as usize..end as usize];
            RowInput::Tokens(push_range(&mut batch.tokens, tokens))
        };
        let first_block = batch.blocks.len() as u32;
        let new_blocks = running.table.blocks()[first_new_block as usize..].iter();
        batch.blocks.extend(new_blocks.map(|block| BlockId(block.index())));

        let score = if start < running.num_prompt_tokens {
            self.requests[running.request].score(start, end, batch)
        } else {
            None
        };
        let samples = end == num_tokens + running.num_pending;
        plan.rows.push(PlannedRow {
            slot,
            admission: running.admission,
            first_block: running.first_block,
            end,
            num_scored: score.as_ref().map_or(0, |score| score.targets.end - score.targets.start),
            samples,
        });
        batch.rows.push(Row {
            slot,
            start,
            input,
            new_blocks: first_block..batch.blocks.len() as u32,
            score,
            sample: samples,
        });
        plan.budget_tokens -= end - start;
        if end - start == 1 {
            plan.shape.num_decodes += 1;
        } else {
            plan.shape.num_prefill_tokens += end - start;
        }
        running.num_planned = end;
        running.num_pending += u32::from(samples);
        running.last_step = Some(plan.step);

        let num_shareable = num_shareable(running, start, end.min(num_tokens)) / self.config.block_size;
        if num_shareable * self.config.block_size > running.num_promised {
            running.num_promised = num_shareable * self.config.block_size;
            let keys = &self.requests[running.request].keys;
            self.kv.promise(&running.table, keys, running.num_promised, kv_step(plan.step));
        }
    }
}

/// The copy, as executors know it.
fn host_copy(copy: TierCopy) -> HostCopy {
    match copy {
        TierCopy::Fetch { from, to } => HostCopy::Fetch { from: HostBlockId(from.index()), to: BlockId(to.index()) },
        TierCopy::Offload { from, to } => {
            HostCopy::Offload { from: BlockId(from.index()), to: HostBlockId(to.index()) }
        }
    }
}

/// What an attempt to admit a request found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt {
    arrival: u64,
    reserved_blocks: u32,
    num_free_blocks: u32,
}

impl Attempt {
    /// Whether an attempt must fail because this one did: the same request with no more room than then. A prompt that is
    /// long and does not fit would otherwise be looked up in the prefix cache in every step. What was promised since
    /// then might have been matched, which is found out as soon as a block comes back.
    fn foretells(&self, next: &Self) -> bool {
        self.arrival == next.arrival
            && self.num_free_blocks >= next.num_free_blocks
            && self.reserved_blocks <= next.reserved_blocks
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

/// Appends tokens to an arena and names where they are.
pub(crate) fn push_range(arena: &mut Vec<TokenId>, tokens: &[TokenId]) -> Range<u32> {
    let start = arena.len() as u32;
    arena.extend_from_slice(tokens);
    start..arena.len() as u32
}
