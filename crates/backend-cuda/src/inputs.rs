//! The device's mirror of a step's inputs: fixed arrays that recorded ops read, staging memory that the host fills, and the
//! persistent block tables. Knows indices and lengths, not requests.

use std::sync::Arc;

use kernels_sys::{
    PW_MAX_SEGMENTS, PwApplyUpdates, PwDecodeItem, PwLogitJob, PwPrefillTile, PwSegment, PwStepView, PwUnpack,
};
use tensor_backend::{InputLimits, LogitChoice, LogitJob, StepInputs, TableUpdate};

use crate::driver::{Device, DeviceMemory, Event, Pinned};
use crate::kernels::Kernels;
use crate::plan::{AttentionPlan, Cuts};
use crate::{Arithmetic, CudaError, driver, plan, sizes};

/// Table updates that travel at a time. A step has a few; one that admits many long prefixes may need several trips.
const MAX_UPDATES_AT_ONCE: usize = 1 << 14;
const WORD_BYTES: usize = 4;
/// Padding of tokens and jobs.
const NONE: i32 = -1;

/// Where each array begins, in words, and how many words all have.
#[derive(Clone, Copy, Debug)]
struct Arrays {
    token_ids: usize,
    positions: usize,
    token_slots: usize,
    jobs: usize,
    /// How many items there are, and how many tiles.
    num_items: usize,
    num_tiles: usize,
    items: usize,
    tiles: usize,
    /// The arrays above, which travel.
    num_sent: usize,
    tables: usize,
    decode_counters: usize,
    decode_queue: usize,
    prefill_counters: usize,
    partial_stats: usize,
    partial_out: usize,
    num_words: usize,
    max_jobs: usize,
    max_items: usize,
    max_tiles: usize,
}

/// Words of one entry.
const fn words_of<T>() -> usize {
    size_of::<T>() / WORD_BYTES
}

/// Counters that the prefill kernel may use.
const NUM_PREFILL_COUNTERS: usize = 16;

impl Arrays {
    fn new(limits: &InputLimits, cuts: &Cuts) -> Self {
        let max_context = (limits.max_blocks_per_slot * limits.attention.block_size) as u32;
        let max_splits = plan::max_splits(max_context) as usize;
        let max_jobs = limits.max_jobs.max(limits.max_tokens);
        let max_items = limits.max_slots * max_splits;
        let max_tiles = limits.max_tokens.div_ceil(cuts.tile_tokens as usize) + limits.max_slots;
        // A token with one split has no partial result.
        let max_partials = if max_splits > 1 { max_items } else { 0 };
        let (heads, kv_heads) = (limits.attention.num_heads, limits.attention.num_kv_heads);
        let mut end = 0;
        // Each array begins at 16 bytes.
        let mut place = |num_words: usize| {
            let begin = end;
            end = (begin + num_words).next_multiple_of(4);
            begin
        };
        let token_ids = place(limits.max_tokens);
        let positions = place(limits.max_tokens);
        let token_slots = place(limits.max_tokens);
        let jobs = place(max_jobs * words_of::<PwLogitJob>());
        let num_items = place(2);
        let num_tiles = num_items + 1;
        let items = place(max_items * words_of::<PwDecodeItem>());
        let tiles = place(max_tiles * words_of::<PwPrefillTile>());
        let num_sent = place(0);
        let tables = place(limits.max_slots * limits.max_blocks_per_slot);
        let decode_counters = place(limits.max_slots * kv_heads);
        let decode_queue = place(1);
        let prefill_counters = place(NUM_PREFILL_COUNTERS);
        let partial_stats = place(max_partials * heads * 2);
        let partial_out = place(max_partials * heads * limits.attention.head_dim);
        let num_words = place(0);
        Self {
            token_ids,
            positions,
            token_slots,
            jobs,
            num_items,
            num_tiles,
            items,
            tiles,
            num_sent,
            tables,
            decode_counters,
            decode_queue,
            prefill_counters,
            partial_stats,
            partial_out,
            num_words,
            max_jobs,
            max_items,
            max_tiles,
        }
    }
}

/// Host memory that one step's inputs travel from.
#[derive(Debug)]
struct Staging {
    words: Pinned<i32>,
    updates: Pinned<TableWords>,
    /// When the device has read them.
    read: Event,
}

/// A table update as the device reads it.
type TableWords = [i32; words_of::<kernels_sys::PwTableUpdate>()];

// SAFETY: numbers.
#[allow(unsafe_code, reason = "marks plain data")]
unsafe impl driver::PlainData for TableWords {}

/// One step's inputs and the persistent block tables.
#[derive(Debug)]
pub struct Inputs {
    limits: InputLimits,
    cuts: Cuts,
    arrays: Arrays,
    memory: DeviceMemory,
    /// Two, so that the next step's inputs are written while the device may still read the last one's.
    staging: [Staging; 2],
    next_staging: usize,
    plan: AttentionPlan,
    /// Of the step that was sent last: its jobs, and whether it is a decode.
    jobs: Vec<LogitJob>,
    is_decode: bool,
}

impl Inputs {
    pub(crate) fn new(device: &Arc<Device>, limits: &InputLimits, cuts: Cuts) -> Result<Self, CudaError> {
        let arrays = Arrays::new(limits, &cuts);
        let staging = || -> Result<Staging, CudaError> {
            Ok(Staging {
                words: Pinned::zeroed(device, arrays.num_sent)?,
                updates: Pinned::zeroed(device, MAX_UPDATES_AT_ONCE)?,
                read: Event::new(device)?,
            })
        };
        Ok(Self {
            limits: *limits,
            cuts,
            arrays,
            memory: DeviceMemory::zeroed(device, arrays.num_words * WORD_BYTES, "step inputs")?,
            staging: [staging()?, staging()?],
            next_staging: 0,
            plan: AttentionPlan::default(),
            jobs: Vec::with_capacity(arrays.max_jobs),
            is_decode: true,
        })
    }

    pub(crate) fn planned_bytes(limits: &InputLimits, cuts: &Cuts) -> u64 {
        (Arrays::new(limits, cuts).num_words * WORD_BYTES) as u64
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.memory.bytes() as u64
    }

    pub(crate) fn limits(&self) -> &InputLimits {
        &self.limits
    }

    /// Rows that a step is padded to.
    pub(crate) fn padded_rows(&self, step: &StepInputs) -> usize {
        let tokens = step.num_tokens();
        if step.is_decode() {
            sizes::decode_rows(tokens, self.max_decode_rows())
        } else {
            sizes::prefill_rows(tokens).min(self.limits.max_tokens)
        }
    }

    /// Most rows of a decode step.
    pub(crate) fn max_decode_rows(&self) -> usize {
        self.limits.max_slots.min(self.limits.max_tokens)
    }

    /// Sends a step.
    pub(crate) fn upload(&mut self, kernels: &Kernels, step: &StepInputs) -> Result<(), CudaError> {
        assert!(step.num_tokens() <= self.limits.max_tokens, "a step has no more tokens than there is room for");
        assert!(step.jobs.len() <= self.arrays.max_jobs, "a step has no more jobs than there is room for");
        let rows = self.padded_rows(step);
        self.is_decode = step.is_decode();
        self.jobs.clone_from(&step.jobs);
        self.plan.plan(step, &self.cuts);
        assert!(self.plan.items.len() <= self.arrays.max_items, "a row has no more splits than planned");
        assert!(self.plan.tiles.len() <= self.arrays.max_tiles, "a step has no more tiles than planned");
        let staging = &mut self.staging[self.next_staging];
        staging.read.wait()?;
        let arrays = &self.arrays;
        let job_rows = if self.is_decode { rows } else { step.jobs.len() };
        let mut packed = Packed::new(staging.words.as_mut_slice());
        packed.put(arrays.token_ids, rows, |out| token_ids(step, out));
        packed.put(arrays.positions, rows, |out| fill(out, step.positions.iter().map(|p| *p as i32)));
        let slots = step.token_rows.iter().map(|row| step.row_slots[*row as usize].0 as i32);
        packed.put(arrays.token_slots, rows, |out| fill(out, slots));
        packed.put(arrays.jobs, job_rows * words_of::<PwLogitJob>(), |out| jobs(&step.jobs, out));
        let counts = [self.plan.items.len() as i32, self.plan.tiles.len() as i32];
        packed.put(arrays.num_items, 2, |out| out.copy_from_slice(&counts));
        packed.put(arrays.items, self.plan.items.len() * words_of::<PwDecodeItem>(), |out| {
            for (out, item) in out.as_chunks_mut().0.iter_mut().zip(&self.plan.items) {
                *out = decode_item_words(item);
            }
        });
        packed.put(arrays.tiles, self.plan.tiles.len() * words_of::<PwPrefillTile>(), |out| {
            for (out, tile) in out.as_chunks_mut().0.iter_mut().zip(&self.plan.tiles) {
                *out = [tile.first_token, tile.num_tokens, tile.first_position, tile.slot];
            }
        });
        let (segments, num_segments) = packed.finish();
        kernels.unpack(&PwUnpack {
            staging: staging.words.as_ptr(),
            arrays: self.memory.range().as_ptr(),
            segments,
            num_segments,
        })?;
        staging.read.record()?;
        for (trip, updates) in step.table_updates.chunks(MAX_UPDATES_AT_ONCE).enumerate() {
            if trip > 0 {
                // Those that travelled before are not to be overwritten.
                self.staging[self.next_staging].read.wait()?;
            }
            self.apply(kernels, updates)?;
        }
        self.next_staging = 1 - self.next_staging;
        Ok(())
    }

    /// Sends table updates through the staging memory of this step.
    fn apply(&mut self, kernels: &Kernels, updates: &[TableUpdate]) -> Result<(), CudaError> {
        let &InputLimits { max_slots, max_blocks_per_slot, .. } = &self.limits;
        let tables = self.array(self.arrays.tables);
        let staging = &mut self.staging[self.next_staging];
        for (words, update) in staging.updates.as_mut_slice().iter_mut().zip(updates) {
            assert!((update.slot.0 as usize) < max_slots, "a table update names a slot");
            assert!((update.index as usize) < max_blocks_per_slot, "a table update stays inside of its table");
            *words = [update.slot.0 as i32, update.index as i32, update.block as i32];
        }
        kernels.apply_updates(&PwApplyUpdates {
            updates: staging.updates.as_ptr().cast(),
            num_updates: updates.len() as i32,
            max_blocks_per_slot: max_blocks_per_slot as i32,
            tables,
        })?;
        staging.read.record()
    }

    /// For ops that read tokens, positions and tables.
    pub(crate) fn view(&self) -> PwStepView {
        PwStepView {
            token_ids: self.array(self.arrays.token_ids),
            positions: self.array(self.arrays.positions),
            token_slots: self.array(self.arrays.token_slots),
            tables: self.array(self.arrays.tables),
            max_blocks_per_slot: self.limits.max_blocks_per_slot as i32,
        }
    }

    /// The jobs from this one on.
    pub(crate) fn jobs(&self, first: usize) -> *const PwLogitJob {
        self.array(self.arrays.jobs + first * words_of::<PwLogitJob>())
    }

    /// The jobs of the step that was sent last.
    pub(crate) fn host_jobs(&self) -> &[LogitJob] {
        &self.jobs
    }

    /// The decode kernel's work for a step of so many rows: items, their number on the device, and the bound that the launch
    /// is made for. `None` if it has none.
    pub(crate) fn decode_work(&self, rows: usize) -> Option<DecodeWork> {
        let max_items = match (self.is_decode, self.cuts.arithmetic) {
            (true, Arithmetic::BatchInvariant) => 0,
            // What a recorded launch must serve: any context of any row.
            (true, Arithmetic::Fastest) => rows * (self.arrays.max_items / self.limits.max_slots),
            (false, _) => self.plan.items.len(),
        };
        (max_items > 0).then(|| DecodeWork {
            items: self.array(self.arrays.items),
            num_items: self.array(self.arrays.num_items),
            max_items: max_items as i32,
            partial_out: self.array(self.arrays.partial_out),
            partial_stats: self.array(self.arrays.partial_stats),
            counters: self.array(self.arrays.decode_counters),
            queue: self.array(self.arrays.decode_queue),
        })
    }

    /// The prefill kernel's work for a step of so many rows: tiles, their number on the device, and the bounds that the launch
    /// is made for. `None` if it has none.
    pub(crate) fn prefill_work(&self, rows: usize) -> Option<PrefillWork> {
        let (max_tiles, max_tile_tokens) = if !self.is_decode {
            (self.plan.tiles.len(), self.cuts.tile_tokens)
        } else if self.cuts.may_tile_decodes(rows) {
            // What a recorded launch must serve: all rows, or none.
            (rows, 1)
        } else {
            (0, 0)
        };
        (max_tiles > 0).then(|| PrefillWork {
            tiles: self.array(self.arrays.tiles),
            num_tiles: self.array(self.arrays.num_tiles),
            max_tiles: max_tiles as i32,
            max_tile_tokens: max_tile_tokens as i32,
            counters: self.array(self.arrays.prefill_counters),
        })
    }

    fn array<T>(&self, word: usize) -> *mut T {
        let offset = word * WORD_BYTES;
        self.memory.range().part(offset, self.memory.bytes() - offset).as_ptr()
    }
}

/// See [`Inputs::decode_work`].
pub(crate) struct DecodeWork {
    pub(crate) items: *const PwDecodeItem,
    pub(crate) num_items: *const i32,
    pub(crate) max_items: i32,
    pub(crate) partial_out: *mut f32,
    pub(crate) partial_stats: *mut f32,
    pub(crate) counters: *mut i32,
    pub(crate) queue: *mut i32,
}

/// See [`Inputs::prefill_work`].
pub(crate) struct PrefillWork {
    pub(crate) tiles: *const PwPrefillTile,
    pub(crate) num_tiles: *const i32,
    pub(crate) max_tiles: i32,
    pub(crate) max_tile_tokens: i32,
    pub(crate) counters: *mut i32,
}

/// Arrays that are packed one after another into staging memory.
struct Packed<'s> {
    words: &'s mut [i32],
    end: usize,
    segments: [PwSegment; PW_MAX_SEGMENTS as usize],
    num_segments: usize,
}

impl<'s> Packed<'s> {
    fn new(words: &'s mut [i32]) -> Self {
        let segments = [PwSegment { from: 0, to: 0, num_words: 0 }; PW_MAX_SEGMENTS as usize];
        Self { words, end: 0, segments, num_segments: 0 }
    }

    /// Adds `num_words` words for the array at `to`, which `fill` writes.
    fn put(&mut self, to: usize, num_words: usize, fill: impl FnOnce(&mut [i32])) {
        let from = self.end;
        self.end += num_words;
        fill(&mut self.words[from..self.end]);
        self.segments[self.num_segments] = PwSegment { from: from as i32, to: to as i32, num_words: num_words as i32 };
        self.num_segments += 1;
    }

    fn finish(self) -> ([PwSegment; PW_MAX_SEGMENTS as usize], i32) {
        (self.segments, self.num_segments as i32)
    }
}

/// Values, then padding.
fn fill(out: &mut [i32], values: impl ExactSizeIterator<Item = i32>) {
    let (used, padding) = out.split_at_mut(values.len());
    for (out, value) in used.iter_mut().zip(values) {
        *out = value;
    }
    padding.fill(NONE);
}

/// A token that the device holds is named by its slot: `-1 - slot`. Padding is token 0.
fn token_ids(step: &StepInputs, out: &mut [i32]) {
    let (used, padding) = out.split_at_mut(step.token_ids.len());
    for (out, token) in used.iter_mut().zip(&step.token_ids) {
        *out = *token as i32;
    }
    for &(index, slot) in &step.fed {
        used[index as usize] = -1 - slot.0 as i32;
    }
    padding.fill(0);
}

fn jobs(jobs: &[LogitJob], out: &mut [i32]) {
    let (used, padding) = out.split_at_mut(jobs.len() * words_of::<PwLogitJob>());
    for (out, job) in used.as_chunks_mut().0.iter_mut().zip(jobs) {
        let (argument, num_top) = match job.choice {
            LogitChoice::Sample { output_position } => (output_position as i32, NONE),
            LogitChoice::Score { target, num_top } => (target as i32, num_top as i32),
        };
        *out = [job.token_index as i32, job.slot.0 as i32, argument, num_top];
    }
    padding.fill(NONE);
}

fn decode_item_words(item: &PwDecodeItem) -> [i32; words_of::<PwDecodeItem>()] {
    let &PwDecodeItem { token, slot, begin, end, split, num_splits, first_partial, counter } = item;
    [token, slot, begin, end, split, num_splits, first_partial, counter]
}
