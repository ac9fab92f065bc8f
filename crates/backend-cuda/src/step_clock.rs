//! When steps begin and end on the device, to see how long it waits in between. Knows nothing of what they do.

use std::sync::Arc;
use std::time::Duration;

use crate::CudaError;
use crate::driver::{Device, Event};

/// Steps whose marks are kept: one that is being read, the one before, and what may be enqueued meanwhile.
const NUM_KEPT: u64 = 4;

/// The marks of the last steps.
#[derive(Debug)]
pub(crate) struct StepClock {
    /// Begin and end, by the step's number modulo their count.
    marks: Vec<(Event, Event)>,
    num_begun: u64,
    num_read: u64,
}

impl StepClock {
    pub(crate) fn new(device: &Arc<Device>) -> Result<Self, CudaError> {
        let mark = |_| Ok((Event::timed(device)?, Event::timed(device)?));
        Ok(Self { marks: (0..NUM_KEPT).map(mark).collect::<Result<_, CudaError>>()?, num_begun: 0, num_read: 0 })
    }

    fn of(&self, step: u64) -> &(Event, Event) {
        &self.marks[(step % NUM_KEPT) as usize]
    }

    /// Ops of the next step follow.
    pub(crate) fn begin(&mut self) -> Result<(), CudaError> {
        self.num_begun += 1;
        assert!(self.num_begun - self.num_read < NUM_KEPT, "no more steps in flight than marks are kept");
        self.of(self.num_begun - 1).0.record()
    }

    /// The step's last op was enqueued, or one that may be; the last call counts. Ops before the first step belong to none.
    pub(crate) fn end(&self) -> Result<(), CudaError> {
        self.num_begun.checked_sub(1).map_or(Ok(()), |step| self.of(step).1.record())
    }

    /// The time from the end of the step before to the begin of the oldest that was not read, which has ended. None for the
    /// first.
    pub(crate) fn read_gap(&mut self) -> Result<Option<Duration>, CudaError> {
        let step = self.num_read;
        self.num_read += 1;
        let Some(before) = step.checked_sub(1) else { return Ok(None) };
        self.of(before).1.until(&self.of(step).0).map(Some)
    }
}
