//! What the load generator itself takes of the machine. Knows no load.

use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// Processor time of this process, of all its threads.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// What was taken since it was begun.
pub struct Meter {
    wall: Instant,
    processor: Duration,
}

/// What the load generator took.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Usage {
    /// Processor time, in seconds.
    pub cpu_seconds: f64,
    /// Of all processor time that the machine had to give meanwhile.
    pub cpu_share: f64,
    /// Processors of the machine.
    pub num_cpus: usize,
}

impl Meter {
    /// Counts from now on.
    #[must_use]
    pub fn begin() -> Self {
        Self { wall: Instant::now(), processor: processor_time() }
    }

    /// What was taken until now.
    #[must_use]
    pub fn read(&self) -> Usage {
        let cpu_seconds = processor_time().saturating_sub(self.processor).as_secs_f64();
        let num_cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let given = self.wall.elapsed().as_secs_f64() * num_cpus as f64;
        Usage { cpu_seconds, cpu_share: if given > 0.0 { cpu_seconds / given } else { 0.0 }, num_cpus }
    }
}

/// Lets this process have as many connections as its user may: each HTTP answer under way is one.
pub fn allow_many_connections() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // If that is refused, a run of many connections fails and says so.
    let _ = setrlimit(Resource::Nofile, limit);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_counted_and_sleep_is_not() {
        let meter = Meter::begin();
        let begun = processor_time();
        let mut rounds = 0u64;
        while processor_time() - begun < Duration::from_millis(20) {
            rounds = std::hint::black_box(rounds + 1);
        }
        let usage = meter.read();
        assert!(usage.cpu_seconds >= 0.02, "{usage:?}");
        assert!(usage.cpu_share > 0.0 && usage.num_cpus >= 1, "{usage:?}");
    }
}
