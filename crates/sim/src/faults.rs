//! What goes wrong, and when. Chosen by step number and seed alone, so that a fault does not move when the run changes.

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
}

impl Faults {
    pub(crate) fn fails_launch(&self, step: StepId) -> bool {
        self.draw(step, 1).chance(self.launch_failure)
    }

    pub(crate) fn fails_finish(&self, step: StepId) -> bool {
        self.failed_step == Some(step) || self.draw(step, 2).chance(self.finish_failure)
    }

    pub(crate) fn faults_row(&self, step: StepId, slot: RowSlot) -> bool {
        self.faulty_step == Some(step) || self.draw(step, 3 + u64::from(slot.0)).chance(self.row_fault)
    }

    fn draw(&self, step: StepId, what: u64) -> Random {
        let mut random = Random::new(self.seed ^ step.0.wrapping_mul(0x9e37_79b9) ^ (what << 48));
        random.bits();
        random
    }
}
