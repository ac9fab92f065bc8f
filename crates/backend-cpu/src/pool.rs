//! The threads and instructions of one backend, and how work is divided among threads. Knows pieces of work, not what they
//! compute.

use crate::CpuError;
use crate::simd::Path;

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

    /// The first `mid` units and the others.
    fn split_at(self, mid: usize) -> (Self, Self);
}

/// A pool of threads of its own.
#[derive(Debug)]
pub(crate) struct Pool {
    threads: rayon::ThreadPool,
}

impl Pool {
    pub(crate) fn new(num_threads: usize) -> Result<Self, CpuError> {
        rayon::ThreadPoolBuilder::new()
            .num_threads(num_threads)
            .thread_name(|index| format!("cpu-{index}"))
            .build()
            .map(|threads| Self { threads })
            .map_err(|error| CpuError::Threads { threads: num_threads, cause: error.to_string() })
    }

    pub(crate) fn num_threads(&self) -> usize {
        self.threads.current_num_threads()
    }

    /// Runs `work` in pieces of at most `grain` units, on all threads; on the calling one if it is a single piece.
    pub(crate) fn run<W: Split>(&self, work: W, grain: usize, f: impl Fn(W) + Sync) {
        let grain = grain.max(1);
        if work.len() <= grain || self.num_threads() == 1 {
            f(work);
        } else {
            self.threads.install(|| divide(work, grain, &f));
        }
    }
}

fn divide<W: Split>(work: W, grain: usize, f: &(impl Fn(W) + Sync)) {
    let len = work.len();
    if len <= grain {
        return f(work);
    }
    let (left, right) = work.split_at(len / 2);
    rayon::join(|| divide(left, grain, f), || divide(right, grain, f));
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
