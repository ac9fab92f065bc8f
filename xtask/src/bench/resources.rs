//! What a process and those that it started take of the machine, as Linux tells it. Knows no server.

use std::fs;
use std::path::Path;
use std::time::Duration;

/// Length of a tick, in which Linux counts processor time for programs.
const TICK: Duration = Duration::from_millis(10);

/// The most memory that a process and its descendants had resident at a time, in bytes; `None` where the system does not say.
pub(super) fn peak_resident_bytes(root: u32) -> Option<u64> {
    let processes: Vec<Process> =
        fs::read_dir("/proc").ok()?.filter_map(|entry| Process::read(&entry.ok()?.path())).collect();
    let mut family = vec![root];
    // A child's number may be below its parent's: until nobody joins.
    loop {
        let joins = |process: &&Process| family.contains(&process.parent) && !family.contains(&process.id);
        let Some(child) = processes.iter().find(joins) else { break };
        family.push(child.id);
    }
    let resident = processes.iter().filter(|process| family.contains(&process.id)).map(|process| process.peak_bytes);
    Some(resident.sum()).filter(|bytes| *bytes > 0)
}

/// The processor time that all threads of a process have used until now, to a hundredth of a second; `None` where the system
/// does not say.
pub(super) fn processor_time(process: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    Some(TICK * parse_ticks(&stat)?)
}

/// The ticks of a line of `/proc/<process>/stat`: those of the program, and those of the system on its behalf.
fn parse_ticks(stat: &str) -> Option<u32> {
    // The name in parentheses, the second field, may hold anything.
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u32>().ok();
    Some(next()? + next()?)
}

/// A process as Linux describes it.
struct Process {
    id: u32,
    parent: u32,
    peak_bytes: u64,
}

impl Process {
    fn read(folder: &Path) -> Option<Self> {
        Self::parse(&fs::read_to_string(folder.join("status")).ok()?)
    }

    fn parse(status: &str) -> Option<Self> {
        let field = |name: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            value.split_whitespace().next()?.parse::<u64>().ok()
        };
        Some(Self { id: field("Pid")? as u32, parent: field("PPid")? as u32, peak_bytes: field("VmHWM")? * 1024 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read() {
        let status = "Name:\tserver\nPid:\t42\nPPid:\t7\nVmPeak:\t  900 kB\nVmHWM:\t  800 kB\n";
        let process = Process::parse(status).expect("it is complete");
        assert_eq!((process.id, process.parent, process.peak_bytes), (42, 7, 819_200));
        assert!(Process::parse("Pid:\t2\nPPid:\t0\n").is_none(), "a thread of the kernel has no memory");
    }

    #[test]
    fn ticks_are_those_of_program_and_system() {
        let stat = "42 (a name) 9) S 1 42 42 0 -1 4194560 5 0 0 0 1234 66 7 8 20 0 3 0 100 200 300";
        assert_eq!(parse_ticks(stat), Some(1300));
        assert_eq!(parse_ticks("42 (short) S 1 42"), None);
    }
}
