//! The host tier: which blocks of it hold which prefixes, in the order in which they go, and the copies that are planned.

use kv_paging::{HostBlockId, StepId, TierCopy, TokenId};

use super::{Content, Model, Prefix, Sequence, at, is_followed, keys_of};

#[derive(Clone, Default)]
pub(super) struct HostBlock {
    pub(super) prefix: Option<Prefix>,
    pub(super) is_filled: bool,
    /// The step whose copy names it.
    pub(super) busy: Option<u64>,
}

impl Model {
    /// The host block that holds or will hold this prefix.
    pub(super) fn host_of(&self, prefix: &Prefix) -> Option<usize> {
        self.host.iter().position(|block| block.prefix.as_ref() == Some(prefix))
    }

    /// Whether a block of the pool holds this prefix, or will.
    pub(super) fn is_in_pool(&self, prefix: &Prefix) -> bool {
        self.blocks.iter().any(|block| block.content.prefix() == Some(prefix))
    }

    /// Admits a prompt and copies back what follows in the host tier.
    pub(super) fn fetch(&mut self, tenant: u8, prompt: &[TokenId]) -> bool {
        self.admit(tenant, prompt);
        let last = self.sequences.len() - 1;
        let num_held = self.sequences[last].tokens.len() / self.block_size;
        let prefix = |depth: usize| (tenant, prompt[..depth * self.block_size].to_vec());
        let matchable = if self.caching { prompt.len().saturating_sub(1) / self.block_size } else { 0 };
        let num_takeable = (0..self.blocks.len()).filter(|block| self.is_takeable(*block)).count();
        let prefixes: Vec<Prefix> = (num_held + 1..=matchable)
            .map(prefix)
            .take_while(|prefix| self.host_of(prefix).is_some() && !self.is_in_pool(prefix))
            .take(num_takeable)
            .collect();
        let keys = keys_of(tenant, prompt, self.block_size);
        let num_fetched = self.cache.fetch(&mut self.sequences[last].table, &keys, prompt, StepId(self.planned));
        assert_eq!(num_fetched as usize, prefixes.len() * self.block_size, "all that follows is copied back");
        let copies = self.drain_copies();
        let added = self.sequences[last].table.blocks()[num_held..].to_vec();
        assert_eq!((copies.len(), added.len()), (prefixes.len(), prefixes.len()), "a copy for each block");
        for ((copy, block), prefix) in copies.into_iter().zip(added).zip(prefixes) {
            let TierCopy::Fetch { from, to } = copy else { panic!("{copy:?} while a table is fetched") };
            assert_eq!(to, block, "a copy for each block, in order");
            let host = &mut self.host[from.index() as usize];
            assert_eq!(host.prefix.as_ref(), Some(&prefix), "the whole prefix is the same");
            assert!(host.is_filled && host.busy.is_none(), "what is read is there");
            host.busy = Some(self.planned);
            self.take(at(to));
            self.clock += 1;
            let block = &mut self.blocks[at(to)];
            block.content = Content::Pending { step: self.planned, prefix: Some(prefix) };
            block.promised_at = self.clock;
        }
        self.num_hit_tokens += u64::from(num_fetched);
        self.num_fetched_tokens += u64::from(num_fetched);
        let Sequence { tokens, keys, table, .. } = &mut self.sequences[last];
        tokens.extend_from_slice(&prompt[tokens.len()..table.num_tokens() as usize]);
        *keys = keys_of(tenant, tokens, self.block_size);
        if num_fetched > 0 {
            self.touch_host_of_table(last);
        }
        true
    }

    /// Plans copies to the host tier, and follows its choice of free blocks.
    pub(super) fn offload(&mut self, max_blocks: usize) -> bool {
        self.cache.offload(max_blocks as u32, StepId(self.planned));
        let mut copies = self.drain_copies().into_iter();
        let mut num_left = max_blocks;
        while num_left > 0 && !self.to_offload.is_empty() {
            let source = self.to_offload[0];
            let Content::Published(prefix) = self.blocks[source].content.clone() else {
                panic!("only published blocks wait to be copied")
            };
            let parent = self.parent(&prefix);
            let host_parent = parent.as_ref().map(|parent| self.host_of(parent));
            if self.host_of(&prefix).is_some() || host_parent == Some(None) {
                self.to_offload.remove(0);
                continue;
            }
            let is_free = |host: &HostBlock| host.prefix.is_none() && host.busy.is_none();
            let victim = if self.host.iter().any(is_free) { None } else { self.host_victim() };
            if victim.is_some_and(|victim| self.host[victim].busy.is_some()) || self.host_is_leaving(victim) {
                break;
            }
            self.to_offload.remove(0);
            if victim.is_some() && victim == host_parent.flatten() {
                continue;
            }
            let Some(TierCopy::Offload { from, to }) = copies.next() else { panic!("{prefix:?} is not copied") };
            let to = to.index() as usize;
            assert_eq!(at(from), source, "those that were published first go first");
            match victim {
                Some(victim) => {
                    assert_eq!(to, victim, "the host block of least worth makes way");
                    self.evict_from_host(victim);
                }
                None => assert!(is_free(&self.host[to]), "a free host block is taken"),
            }
            self.fill_host(to, prefix, host_parent.flatten());
            num_left -= 1;
        }
        assert_eq!(copies.next(), None, "nothing else is copied");
        true
    }

    /// Nothing is free, and nothing could make way.
    fn host_is_leaving(&self, victim: Option<usize>) -> bool {
        victim.is_none() && self.host.iter().all(|host| host.prefix.is_some() || host.busy.is_some())
    }

    fn fill_host(&mut self, to: usize, prefix: Prefix, parent: Option<usize>) {
        let rank = self.host_rank(&prefix);
        let place = parent.filter(|parent| {
            let parent = self.host[*parent].prefix.as_ref().expect("the parent is there");
            self.host_rank(parent) == rank
        });
        let place = place.and_then(|parent| self.host_order.iter().position(|host| *host == parent));
        self.host_order.insert(place.unwrap_or(self.host_order.len()), to);
        self.host[to] = HostBlock { prefix: Some(prefix), is_filled: false, busy: Some(self.planned) };
    }

    fn evict_from_host(&mut self, victim: usize) {
        let prefix = self.host[victim].prefix.clone().expect("it holds a prefix");
        self.forget_host(victim);
        if !self.is_in_pool(&prefix) && is_followed(&prefix, self.block_size) {
            self.evicted.push((prefix, false));
        }
        self.unannounce();
    }

    /// Those of least worth first; equal ones by last use.
    fn host_victim(&self) -> Option<usize> {
        let rank = |host: &usize| self.host_rank(self.host[*host].prefix.as_ref().expect("listed, so it holds one"));
        self.host_order.iter().copied().min_by_key(rank)
    }

    /// Below `Normal` there is nothing.
    fn host_rank(&self, prefix: &Prefix) -> u32 {
        self.rank(Some(prefix)).max(1)
    }

    pub(super) fn forget_host(&mut self, host: usize) {
        self.host_order.retain(|other| *other != host);
        self.host[host].prefix = None;
        self.host[host].is_filled = false;
    }

    pub(super) fn forget_host_if(&mut self, falls: impl Fn(&HostBlock) -> bool) {
        for host in 0..self.host.len() {
            if self.host[host].prefix.is_some() && falls(&self.host[host]) {
                self.forget_host(host);
            }
        }
    }

    pub(super) fn touch_host(&mut self, prefix: &Prefix) {
        if let Some(host) = self.host_of(prefix) {
            self.host_order.retain(|other| *other != host);
            self.host_order.push(host);
        }
    }

    pub(super) fn touch_host_of_table(&mut self, sequence: usize) {
        let blocks = self.sequences[sequence].table.blocks().to_vec();
        for block in blocks.into_iter().rev() {
            if let Some(prefix) = self.blocks[at(block)].content.prefix().cloned() {
                self.touch_host(&prefix);
            }
        }
    }

    /// The copies of a step that was just retired are done.
    pub(super) fn end_copies(&mut self, step: u64) {
        for host in &mut self.host {
            if host.busy == Some(step) {
                host.busy = None;
                host.is_filled = host.prefix.is_some();
            }
        }
    }

    pub(super) fn drain_copies(&mut self) -> Vec<TierCopy> {
        let mut copies = Vec::new();
        self.cache.drain_copies(|copy| copies.push(copy));
        for copy in &copies {
            let (TierCopy::Fetch { from: host, .. } | TierCopy::Offload { to: host, .. }) = copy;
            assert_eq!(HostBlockId::from_index(host.index()), *host);
            assert!((host.index() as usize) < self.host.len(), "a block of the host tier");
        }
        copies
    }

    pub(super) fn parent(&self, (tenant, tokens): &Prefix) -> Option<Prefix> {
        let num_tokens = tokens.len() - self.block_size;
        (num_tokens > 0).then(|| (*tenant, tokens[..num_tokens].to_vec()))
    }
}
