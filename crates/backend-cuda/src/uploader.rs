//! Brings rows of weights to the device. Several threads read them, for one reads a mapped file at a fraction of the speed of
//! PCIe: each fills page-locked buffers of its own, one while the other travels. Knows rows, not formats.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::CudaError;
use crate::driver::{Device, DeviceRange, Event, Pinned};

/// Most threads that read.
const MAX_READERS: usize = 16;
/// Bytes of a buffer: large enough for the speed of PCIe, and no larger, so that all readers have something to do.
const BUFFER_BYTES: usize = 2 << 20;

/// The readers' buffers, taken when the first rows come.
#[derive(Debug)]
pub(crate) struct Uploader {
    readers: Vec<Reader>,
    device: Arc<Device>,
}

/// The buffers of one thread, each with the end of its last journey.
#[derive(Debug)]
struct Reader {
    buffers: [(Pinned<u8>, Event); 2],
    next: usize,
}

/// Rows to be sent, in pieces that fit a buffer.
struct Upload<'a, F> {
    rows: usize,
    row_bytes: usize,
    rows_at_once: usize,
    to: DeviceRange,
    fill: F,
    next_piece: AtomicUsize,
    device: &'a Device,
}

impl Uploader {
    pub(crate) fn new(device: &Arc<Device>) -> Self {
        Self { readers: Vec::new(), device: Arc::clone(device) }
    }

    /// Sends `rows` rows of `row_bytes` bytes each, which `fill` writes: behind all that was enqueued before, and before all
    /// that is enqueued later.
    pub(crate) fn send(
        &mut self,
        rows: usize,
        row_bytes: usize,
        to: DeviceRange,
        fill: impl Fn(usize, &mut [u8]) + Sync,
    ) -> Result<(), CudaError> {
        let rows_at_once = BUFFER_BYTES / row_bytes;
        assert!(rows_at_once > 0, "a row of a weight fits into the upload buffer");
        if self.readers.is_empty() {
            let num_readers = thread::available_parallelism().map_or(1, usize::from).min(MAX_READERS);
            self.readers = (0..num_readers).map(|_| Reader::new(&self.device)).collect::<Result<_, CudaError>>()?;
        }
        let upload =
            Upload { rows, row_bytes, rows_at_once, to, fill, next_piece: AtomicUsize::new(0), device: &self.device };
        let num_readers = rows.div_ceil(rows_at_once).min(self.readers.len());
        thread::scope(|scope| {
            let readers = self.readers[..num_readers].iter_mut();
            let threads: Vec<_> = readers.map(|reader| scope.spawn(|| reader.read(&upload))).collect();
            threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
        })
    }
}

impl Reader {
    fn new(device: &Arc<Device>) -> Result<Self, CudaError> {
        let buffer = || -> Result<_, CudaError> { Ok((Pinned::zeroed(device, BUFFER_BYTES)?, Event::new(device)?)) };
        Ok(Self { buffers: [buffer()?, buffer()?], next: 0 })
    }

    /// Fills and sends one piece after another, until none is left.
    fn read<F: Fn(usize, &mut [u8])>(&mut self, upload: &Upload<'_, F>) -> Result<(), CudaError> {
        let &Upload { rows, row_bytes, rows_at_once, to, device, .. } = upload;
        device.bind()?;
        loop {
            let first = upload.next_piece.fetch_add(1, Ordering::Relaxed) * rows_at_once;
            if first >= rows {
                return Ok(());
            }
            let num_rows = rows_at_once.min(rows - first);
            let (buffer, sent) = &mut self.buffers[self.next];
            self.next = 1 - self.next;
            sent.wait()?;
            let bytes = &mut buffer.as_mut_slice()[..num_rows * row_bytes];
            for (index, out) in bytes.chunks_exact_mut(row_bytes).enumerate() {
                (upload.fill)(first + index, out);
            }
            device.copy_to_device(to.part(first * row_bytes, bytes.len()), bytes)?;
            sent.record()?;
        }
    }
}
