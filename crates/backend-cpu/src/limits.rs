//! What this machine can do at most, measured: the figures that ops are set beside. Knows loops and clocks, no op.

use std::time::{Duration, Instant};

use crate::memory::zeroed;
use crate::pool::{Chunks, Cores};
use crate::simd::{DotProducts, MultiplyAdds, Reads, keep_busy, multiply_brains};
use crate::{CpuBackend, CpuError};

/// Memory that is read: several times what caches hold.
const READ_BYTES: usize = 1 << 29;

/// Bytes of a sample. Before one is read again, all others are, so that it comes from memory.
const READ_SAMPLE: usize = 1 << 27;

/// Bytes that a thread reads at a time.
const READ_PIECE: usize = 1 << 20;

/// Bytes that stay in the caches of each core.
const CACHED_BYTES: usize = 1 << 18;

/// Samples, of which the fastest counts: nothing makes a machine faster than it is.
const NUM_SAMPLES: usize = 15;

/// How long a sample of rounds lasts at least.
const SAMPLE: Duration = Duration::from_millis(5);

/// Pieces of such a sample for each thread, so that one that begins late does less.
const PIECES_PER_THREAD: usize = 32;

/// All threads together, with the instructions of the backend's path.
#[derive(Clone, Copy, Debug)]
pub struct CpuLimits {
    /// Bytes a second that are read from memory.
    pub read_bytes: f64,
    /// Bytes a second that are read from the caches of the cores.
    pub cached_read_bytes: f64,
    /// Multiplications and additions a second of signed with unsigned bytes, as quantised products do them.
    pub dot_operations: f64,
    /// Multiplications and additions a second in f32.
    pub fma_operations: f64,
    /// Multiplications a second of bfloat16 with bfloat16, and their additions in f32.
    pub bf16_operations: f64,
}

impl CpuBackend {
    /// Measures the limits, in about a second. Nothing else should run meanwhile.
    ///
    /// # Errors
    /// Out of memory.
    pub fn measure_limits(&self) -> Result<CpuLimits, CpuError> {
        let path = self.cores.path;
        Ok(CpuLimits {
            read_bytes: measure_reads(&self.cores)?,
            cached_read_bytes: measure_cached_reads(&self.cores)?,
            dot_operations: measure_rounds(&self.cores, |rounds| {
                let busy = DotProducts { rounds };
                keep_busy(path, &busy);
                busy.operations(path)
            }),
            fma_operations: measure_rounds(&self.cores, |rounds| {
                let busy = MultiplyAdds { rounds };
                keep_busy(path, &busy);
                busy.operations(path)
            }),
            bf16_operations: measure_rounds(&self.cores, |rounds| multiply_brains(path, rounds)),
        })
    }
}

fn measure_reads(cores: &Cores) -> Result<f64, CpuError> {
    // Not zeros: pages that were never written are all the same one.
    let mut memory = zeroed(READ_BYTES, 1_u8, "memory to read")?;
    let mut next = 0;
    let seconds = fastest(|| {
        let sample = &mut memory[next..next + READ_SAMPLE];
        next = (next + READ_SAMPLE) % READ_BYTES;
        cores.pool.run(Chunks::new(sample, READ_PIECE), 1, |pieces| {
            for (_, piece) in pieces.into_chunks() {
                keep_busy(cores.path, &Reads(piece));
            }
        });
    });
    Ok(READ_SAMPLE as f64 / seconds)
}

fn measure_cached_reads(cores: &Cores) -> Result<f64, CpuError> {
    let memory = zeroed(CACHED_BYTES, 1_u8, "memory to read")?;
    Ok(measure_rounds(cores, |rounds| {
        for _ in 0..rounds {
            keep_busy(cores.path, &Reads(&memory));
        }
        rounds * CACHED_BYTES as u64
    }))
}

/// Operations, or bytes, a second of a loop that does so many rounds and says how many of them they were.
fn measure_rounds(cores: &Cores, busy: impl Fn(u64) -> u64 + Sync) -> f64 {
    let mut pieces = vec![(); cores.pool.num_threads() * PIECES_PER_THREAD];
    let num_pieces = pieces.len() as u64;
    let mut run = |rounds: u64| {
        cores.pool.run(Chunks::new(&mut pieces, 1), 1, |pieces| {
            for _ in pieces.into_chunks() {
                busy(rounds);
            }
        });
    };
    let mut rounds = 1;
    loop {
        let start = Instant::now();
        run(rounds);
        if start.elapsed() >= SAMPLE {
            break;
        }
        rounds *= 2;
    }
    let seconds = fastest(|| run(rounds));
    (busy(rounds) * num_pieces) as f64 / seconds
}

fn fastest(mut sample: impl FnMut()) -> f64 {
    let mut seconds = f64::INFINITY;
    for _ in 0..NUM_SAMPLES {
        let start = Instant::now();
        sample();
        seconds = seconds.min(start.elapsed().as_secs_f64());
    }
    seconds
}

#[cfg(test)]
mod tests {
    use crate::{CpuBackend, CpuConfig, CpuLimits, Instructions};

    #[test]
    fn every_path_has_limits() {
        for instructions in Instructions::ALL.into_iter().filter(|path| path.available()) {
            let config = CpuConfig { threads: Some(2), ..CpuConfig::default() };
            let backend = CpuBackend::with_instructions(config, instructions).expect("it is available");
            let limits = backend.measure_limits().expect("there is memory");
            // Far below what any machine does: whether the loops did anything, and whether they were skipped.
            let CpuLimits { read_bytes, cached_read_bytes, dot_operations, fma_operations, bf16_operations } = limits;
            for rate in [read_bytes, cached_read_bytes, dot_operations, fma_operations, bf16_operations] {
                assert!((1e7..1e15).contains(&rate), "{instructions}: {limits:?}");
            }
        }
    }
}
