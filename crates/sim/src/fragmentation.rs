//! What becomes of a pool of KV memory when requests hold contiguous regions of it, and when they hold blocks: the same
//! workload, the same pool, the same loop of steps. Knows no policy but first come first served.

mod memory;

use std::collections::VecDeque;
use std::time::Duration;

use engine::PrefixCaching;
use serving_types::TokenId;

use self::memory::{Full, Memory, Paged, Regions, Reservation};
use crate::StepCost;
use crate::workload::ChatRequest;

/// Token slots of the pool: 16 GiB for an 8B model with 128 KiB of KV a token.
pub const NUM_POOL_SLOTS: u32 = 1 << 17;
/// New tokens of a step at most.
const MAX_BATCH_TOKENS: u32 = 2048;

/// A way to give requests memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scheme {
    /// Each request has a contiguous region of the longest context's length.
    MaxLength,
    /// Each request has a contiguous region of the next power of two, and moves to one twice as long when it is full.
    PowerOfTwo,
    /// Blocks of so many tokens.
    Paged {
        /// Tokens of a block.
        block_size: u32,
        /// Whether requests share the blocks of equal prefixes.
        prefix_caching: PrefixCaching,
    },
}

impl Scheme {
    /// All that the report compares.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let mut schemes = vec![Self::MaxLength, Self::PowerOfTwo];
        for prefix_caching in [PrefixCaching::Off, PrefixCaching::On] {
            schemes.extend([8, 16, 32, 64, 128].map(|block_size| Self::Paged { block_size, prefix_caching }));
        }
        schemes
    }

    /// Its name in tables.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::MaxLength => "contiguous, longest context".into(),
            Self::PowerOfTwo => "contiguous, power of two".into(),
            Self::Paged { block_size, prefix_caching: PrefixCaching::Off } => format!("blocks of {block_size}"),
            Self::Paged { block_size, prefix_caching: PrefixCaching::On } => {
                format!("blocks of {block_size}, prefixes shared")
            }
        }
    }

    fn memory(&self, num_requests: usize) -> Box<dyn Memory> {
        match *self {
            Self::MaxLength => Box::new(Regions::new(Reservation::MaxLength, NUM_POOL_SLOTS, num_requests)),
            Self::PowerOfTwo => Box::new(Regions::new(Reservation::PowerOfTwo, NUM_POOL_SLOTS, num_requests)),
            Self::Paged { block_size, prefix_caching } => {
                Box::new(Paged::new(block_size, prefix_caching, NUM_POOL_SLOTS, num_requests))
            }
        }
    }
}

/// Figures of one scheme, averaged over the time in which requests wait.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct FragmentationFigures {
    /// Empty slots among those that are given to requests, `0..=1`.
    pub waste: f64,
    /// Slots of the pool that hold a token, `0..=1`; a shared slot counts once.
    pub filled: f64,
    /// Slots of the pool that are given to requests, `0..=1`.
    pub given: f64,
    /// Requests that hold memory at a time.
    pub num_running: f64,
    /// Tokens generated a second.
    pub output_tokens_per_second: f64,
    /// Requests that were sent back for want of memory, for each that ended.
    pub preemptions_per_request: f64,
}

/// Plays a workload that is all there from the start, until nobody waits any more.
#[must_use]
pub fn simulate_memory(scheme: Scheme, requests: &[ChatRequest], cost: &StepCost) -> FragmentationFigures {
    let mut run = Run {
        requests,
        memory: scheme.memory(requests.len()),
        waiting: (0..requests.len()).collect(),
        running: Vec::new(),
        outputs: vec![0; requests.len()],
        budget: 0,
        num_new_tokens: 0,
        num_context_tokens: 0,
        num_output_tokens: 0,
        num_preemptions: 0,
        num_finished: 0,
    };
    let (mut seconds, mut given, mut filled, mut running) = (0.0, 0.0, 0.0, 0.0);
    while !run.waiting.is_empty() {
        let time = run.step(cost).as_secs_f64();
        seconds += time;
        given += time * run.memory.num_given_slots() as f64;
        filled += time * run.memory.num_filled_slots() as f64;
        running += time * run.running.len() as f64;
        run.end_step();
    }
    let pool = f64::from(NUM_POOL_SLOTS) * seconds;
    FragmentationFigures {
        waste: 1.0 - filled / given,
        filled: filled / pool,
        given: given / pool,
        num_running: running / seconds,
        output_tokens_per_second: run.num_output_tokens as f64 / seconds,
        preemptions_per_request: run.num_preemptions as f64 / run.num_finished as f64,
    }
}

/// A request that holds memory.
struct Running {
    request: usize,
    /// Tokens whose KV is there, once the step is done.
    num_computed: u32,
}

struct Run<'a> {
    requests: &'a [ChatRequest],
    memory: Box<dyn Memory>,
    waiting: VecDeque<usize>,
    /// In the order of admission.
    running: Vec<Running>,
    /// Tokens that each request has generated.
    outputs: Vec<u32>,
    /// New tokens that the step may still take.
    budget: u32,
    num_new_tokens: u64,
    num_context_tokens: u64,
    num_output_tokens: u64,
    num_preemptions: u64,
    num_finished: u64,
}

impl Run<'_> {
    /// Decodes, then chunks, then admissions, as the engine does. Returns the step's time.
    fn step(&mut self, cost: &StepCost) -> Duration {
        self.budget = MAX_BATCH_TOKENS;
        self.num_new_tokens = 0;
        self.num_context_tokens = 0;
        let mut is_short = false;
        for wants_decodes in [true, false] {
            let mut place = 0;
            while place < self.running.len() {
                let Running { request, num_computed } = self.running[place];
                let num_missing = self.num_tokens(request) - num_computed;
                if num_missing > 0 && (num_missing == 1) == wants_decodes {
                    is_short |= self.compute(place, num_computed + num_missing.min(self.budget)).is_err();
                }
                place += 1;
            }
        }
        while !is_short && self.budget > 0 && self.admit().is_ok() {}
        cost.step(self.num_new_tokens, self.num_context_tokens)
    }

    /// Who has computed all its tokens has one more; who has all that it wants is gone.
    fn end_step(&mut self) {
        self.memory.end_step();
        let (outputs, requests) = (&mut self.outputs, self.requests);
        let mut finished = Vec::new();
        for running in &self.running {
            let (request, wanted) = (running.request, &requests[running.request]);
            if running.num_computed == wanted.prompt.len() as u32 + outputs[request] {
                self.num_output_tokens += 1;
                self.memory.push(request, output_token(request, outputs[request]));
                outputs[request] += 1;
                if outputs[request] == wanted.num_output_tokens {
                    finished.push(request);
                }
            }
        }
        self.running.retain(|running| !finished.contains(&running.request));
        self.num_finished += finished.len() as u64;
        for request in finished {
            self.memory.release(request);
        }
    }

    fn num_tokens(&self, request: usize) -> u32 {
        self.requests[request].prompt.len() as u32 + self.outputs[request]
    }

    /// Computes a request's tokens up to `end`, at the cost of those that were admitted later.
    fn compute(&mut self, place: usize, end: u32) -> Result<(), Full> {
        let Running { request, num_computed } = self.running[place];
        if end == num_computed {
            return Ok(());
        }
        while self.memory.grow(request, end).is_err() {
            // The youngest goes, and its memory with it.
            if self.running.len() == place + 1 {
                return Err(Full);
            }
            let youngest = self.running.pop().expect("there is a later one");
            self.memory.release(youngest.request);
            self.waiting.push_front(youngest.request);
            self.num_preemptions += 1;
        }
        self.memory.fill(request, end);
        self.running[place].num_computed = end;
        self.budget -= end - num_computed;
        self.num_new_tokens += u64::from(end - num_computed);
        self.num_context_tokens += u64::from(end);
        Ok(())
    }

    fn admit(&mut self) -> Result<(), Full> {
        let request = *self.waiting.front().ok_or(Full)?;
        let mut tokens = self.requests[request].prompt.clone();
        tokens.extend((0..self.outputs[request]).map(|nth| output_token(request, nth)));
        let num_computed = self.memory.admit(request, &tokens, self.running.len() as u32)?;
        self.waiting.pop_front();
        self.running.push(Running { request, num_computed });
        let end = (tokens.len() as u32).min(num_computed + self.budget);
        self.compute(self.running.len() - 1, end)
    }
}

/// The output of a request: no two have the same.
fn output_token(request: usize, nth: u32) -> TokenId {
    (request as u32).wrapping_mul(0x9e37_79b9) ^ nth
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::chat_mix;

    #[test]
    fn blocks_waste_little() {
        let requests = chat_mix(2, 1500);
        let figures = |scheme| simulate_memory(scheme, &requests, &StepCost::H100_8B);
        let paged = |block_size, prefix_caching| figures(Scheme::Paged { block_size, prefix_caching });
        let (longest, power_of_two) = (figures(Scheme::MaxLength), figures(Scheme::PowerOfTwo));
        let (own, shared) = (paged(16, PrefixCaching::Off), paged(16, PrefixCaching::On));
        assert!(own.waste < 0.04 && shared.waste < 0.04, "{own:?} {shared:?}");
        assert!(own.waste < paged(128, PrefixCaching::Off).waste, "longer blocks waste more");
        assert!(own.waste < power_of_two.waste && power_of_two.waste < longest.waste, "{power_of_two:?} {longest:?}");
        assert!(longest.num_running <= 32.0, "a region is a 32nd of the pool: {longest:?}");
        assert!(longest.num_running < power_of_two.num_running && power_of_two.num_running < own.num_running);
        assert!(own.num_running < shared.num_running, "shared blocks leave room: {own:?} {shared:?}");
        assert!(own.output_tokens_per_second < shared.output_tokens_per_second);
    }
}
