//! How fast page-locked host memory is copied to a GPU and back: what copies of blocks are measured against. Knows no blocks.

use std::time::Instant;

use crate::CudaError;
use crate::driver::{Device, DeviceMemory, Event, Pinned};
use crate::side_stream::SideStream;

/// Copies in each direction, of which the fastest counts.
const NUM_COPIES: usize = 5;

/// Bytes a second.
#[derive(Clone, Copy, Debug)]
pub struct CopyRates {
    /// From page-locked host memory to the GPU.
    pub to_device: f64,
    /// From the GPU to page-locked host memory.
    pub to_host: f64,
}

/// Measures copies of so many bytes at once on the GPU with this index, which should have nothing else to do.
///
/// # Errors
/// There is no such GPU, or not so much memory.
pub fn measure_copy_rates(ordinal: usize, bytes: usize) -> Result<CopyRates, CudaError> {
    let device = Device::open(ordinal)?;
    let memory = DeviceMemory::zeroed(&device, bytes, "bytes to copy")?;
    let mut pinned = Pinned::zeroed(&device, bytes)?;
    // It is dropped first, and waits for its copies.
    let (stream, done) = (SideStream::new(&device)?, Event::new(&device)?);
    device.synchronize()?;
    let fastest = |copy: &mut dyn FnMut() -> Result<(), CudaError>| -> Result<f64, CudaError> {
        let mut rate = 0.0_f64;
        for _ in 0..NUM_COPIES {
            let start = Instant::now();
            copy()?;
            stream.record(&done)?;
            done.wait()?;
            rate = rate.max(bytes as f64 / start.elapsed().as_secs_f64());
        }
        Ok(rate)
    };
    let to_device = fastest(&mut || stream.copy_to_device(memory.range(), &pinned, 0))?;
    let to_host = fastest(&mut || stream.copy_to_host(&mut pinned, 0, memory.range()))?;
    Ok(CopyRates { to_device, to_host })
}
