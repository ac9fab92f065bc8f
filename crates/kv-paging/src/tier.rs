//! The host tier: full blocks are copied to it soon after they are filled, and back when a prompt asks for them.
//!
//! Plans copies and does none. Knows nothing of how fast they are; how many and whether to copy back at all is up to the
//! caller.

use core::cmp::Reverse;

use alloc::vec::Vec;

use crate::cache::{KvCache, Prefix};
use crate::host::NewContent;
use crate::index::{NodeId, Parent};
use crate::list::{BlockList, Links};
use crate::{BlockId, BlockTable, HostBlockId, PrefixKeys, StepId, Tier, TokenId};

/// A whole block to be copied between the tiers: work of the step that it was planned for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TierCopy {
    /// To be done before anything of the step reads `to`. Whatever an earlier step was to write is written before.
    Fetch {
        /// Block read.
        from: HostBlockId,
        /// Block written.
        to: BlockId,
    },
    /// Beside the step or after it, and before anything writes `from`, or another copy names `to`.
    Offload {
        /// Block read: full, and not written by this step.
        from: BlockId,
        /// Block written.
        to: HostBlockId,
    },
}

/// Published blocks that wait to be copied to the host tier.
pub(crate) struct Offloads {
    /// In the order in which they were published, so that parents come before their children.
    pub(crate) queue: BlockList,
    pub(crate) links: Links,
}

impl Offloads {
    pub(crate) fn new(num_blocks: u32) -> Self {
        Self { queue: BlockList::EMPTY, links: Links::new(num_blocks) }
    }

    pub(crate) fn remove(&mut self, block: BlockId) {
        self.queue.remove(&mut self.links, block);
    }
}

impl KvCache {
    /// Continues a table that was just [admitted](Self::admit) with what the host tier holds of the same prompt, as far as
    /// blocks can be taken for it. The copies are work of `step` (see [`drain_copies`](Self::drain_copies)), and the blocks
    /// are promised with it: others may match them, and if it fails they are withdrawn. Returns the tokens that were added.
    ///
    /// # Panics
    /// If the table has a partly filled block, if the keys are seen to be another table's, or if `step` is retired or comes
    /// before one that was promised for.
    pub fn fetch(&mut self, table: &mut BlockTable, keys: &PrefixKeys, prompt: &[TokenId], step: StepId) -> u32 {
        self.assert_owns(table);
        if !self.host.is_on() || table.generation != self.generation {
            return 0;
        }
        let num_held = table.blocks.len();
        assert_eq!(
            table.num_tokens as usize,
            num_held * self.config.block_size as usize,
            "a table is continued block by block"
        );
        let parent = match table.blocks.last() {
            None => Parent::Salt(keys.salt()),
            Some(last) => {
                let Some(node) = self.node_of(*last) else { return 0 };
                let key = keys.block_keys().get(num_held - 1);
                assert_eq!(Some(&self.index.node(node).key), key, "the keys are those of the table's tokens");
                Parent::Node(node)
            }
        };
        let mut prefix = Prefix { keys, depth: num_held, parent };
        for tokens in self.matchable(keys, prompt).skip(num_held) {
            let Some(node) = prefix.descend(&self.index, tokens) else { break };
            if self.index.first_block(node).is_some() || self.num_free() == 0 {
                break;
            }
            table.blocks.push(self.fetch_block(node, step));
        }
        let num_fetched = (table.blocks.len() - num_held) as u32;
        let num_tokens = num_fetched * self.config.block_size;
        table.num_tokens += num_tokens;
        self.num_table_blocks += u64::from(num_fetched);
        self.num_table_tokens += u64::from(num_tokens);
        self.stats.num_hit_tokens += u64::from(num_tokens);
        self.stats.num_fetched_tokens += u64::from(num_tokens);
        if num_fetched > 0 {
            self.touch_copies(table);
        }
        num_tokens
    }

    /// Plans to copy up to `max_blocks` full blocks to the host tier as work of `step` (see
    /// [`drain_copies`](Self::drain_copies)), those first that were filled first. To be called once all else of the step is
    /// planned, so that nothing that the step writes is copied from.
    ///
    /// What does not fit into the host tier in place of something older, or would not be found there because its prefix
    /// is not there, is passed over.
    ///
    /// # Panics
    /// If `step` is retired or comes before one that copies were planned for.
    pub fn offload(&mut self, max_blocks: u32, step: StepId) {
        assert!(!self.pool.is_retired(step), "step {step} is retired already");
        let mut num_left = max_blocks;
        while num_left > 0
            && let Some(block) = self.offloads.queue.front()
        {
            let Ok(to) = self.offload_block(block, step) else { break };
            self.offloads.remove(block);
            self.pool.get_mut(block).is_to_offload = false;
            if let Some(to) = to {
                self.copies.push(TierCopy::Offload { from: block, to });
                self.stats.num_offloaded_blocks += 1;
                num_left -= 1;
            }
        }
    }

    /// Hands every copy between the tiers that was planned since the last drain to `sink`, in order: fetches, then offloads.
    pub fn drain_copies(&mut self, sink: impl FnMut(TierCopy)) {
        self.copies.drain(..).for_each(sink);
    }

    /// A block for a content that only the host tier holds.
    fn fetch_block(&mut self, node: NodeId, step: StepId) -> BlockId {
        assert!(!self.pool.is_retired(step), "step {step} is retired already");
        assert!(step.end() >= self.promises.promised_end, "promises come in step order");
        self.promises.promised_end = step.end();
        let from = self.index.node(node).host.expect("a content without a block is in the host tier");
        let to = self.take();
        self.index.attach(node, to);
        self.pool.get_mut(to).node = Some(node);
        self.note_promise(to, step);
        self.host.read(from, step.end());
        self.copies.push(TierCopy::Fetch { from, to });
        to
    }

    /// A place in the host tier for the content of a published block; none if it has one or is not to get one. An error if
    /// there is no room before a copy under way is done.
    fn offload_block(&mut self, block: BlockId, step: StepId) -> Result<Option<HostBlockId>, HostBusy> {
        let id = self.node_of(block).expect("a published block is in the index");
        let node = self.index.node(id);
        let parent = node.parent.map(|parent| self.index.node(parent).host);
        // What is in the host tier can be reached there alone.
        if node.host.is_some() || parent == Some(None) {
            return Ok(None);
        }
        let parent = parent.flatten();
        let retention = node.retention;
        let to = match self.host.free.pop() {
            Some(free) => free,
            None => {
                let least = self.host.least(self.pool.retired_end).ok_or(HostBusy)?;
                if parent == Some(least) {
                    return Ok(None);
                }
                self.evict_copy(least);
                self.host.free.pop().expect("a block was just evicted")
            }
        };
        self.host.fill(to, NewContent { node: id, retention, parent }, step.end());
        self.index.node_mut(id).host = Some(to);
        Ok(Some(to))
    }

    /// Makes what the host tier holds of a table the last used there.
    pub(crate) fn touch_copies(&mut self, table: &BlockTable) {
        if !self.host.is_on() {
            return;
        }
        // From the end, as by a release: each goes behind those that continue it.
        for block in table.blocks.iter().rev() {
            let Some(node) = self.node_of(*block) else { continue };
            let node = self.index.node(node);
            if let Some(host) = node.host {
                self.host.touch(host, node.retention);
            }
        }
    }

    /// The content of a host block makes way for another one.
    fn evict_copy(&mut self, host: HostBlockId) {
        let id = self.host.get(host).node.expect("a held block has a content");
        self.stats.num_host_evicted_blocks += 1;
        self.forget_copy(host, id);
        if self.index.first_block(id).is_none() {
            self.ghosts.add(self.index.node(id).key);
            self.index.remove(id);
        }
    }

    /// A host block no longer holds the node's content.
    pub(crate) fn forget_copy(&mut self, host: HostBlockId, id: NodeId) {
        let node = self.index.node_mut(id);
        node.host = None;
        if self.host.get(host).is_filled {
            self.events.removed(Tier::Host, node.key);
        }
        self.host.forget(host, self.pool.retired_end);
    }

    /// Remembers to copy a block that was just published.
    pub(crate) fn note_to_offload(&mut self, block: BlockId, node: NodeId) {
        if self.host.is_on() && self.index.node(node).host.is_none() {
            self.pool.get_mut(block).is_to_offload = true;
            self.offloads.queue.push_back(&mut self.offloads.links, block);
        }
    }

    /// Copies to the host tier that are under way will not come: a step failed, and later ones may rest on its copies.
    /// The contents are where they were.
    pub(crate) fn give_up_offloads(&mut self) {
        let mut next = self.host.prev_in_transit(None);
        while let Some(host) = next {
            next = self.host.prev_in_transit(Some(host));
            let record = self.host.get(host);
            if let Some(node) = record.node.filter(|_| !record.is_filled) {
                self.forget_copy(host, node);
            }
        }
    }

    /// The copies of steps that are now retired are done.
    pub(crate) fn end_copies(&mut self) {
        while let Some(host) = self.host.pop_filled(self.pool.retired_end) {
            let node = self.host.get(host).node.expect("a block that was filled has a content");
            self.report_stored(Tier::Host, node);
        }
    }

    /// Forgets what the host tier holds of this content and of all that continue it. Nodes that no block holds any more are
    /// gone, but for the first one.
    pub(crate) fn forget_host(&mut self, root: NodeId) {
        let blocks = (0..self.host.num_blocks()).map(HostBlockId::from_index);
        let place_of = |host| {
            let node = self.host.get(host).node?;
            Some((self.index.depth_below(root, node)?, host, node))
        };
        let mut fallen: Vec<(u32, HostBlockId, NodeId)> = blocks.filter_map(place_of).collect();
        // Leaves before parents.
        fallen.sort_unstable_by_key(|(depth, ..)| Reverse(*depth));
        for (_, host, node) in fallen {
            self.forget_copy(host, node);
            if self.index.first_block(node).is_none() {
                self.index.remove(node);
            }
        }
    }

    /// Forgets all that the host tier holds, and what waits to be copied to it. The nodes that named it are to be cleared.
    pub(crate) fn clear_host(&mut self) {
        self.offloads.queue = BlockList::EMPTY;
        while let Some(host) = self.host.held.front() {
            self.host.forget(host, self.pool.retired_end);
        }
    }
}

/// All that the host tier could give up is named by copies under way.
struct HostBusy;
