//! Measures the algorithms that cuBLASLt has for a product, for the committed table. Never part of serving.

use std::time::{Duration, Instant};

use kernels_sys::PwFillRandom;
use tensor_backend::Element;

use crate::buffer::element_code;
use crate::driver::DeviceMemory;
use crate::product::{Algorithm, End, ProductShape, Products, table};
use crate::{CudaBackend, CudaError, sizes};

/// Algorithms that are asked for. The heuristic rarely knows more.
const MOST_CANDIDATES: usize = 32;
/// Candidates of the first look that are measured again, in turns.
const FINALISTS: usize = 4;
const ROUNDS: usize = 5;
/// How long a measurement lasts, about.
const MEASURED: Duration = Duration::from_millis(2);
/// More than the L2 cache holds: copies of a weight are read in turns, so that each read comes from memory.
const ROTATED_BYTES: usize = 256 << 20;

/// What was measured for a shape.
#[derive(Clone, Debug)]
pub struct Tuned {
    /// The line for the table.
    pub line: String,
    /// What the heuristic names first takes so long.
    pub heuristic: Duration,
    /// What the fastest takes.
    pub best: Duration,
}

/// A weight's shape and what its products are made in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WeightShape {
    /// Outputs.
    pub n: usize,
    /// Inputs.
    pub k: usize,
    /// Of the output: f32 for logits.
    pub out_element: Element,
}

impl CudaBackend {
    /// The first line of this card's table.
    #[must_use]
    pub fn tuning_head(&self) -> String {
        table::head(&self.card)
    }

    /// Sizes that steps of at most `max_rows` decode rows are padded to.
    #[must_use]
    pub fn decode_sizes(max_rows: usize) -> Vec<usize> {
        sizes::all_decode_rows(max_rows)
    }

    /// Measures the products of a weight with so many rows.
    ///
    /// # Errors
    /// The device fails, or has no room for the matrices.
    pub fn tune(&mut self, weight: WeightShape, rows: usize) -> Result<Tuned, CudaError> {
        let WeightShape { n, k, out_element } = weight;
        let shape = ProductShape { rows, n, k, out_stride: n, element: self.element, out_element };
        let weight_bytes = n * k * self.element.bytes();
        let copies = ROTATED_BYTES.div_ceil(weight_bytes);
        let take = |bytes| DeviceMemory::zeroed(&self.device, bytes, "matrices to measure with");
        let weights = take(copies * weight_bytes)?;
        let x = take(rows * k * self.element.bytes())?;
        // Zeros would need less power, and so run faster, than anything that is served.
        for (seed, memory) in [(1, &weights), (2, &x)] {
            self.kernels.fill_random(&PwFillRandom {
                out: memory.range().as_ptr(),
                num_elements: (memory.bytes() / self.element.bytes()) as i64,
                seed,
                bound: 1.0,
                element: element_code(self.element),
            })?;
        }
        let out = take(rows * n * out_element.bytes())?;
        let matrices = Matrices { weights, weight_bytes, copies, x, out };
        let candidates = self.products.candidates(shape, matrices.ranges(0), MOST_CANDIDATES)?;
        let mut times = Vec::new();
        for candidate in candidates {
            times.push((self.time(shape, &matrices, &candidate)?, candidate));
        }
        let heuristic = times[0].1;
        times.sort_by_key(|(time, _)| *time);
        times.truncate(FINALISTS);
        if !times.iter().any(|(_, algorithm)| *algorithm == heuristic) {
            times.push((Duration::MAX, heuristic));
        }
        times.iter_mut().for_each(|(time, _)| *time = Duration::MAX);
        for _ in 0..ROUNDS {
            for (time, algorithm) in &mut times {
                *time = (*time).min(self.time(shape, &matrices, algorithm)?);
            }
        }
        let of_heuristic = times.iter().find(|(_, algorithm)| *algorithm == heuristic).expect("it takes part").0;
        let (best, algorithm) = *times.iter().min_by_key(|(time, _)| *time).expect("at least the heuristic's");
        Ok(Tuned { line: table::line(&shape, &algorithm), heuristic: of_heuristic, best })
    }

    /// The time of a product: of many in one recording, over their number.
    fn time(&mut self, shape: ProductShape, matrices: &Matrices, algorithm: &Algorithm) -> Result<Duration, CudaError> {
        let plan = Products::plan_by(&shape, *algorithm)?;
        let run = |num: usize| -> Result<Duration, CudaError> {
            let graph = self
                .device
                .record(|| (0..num).try_for_each(|i| self.products.enqueue(&plan, matrices.ranges(i), End::Store)))?;
            graph.launch()?;
            self.device.synchronize()?;
            let start = Instant::now();
            graph.launch()?;
            self.device.synchronize()?;
            Ok(start.elapsed() / num as u32)
        };
        let first = run(matrices.copies.max(8))?;
        let num = (MEASURED.as_nanos() / first.as_nanos().max(1)).clamp(8, 1000);
        run(num as usize)
    }
}

/// What is multiplied.
struct Matrices {
    weights: DeviceMemory,
    weight_bytes: usize,
    copies: usize,
    x: DeviceMemory,
    out: DeviceMemory,
}

impl Matrices {
    /// The weight of a turn, x and out.
    fn ranges(&self, turn: usize) -> [crate::driver::DeviceRange; 3] {
        let weight = self.weights.range().part(turn % self.copies * self.weight_bytes, self.weight_bytes);
        [weight, self.x.range(), self.out.range()]
    }
}
