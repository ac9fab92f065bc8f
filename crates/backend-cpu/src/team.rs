//! Threads that do one thing together, over and over, with as little as possible between one time and the next: a decode
//! step is hundreds of parallel regions of some tens of microseconds. Knows no work, only a function to call.
//!
//! The members of a team watch one word of memory. Its owner opens a job there, works on it like everybody else, closes it,
//! and waits for those who are still inside; whoever comes late finds it closed, so nobody waits for a thread that the
//! operating system has not woken yet. A member that has seen no job for a while sleeps, and costs a system call to wake; after
//! a longer while it does chores.
//!
//! ```text
//! gate:  [ number of the job : 32 ][ open : 1 ][ members inside : 31 ]
//! ```
#![allow(unsafe_code, reason = "a job borrows what its caller owns, and members outlive the call")]

use std::cell::UnsafeCell;
use std::fmt;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, TryLockError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// What all threads of a team call.
type Job<'a> = dyn Fn() + Sync + 'a;

const NUMBER_SHIFT: u32 = 32;
const OPEN: u64 = 1 << 31;
const INSIDE: u64 = OPEN - 1;

/// How long a member watches before it sleeps: longer than what lies between two steps of a busy engine.
const WATCH: Duration = Duration::from_micros(200);

/// How long nobody has had a job before chores are done: they are not to slow a start, or what lies between two steps.
const REST: Duration = Duration::from_millis(100);

/// Looks at the gate, a microsecond or so, before the processor is offered to whoever else wants it.
const LOOKS: u32 = 64;

/// Something that is better done before it is needed. One member at a time does it, when there is no job.
pub(crate) trait Chore: fmt::Debug + Send + Sync {
    /// Does some of it, in a millisecond or so: a job that is opened meanwhile is done without this thread. False if there
    /// is nothing to do now; it is asked again after the next job.
    fn do_some(&self) -> bool;
}

/// A thread that owns it and others that work with it.
#[derive(Debug)]
pub(crate) struct Team {
    shared: Arc<Shared>,
    members: Vec<JoinHandle<()>>,
    /// Held during a job.
    in_use: Mutex<()>,
}

/// A cache line of its own, so that what a job writes does not disturb those who watch.
#[repr(align(128))]
#[derive(Debug)]
struct Shared {
    gate: AtomicU64,
    /// Members that sleep or are about to.
    num_asleep: AtomicUsize,
    /// The job behind the gate. Written only while the gate is closed and nobody is inside.
    job: UnsafeCell<Option<JobPointer>>,
    has_panicked: AtomicBool,
    is_over: AtomicBool,
    chores: Mutex<Vec<Weak<dyn Chore>>>,
}

#[derive(Clone, Copy, Debug)]
struct JobPointer(*const Job<'static>);

// SAFETY: what it points to may be called from any thread.
unsafe impl Send for JobPointer {}
// SAFETY: `job` is written only when no other thread can reach it, as described there; all else is atomic.
unsafe impl Sync for Shared {}

impl Team {
    /// A team of this many threads, the one that calls [`run`](Self::run) among them.
    pub(crate) fn new(num_threads: usize) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            gate: AtomicU64::new(0),
            num_asleep: AtomicUsize::new(0),
            job: UnsafeCell::new(None),
            has_panicked: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            chores: Mutex::default(),
        });
        let mut team = Self { shared, members: Vec::new(), in_use: Mutex::new(()) };
        for index in 1..num_threads {
            let shared = Arc::clone(&team.shared);
            // If one cannot be started, those before it end with the team.
            team.members.push(thread::Builder::new().name(format!("cpu-{index}")).spawn(move || shared.serve())?);
        }
        Ok(team)
    }

    pub(crate) fn num_threads(&self) -> usize {
        1 + self.members.len()
    }

    /// Calls `job` on the calling thread, and on every member that comes while that call lasts. A second caller, meanwhile,
    /// is alone.
    ///
    /// # Panics
    /// If a call panics.
    pub(crate) fn run(&self, job: &Job<'_>) {
        let _in_use = match self.in_use.try_lock() {
            Ok(guard) => guard,
            // A job that panicked has left nothing behind.
            Err(TryLockError::Poisoned(guard)) => guard.into_inner(),
            Err(TryLockError::WouldBlock) => return job(),
        };
        let opened = self.open(job);
        job();
        drop(opened);
        assert!(!self.shared.has_panicked.swap(false, Ordering::Relaxed), "a thread of the team panicked");
    }

    /// Has a member do this while there is no job, for as long as it lives. A team of one thread has none who would.
    pub(crate) fn when_idle(&self, chore: &Arc<dyn Chore>) {
        self.shared.chores.lock().expect("a chore has panicked").push(Arc::downgrade(chore));
        self.wake();
    }

    fn open<'a>(&'a self, job: &'a Job<'a>) -> Opened<'a> {
        // SAFETY: only the lifetime is changed. The guard that is returned leaves nobody inside when it ends, before `job` does.
        let job = unsafe { core::mem::transmute::<&'a Job<'a>, &'static Job<'static>>(job) };
        // SAFETY: the gate is closed and nobody is inside, or the last guard would not have ended; nobody else opens it,
        // since the caller holds `in_use`.
        unsafe { *self.shared.job.get() = Some(JobPointer(job)) };
        let number = (self.shared.gate.load(Ordering::Relaxed) >> NUMBER_SHIFT).wrapping_add(1);
        // Before the look at who sleeps, in the one order of all such operations: see `sleep`.
        self.shared.gate.store(number << NUMBER_SHIFT | OPEN, Ordering::SeqCst);
        if self.shared.num_asleep.load(Ordering::SeqCst) > 0 {
            self.wake();
        }
        Opened(&self.shared)
    }

    fn wake(&self) {
        for member in &self.members {
            member.thread().unpark();
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        self.wake();
        for member in self.members.drain(..) {
            let _ = member.join();
        }
    }
}

/// While it lives, the gate is open.
struct Opened<'a>(&'a Shared);

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        let mut gate = self.0.gate.fetch_and(!OPEN, Ordering::Acquire);
        let mut num_looks = 0;
        while gate & INSIDE > 0 {
            num_looks += 1;
            // With more threads than processors, the one that is waited for may need this one's.
            if num_looks % LOOKS == 0 {
                thread::yield_now();
            } else {
                core::hint::spin_loop();
            }
            gate = self.0.gate.load(Ordering::Acquire);
        }
    }
}

impl Shared {
    /// A member's life.
    fn serve(&self) {
        let mut last = 0;
        while let Some(gate) = self.next_job(last) {
            // Fails if the job was closed or somebody else came or went: then it is looked at again.
            if self.gate.compare_exchange(gate, gate + 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
                continue;
            }
            last = gate >> NUMBER_SHIFT;
            // SAFETY: this thread is inside, so the job is there and stays.
            let job = unsafe { (*self.job.get()).expect("an open gate has a job") };
            // SAFETY: as above.
            let called = panic::catch_unwind(AssertUnwindSafe(|| unsafe { (*job.0)() }));
            if called.is_err() {
                self.has_panicked.store(true, Ordering::Relaxed);
            }
            self.gate.fetch_sub(1, Ordering::Release);
        }
    }

    /// Waits until the gate is open for another job than the last one. `None` when the team is over.
    fn next_job(&self, last: u64) -> Option<u64> {
        let idle_since = Instant::now();
        loop {
            let began = Instant::now();
            while began.elapsed() < WATCH {
                for _ in 0..LOOKS {
                    let gate = self.gate.load(Ordering::Relaxed);
                    if gate & OPEN != 0 && gate >> NUMBER_SHIFT != last {
                        return Some(gate);
                    }
                    core::hint::spin_loop();
                }
                if self.is_over.load(Ordering::Relaxed) {
                    return None;
                }
                // Whoever shares the processor may have work to do; if nobody has, this returns at once.
                thread::yield_now();
            }
            if idle_since.elapsed() < REST {
                self.sleep(last, || thread::park_timeout(REST));
            } else if !self.do_some_chore() {
                self.sleep(last, thread::park);
            }
        }
    }

    /// False if nothing is to be done, or another member does it.
    fn do_some_chore(&self) -> bool {
        let Ok(mut chores) = self.chores.try_lock() else {
            return false;
        };
        chores.retain(|chore| chore.strong_count() > 0);
        chores.iter().filter_map(Weak::upgrade).any(|chore| chore.do_some())
    }

    /// Sleeps until it is woken, perhaps for a job that is closed by then: another one may follow at once. Who opens a gate
    /// either sees that this thread sleeps, and wakes it, or this thread sees the open gate.
    fn sleep(&self, last: u64, park: impl FnOnce()) {
        self.num_asleep.fetch_add(1, Ordering::SeqCst);
        let gate = self.gate.load(Ordering::SeqCst);
        let is_new = gate & OPEN != 0 && gate >> NUMBER_SHIFT != last;
        if !is_new && !self.is_over.load(Ordering::SeqCst) {
            park();
        }
        self.num_asleep.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    /// Every thread of the team is inside of the same job once, whatever was before: asleep, watching, or just out of one.
    #[test]
    fn all_threads_come_if_there_is_time() {
        for num_threads in [1, 2, 5] {
            let team = Team::new(num_threads).unwrap();
            for round in 0..300 {
                let meeting = Barrier::new(num_threads);
                team.run(&|| {
                    meeting.wait();
                });
                if round % 100 == 0 {
                    thread::sleep(2 * WATCH);
                }
            }
        }
    }

    #[test]
    fn nobody_is_inside_when_a_job_has_ended() {
        let team = Team::new(4).unwrap();
        for _ in 0..20_000 {
            let (num_inside, num_units) = (AtomicUsize::new(0), AtomicUsize::new(0));
            team.run(&|| {
                num_inside.fetch_add(1, Ordering::Relaxed);
                while num_units.fetch_add(1, Ordering::Relaxed) < 20 {}
                num_inside.fetch_sub(1, Ordering::Relaxed);
            });
            assert_eq!(num_inside.into_inner(), 0);
            assert!(num_units.into_inner() > 20);
        }
    }

    #[test]
    fn a_panic_comes_out_and_the_team_goes_on() {
        let team = Team::new(3).unwrap();
        for culprit_is_caller in [true, false] {
            let caller = thread::current().id();
            let meeting = Barrier::new(3);
            let job = || {
                meeting.wait();
                assert!((thread::current().id() == caller) != culprit_is_caller, "on purpose");
            };
            panic::catch_unwind(AssertUnwindSafe(|| team.run(&job))).unwrap_err();
            let num_calls = AtomicUsize::new(0);
            let meeting = Barrier::new(3);
            team.run(&|| {
                meeting.wait();
                num_calls.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(num_calls.into_inner(), 3);
        }
    }

    #[test]
    fn a_job_inside_of_a_job_is_done_by_its_caller() {
        let team = Team::new(2).unwrap();
        let num_calls = AtomicUsize::new(0);
        let meeting = Barrier::new(2);
        team.run(&|| {
            meeting.wait();
            team.run(&|| {
                num_calls.fetch_add(1, Ordering::Relaxed);
            });
        });
        assert_eq!(num_calls.into_inner(), 2);
    }

    #[derive(Debug)]
    struct CountDown(AtomicUsize);

    impl Chore for CountDown {
        fn do_some(&self) -> bool {
            self.0.try_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
        }
    }

    #[test]
    fn chores_are_done_between_jobs_and_end_with_their_owner() {
        let team = Team::new(3).unwrap();
        let chores = [1, 40, 7].map(|num_parts| Arc::new(CountDown(AtomicUsize::new(num_parts))));
        let is_done = |chore: &Arc<CountDown>| chore.0.load(Ordering::Relaxed) == 0;
        for chore in chores.clone() {
            let chore: Arc<dyn Chore> = chore;
            team.when_idle(&chore);
        }
        for again in [2, 0] {
            let meeting = Barrier::new(3);
            team.run(&|| {
                meeting.wait();
            });
            while !chores.iter().all(is_done) {
                thread::yield_now();
            }
            chores.iter().for_each(|chore| chore.0.store(again, Ordering::Relaxed));
        }
        drop(chores);
        // A member that is at one just now is let go first.
        while !team.shared.chores.lock().unwrap().is_empty() {
            team.shared.do_some_chore();
        }
    }
}
