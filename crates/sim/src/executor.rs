//! An executor that computes nothing and checks everything. Works at launch and answers at finish, as an in-order device
//! does; copies between the pools take some steps more. Panics with a description when a batch breaks the contract. Knows no queue and no policy.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serving_types::{
    Batch, BatchOutput, BlockId, Executor, ExecutorError, ExecutorLimits, HostBlockId, HostCopy, InFlight, MemoryEntry,
    PositionLogprobs, Row, RowFault, RowInput, RowOutput, RowSlot, SamplingParams, StepId, TokenId,
};

use crate::copies::PendingCopies;
use crate::shadow::{ReadError, ShadowKv};
use crate::{FakeModel, Faults};

/// The executor.
#[derive(Debug)]
pub struct FakeExecutor {
    model: FakeModel,
    limits: ExecutorLimits,
    faults: Faults,
    kv: ShadowKv,
    copies: PendingCopies,
    slots: Vec<Option<Slot>>,
    next_owner: u64,
    in_flight: VecDeque<Flight>,
    last_launched: Option<StepId>,
    /// Owners whose fault the engine knows: what they computed must not be shared with anybody who comes now.
    known_faulty: BTreeSet<u64>,
    num_faulty: Arc<AtomicU64>,
    context: Vec<TokenId>,
}

/// What a row slot holds.
#[derive(Debug)]
struct Slot {
    /// Tells the owners of one slot apart.
    owner: u64,
    table: Vec<BlockId>,
    /// Positions that are computed; `None` before the first row, which may start behind cached blocks.
    num_computed: Option<u32>,
    num_prompt_tokens: u32,
    sampling: Arc<SamplingParams>,
    /// All tokens, if the sampling parameters have penalties.
    history: Vec<TokenId>,
    last_sampled: Option<(StepId, TokenId)>,
    /// A step failed, and the engine, which may not know yet, may have planned another one on top.
    is_spoilt: bool,
}

impl Slot {
    /// Samples the token after `context`, whose prefix hash is `prefix`, and reports its log-probabilities if wanted.
    fn sample(&mut self, model: &FakeModel, prefix: u64, context: &[TokenId], output: &mut BatchOutput) -> TokenId {
        if self.sampling.has_penalties() {
            assert_eq!(self.history, context, "a slot's history and its KV differ");
        }
        let token = model.sample(prefix, context, self.num_prompt_tokens, &self.sampling);
        if self.sampling.has_penalties() {
            self.history.push(token);
        }
        if let Some(num_top) = self.sampling.logprobs {
            push_logprobs(model, prefix, token, num_top, output);
        }
        token
    }
}

/// A step between launch and finish.
#[derive(Debug)]
struct Flight {
    step: StepId,
    result: Result<BatchOutput, ExecutorError>,
    /// Blocks of the tables of its rows, with the owners of those.
    named: BTreeSet<(BlockId, u64)>,
    /// Blocks of the host's pool that its copies name.
    named_by_copies: BTreeSet<HostBlockId>,
    /// Owner of each row.
    owners: Vec<u64>,
}

impl FakeExecutor {
    /// An executor with empty memory.
    #[must_use]
    pub fn new(model: FakeModel, limits: ExecutorLimits, faults: Faults) -> Self {
        assert_eq!(model.vocab_size, limits.vocab_size, "model and limits agree");
        Self {
            model,
            limits,
            faults,
            kv: ShadowKv::new(model, &limits),
            copies: PendingCopies::default(),
            slots: (0..limits.max_batch_rows).map(|_| None).collect(),
            next_owner: 0,
            in_flight: VecDeque::new(),
            last_launched: None,
            known_faulty: BTreeSet::new(),
            num_faulty: Arc::default(),
            context: Vec::new(),
        }
    }

    /// Rows, so far, that had a fault of their own; to be read while an engine owns the executor.
    #[must_use]
    pub fn num_faulty(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.num_faulty)
    }

    fn check_batch(&self, batch: &Batch) {
        let limits = &self.limits;
        assert!(self.last_launched.is_none_or(|last| last.0 + 1 == batch.step.0), "steps are consecutive");
        assert!(self.in_flight.len() < limits.max_steps_in_flight as usize, "too many steps in flight");
        let is_of_use = !batch.host_copies.is_empty() || self.copies.has_untold();
        assert!(!batch.rows.is_empty() || is_of_use, "a batch without rows starts copies or waits for them");
        assert!(batch.rows.len() <= limits.max_batch_rows as usize, "too many rows");
        assert!(batch.num_new_tokens() <= limits.max_batch_tokens, "the token budget is exceeded");
        let slots: BTreeSet<RowSlot> = batch.rows.iter().map(|row| row.slot).collect();
        assert_eq!(slots.len(), batch.rows.len(), "at most one row a slot");
    }

    fn open_slots(&mut self, batch: &Batch) {
        for open in &batch.opens {
            self.next_owner += 1;
            self.slots[open.slot.0 as usize] = Some(Slot {
                owner: self.next_owner,
                table: Vec::new(),
                num_computed: None,
                num_prompt_tokens: open.num_prompt_tokens,
                sampling: Arc::clone(&open.sampling),
                history: batch.tokens_of(&open.history).to_vec(),
                last_sampled: None,
                is_spoilt: false,
            });
        }
    }

    /// Applies one row. Whatever it reads must be its own prefix, unless a failure spoilt it. After a row with a fault that
    /// is another fault; after a step whose failure was not reported yet, the row spoils what it writes and answers nonsense.
    fn run_row(&mut self, batch: &Batch, row: &Row, is_lost: bool, output: &mut BatchOutput) {
        let step = batch.step;
        let num_tokens = row.num_tokens();
        let (start, end) = (row.start, row.start + num_tokens);
        self.check_row(batch, row);

        let slot = self.slots[row.slot.0 as usize].as_mut().expect("checked");
        // Tables only grow, so whatever has arrived before it joined a table stays.
        let first_written = (start / self.limits.block_size) as usize;
        for (at, &block) in (slot.table.len()..).zip(batch.blocks_of(&row.new_blocks)) {
            if at < first_written {
                assert!(self.copies.is_told(block), "step {step}, slot {}: block {block} has not arrived", row.slot);
            } else {
                self.copies.settle_block(block, &mut self.kv);
            }
        }
        slot.table.extend_from_slice(batch.blocks_of(&row.new_blocks));
        let is_first = slot.num_computed.replace(end).is_none();
        let table_size = self.limits.block_size * slot.table.len() as u32;
        assert!(end <= table_size, "{}: blocks for {table_size} positions, not {end}", row.slot);
        let input: Option<&[TokenId]> = match &row.input {
            RowInput::Tokens(range) => Some(batch.tokens_of(range)),
            // Missing if the step before failed, which the engine cannot know yet.
            RowInput::LastSampled => slot
                .last_sampled
                .as_ref()
                .filter(|(sampled_in, _)| sampled_in.0 + 1 == step.0)
                .map(|(_, token)| core::slice::from_ref(token)),
        };

        let read = self.kv.attend(&slot.table, start, &mut self.context);
        if let Err(ReadError::Foreign { position, block }) = read {
            panic!("step {step}, slot {}: position {position} in block {block} is not of this sequence", row.slot);
        }
        if let Err(ReadError::Nan { owner }) = read {
            let is_known = is_first && self.known_faulty.contains(&owner);
            assert!(!is_known, "step {step}, slot {}: what a row with a known fault computed is shared", row.slot);
        }
        let inherits_fault = matches!(read, Err(ReadError::Nan { .. }));
        let has_fault = !inherits_fault && self.faults.faults_row(step, row.slot);
        if !is_lost && (inherits_fault || has_fault) {
            self.num_faulty.fetch_add(has_fault.into(), Ordering::Relaxed);
            for position in start..end {
                self.kv.write_nan(&slot.table, position, slot.owner);
            }
            slot.last_sampled = None;
            // As on a device, it shows in logits only.
            let fault = (row.sample || row.score.is_some()).then_some(RowFault::NonFiniteLogits);
            output.rows.push(RowOutput { fault, ..RowOutput::default() });
            return;
        }
        let prefix = read.ok().zip(input).filter(|_| !is_lost);
        let Some((mut prefix, input)) = prefix else {
            let is_excused = is_lost || slot.is_spoilt || self.in_flight.iter().any(|flight| flight.result.is_err());
            assert!(is_excused, "step {step}, slot {}: the row's input or its prefix is not there", row.slot);
            slot.is_spoilt = true;
            for position in start..end {
                self.kv.poison(&slot.table, position);
            }
            slot.last_sampled = None;
            return push_nonsense(row, slot, output);
        };

        let logprobs_start = output.logprobs.len() as u32;
        let mut targets = row.score.as_ref().map(|score| (score, batch.tokens_of(&score.targets).iter()));
        for (nth, &token) in input.iter().enumerate() {
            prefix = self.kv.append(&slot.table, start + nth as u32, prefix, token);
            self.context.push(token);
            if let Some((score, targets)) = targets.as_mut().filter(|(score, _)| nth as u32 >= score.first)
                && let Some(&target) = targets.next()
            {
                let next = input.get(nth + 1);
                assert!(next.is_none_or(|&next| next == target), "a target is the token that follows");
                push_logprobs(&self.model, prefix, target, score.num_top, output);
            }
        }
        assert!(targets.is_none_or(|(_, mut left)| left.next().is_none()), "more targets than positions");

        let mut result = RowOutput { logprobs: logprobs_start..output.logprobs.len() as u32, ..RowOutput::default() };
        slot.last_sampled = None;
        if row.sample {
            let token = slot.sample(&self.model, prefix, &self.context, output);
            slot.last_sampled = Some((step, token));
            result.logprobs.end = output.logprobs.len() as u32;
            result.tokens = push_token(token, output);
        }
        output.rows.push(result);
    }

    /// Starts copies to and from the host's pool. A copy to a block that a step in flight names, or two copies under way with
    /// one host block, would meet on a device that copies beside its steps. Returns the host blocks.
    fn start_copies(&mut self, batch: &Batch, is_lost: bool) -> BTreeSet<HostBlockId> {
        let step = batch.step;
        let mut named = BTreeSet::new();
        let mut written = BTreeSet::new();
        for &copy in &batch.host_copies {
            let (HostCopy::Fetch { from: host, .. } | HostCopy::Offload { to: host, .. }) = copy;
            let is_free = self.in_flight.iter().all(|flight| !flight.named_by_copies.contains(&host));
            assert!(is_free, "step {step}: host block {host} is copied while a copy of a step in flight names it");
            assert!(named.insert(host), "step {step}: host block {host} is named by two copies");
            match copy {
                HostCopy::Fetch { to, .. } => {
                    let is_named = |flight: &Flight| flight.named.range((to, 0)..=(to, u64::MAX)).next().is_some();
                    let is_free = !self.in_flight.iter().any(is_named);
                    assert!(is_free, "step {step}: block {to} is overwritten while a step in flight names it");
                    written.insert(to);
                }
                HostCopy::Offload { from, .. } => {
                    assert!(!written.contains(&from), "step {step}: block {from} is read and written by copies");
                }
            }
            if is_lost {
                self.copies.start_lost(copy, &mut self.kv);
            } else {
                self.copies.start(step, copy, self.faults.copy_steps(step), &mut self.kv);
            }
        }
        named
    }

    fn check_row(&self, batch: &Batch, row: &Row) {
        let slot = self.slots[row.slot.0 as usize].as_ref().expect("a row's slot was opened");
        assert!(row.num_tokens() > 0, "a row has tokens");
        let num_computed = slot.num_computed.unwrap_or(row.start);
        assert_eq!(row.start, num_computed, "slot {}: a row goes on where the last one ended", row.slot);
        assert!(row.start + row.num_tokens() < self.limits.max_model_len, "slot {}: too long a context", row.slot);
        // Blocks that this row writes must not be named by anybody else in a step in flight.
        let first_written = (row.start / self.limits.block_size) as usize;
        let table = slot.table.iter().chain(batch.blocks_of(&row.new_blocks));
        for &block in table.skip(first_written) {
            for flight in &self.in_flight {
                let other = flight.named.range((block, 0)..=(block, u64::MAX)).find(|(_, owner)| *owner != slot.owner);
                assert!(
                    other.is_none(),
                    "step {}: block {block} is written while {} names it",
                    batch.step,
                    flight.step
                );
            }
        }
    }

    /// No two rows of a batch write one block, and none writes what a copy to the host reads.
    fn check_writes(&self, batch: &Batch) {
        let copied = batch.host_copies.iter().filter_map(|copy| match copy {
            HostCopy::Fetch { .. } => None,
            HostCopy::Offload { from, .. } => Some(*from),
        });
        let mut written: BTreeSet<BlockId> = copied.collect();
        for row in &batch.rows {
            let slot = self.slots[row.slot.0 as usize].as_ref().expect("checked");
            let first = (row.start / self.limits.block_size) as usize;
            let last = ((row.start + row.num_tokens() - 1) / self.limits.block_size) as usize;
            for block in &slot.table[first..=last] {
                assert!(
                    written.insert(*block),
                    "step {}: block {block} is written twice, or while it is copied",
                    batch.step
                );
            }
        }
    }

    fn owners(&self, batch: &Batch) -> Vec<u64> {
        let slots = batch.rows.iter().filter_map(|row| self.slots[row.slot.0 as usize].as_ref());
        slots.map(|slot| slot.owner).collect()
    }

    fn named_blocks(&self, batch: &Batch) -> BTreeSet<(BlockId, u64)> {
        let slots = batch.rows.iter().filter_map(|row| self.slots[row.slot.0 as usize].as_ref());
        slots.flat_map(|slot| slot.table.iter().map(|&block| (block, slot.owner))).collect()
    }
}

impl Executor for FakeExecutor {
    fn limits(&self) -> ExecutorLimits {
        self.limits
    }

    fn memory(&self) -> Vec<MemoryEntry> {
        vec![MemoryEntry {
            name: "shadow kv".into(),
            bytes: u64::from(self.limits.num_blocks + self.limits.num_host_blocks),
        }]
    }

    fn launch(&mut self, batch: &Batch) -> Result<InFlight, ExecutorError> {
        let step = batch.step;
        assert!(self.faults.panic.is_none_or(|at| step < at), "a fake panic");
        if self.faults.device_loss.is_some_and(|at| step >= at) {
            return Err(ExecutorError::Device("a fake loss".into()));
        }
        self.check_batch(batch);
        self.last_launched = Some(step);
        let fails_launch = self.faults.fails_launch(step);
        let is_lost = fails_launch || self.faults.fails_finish(step);

        let named_by_copies = self.start_copies(batch, is_lost);
        for copy in &batch.copies {
            assert!(self.copies.is_told(copy.from), "step {step}: block {} is copied before it arrived", copy.from);
            self.copies.settle_block(copy.to, &mut self.kv);
            self.kv.copy(copy.from, copy.to);
        }
        self.open_slots(batch);
        let mut output = BatchOutput::default();
        output.finished_copies.extend(batch.copies.iter().map(|copy| copy.id));
        for row in &batch.rows {
            self.run_row(batch, row, is_lost, &mut output);
        }
        self.check_writes(batch);
        if fails_launch {
            return Err(ExecutorError::Step("a fake launch failure".into()));
        }
        let failure = ExecutorError::Step("a fake step failure".into());
        let result = if is_lost { Err(failure) } else { Ok(output) };
        let (named, owners) = (self.named_blocks(batch), self.owners(batch));
        self.in_flight.push_back(Flight { step, result, named, named_by_copies, owners });
        Ok(InFlight::new(step))
    }

    fn finish(&mut self, step: InFlight, output: &mut BatchOutput) -> Result<(), ExecutorError> {
        let flight = self.in_flight.pop_front().expect("a step is in flight");
        assert_eq!(flight.step, step.step(), "steps are finished in launch order");
        self.copies.advance(!flight.owners.is_empty(), &mut self.kv);
        *output = flight.result?;
        output.fetched_through = self.copies.tell(self.last_launched);
        let faulty = flight.owners.iter().zip(&output.rows).filter(|(_, row)| row.fault.is_some());
        self.known_faulty.extend(faulty.map(|(owner, _)| owner));
        Ok(())
    }
}

fn push_token(token: TokenId, output: &mut BatchOutput) -> Range<u32> {
    output.tokens.push(token);
    output.tokens.len() as u32 - 1..output.tokens.len() as u32
}

fn push_logprobs(model: &FakeModel, prefix: u64, token: TokenId, num_top: u32, output: &mut BatchOutput) {
    let (logprob, rank) = model.score(prefix, token);
    let top_start = output.top.len() as u32;
    output.top.extend(model.top(prefix, num_top));
    output.logprobs.push(PositionLogprobs { token, logprob, rank, top: top_start..output.top.len() as u32 });
}

/// An answer of the right shape to a row whose input is spoilt. Whoever uses it is found out by its token.
fn push_nonsense(row: &Row, slot: &Slot, output: &mut BatchOutput) {
    let num_scores = row.score.as_ref().map_or(0, |score| score.targets.end - score.targets.start);
    let num_logprobs = num_scores + u32::from(row.sample && slot.sampling.logprobs.is_some());
    let start = output.logprobs.len() as u32;
    for _ in 0..num_logprobs {
        output.logprobs.push(PositionLogprobs { token: 0, logprob: f32::NAN, rank: 0, top: 0..0 });
    }
    let tokens = if row.sample { push_token(TokenId::MAX, output) } else { 0..0 };
    output.rows.push(RowOutput { tokens, logprobs: start..start + num_logprobs, fault: None });
}
