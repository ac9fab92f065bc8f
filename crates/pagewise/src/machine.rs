//! What this machine has left. Reads; knows nobody's needs.

/// Bytes of memory that this process could still take without swapping: what the system has available, or less where a
/// control group limits the process. `None` where neither can be read.
pub(crate) fn available_memory_bytes() -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let number = |path: &str| read(path)?.trim().parse::<u64>().ok();
    let system = read("/proc/meminfo").and_then(|text| meminfo_available_bytes(&text));
    let limit = number("/sys/fs/cgroup/memory.max");
    let group = limit.map(|limit| limit.saturating_sub(number("/sys/fs/cgroup/memory.current").unwrap_or(0)));
    system.into_iter().chain(group).min()
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
}
