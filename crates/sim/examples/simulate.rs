//! Plays random scenarios on all cores until so many steps are done, and shrinks the first that fails: `cargo xtask sim`.
//!
//! ```text
//! simulate SEED STEPS
//! simulate --replay FILE
//! ```
//!
//! The scenarios are those of the seeds from SEED on. With a file, plays the journal of an engine again instead. Knows no
//! scenario's content.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use sim::{Replayed, Scenario, replay, run, shrink};

/// What all threads have in common.
struct Search {
    next_seed: AtomicU64,
    num_steps: AtomicU64,
    num_tokens: AtomicU64,
    num_preemptions: AtomicU64,
    num_host_hit_tokens: AtomicU64,
    /// The smallest seed that is known to fail.
    failing_seed: Mutex<Option<u64>>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, file] = &arguments[..]
        && flag == "--replay"
    {
        return replay_file(file);
    }
    let numbers: Option<Vec<u64>> = arguments.iter().map(|argument| argument.parse().ok()).collect();
    let Some(&[first_seed, num_steps]) = numbers.as_deref() else {
        eprintln!("usage: simulate SEED STEPS, or simulate --replay FILE");
        return ExitCode::from(2);
    };
    std::panic::set_hook(Box::new(|panic| LAST_PANIC.set(panic.to_string())));

    let start = Instant::now();
    let search = Search {
        next_seed: AtomicU64::new(first_seed),
        num_steps: AtomicU64::new(0),
        num_tokens: AtomicU64::new(0),
        num_preemptions: AtomicU64::new(0),
        num_host_hit_tokens: AtomicU64::new(0),
        failing_seed: Mutex::new(None),
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| search.play_until(num_steps));
        }
    });
    let failing_seed = *search.failing_seed.lock().expect("no thread panics");
    if let Some(seed) = failing_seed {
        report_failure(seed);
        return ExitCode::FAILURE;
    }
    let total = |count: &AtomicU64| count.load(Ordering::Relaxed);
    println!(
        "{} steps of {} scenarios (seeds {first_seed} to {}) in {:.1} s: {} tokens, {} preemptions, {} tokens copied back from the \
         host, no violation",
        total(&search.num_steps),
        total(&search.next_seed) - first_seed,
        total(&search.next_seed) - 1,
        start.elapsed().as_secs_f64(),
        total(&search.num_tokens),
        total(&search.num_preemptions),
        total(&search.num_host_hit_tokens),
    );
    ExitCode::SUCCESS
}

/// Plays a journal again, and says where it differs.
fn replay_file(path: &str) -> ExitCode {
    let replayed = std::fs::File::open(path)
        .map_err(|error| error.to_string())
        .and_then(|file| replay(std::io::BufReader::new(file)));
    match replayed {
        Ok(Replayed { num_calls, num_batches }) => {
            println!("{path}: {num_batches} batches of {num_calls} calls, each as it was");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{path}: {error}");
            ExitCode::FAILURE
        }
    }
}

impl Search {
    /// Plays one scenario after the other until enough steps are done in all or one fails. Seeds are taken in order, and
    /// what was begun is finished, so the smallest failing seed does not depend on the number of threads.
    fn play_until(&self, num_steps: u64) {
        while self.num_steps.load(Ordering::Relaxed) < num_steps
            && self.failing_seed.lock().expect("no thread panics").is_none()
        {
            let seed = self.next_seed.fetch_add(1, Ordering::Relaxed);
            match catch_unwind(|| run(&Scenario::random(seed))) {
                Ok(report) => {
                    self.num_steps.fetch_add(report.stats.steps, Ordering::Relaxed);
                    self.num_tokens.fetch_add(report.stats.output_tokens, Ordering::Relaxed);
                    self.num_preemptions.fetch_add(report.stats.preemptions, Ordering::Relaxed);
                    self.num_host_hit_tokens.fetch_add(report.stats.host_hit_tokens, Ordering::Relaxed);
                }
                Err(_) => {
                    let mut failing = self.failing_seed.lock().expect("no thread panics");
                    *failing = Some(failing.map_or(seed, |other| other.min(seed)));
                }
            }
        }
    }
}

thread_local! {
    /// The message of this thread's last panic: hundreds of scenarios fail while one is shrunk, and one message matters.
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Says how a seed fails, and the smallest scenario that was found to fail too.
fn report_failure(seed: u64) {
    let fails = |scenario: &Scenario| catch_unwind(AssertUnwindSafe(|| run(scenario))).is_err();
    let scenario = Scenario::random(seed);
    assert!(fails(&scenario), "seed {seed} fails again");
    println!("seed {seed} fails: {}", LAST_PANIC.take());
    println!("again: cargo xtask sim --seed {seed} --steps 1");
    let smallest = shrink(&scenario, fails);
    assert!(fails(&smallest), "a shrunk scenario fails");
    println!("\nshrunk from {} requests to {}:", scenario.requests.len(), smallest.requests.len());
    println!("{smallest:#?}\nfails: {}", LAST_PANIC.take());
}
