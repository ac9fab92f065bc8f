//! The driver in safe form: one device, one stream, memory on both sides, events and graphs. Every wrapper owns what it
//! wraps and gives it back when dropped. Knows no op.
#![allow(unsafe_code, reason = "calls into the CUDA driver")]

use core::ffi::c_void;
use core::marker::PhantomData;
use core::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::{CudaContext, result, sys};

use crate::CudaError;
use crate::error::Context;

/// The device and the stream that everything is enqueued on.
#[derive(Debug)]
pub(crate) struct Device {
    context: Arc<CudaContext>,
    stream: sys::CUstream,
}

// SAFETY: a stream may be used from any thread that its context is bound to, which `bind` sees to; the backend that owns
// it is used by one thread at a time.
unsafe impl Send for Device {}
// SAFETY: as above; shared references only reach calls that the driver serialises.
unsafe impl Sync for Device {}

impl Device {
    /// The GPU with this index.
    pub(crate) fn open(ordinal: usize) -> Result<Arc<Self>, CudaError> {
        // SAFETY: only asks the dynamic loader. Without this, a missing driver would panic in the first call.
        if !unsafe { sys::is_culib_present() } {
            return Err(CudaError::NoDriver);
        }
        match CudaContext::device_count() {
            Ok(count) if ordinal < count as usize => {}
            Ok(_) => return Err(CudaError::NoDevice),
            Err(error) if error.0 == sys::CUresult::CUDA_ERROR_NO_DEVICE => return Err(CudaError::NoDevice),
            Err(error) => return Err(error).during("cuDeviceGetCount"),
        }
        let context = CudaContext::new(ordinal).during("cuDevicePrimaryCtxRetain")?;
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking).during("cuStreamCreate")?;
        Ok(Arc::new(Self { context, stream }))
    }

    /// Makes the device current on this thread. Every entry into the backend begins with it: the engine's thread is not the
    /// one that loaded the model.
    pub(crate) fn bind(&self) -> Result<(), CudaError> {
        self.context.bind_to_thread().during("cuCtxSetCurrent")
    }

    pub(crate) fn stream(&self) -> sys::CUstream {
        self.stream
    }

    pub(crate) fn name(&self) -> Result<String, CudaError> {
        self.context.name().during("cuDeviceGetName")
    }

    pub(crate) fn compute_capability(&self) -> Result<(i32, i32), CudaError> {
        self.context.compute_capability().during("cuDeviceGetAttribute")
    }

    pub(crate) fn num_multiprocessors(&self) -> Result<i32, CudaError> {
        let attribute = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        self.context.attribute(attribute).during("cuDeviceGetAttribute")
    }

    /// Bytes that are free now, and in all.
    pub(crate) fn memory_bytes(&self) -> Result<(u64, u64), CudaError> {
        self.bind()?;
        let (free, total) = result::mem_get_info().during("cuMemGetInfo")?;
        Ok((free as u64, total as u64))
    }

    /// Waits for all that was enqueued.
    pub(crate) fn synchronize(&self) -> Result<(), CudaError> {
        // SAFETY: the stream is this device's own and lives as long as it.
        unsafe { result::stream::synchronize(self.stream) }.during("cuStreamSynchronize")
    }

    /// Copies host bytes. Pageable ones may be overwritten when it returns, page-locked ones when the stream has passed.
    pub(crate) fn copy_to_device(&self, to: DeviceRange, bytes: &[u8]) -> Result<(), CudaError> {
        assert!(bytes.len() <= to.bytes, "a transfer stays inside of its target");
        if bytes.is_empty() {
            return Ok(());
        }
        // SAFETY: the target is live device memory of at least this length. The source is pageable, or pinned and not
        // written before the stream has passed (its owner waits for the event); of pageable memory the driver takes a copy
        // before it returns.
        unsafe { result::memcpy_htod_async(to.pointer, bytes, self.stream) }.during("cuMemcpyHtoDAsync")
    }

    /// Copies to host memory: later if it is page-locked, else before it returns.
    pub(crate) fn copy_to_host<T: PlainData>(&self, to: &mut [T], from: DeviceRange) -> Result<(), CudaError> {
        assert!(size_of_val(to) <= from.bytes, "a transfer stays inside of its source");
        // SAFETY: the source is live device memory of at least this length; the caller waits for the stream before it reads.
        unsafe { result::memcpy_dtoh_async(to, from.pointer, self.stream) }.during("cuMemcpyDtoHAsync")
    }

    /// Copies inside of the device. The ranges do not overlap.
    pub(crate) fn copy_on_device(&self, to: DeviceRange, from: DeviceRange) -> Result<(), CudaError> {
        assert!(from.bytes == to.bytes, "both ranges have one length");
        // SAFETY: both are live device memory of this length.
        unsafe { result::memcpy_dtod_async(to.pointer, from.pointer, from.bytes, self.stream) }
            .during("cuMemcpyDtoDAsync")
    }

    /// Sets every byte to zero.
    pub(crate) fn clear(&self, range: DeviceRange) -> Result<(), CudaError> {
        if range.bytes == 0 {
            return Ok(());
        }
        // SAFETY: the range is live device memory.
        unsafe { result::memset_d8_async(range.pointer, 0, range.bytes, self.stream) }.during("cuMemsetD8Async")
    }

    /// Records what `enqueue` enqueues on the stream.
    pub(crate) fn record(
        self: &Arc<Self>,
        enqueue: impl FnOnce() -> Result<(), CudaError>,
    ) -> Result<Graph, CudaError> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is this device's own.
        unsafe { result::stream::begin_capture(self.stream, mode) }.during("cuStreamBeginCapture")?;
        let enqueued = enqueue();
        // The recording ends whatever happened, or the stream could not be used any more.
        // SAFETY: as above.
        let graph = unsafe { result::stream::end_capture(self.stream) }.during("cuStreamEndCapture");
        enqueued?;
        let graph = graph?;
        // SAFETY: the graph was just recorded; it is destroyed once, whether or not it could be instantiated.
        let executable = unsafe { result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0)) };
        // SAFETY: as above.
        unsafe { result::graph::destroy(graph) }.during("cuGraphDestroy")?;
        let graph = Graph { executable: executable.during("cuGraphInstantiate")?, device: Arc::clone(self) };
        // SAFETY: both are live.
        unsafe { result::graph::upload(graph.executable, self.stream) }.during("cuGraphUpload")?;
        Ok(graph)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // Nothing can be done about a failure here, and the context goes next.
        let _ = self.context.bind_to_thread();
        // SAFETY: created by `open`, destroyed once.
        let _ = unsafe { result::stream::destroy(self.stream) };
    }
}

/// Some device memory, without owning it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DeviceRange {
    pointer: sys::CUdeviceptr,
    bytes: usize,
}

impl DeviceRange {
    /// For the kernels.
    pub(crate) fn as_ptr<T>(self) -> *mut T {
        self.pointer as *mut T
    }

    /// A part of it.
    pub(crate) fn part(self, offset: usize, bytes: usize) -> Self {
        assert!(offset.checked_add(bytes).is_some_and(|end| end <= self.bytes), "a part is inside of the whole");
        Self { pointer: self.pointer + offset as u64, bytes }
    }

    pub(crate) fn bytes(self) -> usize {
        self.bytes
    }

    pub(crate) fn pointer(self) -> sys::CUdeviceptr {
        self.pointer
    }
}

/// Device memory that is given back when dropped.
#[derive(Debug)]
pub(crate) struct DeviceMemory {
    range: DeviceRange,
    device: Arc<Device>,
}

impl DeviceMemory {
    /// Takes memory, which is cleared.
    pub(crate) fn zeroed(device: &Arc<Device>, bytes: usize, what: &'static str) -> Result<Self, CudaError> {
        device.bind()?;
        // The driver refuses empty allocations.
        // SAFETY: a plain allocation; it is freed by `drop`.
        let pointer = unsafe { result::malloc_sync(bytes.max(1)) }.map_err(|error| match error.0 {
            sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => CudaError::OutOfMemory { what, bytes: bytes as u64 },
            _ => CudaError::Driver { call: "cuMemAlloc", source: error },
        })?;
        let memory = Self { range: DeviceRange { pointer, bytes }, device: Arc::clone(device) };
        device.clear(memory.range)?;
        Ok(memory)
    }

    pub(crate) fn range(&self) -> DeviceRange {
        self.range
    }

    pub(crate) fn bytes(&self) -> usize {
        self.range.bytes
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        let _ = self.device.bind();
        // SAFETY: taken by `zeroed`, freed once. The driver waits for work that uses it.
        let _ = unsafe { result::free_sync(self.range.pointer) };
    }
}

/// Page-locked host memory, which the device reads and writes itself.
#[derive(Debug)]
pub(crate) struct Pinned<T> {
    pointer: NonNull<T>,
    len: usize,
    device: Arc<Device>,
    _owned: PhantomData<T>,
}

// SAFETY: plain memory with one owner.
unsafe impl<T: Send> Send for Pinned<T> {}

/// Types that are sound for any bits.
///
/// # Safety
/// The type has no padding that matters, no pointers and no invalid values: all-zero bytes and bytes that a device has
/// written are values of it.
pub(crate) unsafe trait PlainData: Copy {}

// SAFETY: a byte.
unsafe impl PlainData for u8 {}
// SAFETY: a number.
unsafe impl PlainData for i32 {}

impl<T: PlainData> Pinned<T> {
    /// Cleared memory for `len` values.
    pub(crate) fn zeroed(device: &Arc<Device>, len: usize) -> Result<Self, CudaError> {
        device.bind()?;
        let bytes = (len * size_of::<T>()).max(1);
        // SAFETY: a plain allocation; it is freed by `drop`.
        let pointer = unsafe { result::malloc_host(bytes, 0) }.during("cuMemHostAlloc")?;
        // SAFETY: just allocated, of this length.
        unsafe { pointer.cast::<u8>().write_bytes(0, bytes) };
        let pointer = NonNull::new(pointer.cast::<T>()).expect("an allocation is not null");
        Ok(Self { pointer, len, device: Arc::clone(device), _owned: PhantomData })
    }

    pub(crate) fn as_slice(&self) -> &[T] {
        // SAFETY: initialised, of this length, and any bits are a value.
        unsafe { core::slice::from_raw_parts(self.pointer.as_ptr(), self.len) }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: as above, and borrowed mutably.
        unsafe { core::slice::from_raw_parts_mut(self.pointer.as_ptr(), self.len) }
    }

    /// For kernels that read it in place.
    pub(crate) fn as_ptr(&self) -> *const T {
        self.pointer.as_ptr()
    }
}

impl<T> Drop for Pinned<T> {
    fn drop(&mut self) {
        let _ = self.device.bind();
        let pointer: *mut c_void = self.pointer.as_ptr().cast();
        // SAFETY: taken by `zeroed`, freed once.
        let _ = unsafe { result::free_host(pointer) };
    }
}

/// A place in the stream that the host can wait for.
#[derive(Debug)]
pub(crate) struct Event {
    event: sys::CUevent,
    device: Arc<Device>,
}

// SAFETY: an event may be used from any thread; it has one owner.
unsafe impl Send for Event {}

impl Event {
    pub(crate) fn new(device: &Arc<Device>) -> Result<Self, CudaError> {
        Self::with_flags(device, sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)
    }

    /// One that also remembers when the stream passed it.
    pub(crate) fn timed(device: &Arc<Device>) -> Result<Self, CudaError> {
        Self::with_flags(device, sys::CUevent_flags::CU_EVENT_DEFAULT)
    }

    fn with_flags(device: &Arc<Device>, flags: sys::CUevent_flags) -> Result<Self, CudaError> {
        device.bind()?;
        Ok(Self { event: result::event::create(flags).during("cuEventCreate")?, device: Arc::clone(device) })
    }

    /// Marks the place behind all that was enqueued.
    pub(crate) fn record(&self) -> Result<(), CudaError> {
        // SAFETY: both are live.
        unsafe { result::event::record(self.event, self.device.stream) }.during("cuEventRecord")
    }

    pub(crate) fn raw(&self) -> sys::CUevent {
        self.event
    }

    /// The time from this place to a later one, both of timed events that were passed.
    pub(crate) fn until(&self, later: &Self) -> Result<Duration, CudaError> {
        // SAFETY: both events are live.
        let ms = unsafe { result::event::elapsed(self.event, later.event) }.during("cuEventElapsedTime")?;
        Ok(Duration::from_secs_f64(f64::from(ms.max(0.0)) / 1e3))
    }

    /// Whether the stream has passed the place that was marked last.
    pub(crate) fn is_passed(&self) -> Result<bool, CudaError> {
        // SAFETY: the event is live.
        match unsafe { result::event::query(self.event) } {
            Err(error) if error.0 == sys::CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            answer => answer.during("cuEventQuery").map(|()| true),
        }
    }

    /// Waits until the stream has passed the place that was marked last; returns at once if none was. Errors of all ops
    /// before it surface here.
    pub(crate) fn wait(&self) -> Result<(), CudaError> {
        // SAFETY: the event is live.
        unsafe { result::event::synchronize(self.event) }.during("waiting for the GPU")
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        let _ = self.device.bind();
        // SAFETY: created by `new`, destroyed once.
        let _ = unsafe { result::event::destroy(self.event) };
    }
}

/// Recorded work.
#[derive(Debug)]
pub struct Graph {
    executable: sys::CUgraphExec,
    device: Arc<Device>,
}

// SAFETY: a graph may be launched from any thread, by one at a time; it has one owner.
unsafe impl Send for Graph {}

impl Graph {
    pub(crate) fn launch(&self) -> Result<(), CudaError> {
        // SAFETY: both are live.
        unsafe { result::graph::launch(self.executable, self.device.stream) }.during("cuGraphLaunch")
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        let _ = self.device.bind();
        // SAFETY: instantiated by `record`, destroyed once.
        let _ = unsafe { result::graph::exec_destroy(self.executable) };
    }
}
