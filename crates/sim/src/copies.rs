//! Copies between the pools that are under way: done some steps later, in order in each direction, and before that only if
//! something comes that touches their blocks. Knows memory and no rows.

use std::collections::{BTreeMap, VecDeque};

use serving_types::{BlockId, HostBlockId, HostCopy, StepId};

use crate::shadow::ShadowKv;

/// Copies in both directions.
#[derive(Debug, Default)]
pub(crate) struct PendingCopies {
    fetches: VecDeque<PendingCopy>,
    offloads: VecDeque<PendingCopy>,
    /// Blocks that hold what a fetch brings, with its step.
    fetched: BTreeMap<BlockId, StepId>,
    /// The last step with fetches.
    last_fetching: Option<StepId>,
    /// What the engine was told of them.
    told_through: Option<StepId>,
}

/// One copy under way.
#[derive(Clone, Copy, Debug)]
struct PendingCopy {
    step: StepId,
    copy: HostCopy,
    /// Steps to finish before it is done.
    num_steps: u32,
}

impl PendingCopy {
    fn blocks(&self) -> (BlockId, HostBlockId) {
        blocks(self.copy)
    }
}

/// The two blocks that a copy names.
fn blocks(copy: HostCopy) -> (BlockId, HostBlockId) {
    match copy {
        HostCopy::Fetch { from: host, to: block } | HostCopy::Offload { from: block, to: host } => (block, host),
    }
}

impl PendingCopies {
    /// Starts a copy that takes so many steps more than its own, behind those of the other direction that name one of its
    /// blocks.
    pub(crate) fn start(&mut self, step: StepId, copy: HostCopy, num_steps: u32, kv: &mut ShadowKv) {
        self.settle_others(copy, kv);
        let pending = PendingCopy { step, copy, num_steps };
        match copy {
            HostCopy::Fetch { to, .. } => {
                self.fetched.insert(to, step);
                self.last_fetching = Some(step);
                self.fetches.push_back(pending);
            }
            HostCopy::Offload { .. } => self.offloads.push_back(pending),
        }
    }

    /// Starts a copy of a step that fails: what it writes is spoilt.
    pub(crate) fn start_lost(&mut self, copy: HostCopy, kv: &mut ShadowKv) {
        let (block, host) = blocks(copy);
        settle(&mut self.fetches, kv, |(to, from)| to == block || from == host);
        settle(&mut self.offloads, kv, |(from, to)| from == block || to == host);
        if let HostCopy::Fetch { to, .. } = copy {
            self.fetched.remove(&to);
        }
        kv.poison_copied(copy);
    }

    /// Something else is about to write the block.
    pub(crate) fn settle_block(&mut self, block: BlockId, kv: &mut ShadowKv) {
        settle(&mut self.fetches, kv, |(to, _)| to == block);
        settle(&mut self.offloads, kv, |(from, _)| from == block);
        self.fetched.remove(&block);
    }

    /// Whether the engine has been told that what this block holds has arrived, if it was fetched.
    pub(crate) fn is_told(&self, block: BlockId) -> bool {
        self.fetched.get(&block).is_none_or(|&step| Some(step) <= self.told_through)
    }

    /// Whether there is an end of fetches to be told of.
    pub(crate) fn has_untold(&self) -> bool {
        self.last_fetching > self.told_through
    }

    /// A step is finished. One without rows waits for a fetch.
    pub(crate) fn advance(&mut self, has_rows: bool, kv: &mut ShadowKv) {
        if let Some(first) = self.fetches.front_mut().filter(|_| !has_rows) {
            first.num_steps = 0;
        }
        for lane in [&mut self.fetches, &mut self.offloads] {
            while let Some(pending) = lane.pop_front_if(|pending| pending.num_steps == 0) {
                kv.copy_host(pending.copy);
            }
            for pending in lane {
                pending.num_steps = pending.num_steps.saturating_sub(1);
            }
        }
    }

    /// What the engine is told when the last step launched is `launched`: the last step of which all fetches are done.
    pub(crate) fn tell(&mut self, launched: Option<StepId>) -> Option<StepId> {
        let through = match self.fetches.front() {
            Some(first) => first.step.0.checked_sub(1).map(StepId),
            None => launched,
        };
        self.told_through = self.told_through.max(through);
        self.told_through
    }

    fn settle_others(&mut self, copy: HostCopy, kv: &mut ShadowKv) {
        let (block, host) = blocks(copy);
        let others = match copy {
            HostCopy::Fetch { .. } => &mut self.offloads,
            HostCopy::Offload { .. } => &mut self.fetches,
        };
        settle(others, kv, |(other, other_host)| other == block || other_host == host);
    }
}

/// Does the copies up to the last one that is named.
fn settle(lane: &mut VecDeque<PendingCopy>, kv: &mut ShadowKv, is_named: impl Fn((BlockId, HostBlockId)) -> bool) {
    let num_due = lane.iter().rposition(|pending| is_named(pending.blocks())).map_or(0, |last| last + 1);
    for pending in lane.drain(..num_due) {
        kv.copy_host(pending.copy);
    }
}
