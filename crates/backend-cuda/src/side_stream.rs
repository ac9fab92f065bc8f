//! A second stream, for copies between the device and page-locked host memory that run beside the ops. Knows no blocks.
#![allow(unsafe_code, reason = "calls into the CUDA driver")]

use std::sync::Arc;

use cudarc::driver::{result, sys};

use crate::CudaError;
use crate::driver::{Device, DeviceRange, Event, Pinned};
use crate::error::Context;

/// A stream beside the one that ops are enqueued on. Dropping it waits for all that it was given.
#[derive(Debug)]
pub(crate) struct SideStream {
    stream: sys::CUstream,
    device: Arc<Device>,
}

// SAFETY: a stream may be used from any thread that its context is bound to; it has one owner, who binds it.
unsafe impl Send for SideStream {}

impl SideStream {
    pub(crate) fn new(device: &Arc<Device>) -> Result<Self, CudaError> {
        device.bind()?;
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking).during("cuStreamCreate")?;
        Ok(Self { stream, device: Arc::clone(device) })
    }

    /// Copies `to.bytes()` bytes of host memory from `offset` on.
    pub(crate) fn copy_to_device(&self, to: DeviceRange, from: &Pinned<u8>, offset: usize) -> Result<(), CudaError> {
        let bytes = &from.as_slice()[offset..][..to.bytes()];
        // SAFETY: both are live and of this length, and their owner waits for this stream before either goes; whoever else
        // writes them is on a stream that is ordered against this one.
        unsafe { result::memcpy_htod_async(to.pointer(), bytes, self.stream) }.during("cuMemcpyHtoDAsync")
    }

    /// Copies all of the range to host memory from `offset` on.
    pub(crate) fn copy_to_host(&self, to: &mut Pinned<u8>, offset: usize, from: DeviceRange) -> Result<(), CudaError> {
        let bytes = &mut to.as_mut_slice()[offset..][..from.bytes()];
        // SAFETY: as above. The host itself never reads these bytes.
        unsafe { result::memcpy_dtoh_async(bytes, from.pointer(), self.stream) }.during("cuMemcpyDtoHAsync")
    }

    /// Marks the place behind all that this stream was given.
    pub(crate) fn record(&self, event: &Event) -> Result<(), CudaError> {
        // SAFETY: both are live.
        unsafe { result::event::record(event.raw(), self.stream) }.during("cuEventRecord")
    }

    /// What comes from now on waits for the place that the event marks.
    pub(crate) fn wait_for(&self, event: &Event) -> Result<(), CudaError> {
        wait_for(self.stream, event)
    }
}

impl Device {
    /// Ops that are enqueued from now on wait for the place that the event marks.
    pub(crate) fn wait_for(&self, event: &Event) -> Result<(), CudaError> {
        wait_for(self.stream(), event)
    }
}

fn wait_for(stream: sys::CUstream, event: &Event) -> Result<(), CudaError> {
    let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
    // SAFETY: both are live.
    unsafe { result::stream::wait_event(stream, event.raw(), flags) }.during("cuStreamWaitEvent")
}

impl Drop for SideStream {
    fn drop(&mut self) {
        // Nothing can be done about a failure here.
        let _ = self.device.bind();
        // SAFETY: created by `new`; the wait is for memory that goes next.
        let _ = unsafe { result::stream::synchronize(self.stream) };
        // SAFETY: destroyed once.
        let _ = unsafe { result::stream::destroy(self.stream) };
    }
}
