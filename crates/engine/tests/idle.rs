//! An idle engine's thread sleeps. In a process of its own, so that there is one such thread.
#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::time::Duration;

use common::{read, running_engine, submit, wait_until};
use sim::Faults;

/// The state letter of the engine's thread and the processor time it took, in clock ticks (proc_pid_stat(5)).
fn engine_thread() -> (String, u64) {
    let stat = fs::read_dir("/proc/self/task")
        .unwrap()
        .map(|task| fs::read_to_string(task.unwrap().path().join("stat")).unwrap())
        .find(|stat| stat.contains("(pagewise-engine)"))
        .expect("the engine's thread has its name");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[0].into(), fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap())
}

#[test]
fn an_idle_engine_sleeps() {
    let engine = running_engine(Faults::default());
    let _ = read(submit(&engine, &[1; 9], 30).unwrap());
    wait_until("the engine falls asleep", || engine_thread().0 == "S");
    let (_, ticks) = engine_thread();
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(engine_thread(), ("S".into(), ticks), "it neither runs nor has run");
    }
    let _ = read(submit(&engine, &[1; 9], 30).unwrap());
}
