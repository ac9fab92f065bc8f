//! The threads and instructions of one backend, and how work is divided among threads. Knows pieces of work, not what they
//! compute.

use std::sync::{Arc, Mutex};

use crate::CpuError;
use crate::simd::Path;
pub(crate) use crate::team::Chore;
use crate::team::Team;

/// What ops run on.
#[derive(Debug)]
pub(crate) struct Cores {
    pub(crate) pool: Pool,
    pub(crate) path: Path,
}

/// Work that can be divided in two.
pub(crate) trait Split: Send + Sized {
    /// Units of work in it.
    fn len(&self) -> usize;

    /// The first `mid` units and the others; `mid` is a multiple of the grain that it is run with.
    fn split_at(self, mid: usize) -> (Self, Self);
}

/// Threads that divide work among them.
#[derive(Debug)]
pub(crate) struct Pool {
    team: Team,
}

impl Pool {
    pub(crate) fn new(num_threads: usize) -> Result<Self, CpuError> {
        let team = Team::new(num_threads)
            .map_err(|error| CpuError::Threads { threads: num_threads, cause: error.to_string() })?;
        Ok(Self { team })
    }

    pub(crate) fn num_threads(&self) -> usize {
        self.team.num_threads()
    }

    /// Has a thread do this while there is no work, for as long as it lives.
    pub(crate) fn when_idle(&self, chore: &Arc<dyn Chore>) {
        self.team.when_idle(chore);
    }

    /// Runs `work` in pieces of at most `grain` units, each taken by whichever thread is free; on the calling one if it is a
    /// single piece.
    pub(crate) fn run<W: Split>(&self, work: W, grain: usize, f: impl Fn(W) + Sync) {
        let grain = grain.max(1);
        if work.len() <= grain || self.num_threads() == 1 {
            return f(work);
        }
        let rest = Mutex::new(Some(work));
        self.team.run(&|| {
            while let Some(piece) = next_piece(&rest, grain) {
                f(piece);
            }
        });
    }
}

/// Takes the first `grain` units of what is left.
fn next_piece<W: Split>(rest: &Mutex<Option<W>>, grain: usize) -> Option<W> {
    let mut rest = rest.lock().expect("work that cannot be divided has panicked");
    let work = rest.take()?;
    if work.len() <= grain {
        return Some(work);
    }
    let (piece, others) = work.split_at(grain);
    *rest = Some(others);
    Some(piece)
}

/// A slice in chunks of equal length.
pub(crate) struct Chunks<'a, T> {
    values: &'a mut [T],
    chunk_len: usize,
    first: usize,
}

impl<'a, T> Chunks<'a, T> {
    pub(crate) fn new(values: &'a mut [T], chunk_len: usize) -> Self {
        Self { values, chunk_len, first: 0 }
    }

    /// Each chunk with its index.
    pub(crate) fn into_chunks(self) -> impl Iterator<Item = (usize, &'a mut [T])> {
        let first = self.first;
        let chunks = self.values.chunks_mut(self.chunk_len).enumerate();
        chunks.map(move |(offset, chunk)| (first + offset, chunk))
    }
}

impl<T: Send> Split for Chunks<'_, T> {
    fn len(&self) -> usize {
        self.values.len() / self.chunk_len
    }

    fn split_at(self, mid: usize) -> (Self, Self) {
        let (left, right) = self.values.split_at_mut(mid * self.chunk_len);
        let first = self.first + mid;
        (Self { values: left, ..self }, Self { values: right, first, chunk_len: self.chunk_len })
    }
}
