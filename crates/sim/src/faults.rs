//! What goes wrong, and when. Chosen by step number and seed alone, so that a fault does not move when the run changes.

use std::time::Duration;

use serving_types::{RowSlot, StepId};

use crate::Random;

/// Faults of an executor; the default has none. Chances are per mille.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Chooses.
    pub seed: u64,
    /// That `launch` fails a step.
    pub launch_failure: u32,
    /// That `finish` fails a step.
    pub finish_failure: u32,
    /// `finish` fails this step in any case.
    pub failed_step: Option<StepId>,
    /// That a row has a fault of its own: it computes what is not a number, and so does whoever attends to that.
    pub row_fault: u32,
    /// Every row of this step has a fault in any case.
    pub faulty_step: Option<StepId>,
    /// The device is lost when this step is launched.
    pub device_loss: Option<StepId>,
    /// The executor panics when this step is launched.
    pub panic: Option<StepId>,
    /// That a step takes twenty times as long as others.
    pub slow_step: u32,
    /// From this step on no step and no row fails by chance: whoever comes later must get all that it asked for.
    pub calm_from: Option<StepId>,
}

impl Faults {
    pub(crate) fn fails_launch(&self, step: StepId) -> bool {
        !self.is_calm(step) && self.draw(step, 1).chance(self.launch_failure)
    }

    pub(crate) fn fails_finish(&self, step: StepId) -> bool {
        self.failed_step == Some(step) || (!self.is_calm(step) && self.draw(step, 2).chance(self.finish_failure))
    }

    pub(crate) fn faults_row(&self, step: StepId, slot: RowSlot) -> bool {
        let draws_fault = || self.draw(step, 4 + u64::from(slot.0)).chance(self.row_fault);
        self.faulty_step == Some(step) || (!self.is_calm(step) && draws_fault())
    }

    /// Virtual time that a step takes.
    pub(crate) fn step_time(&self, step: StepId) -> Duration {
        Duration::from_millis(if self.draw(step, 3).chance(self.slow_step) { 20 } else { 1 })
    }

    /// Steps that the copies between the pools take which begin with this one, beside their own.
    pub(crate) fn copy_steps(&self, step: StepId) -> u32 {
        self.draw(step, 1 << 12).pick(0..=3)
    }

    /// Whether no step from this one on can fail by chance.
    pub(crate) fn is_calm(&self, step: StepId) -> bool {
        match self.calm_from {
            Some(calm) => step >= calm,
            None => self.launch_failure + self.finish_failure + self.row_fault == 0,
        }
    }

    fn draw(&self, step: StepId, what: u64) -> Random {
        let mut random = Random::new(self.seed ^ step.0.wrapping_mul(0x9e37_79b9) ^ (what << 48));
        random.bits();
        random
    }
}
