//! The backend's copy of one step's inputs, the block tables, and the tiles of tokens that attention works on. Knows
//! indices and lengths, not requests.

use core::ops::Range;

use serving_types::RowSlot;
use tensor_backend::{InputLimits, LogitJob, StepInputs};

use crate::CpuError;
use crate::memory::{bytes_of, reserved, zeroed};

/// Tokens of one row that attend together. Only their speed depends on the grouping, never a result.
#[derive(Clone, Debug)]
pub(crate) struct TokenTile {
    pub(crate) slot: RowSlot,
    pub(crate) tokens: Range<usize>,
}

/// Most tokens of a [`TokenTile`].
pub(crate) const MAX_TILE_TOKENS: usize = 12;

/// One step's inputs and the persistent block tables.
#[derive(Debug)]
pub struct Inputs {
    step: StepInputs,
    tables: Vec<u32>,
    max_blocks_per_slot: usize,
    tiles: Vec<TokenTile>,
}

impl Inputs {
    pub(crate) fn new(limits: &InputLimits) -> Result<Self, CpuError> {
        const WHAT: &str = "step inputs";
        let (tokens, slots) = (limits.max_tokens, limits.max_slots);
        Ok(Self {
            step: StepInputs {
                token_ids: reserved(tokens, WHAT)?,
                fed: reserved(slots, WHAT)?,
                positions: reserved(tokens, WHAT)?,
                token_rows: reserved(tokens, WHAT)?,
                row_starts: reserved(slots + 1, WHAT)?,
                row_slots: reserved(slots, WHAT)?,
                context_lens: reserved(slots, WHAT)?,
                table_updates: Vec::new(),
                jobs: reserved(limits.max_jobs, WHAT)?,
            },
            tables: zeroed(slots * limits.max_blocks_per_slot, 0, "block tables")?,
            max_blocks_per_slot: limits.max_blocks_per_slot,
            tiles: reserved(tokens, WHAT)?,
        })
    }

    pub(crate) fn bytes(&self) -> u64 {
        let step = &self.step;
        [&step.token_ids, &step.positions, &step.token_rows, &step.row_starts, &step.context_lens, &self.tables]
            .map(bytes_of)
            .iter()
            .sum::<u64>()
            + bytes_of(&step.fed)
            + bytes_of(&step.row_slots)
            + bytes_of(&step.jobs)
            + bytes_of(&self.tiles)
    }

    /// What [`bytes`](Self::bytes) will be.
    pub(crate) fn planned_bytes(limits: &InputLimits) -> u64 {
        const INDEX: usize = size_of::<u32>();
        let token = 3 * INDEX + size_of::<TokenTile>();
        let slot = 2 * INDEX + size_of::<(u32, RowSlot)>() + size_of::<RowSlot>() + limits.max_blocks_per_slot * INDEX;
        let job = size_of::<LogitJob>();
        (limits.max_tokens * token + limits.max_slots * slot + INDEX + limits.max_jobs * job) as u64
    }

    /// Copies the step, all but the table updates, which are applied.
    pub(crate) fn upload(&mut self, step: &StepInputs) {
        self.step.token_ids.clone_from(&step.token_ids);
        self.step.fed.clone_from(&step.fed);
        self.step.positions.clone_from(&step.positions);
        self.step.token_rows.clone_from(&step.token_rows);
        self.step.row_starts.clone_from(&step.row_starts);
        self.step.row_slots.clone_from(&step.row_slots);
        self.step.context_lens.clone_from(&step.context_lens);
        self.step.jobs.clone_from(&step.jobs);
        for update in &step.table_updates {
            let index = update.index as usize;
            assert!(index < self.max_blocks_per_slot, "block {index} of a table of {}", self.max_blocks_per_slot);
            self.tables[update.slot.0 as usize * self.max_blocks_per_slot + index] = update.block;
        }
        self.tiles.clear();
        for (row, &slot) in step.row_slots.iter().enumerate() {
            let (start, end) = (step.row_starts[row] as usize, step.row_starts[row + 1] as usize);
            for first in (start..end).step_by(MAX_TILE_TOKENS) {
                self.tiles.push(TokenTile { slot, tokens: first..end.min(first + MAX_TILE_TOKENS) });
            }
        }
    }

    pub(crate) fn step(&self) -> &StepInputs {
        &self.step
    }

    pub(crate) fn tiles(&self) -> &[TokenTile] {
        &self.tiles
    }

    /// The block table of a slot. Entries beyond the slot's context are stale.
    pub(crate) fn table(&self, slot: RowSlot) -> &[u32] {
        &self.tables[slot.0 as usize * self.max_blocks_per_slot..][..self.max_blocks_per_slot]
    }
}
