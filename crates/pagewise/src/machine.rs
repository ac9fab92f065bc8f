//! What this machine has left. Reads; knows nobody's needs.

use std::path::Path;

/// Bytes of memory that this process could still take without swapping: what the system has available, or less where a
/// control group limits the process. `None` where neither can be read.
pub(crate) fn available_memory_bytes() -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(Path::new("/sys/fs/cgroup").join(path)).ok();
    let system = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| meminfo_available_bytes(&text));
    system.into_iter().chain(group_available_bytes(read)).min()
}

/// What a control group of version 2 or 1 has left: its limit without what it uses. The page cache of files counts as used
/// there, but gives way.
fn group_available_bytes(read: impl Fn(&str) -> Option<String>) -> Option<u64> {
    let versions = [
        ["memory.max", "memory.current", "memory.stat"],
        ["memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"],
    ];
    versions.iter().find_map(|[limit, used, stat]| {
        let number = |path: &str| read(path)?.trim().parse::<u64>().ok();
        let limit = number(limit)?;
        let stat = read(stat).unwrap_or_default();
        let page_cache: u64 = stat
            .lines()
            .filter_map(|line| line.split_once(' '))
            .filter(|(key, _)| matches!(*key, "active_file" | "inactive_file"))
            .filter_map(|(_, bytes)| bytes.parse::<u64>().ok())
            .sum();
        Some(limit.saturating_sub(number(used).unwrap_or(0).saturating_sub(page_cache)))
    })
}

fn meminfo_available_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo() {
        let text = "MemTotal:       24689 kB\nMemAvailable:   20480 kB\n";
        assert_eq!(meminfo_available_bytes(text), Some(20 << 20));
        for wrong in ["", "MemTotal: 1 kB", "MemAvailable: x kB", "MemAvailable: 5"] {
            assert_eq!(meminfo_available_bytes(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn control_groups() {
        let check = |files: &[(&str, &str)], expected: Option<u64>| {
            let read = |path: &str| files.iter().find(|(name, _)| *name == path).map(|(_, text)| (*text).to_string());
            assert_eq!(group_available_bytes(read), expected, "{files:?}");
        };
        let stat = "anon 50\nactive_file 20\ninactive_file 10\nslab 5\n";
        check(&[("memory.max", "100\n"), ("memory.current", "90\n"), ("memory.stat", stat)], Some(40));
        check(&[("memory.max", "100\n"), ("memory.current", "120\n")], Some(0));
        check(&[("memory.max", "max\n"), ("memory.current", "90\n")], None);
        check(
            &[
                ("memory/memory.limit_in_bytes", "100"),
                ("memory/memory.usage_in_bytes", "90"),
                ("memory/memory.stat", stat),
            ],
            Some(40),
        );
        check(&[], None);
    }
}
