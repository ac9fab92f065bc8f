//! KV memory that remembers: for each slot of each block, the token whose KV it holds and a hash of all tokens before it.
//! Knows no request; it is told who reads and writes.

use std::ops::Range;

use serving_types::{BlockId, ExecutorLimits, HostBlockId, HostCopy, TokenId};

use crate::FakeModel;

/// What one slot of a block holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kv {
    /// Nothing was ever written.
    Unwritten,
    /// What a failed step left, or what was computed from such.
    Poison,
    /// What a row with a fault computed, or what was computed from such: not a number. Written by this owner of a slot.
    Nan { owner: u64 },
    /// The KV of a token after a prefix.
    Token { token: TokenId, prefix: u64 },
}

/// Why a prefix cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ReadError {
    /// A failed step wrote it, directly or not.
    Poison,
    /// A row with a fault wrote it, directly or not: one of this owner of a slot.
    Nan { owner: u64 },
    /// It holds something else: the error that the whole simulator exists to find.
    Foreign { position: u32, block: BlockId },
}

/// The pool.
#[derive(Debug)]
pub(crate) struct ShadowKv {
    model: FakeModel,
    block_size: u32,
    slots: Vec<Kv>,
    /// Those of the host's pool.
    host: Vec<Kv>,
}

impl ShadowKv {
    pub(crate) fn new(model: FakeModel, limits: &ExecutorLimits) -> Self {
        let unwritten = |num_blocks: u32| vec![Kv::Unwritten; num_blocks as usize * limits.block_size as usize];
        let (slots, host) = (unwritten(limits.num_blocks), unwritten(limits.num_host_blocks));
        Self { model, block_size: limits.block_size, slots, host }
    }

    /// Reads the first `num_tokens` positions of a table, each checked to follow from the one before. Returns the hash of
    /// all of them and writes the tokens over `context`.
    pub(crate) fn attend(
        &self,
        table: &[BlockId],
        num_tokens: u32,
        context: &mut Vec<TokenId>,
    ) -> Result<u64, ReadError> {
        context.clear();
        let mut before = self.model.root();
        for position in 0..num_tokens {
            let block = table[(position / self.block_size) as usize];
            match self.slots[self.place(block, position)] {
                Kv::Token { token, prefix } if prefix == self.model.extend(before, token) => {
                    context.push(token);
                    before = prefix;
                }
                Kv::Poison => return Err(ReadError::Poison),
                Kv::Nan { owner } => return Err(ReadError::Nan { owner }),
                Kv::Token { .. } | Kv::Unwritten => return Err(ReadError::Foreign { position, block }),
            }
        }
        Ok(before)
    }

    /// Appends a token's KV after a prefix, and returns the prefix hash with it.
    pub(crate) fn append(&mut self, table: &[BlockId], position: u32, before: u64, token: TokenId) -> u64 {
        let prefix = self.model.extend(before, token);
        self.write(table, position, Kv::Token { token, prefix });
        prefix
    }

    /// Spoils a position as a failed step does.
    pub(crate) fn poison(&mut self, table: &[BlockId], position: u32) {
        self.write(table, position, Kv::Poison);
    }

    /// Spoils a position as a row with a fault does.
    pub(crate) fn write_nan(&mut self, table: &[BlockId], position: u32, owner: u64) {
        self.write(table, position, Kv::Nan { owner });
    }

    fn write(&mut self, table: &[BlockId], position: u32, kv: Kv) {
        let place = self.place(table[(position / self.block_size) as usize], position);
        self.slots[place] = kv;
    }

    /// Copies a block whole.
    pub(crate) fn copy(&mut self, from: BlockId, to: BlockId) {
        let size = self.block_size as usize;
        let (from, to) = (from.0 as usize * size, to.0 as usize * size);
        self.slots.copy_within(from..from + size, to);
    }

    /// Copies a block whole from one pool to the other.
    pub(crate) fn copy_host(&mut self, copy: HostCopy) {
        match copy {
            HostCopy::Fetch { from, to } => {
                let (from, to) = (self.host_range(from), self.range(to));
                self.slots[to].copy_from_slice(&self.host[from]);
            }
            HostCopy::Offload { from, to } => {
                let (from, to) = (self.range(from), self.host_range(to));
                self.host[to].copy_from_slice(&self.slots[from]);
            }
        }
    }

    /// Spoils what such a copy writes, as a failed step does.
    pub(crate) fn poison_copied(&mut self, copy: HostCopy) {
        match copy {
            HostCopy::Fetch { to, .. } => {
                let to = self.range(to);
                self.slots[to].fill(Kv::Poison);
            }
            HostCopy::Offload { to, .. } => {
                let to = self.host_range(to);
                self.host[to].fill(Kv::Poison);
            }
        }
    }

    fn range(&self, block: BlockId) -> Range<usize> {
        let size = self.block_size as usize;
        block.0 as usize * size..(block.0 as usize + 1) * size
    }

    fn host_range(&self, block: HostBlockId) -> Range<usize> {
        self.range(BlockId(block.0))
    }

    fn place(&self, block: BlockId, position: u32) -> usize {
        (block.0 * self.block_size + position % self.block_size) as usize
    }
}
