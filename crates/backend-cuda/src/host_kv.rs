//! The KV pool in host memory, and the copies under way between it and the one on the device. Knows no tokens.
//!
//! Each direction has a stream of its own, for PCIe carries both at once, and the ops have theirs. A copy waits for no op: its
//! caller has seen the end of all that touched its blocks. What still has to be ordered is whatever meets at a block of a
//! copy under way, which each block remembers:
//!
//! ```text
//! a fetch     after offloads of its blocks      (they fill its host block, or empty its device block)
//! an offload  after fetches of its blocks
//! a read      after fetches of the block
//! a write     after fetches and offloads of the block
//! ```

use std::collections::VecDeque;
use std::sync::Arc;

use serving_types::{BlockId, HostCopy};
use tensor_backend::KvLayout;

use crate::CudaError;
use crate::buffer::Kv;
use crate::driver::{Device, Event, Pinned};
use crate::side_stream::SideStream;

/// Bytes after which the end of copies is marked: about a millisecond of PCIe.
const GROUP_BYTES: usize = 64 << 20;

/// Most marks that are not passed. The host waits for the oldest rather than for more.
const MAX_GROUPS: usize = 1024;

/// Page-locked host memory for blocks of the same shape, one after another.
#[derive(Debug)]
pub struct HostKv {
    // First, for dropping them waits for the copies.
    fetches: CopyLane,
    offloads: CopyLane,
    memory: Pinned<u8>,
    block_bytes: usize,
    /// By block of the device.
    device_marks: Vec<Marks>,
    /// By block of the host.
    host_marks: Vec<Marks>,
}

/// The last copies that touch a block, as numbers of their groups; 0 if there was none.
#[derive(Clone, Copy, Default, Debug)]
struct Marks {
    fetch: u64,
    offload: u64,
}

impl HostKv {
    pub(crate) fn new(device: &Arc<Device>, layout: &KvLayout) -> Result<Self, CudaError> {
        Ok(Self {
            fetches: CopyLane::new(device)?,
            offloads: CopyLane::new(device)?,
            memory: Pinned::zeroed(device, layout.total_bytes() as usize)?,
            block_bytes: layout.block_bytes() as usize,
            device_marks: Vec::new(),
            host_marks: vec![Marks::default(); layout.num_blocks],
        })
    }

    /// Starts copies.
    pub(crate) fn copy(&mut self, kv: &Kv, copies: &[HostCopy]) -> Result<(), CudaError> {
        self.device_marks.resize(kv.layout().num_blocks, Marks::default());
        let max_blocks = (GROUP_BYTES / self.block_bytes).max(1);
        for run in Runs::new(copies, max_blocks) {
            match run.direction {
                Direction::Fetch => self.fetch(kv, run)?,
                Direction::Offload => self.offload(kv, run)?,
            }
        }
        self.fetches.end_group()?;
        self.offloads.end_group()
    }

    fn fetch(&mut self, kv: &Kv, run: Run) -> Result<(), CudaError> {
        let (blocks, host) = (run.blocks(), run.host_blocks());
        let offloads = self.device_marks[blocks.clone()].iter().chain(&self.host_marks[host.clone()]);
        let last = offloads.map(|marks| marks.offload).max().unwrap_or(0);
        if let Some(event) = self.offloads.pending(last)? {
            self.fetches.stream.wait_for(event)?;
        }
        let to = kv.blocks(run.block, run.len);
        self.fetches.stream.copy_to_device(to, &self.memory, host.start * self.block_bytes)?;
        let group = self.fetches.add(run.len, self.block_bytes)?;
        for marks in self.device_marks[blocks].iter_mut().chain(&mut self.host_marks[host]) {
            marks.fetch = group;
        }
        Ok(())
    }

    fn offload(&mut self, kv: &Kv, run: Run) -> Result<(), CudaError> {
        let (blocks, host) = (run.blocks(), run.host_blocks());
        let fetches = self.device_marks[blocks.clone()].iter().chain(&self.host_marks[host.clone()]);
        let last = fetches.map(|marks| marks.fetch).max().unwrap_or(0);
        if let Some(event) = self.fetches.pending(last)? {
            self.offloads.stream.wait_for(event)?;
        }
        let from = kv.blocks(run.block, run.len);
        self.offloads.stream.copy_to_host(&mut self.memory, host.start * self.block_bytes, from)?;
        let group = self.offloads.add(run.len, self.block_bytes)?;
        for marks in self.device_marks[blocks].iter_mut().chain(&mut self.host_marks[host]) {
            marks.offload = group;
        }
        Ok(())
    }

    /// Ops from now on may read and write these blocks.
    pub(crate) fn order(&mut self, device: &Device, read: &[BlockId], written: &[BlockId]) -> Result<(), CudaError> {
        // Before the first copy there are no marks.
        let marks = |block: &BlockId| self.device_marks.get(block.0 as usize).copied().unwrap_or_default();
        let fetch = read.iter().chain(written).map(|block| marks(block).fetch).max().unwrap_or(0);
        let offload = written.iter().map(|block| marks(block).offload).max().unwrap_or(0);
        for (lane, last) in [(&mut self.fetches, fetch), (&mut self.offloads, offload)] {
            if let Some(event) = lane.pending(last)? {
                device.wait_for(event)?;
            }
        }
        Ok(())
    }

    /// Fetches that have not arrived.
    pub(crate) fn num_fetching(&mut self) -> Result<usize, CudaError> {
        self.fetches.retire()?;
        Ok(self.fetches.groups.iter().map(|group| group.num_blocks).sum())
    }

    /// Waits until some fetches have arrived, if any are under way.
    pub(crate) fn await_fetches(&self) -> Result<(), CudaError> {
        self.fetches.groups.front().map_or(Ok(()), |oldest| oldest.done.wait())
    }
}

/// Copies in one direction, in order.
#[derive(Debug)]
struct CopyLane {
    stream: SideStream,
    /// Those whose end the host has not seen, the oldest first. Their numbers are consecutive, and end with `last`.
    groups: VecDeque<Group>,
    last: u64,
    /// Blocks of the group that has not ended, which is the one after the last.
    num_open: usize,
    spare: Vec<Event>,
    device: Arc<Device>,
}

/// Copies whose end is marked together.
#[derive(Debug)]
struct Group {
    done: Event,
    num_blocks: usize,
}

impl CopyLane {
    fn new(device: &Arc<Device>) -> Result<Self, CudaError> {
        Ok(Self {
            stream: SideStream::new(device)?,
            groups: VecDeque::new(),
            last: 0,
            num_open: 0,
            spare: Vec::new(),
            device: Arc::clone(device),
        })
    }

    /// Counts blocks that the stream was just given. Returns the number of their group.
    fn add(&mut self, num_blocks: usize, block_bytes: usize) -> Result<u64, CudaError> {
        let group = self.last + 1;
        self.num_open += num_blocks;
        if self.num_open * block_bytes >= GROUP_BYTES {
            self.end_group()?;
        }
        Ok(group)
    }

    /// Marks the end of what was added, if anything was.
    fn end_group(&mut self) -> Result<(), CudaError> {
        if self.num_open == 0 {
            return Ok(());
        }
        if let Some(oldest) = self.groups.front().filter(|_| self.groups.len() == MAX_GROUPS) {
            oldest.done.wait()?;
            self.retire()?;
        }
        let done = match self.spare.pop() {
            Some(event) => event,
            None => Event::new(&self.device)?,
        };
        self.stream.record(&done)?;
        self.groups.push_back(Group { done, num_blocks: std::mem::take(&mut self.num_open) });
        self.last += 1;
        Ok(())
    }

    /// Forgets the groups that are done.
    fn retire(&mut self) -> Result<(), CudaError> {
        while let Some(oldest) = self.groups.front()
            && oldest.done.is_passed()?
        {
            let group = self.groups.pop_front().expect("just seen");
            self.spare.push(group.done);
        }
        Ok(())
    }

    /// The end of this group, if it has not come. Without copies under way this asks nobody.
    fn pending(&mut self, group: u64) -> Result<Option<&Event>, CudaError> {
        // One that has not ended has none yet; it is of the batch whose copies are being started.
        if group > self.last {
            self.end_group()?;
        }
        let first = |lane: &Self| lane.last + 1 - lane.groups.len() as u64;
        if group < first(self) {
            return Ok(None);
        }
        self.retire()?;
        let at = group.checked_sub(first(self));
        Ok(at.map(|at| &self.groups[at as usize].done))
    }
}

/// Copies of blocks that follow one another in both pools.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Run {
    direction: Direction,
    /// The first one on the device.
    block: u32,
    /// The first one of the host.
    host: u32,
    len: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Direction {
    Fetch,
    Offload,
}

impl Run {
    fn one(copy: HostCopy) -> Self {
        let (direction, block, host) = match copy {
            HostCopy::Fetch { from, to } => (Direction::Fetch, to.0, from.0),
            HostCopy::Offload { from, to } => (Direction::Offload, from.0, to.0),
        };
        Self { direction, block, host, len: 1 }
    }

    fn is_continued_by(&self, next: &Self) -> bool {
        let len = self.len as u32;
        (self.direction, self.block + len, self.host + len) == (next.direction, next.block, next.host)
    }

    fn blocks(&self) -> std::ops::Range<usize> {
        self.block as usize..self.block as usize + self.len
    }

    fn host_blocks(&self) -> std::ops::Range<usize> {
        self.host as usize..self.host as usize + self.len
    }
}

/// The copies of a batch, in as few runs as there are of at most `max_blocks`: one call for each.
struct Runs<'a> {
    copies: &'a [HostCopy],
    max_blocks: usize,
}

impl<'a> Runs<'a> {
    fn new(copies: &'a [HostCopy], max_blocks: usize) -> Self {
        Self { copies, max_blocks }
    }
}

impl Iterator for Runs<'_> {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        let (&first, mut rest) = self.copies.split_first()?;
        let mut run = Run::one(first);
        while let Some((&next, after)) = rest.split_first()
            && run.len < self.max_blocks
            && run.is_continued_by(&Run::one(next))
        {
            run.len += 1;
            rest = after;
        }
        self.copies = rest;
        Some(run)
    }
}

#[cfg(test)]
mod tests {
    use serving_types::HostBlockId;

    use super::*;

    #[test]
    fn neighbours_in_both_pools_are_copied_by_one_call() {
        let fetch = |from, to| HostCopy::Fetch { from: HostBlockId(from), to: BlockId(to) };
        let offload = |from, to| HostCopy::Offload { from: BlockId(from), to: HostBlockId(to) };
        let check = |copies: &[HostCopy], expected: &[(Direction, u32, u32, usize)]| {
            let runs: Vec<_> = Runs::new(copies, 3).map(|run| (run.direction, run.block, run.host, run.len)).collect();
            assert_eq!(runs, expected, "{copies:?}");
        };
        use Direction::{Fetch, Offload};
        check(&[], &[]);
        check(&[fetch(5, 9)], &[(Fetch, 9, 5, 1)]);
        check(&[fetch(5, 9), fetch(6, 10)], &[(Fetch, 9, 5, 2)]);
        check(&[fetch(5, 9), fetch(6, 11)], &[(Fetch, 9, 5, 1), (Fetch, 11, 6, 1)]);
        check(&[fetch(5, 9), fetch(7, 10)], &[(Fetch, 9, 5, 1), (Fetch, 10, 7, 1)]);
        check(&[fetch(5, 9), offload(10, 6)], &[(Fetch, 9, 5, 1), (Offload, 10, 6, 1)]);
        check(&[offload(2, 0), offload(3, 1), offload(1, 2)], &[(Offload, 2, 0, 2), (Offload, 1, 2, 1)]);
        let four = [0, 1, 2, 3].map(|nth| offload(nth, nth));
        check(&four, &[(Offload, 0, 0, 3), (Offload, 3, 3, 1)]);
    }
}
