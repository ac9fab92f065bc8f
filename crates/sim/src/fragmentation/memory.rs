//! Three ways to give requests memory for their KV. Knows no time and no queue.

use std::collections::BTreeSet;

use engine::{PrefixCaching, PrefixKeys, Salt};
use kv_paging::{BlockTable, KvCache, KvCacheConfig, StepId, StepOutcome};
use serving_types::TokenId;

use crate::workload::MAX_CHAT_TOKENS;

/// The pool is full.
#[derive(Debug)]
pub(super) struct Full;

/// Memory for the KV of many requests, in token slots. Requests are named by their place in the workload.
pub(super) trait Memory {
    /// Begins to hold a request whose tokens are known. Returns those whose KV is there already; `Full` if what is known would
    /// not fit beside `num_running` requests that grow.
    fn admit(&mut self, request: usize, tokens: &[TokenId], num_running: u32) -> Result<u32, Full>;

    /// Makes room for a request's first `num_tokens` tokens.
    fn grow(&mut self, request: usize, num_tokens: u32) -> Result<(), Full>;

    /// One more token of a request is known.
    fn push(&mut self, request: usize, token: TokenId);

    /// This step computes a request's first `num_tokens` tokens.
    fn fill(&mut self, request: usize, num_tokens: u32);

    /// The step is done.
    fn end_step(&mut self);

    /// A request needs its memory no more.
    fn release(&mut self, request: usize);

    /// Slots that are given to requests.
    fn num_given_slots(&self) -> u64;

    /// Of these, slots that hold a token.
    fn num_filled_slots(&self) -> u64;
}

/// How long a region of its own a request gets.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reservation {
    /// As long as the longest context.
    MaxLength,
    /// The next power of two. A request that has filled its region is moved to one of twice the length.
    PowerOfTwo,
}

/// One contiguous region a request, from a buddy allocator (Knowlton, 1965): regions of a power of two, each aligned to
/// its length.
pub(super) struct Regions {
    reservation: Reservation,
    /// For each order the starts of free regions of `1 << order` slots.
    free: Vec<BTreeSet<u32>>,
    /// Start, order and filled slots of each request's region.
    regions: Vec<Option<(u32, usize, u32)>>,
    num_given: u64,
}

impl Regions {
    pub(super) fn new(reservation: Reservation, num_slots: u32, num_requests: usize) -> Self {
        let largest = MAX_CHAT_TOKENS.ilog2() as usize;
        let mut free = vec![BTreeSet::new(); largest + 1];
        free[largest] = (0..num_slots).step_by(1 << largest).collect();
        Self { reservation, free, regions: vec![None; num_requests], num_given: 0 }
    }

    /// The order of the region for so many tokens.
    fn order(&self, num_tokens: u32) -> usize {
        match self.reservation {
            Reservation::MaxLength => self.free.len() - 1,
            Reservation::PowerOfTwo => num_tokens.next_power_of_two().ilog2() as usize,
        }
    }

    fn take(&mut self, order: usize) -> Result<u32, Full> {
        let larger = (order..self.free.len()).find(|&larger| !self.free[larger].is_empty()).ok_or(Full)?;
        let start = self.free[larger].pop_first().expect("it is not empty");
        // Halve it until it fits; the second halves stay free.
        for half in (order..larger).rev() {
            self.free[half].insert(start + (1 << half));
        }
        self.num_given += 1 << order;
        Ok(start)
    }

    fn give(&mut self, mut start: u32, mut order: usize) {
        self.num_given -= 1 << order;
        while order + 1 < self.free.len() && self.free[order].remove(&(start ^ (1 << order))) {
            start &= !(1 << order);
            order += 1;
        }
        self.free[order].insert(start);
    }
}

impl Memory for Regions {
    fn admit(&mut self, request: usize, tokens: &[TokenId], _num_running: u32) -> Result<u32, Full> {
        let order = self.order(tokens.len() as u32);
        self.regions[request] = Some((self.take(order)?, order, 0));
        Ok(0)
    }

    fn grow(&mut self, request: usize, num_tokens: u32) -> Result<(), Full> {
        let (start, order, filled) = self.regions[request].expect("the request was admitted");
        let needed = self.order(num_tokens);
        if needed > order {
            // Both are held while one is copied to the other.
            self.regions[request] = Some((self.take(needed)?, needed, filled));
            self.give(start, order);
        }
        Ok(())
    }

    fn push(&mut self, _request: usize, _token: TokenId) {}

    fn fill(&mut self, request: usize, num_tokens: u32) {
        self.regions[request].as_mut().expect("the request was admitted").2 = num_tokens;
    }

    fn end_step(&mut self) {}

    fn release(&mut self, request: usize) {
        let (start, order, _) = self.regions[request].take().expect("the request was admitted");
        self.give(start, order);
    }

    fn num_given_slots(&self) -> u64 {
        self.num_given
    }

    fn num_filled_slots(&self) -> u64 {
        self.regions.iter().flatten().map(|(_, _, filled)| u64::from(*filled)).sum()
    }
}

/// Blocks, from the product's own cache.
pub(super) struct Paged {
    cache: KvCache,
    tables: Vec<Option<(BlockTable, PrefixKeys)>>,
    step: StepId,
}

impl Paged {
    pub(super) fn new(block_size: u32, prefix_caching: PrefixCaching, num_slots: u32, num_requests: usize) -> Self {
        let config = KvCacheConfig { prefix_caching, ..KvCacheConfig::new(num_slots / block_size, block_size) };
        let cache = KvCache::new(config).expect("a power of two");
        Self { cache, tables: (0..num_requests).map(|_| None).collect(), step: StepId(0) }
    }
}

impl Memory for Paged {
    fn admit(&mut self, request: usize, tokens: &[TokenId], num_running: u32) -> Result<u32, Full> {
        let block_size = self.cache.config().block_size;
        let mut keys = PrefixKeys::new(&Salt::default(), block_size);
        keys.extend(tokens);
        let admission = self.cache.admit(&keys, tokens);
        let num_needed = keys.num_tokens().div_ceil(block_size) - admission.table.blocks().len() as u32;
        if num_needed + num_running > self.cache.num_free() {
            self.cache.release(admission.table, None);
            return Err(Full);
        }
        self.tables[request] = Some((admission.table, keys));
        Ok(admission.num_cached_tokens)
    }

    fn grow(&mut self, request: usize, num_tokens: u32) -> Result<(), Full> {
        let (table, _) = self.tables[request].as_mut().expect("the request was admitted");
        self.cache.grow(table, num_tokens).map_err(|_| Full)
    }

    fn push(&mut self, request: usize, token: TokenId) {
        self.tables[request].as_mut().expect("the request was admitted").1.extend(&[token]);
    }

    fn fill(&mut self, request: usize, num_tokens: u32) {
        let (table, keys) = self.tables[request].as_ref().expect("the request was admitted");
        self.cache.promise(table, keys, num_tokens, self.step);
    }

    fn end_step(&mut self) {
        self.cache.retire(self.step, StepOutcome::Completed);
        self.step.0 += 1;
    }

    fn release(&mut self, request: usize) {
        let (table, _) = self.tables[request].take().expect("the request was admitted");
        self.cache.release(table, None);
    }

    fn num_given_slots(&self) -> u64 {
        u64::from(self.cache.usage().active) * u64::from(self.cache.config().block_size)
    }

    fn num_filled_slots(&self) -> u64 {
        self.num_given_slots() - self.cache.usage().empty_slots
    }
}
