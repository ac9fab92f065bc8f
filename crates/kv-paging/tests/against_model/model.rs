//! The naive model: every block knows the whole prefix that it holds, every question is a scan over all blocks, and time
//! is a counter. No hashes, no trees, no lists.
//!
//! [`Model`] drives a real cache beside it. After each operation it compares what can be seen, and calls
//! `check_invariants`. Where the cache may choose (which free block, which of several equal blocks), the model checks
//! that the choice was allowed and follows it.

mod compare;
mod host;
mod op;
mod retention;
mod steps;

use std::collections::{BTreeMap, BTreeSet};

use kv_paging::{
    BlockId, BlockKey, BlockTable, KvCache, KvCacheConfig, OutOfBlocks, Pin, PrefixCaching, PrefixKeys, Retention,
    Salt, StepId, Tier, TokenId,
};

use host::HostBlock;
pub(crate) use op::Op;

/// Tokens up to the end of a block, behind the tenant's number.
type Prefix = (u8, Vec<TokenId>);

#[derive(Clone, PartialEq, Debug)]
enum Content {
    Private,
    /// Filled by `step`; shareable if it has a prefix (a copy has none).
    Pending {
        step: u64,
        prefix: Option<Prefix>,
    },
    Published(Prefix),
    Withdrawn,
}

impl Content {
    fn prefix(&self) -> Option<&Prefix> {
        match self {
            Self::Pending { prefix, .. } => prefix.as_ref(),
            Self::Published(prefix) => Some(prefix),
            Self::Private | Self::Withdrawn => None,
        }
    }

    fn pending_step(&self) -> Option<u64> {
        if let Self::Pending { step, .. } = self { Some(*step) } else { None }
    }
}

struct Block {
    content: Content,
    /// Last step that may touch it.
    busy: Option<u64>,
    /// When it was promised, and when its last table dropped it or, if cached, when it was cached.
    promised_at: u64,
    dropped_at: u64,
    /// Steps retired once it was full, and when it was last used before it was cached.
    full_end: u64,
    used_end: u64,
    is_cached: bool,
    /// Never shareable again.
    is_forgotten: bool,
}

pub(crate) struct Sequence {
    table: BlockTable,
    keys: PrefixKeys,
    tenant: u8,
    tokens: Vec<TokenId>,
    retention: Retention,
    /// From before the last clearing.
    is_stale: bool,
}

pub(crate) struct Model {
    cache: KvCache,
    block_size: usize,
    caching: bool,
    blocks: Vec<Block>,
    pub(crate) sequences: Vec<Sequence>,
    host: Vec<HostBlock>,
    /// Host blocks that hold a prefix, those first that were used least recently.
    host_order: Vec<usize>,
    /// Published blocks that wait to be copied to the host tier.
    to_offload: Vec<usize>,
    pins: Vec<Pin>,
    max_pinned: usize,
    now: u64,
    /// What was asked for each prefix of which a block is left.
    retentions: BTreeMap<Prefix, Retention>,
    /// The step being planned.
    planned: u64,
    /// The oldest step that is not retired.
    next_to_retire: u64,
    clock: u64,
    /// Prefixes that were published and of which a block is left, by the model and as the events tell.
    announced: BTreeSet<Prefix>,
    announced_by_events: BTreeMap<(Tier, BlockKey), Option<BlockKey>>,
    num_hit_tokens: u64,
    num_fetched_tokens: u64,
    num_evicted: u64,
    /// Followed contents that were evicted, in order, and whether each was promised again since.
    evicted: Vec<(Prefix, bool)>,
    num_regretted: u64,
    lifetimes: Figures,
    reuse_gaps: Figures,
}

/// Counts by the least value of the same power of two.
type Figures = BTreeMap<u64, u64>;

/// One content in so many is followed until it is promised again, and counts for as many.
const SAMPLING: u32 = 8;

/// Followed evictions that are remembered.
const NUM_REMEMBERED: u32 = 3;

impl Model {
    pub(crate) fn new(num_blocks: u32, num_host_blocks: u32, block_size: u32, prefix_caching: PrefixCaching) -> Self {
        let max_pinned_blocks = num_blocks / 2;
        let mut cache = KvCache::new(KvCacheConfig {
            prefix_caching,
            max_pinned_blocks,
            num_host_blocks,
            regret_window: NUM_REMEMBERED * SAMPLING,
            ..KvCacheConfig::new(num_blocks, block_size)
        })
        .unwrap();
        cache.record_events(1000);
        let empty = || Block {
            content: Content::Private,
            busy: None,
            promised_at: 0,
            dropped_at: 0,
            full_end: 0,
            used_end: 0,
            is_cached: false,
            is_forgotten: false,
        };
        Self {
            cache,
            block_size: block_size as usize,
            caching: prefix_caching == PrefixCaching::On,
            blocks: (0..num_blocks).map(|_| empty()).collect(),
            sequences: Vec::new(),
            host: vec![
                HostBlock::default();
                if prefix_caching == PrefixCaching::On { num_host_blocks as usize } else { 0 }
            ],
            host_order: Vec::new(),
            to_offload: Vec::new(),
            pins: Vec::new(),
            max_pinned: max_pinned_blocks as usize,
            now: 0,
            retentions: BTreeMap::new(),
            planned: 0,
            next_to_retire: 0,
            clock: 0,
            announced: BTreeSet::new(),
            announced_by_events: BTreeMap::new(),
            num_hit_tokens: 0,
            num_fetched_tokens: 0,
            num_evicted: 0,
            evicted: Vec::new(),
            num_regretted: 0,
            lifetimes: Figures::new(),
            reuse_gaps: Figures::new(),
        }
    }

    /// Does the operation on both sides and compares. Returns false, having done nothing, where it makes no sense.
    pub(crate) fn apply(&mut self, op: &Op) -> bool {
        let done = self.replay(op);
        if done {
            self.compare();
        }
        done
    }

    /// As [`apply`](Self::apply), without comparing all that can be seen.
    pub(crate) fn replay(&mut self, op: &Op) -> bool {
        if let Some(sequence) = op.sequence()
            && sequence >= self.sequences.len()
        {
            return false;
        }
        self.clock += 1;
        match op {
            Op::Admit { tenant, prompt } => self.admit(*tenant, prompt),
            Op::Fetch { tenant, prompt } => self.fetch(*tenant, prompt),
            Op::Offload { max_blocks } => self.offload(*max_blocks),
            Op::Start { tenant, prompt } => {
                self.admit(*tenant, prompt);
                let last = self.sequences.len() - 1;
                let num_matched = self.sequences[last].tokens.len();
                self.extend(last, &prompt[num_matched..]) && self.promise(last)
            }
            Op::Extend { sequence, tokens } => self.extend(*sequence, tokens),
            Op::Promise { sequence } => self.promise(*sequence),
            Op::Launch => {
                self.planned += 1;
                true
            }
            Op::Retire(completed) => self.retire(*completed),
            Op::Truncate { sequence, num_cut, after } => self.truncate(*sequence, *num_cut, *after),
            Op::Fork { sequence, num_cut } => self.fork(*sequence, *num_cut),
            Op::Release { sequence, after } => self.release(*sequence, *after),
            Op::Retain { sequence, retention } => {
                self.sequences[*sequence].table.set_retention(*retention);
                self.sequences[*sequence].retention = *retention;
                true
            }
            Op::Advance { by } => self.advance(*by),
            Op::Pin { tenant, tokens } => self.pin(*tenant, tokens),
            Op::Unpin => self.unpin(),
            Op::Forget { sequence } => self.forget_sequence(*sequence),
            Op::Clear => self.clear(),
        }
    }

    /// Releases everything, retires everything, and checks that no block is lost.
    pub(crate) fn finish(mut self) {
        while !self.sequences.is_empty() {
            self.apply(&Op::Release { sequence: 0, after: true });
        }
        while self.apply(&Op::Unpin) {}
        for _ in self.next_to_retire..=self.planned {
            self.apply(&Op::Retire(true));
        }
        assert_eq!(self.cache.num_free() as usize, self.blocks.len(), "all blocks come back");
        assert_eq!(self.cache.usage().host_in_transit, 0, "all copies come to an end");
    }

    fn admit(&mut self, tenant: u8, prompt: &[TokenId]) -> bool {
        let keys = keys_of(tenant, prompt, self.block_size);
        let matchable = if self.caching { prompt.len().saturating_sub(1) / self.block_size } else { 0 };
        let prefix = |depth: usize| (tenant, prompt[..depth * self.block_size].to_vec());
        let num_matched = (1..=matchable).rev().find(|depth| self.is_in_pool(&prefix(*depth))).unwrap_or(0);
        let is_known = |depth: &usize| self.is_in_pool(&prefix(*depth)) || self.host_of(&prefix(*depth)).is_some();
        let num_known = (1..=matchable).rev().find(is_known).unwrap_or(0);
        let num_matched_tokens = num_matched * self.block_size;
        assert_eq!(
            self.cache.matched_tokens(&keys, prompt) as usize,
            num_known * self.block_size,
            "longest prefix of both tiers"
        );
        let admission = self.cache.admit(&keys, prompt);
        assert_eq!(admission.num_cached_tokens as usize, num_matched_tokens, "admit matches what it says");
        assert_eq!(admission.table.blocks().len(), num_matched, "nothing else is allocated");
        for (depth, block) in (1..).zip(admission.table.blocks()) {
            let prefix = (tenant, prompt[..depth * self.block_size].to_vec());
            let equal = || self.blocks.iter().filter(|block| block.content.prefix() == Some(&prefix));
            let best = equal().map(|block| block.content.pending_step()).min();
            let content = &self.blocks[at(*block)].content;
            assert_eq!(content.prefix(), Some(&prefix), "the whole prefix is the same");
            assert_eq!(Some(content.pending_step()), best, "published before promised, early before late");
            self.reuse(at(*block));
        }
        self.num_hit_tokens += num_matched_tokens as u64;
        let tokens = prompt[..num_matched_tokens].to_vec();
        let keys = keys_of(tenant, &tokens, self.block_size);
        self.sequences.push(Sequence {
            table: admission.table,
            keys,
            tenant,
            tokens,
            retention: Retention::Normal,
            is_stale: false,
        });
        self.touch_host_of_table(self.sequences.len() - 1);
        true
    }

    fn reuse(&mut self, block: usize) {
        let block = &mut self.blocks[block];
        if std::mem::replace(&mut block.is_cached, false) {
            count(&mut self.reuse_gaps, self.next_to_retire - block.used_end);
        }
    }

    fn extend(&mut self, sequence: usize, tokens: &[TokenId]) -> bool {
        let before = self.sequences[sequence].table.blocks().to_vec();
        let num_tokens = self.sequences[sequence].tokens.len() + tokens.len();
        let num_new = num_tokens.div_ceil(self.block_size) - before.len();
        let num_free = (0..self.blocks.len()).filter(|block| self.is_takeable(*block)).count();
        let result = self.cache.grow(&mut self.sequences[sequence].table, num_tokens as u32);
        let after = self.sequences[sequence].table.blocks().to_vec();
        if num_new > num_free {
            let expected = OutOfBlocks { num_needed: num_new as u32, num_free: num_free as u32 };
            assert_eq!(result, Err(expected));
            assert_eq!(after, before, "failure changes nothing");
            return true;
        }
        assert_eq!(result, Ok(()));
        assert_eq!(after[..before.len()], before, "grown at the end");
        assert_eq!(after.len(), before.len() + num_new);
        for block in &after[before.len()..] {
            self.take(at(*block));
        }
        let sequence = &mut self.sequences[sequence];
        sequence.tokens.extend_from_slice(tokens);
        sequence.keys.extend(tokens);
        true
    }

    /// The cache took this block. Was it one that may be taken?
    fn take(&mut self, block: usize) {
        // The block is already in a table, so look past that.
        let waits = |other: usize| other == block || !self.is_held(other);
        let is_free = |other: usize| waits(other) && !self.is_busy(other) && !self.blocks[other].is_cached;
        if self.blocks[block].is_cached {
            let taken_already = |other: usize| self.blocks[other].content == Content::Private && self.is_held(other);
            assert!(
                (0..self.blocks.len()).all(|other| !is_free(other) || taken_already(other)),
                "free blocks go first"
            );
            let worth = |block: &Block| (self.rank(block.content.prefix()), block.dropped_at);
            let least = self.blocks.iter().filter(|other| other.is_cached).map(worth).min();
            assert_eq!(Some(worth(&self.blocks[block])), least, "the block of least worth is evicted");
            self.num_evicted += 1;
            count(&mut self.lifetimes, self.next_to_retire - self.blocks[block].full_end);
            let content = self.blocks[block].content.prefix().cloned();
            self.forget(block);
            let is_left = |prefix: &Prefix| self.is_in_pool(prefix) || self.host_of(prefix).is_some();
            let lost = content.filter(|prefix| !is_left(prefix) && is_followed(prefix, self.block_size));
            self.evicted.extend(lost.map(|prefix| (prefix, false)));
        } else {
            assert!(is_free(block), "only takeable blocks are taken");
            self.forget(block);
        }
    }

    fn truncate(&mut self, sequence: usize, num_cut: usize, after: bool) -> bool {
        let table = &self.sequences[sequence].table;
        let is_legal = |num_tokens: &usize| {
            let cut = table.blocks().get(num_tokens / self.block_size).map(|block| at(*block));
            num_tokens.is_multiple_of(self.block_size)
                || cut.is_none_or(|cut| self.num_holders(cut) == 1 && self.blocks[cut].content.prefix().is_none())
        };
        let num_tokens = self.sequences[sequence].tokens.len();
        let target = (num_tokens.saturating_sub(num_cut)..num_tokens).find(is_legal);
        let Some(target) = target else { return false };
        let after = after.then_some(self.planned);
        let old = self.sequences[sequence].table.blocks().to_vec();
        self.cache.truncate(&mut self.sequences[sequence].table, target as u32, after.map(StepId));
        let num_kept = target.div_ceil(self.block_size);
        assert_eq!(self.sequences[sequence].table.blocks(), &old[..num_kept]);
        self.drop_blocks(&old, num_kept, after, None);
        let Sequence { tokens, keys, tenant, .. } = &mut self.sequences[sequence];
        tokens.truncate(target);
        *keys = keys_of(*tenant, tokens, self.block_size);
        true
    }

    fn fork(&mut self, sequence: usize, num_cut: usize) -> bool {
        let Sequence { table, tenant, tokens, retention, is_stale, .. } = &self.sequences[sequence];
        let num_tokens = tokens.len().saturating_sub(num_cut);
        let num_shared = num_tokens / self.block_size;
        let partial = (!num_tokens.is_multiple_of(self.block_size)).then(|| table.blocks()[num_shared]);
        let num_free = (0..self.blocks.len()).filter(|block| self.is_takeable(*block)).count();
        let shared = table.blocks()[..num_shared].to_vec();
        let (tenant, tokens, retention, is_stale) = (*tenant, tokens[..num_tokens].to_vec(), *retention, *is_stale);
        let Ok((fork, copy)) = self.cache.fork(table, num_tokens as u32) else {
            assert!(partial.is_some() && num_free == 0, "a fork fails only for want of a block");
            return true;
        };
        assert_eq!(fork.blocks()[..num_shared], shared, "full blocks are shared");
        assert_eq!(copy.map(|copy| copy.from), partial, "a partial block is copied");
        assert_eq!(copy.map(|copy| copy.to), fork.blocks().get(num_shared).copied());
        let keys = keys_of(tenant, &tokens, self.block_size);
        self.sequences.push(Sequence { table: fork, keys, tenant, tokens, retention, is_stale });
        if let Some(copy) = copy {
            let (from, to) = (at(copy.from), at(copy.to));
            self.take(to);
            self.blocks[to].promised_at = self.clock;
            self.blocks[to].is_forgotten = self.blocks[from].is_forgotten;
            self.blocks[to].content = match self.blocks[from].content {
                Content::Pending { step, .. } => Content::Pending { step, prefix: None },
                Content::Withdrawn => Content::Withdrawn,
                Content::Private | Content::Published(_) => Content::Private,
            };
        }
        true
    }

    fn release(&mut self, sequence: usize, after: bool) -> bool {
        let Sequence { table, retention, .. } = self.sequences.remove(sequence);
        let after = after.then_some(self.planned);
        let blocks = table.blocks().to_vec();
        self.cache.release(table, after.map(StepId));
        self.drop_blocks(&blocks, 0, after, Some(retention));
        true
    }

    /// A table with these blocks has kept the first `num_kept`. Busy ends spread towards the front.
    fn drop_blocks(&mut self, blocks: &[BlockId], num_kept: usize, after: Option<u64>, retention: Option<Retention>) {
        let mut busy = after;
        for index in (num_kept..blocks.len()).rev() {
            self.clock += 1;
            if let Some(retention) = retention {
                self.retain(at(blocks[index]), retention);
            }
            let block = &mut self.blocks[at(blocks[index])];
            busy = busy.max(block.busy).max(block.content.pending_step());
            block.busy = busy;
            block.dropped_at = self.clock;
            if !self.is_held(at(blocks[index])) && !self.is_busy(at(blocks[index])) {
                self.place(at(blocks[index]));
            }
        }
        if num_kept > 0 {
            let last = &mut self.blocks[at(blocks[num_kept - 1])];
            last.busy = last.busy.max(busy);
        }
    }

    fn forget_sequence(&mut self, sequence: usize) -> bool {
        let Some(&first) = self.sequences[sequence].table.blocks().first() else { return false };
        self.cache.forget(first);
        let Some((tenant, tokens)) = self.blocks[at(first)].content.prefix().cloned() else { return true };
        self.forget_prefixes(|prefix| prefix.0 == tenant && prefix.1.starts_with(&tokens));
        true
    }

    fn clear(&mut self) -> bool {
        self.cache.clear_prefix_cache();
        self.evicted.clear();
        self.forget_prefixes(|_| true);
        self.sequences.iter_mut().for_each(|sequence| sequence.is_stale = true);
        true
    }

    fn forget_prefixes(&mut self, falls: impl Fn(&Prefix) -> bool) {
        self.forget_host_if(|host| host.prefix.as_ref().is_some_and(&falls));
        for block in 0..self.blocks.len() {
            if !self.blocks[block].content.prefix().is_some_and(&falls) {
                continue;
            }
            if self.blocks[block].is_cached {
                self.forget(block);
                continue;
            }
            self.blocks[block].is_forgotten = true;
            match &mut self.blocks[block].content {
                Content::Pending { prefix, .. } => *prefix = None,
                content @ Content::Published(_) => *content = Content::Private,
                Content::Private | Content::Withdrawn => {}
            }
        }
        self.unannounce();
    }

    /// A block that nothing holds any more is cached or forgotten.
    fn place(&mut self, block: usize) {
        self.clock += 1;
        let content = self.blocks[block].content.clone();
        let is_only = (0..self.blocks.len()).all(|other| other == block || self.blocks[other].content != content);
        if matches!(content, Content::Published(_)) && is_only {
            self.blocks[block].is_cached = true;
            self.blocks[block].dropped_at = self.clock;
            self.blocks[block].used_end = self.next_to_retire;
        } else {
            self.forget(block);
        }
    }

    fn forget(&mut self, block: usize) {
        let block = &mut self.blocks[block];
        block.content = Content::Private;
        block.busy = None;
        block.is_cached = false;
        block.is_forgotten = false;
        self.unannounce();
    }

    /// A prefix is gone from the pool when no block has it, and a copy under way alone does not keep it.
    fn unannounce(&mut self) {
        let in_pool: BTreeSet<Prefix> =
            self.blocks.iter().filter_map(|block| block.content.prefix().cloned()).collect();
        self.forget_host_if(|host| {
            !host.is_filled && host.prefix.as_ref().is_some_and(|prefix| !in_pool.contains(prefix))
        });
        self.announced.retain(|prefix| in_pool.contains(prefix));
        let (host, blocks) = (&self.host, &self.blocks);
        let is_in_host = |prefix: &Prefix| host.iter().any(|block| block.prefix.as_ref() == Some(prefix));
        self.retentions.retain(|prefix, _| in_pool.contains(prefix) || is_in_host(prefix));
        self.to_offload.retain(|block| matches!(blocks[*block].content, Content::Published(_)));
    }

    fn num_holders(&self, block: usize) -> usize {
        let holds = |sequence: &&Sequence| sequence.table.blocks().iter().any(|held| at(*held) == block);
        let pins = |pin: &&Pin| pin.blocks().iter().any(|held| at(*held) == block);
        self.sequences.iter().filter(holds).count() + self.pins.iter().filter(pins).count()
    }

    fn is_held(&self, block: usize) -> bool {
        self.num_holders(block) > 0
    }

    fn is_busy(&self, block: usize) -> bool {
        self.blocks[block].busy.is_some_and(|busy| busy >= self.next_to_retire)
    }

    fn is_takeable(&self, block: usize) -> bool {
        !self.is_held(block) && !self.is_busy(block)
    }

    fn is_withdrawn(&self, sequence: &Sequence) -> bool {
        sequence.table.blocks().iter().any(|block| self.blocks[at(*block)].content == Content::Withdrawn)
    }
}

fn keys_of(tenant: u8, tokens: &[TokenId], block_size: usize) -> PrefixKeys {
    let mut keys = PrefixKeys::new(&Salt::from_bytes([tenant; 32]), block_size as u32);
    keys.extend(tokens);
    keys
}

/// One content in eight is.
fn is_followed(prefix: &Prefix, block_size: usize) -> bool {
    last_key(prefix, block_size).as_u128() >> 125 == 0
}

fn last_key((tenant, tokens): &Prefix, block_size: usize) -> BlockKey {
    *keys_of(*tenant, tokens, block_size).block_keys().last().expect("a prefix has a block")
}

fn count(figures: &mut Figures, value: u64) {
    let least = if value == 0 { 0 } else { 1 << value.ilog2() };
    *figures.entry(least).or_default() += 1;
}

fn at(block: BlockId) -> usize {
    block.index() as usize
}
