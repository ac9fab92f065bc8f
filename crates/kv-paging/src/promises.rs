//! Promises: blocks that a step in flight fills are shareable from the moment that the step is planned, and become
//! published, or are withdrawn, when it is retired.
//!
//! Knows that steps end in order, and nothing of what they compute.

use crate::cache::KvCache;
use crate::config::PrefixCaching;
use crate::ghosts::SAMPLING;
use crate::index::{NodeId, Parent};
use crate::list::{BlockList, Links};
use crate::pool::{Block, Content, Place};
use crate::{BlockId, BlockKey, BlockTable, PrefixKeys, StepId, StepOutcome, Tier};

/// The promised blocks.
pub(crate) struct Promises {
    /// Ordered by `filled_end`, and blocks of one step in the order of their promises.
    pub(crate) blocks: BlockList,
    pub(crate) links: Links,
    /// No promise is for a step after `[0, promised_end)`.
    pub(crate) promised_end: u64,
}

impl Promises {
    pub(crate) fn new(num_blocks: u32) -> Self {
        Self { blocks: BlockList::EMPTY, links: Links::new(num_blocks), promised_end: 0 }
    }
}

impl KvCache {
    /// Says that the full blocks among the table's first `num_tokens` tokens are filled once `step` is done. They can be
    /// matched from now on, by rows of this and of later steps. Blocks that were promised before are passed over, so
    /// calling this for every row of every step is right and cheap. `keys` are those of the table's tokens; blocks that
    /// they do not cover yet (their last token is not known) wait for a later call.
    ///
    /// If an equal block is in the index already, the table keeps its own, counted as a
    /// [duplicate](crate::Usage::duplicates). Does nothing with prefix caching off, for a withdrawn or
    /// [forgotten](Self::forget) table, and for one opened before the prefix cache was cleared. A step that is already retired publishes at once; promise only what it
    /// completed.
    ///
    /// # Panics
    /// If the table has fewer than `num_tokens` tokens, if a promise was made for a later step, or if the keys are seen to
    /// be another table's.
    pub fn promise(&mut self, table: &BlockTable, keys: &PrefixKeys, num_tokens: u32, step: StepId) {
        self.assert_owns(table);
        assert_eq!(keys.block_size(), self.config.block_size, "keys are made for the cache's block size");
        assert!(num_tokens <= table.num_tokens, "a promise covers no more tokens than there are");
        assert!(step.end() >= self.promises.promised_end, "promises come in step order");
        if self.config.prefix_caching == PrefixCaching::Off || table.generation != self.generation {
            return;
        }
        let num_full = self.num_full_blocks_of(num_tokens).min(keys.num_blocks()) as usize;
        // Usually no block or one is new, so look from the end.
        let num_old = table.blocks[..num_full].iter().rposition(|block| self.node_of(*block).is_some());
        let num_old = num_old.map_or(0, |last| last + 1);
        if num_old == num_full || self.is_withdrawn(table) {
            return;
        }
        let mut parent = Parent::Salt(keys.salt());
        if let Some(before) = num_old.checked_sub(1) {
            let node = self.node_of(table.blocks[before]).expect("the last old block is in the index");
            assert_eq!(
                self.index.node(node).key,
                keys.block_keys()[before],
                "the keys are those of the table's tokens"
            );
            parent = Parent::Node(node);
        }
        let is_retired = self.pool.is_retired(step);
        if !is_retired {
            self.promises.promised_end = step.end();
        }
        for at in num_old..num_full {
            let block = table.blocks[at];
            let record = self.pool.get(block);
            // The latter is a copy whose original is not filled yet. It can be shared once it has that content.
            if record.is_forgotten || record.is_promised() {
                break;
            }
            parent = Parent::Node(self.add_to_index(parent, keys, at, block));
            self.note_promise(block, step);
            if is_retired {
                self.publish(block);
            }
        }
    }

    /// Says that the block with this key will soon be promised, so that the call which does it need not wait for memory:
    /// the index of a large pool is in no cache, and its places are as scattered as hashes are. Pays where other work is
    /// done between one key and the next; calls that take many keys overlap their own waits.
    #[inline]
    pub fn prefetch(&self, key: BlockKey) {
        if self.config.prefix_caching == PrefixCaching::On {
            self.index.prefetch(key);
        }
    }

    /// Ends a step. What was promised for it is published if it completed. If it failed, its promises are withdrawn, and so
    /// are all that depend on them; see [`is_withdrawn`](Self::is_withdrawn). Blocks that waited for the step become
    /// takeable. Copies to and from the host tier are done, or, if the step failed, given up.
    ///
    /// Steps are retired in increasing order, also those that promised nothing but have copies or are named by a
    /// [`release`](Self::release).
    ///
    /// # Panics
    /// If this or a later step is already retired, or if a step with promises was passed over.
    pub fn retire(&mut self, step: StepId, outcome: StepOutcome) {
        assert!(!self.pool.is_retired(step), "step {step} is retired once and in order");
        if let Some(first) = self.promises.blocks.front() {
            assert!(
                self.pool.get(first).filled_end() >= step.end(),
                "a step with promises is retired before step {step}"
            );
        }
        self.host.assert_in_order(step);
        match outcome {
            StepOutcome::Completed => {
                while let Some(block) = self.promises.blocks.front() {
                    if self.pool.get(block).filled_end() != step.end() {
                        break;
                    }
                    self.publish(block);
                }
            }
            StepOutcome::Failed => {
                self.give_up_offloads();
                self.withdraw(step.end());
            }
        }
        self.pool.retired_end = step.end();
        self.end_copies();
        while let Some(block) = self.pool.pop_arrived() {
            self.place(block);
        }
    }

    /// Whether a block of the table, matched or its own, was promised and will not come. Its owner must recompute (release
    /// it and admit again) or fail. Ask after each failed step.
    ///
    /// A row of the failed step itself has failed in any case, also if none of its blocks was promised.
    #[must_use]
    pub fn is_withdrawn(&self, table: &BlockTable) -> bool {
        self.assert_owns(table);
        self.pool.num_withdrawn > 0
            && table.blocks.iter().any(|block| self.pool.get(*block).content == Content::Withdrawn)
    }

    /// A copy has the fate of its promised original, and is no better than it.
    pub(crate) fn copy_promise(&mut self, from: BlockId, to: BlockId) {
        let Block { content, is_forgotten, .. } = *self.pool.get(from);
        self.pool.get_mut(to).is_forgotten = is_forgotten;
        match content {
            Content::Private | Content::Published => {}
            Content::Promised => {
                let filled_end = self.pool.get(from).filled_end();
                self.pool.get_mut(to).promise(filled_end);
                self.promises.blocks.insert_after(&mut self.promises.links, from, to);
            }
            Content::Withdrawn => {
                self.pool.get_mut(to).content = content;
                self.pool.num_withdrawn += 1;
            }
        }
    }

    pub(crate) fn node_of(&self, block: BlockId) -> Option<NodeId> {
        self.pool.get(block).node
    }

    /// The block, which is in the index, is full once `step` is done.
    pub(crate) fn note_promise(&mut self, block: BlockId, step: StepId) {
        self.pool.get_mut(block).promise(step.end());
        self.promises.blocks.push_back(&mut self.promises.links, block);
    }

    /// Gives block `at` of a sequence its node after `parent`, perhaps beside other blocks with the same content.
    fn add_to_index(&mut self, parent: Parent<'_>, keys: &PrefixKeys, at: usize, block: BlockId) -> NodeId {
        let (key, tokens) = (keys.block_keys()[at], keys.block_tokens(at));
        self.stats.num_promised_blocks += 1;
        let node = match self.index.look_up(parent, key, tokens) {
            Ok(node) => {
                self.stats.num_duplicate_blocks += u64::from(self.index.attach(node, block));
                node
            }
            Err(vacancy) => {
                if self.ghosts.lay(key) {
                    self.stats.num_regretted_blocks += u64::from(SAMPLING);
                }
                self.index.insert(vacancy, parent, tokens, block)
            }
        };
        self.pool.get_mut(block).node = Some(node);
        node
    }

    /// A promised block is full.
    fn publish(&mut self, block: BlockId) {
        self.promises.blocks.remove(&mut self.promises.links, block);
        let record = self.pool.get_mut(block);
        let Some(node) = record.node else {
            // A copy, or a promise that was forgotten.
            record.content = Content::Private;
            return;
        };
        record.content = Content::Published;
        let first = self.index.first_block(node).expect("the node has this block");
        self.index.publish(node, block);
        // A cached block is the only published one of its content. This one is newer, so that one makes way.
        if first != block && self.pool.get(first).place == Place::Cached {
            self.discard_cached(first);
        }
        if !core::mem::replace(&mut self.index.node_mut(node).announced, true) {
            self.report_stored(Tier::Device, node);
        }
        self.note_to_offload(block, node);
    }

    /// Reports that a content can be matched in a tier.
    pub(crate) fn report_stored(&mut self, tier: Tier, id: NodeId) {
        if self.events.is_on() {
            let node = self.index.node(id);
            let parent = node.parent.map(|parent| self.index.node(parent).key);
            self.events.stored(tier, node.key, parent, self.index.tokens(id));
        }
    }

    /// Withdraws the promises of the step that ends at `failed_end`, and those of later steps that may not stand without.
    ///
    /// First forward, to find them: each comes behind what it was computed from. Then backward, to take them out of the
    /// index: each before its parent.
    fn withdraw(&mut self, failed_end: u64) {
        let mut next = self.promises.blocks.front();
        while let Some(block) = next {
            next = self.promises.blocks.next(&self.promises.links, block);
            if !self.falls_with(failed_end, block) {
                continue;
            }
            self.pool.get_mut(block).content = Content::Withdrawn;
            self.pool.num_withdrawn += 1;
            self.stats.num_withdrawn_blocks += 1;
            if let Some(node) = self.node_of(block) {
                self.index.node_mut(node).hit_by_failure = true;
            }
        }
        let mut next = self.promises.blocks.back();
        while let Some(block) = next {
            next = self.promises.blocks.prev(&self.promises.links, block);
            if self.pool.get(block).content != Content::Withdrawn {
                continue;
            }
            self.promises.blocks.remove(&mut self.promises.links, block);
            if let Some(node) = self.node_of(block) {
                self.index.node_mut(node).hit_by_failure = false;
                self.detach(block);
            }
        }
    }

    /// Whether a promised block falls with the failed step: because the step fills it; because its parent in the index lost
    /// a block, from which it may have been computed; or because nothing is known of its parent: a copy, or a promise that
    /// was forgotten.
    ///
    /// An equal block may remain to the parent, and this one may have been computed from that. It falls all the same: a
    /// table that reached it through the fallen block would keep it while nothing keeps the remaining one, and then a
    /// block would be evicted before those after it.
    fn falls_with(&self, failed_end: u64, block: BlockId) -> bool {
        let record = self.pool.get(block);
        if record.filled_end() == failed_end {
            return true;
        }
        let Some(node) = record.node else { return true };
        self.index.node(node).parent.is_some_and(|parent| self.index.node(parent).hit_by_failure)
    }
}
