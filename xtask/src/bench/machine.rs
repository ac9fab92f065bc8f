//! The machine that measures: its processor, and a name made of that, or what it is called here if it is another. No host
//! name, no user, no path.

use anyhow::{Result, ensure};
use serde::Serialize;

/// A machine, as far as it matters for a benchmark.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Machine {
    /// One whose processors were measured.
    Processors { cpu: String, cores: usize },
    /// One that printed rows elsewhere.
    Elsewhere { name: String, device: String },
}

impl Machine {
    /// The one that this runs on.
    pub(super) fn this() -> Result<Self> {
        let cores = std::thread::available_parallelism()?.get();
        // Where there is no such file, the architecture must do.
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Ok(Self::of(model_name(&info).unwrap_or(std::env::consts::ARCH), cores))
    }

    /// One with this processor.
    pub(super) fn of(cpu: &str, cores: usize) -> Self {
        Self::Processors { cpu: cpu.to_string(), cores }
    }

    /// Another one, by the name of its folder and what its device says of itself.
    pub(super) fn elsewhere(name: &str, device: &str) -> Result<Self> {
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        ensure!(
            !name.is_empty() && name.chars().all(is_plain),
            "a machine's name has small letters, digits and dashes"
        );
        Ok(Self::Elsewhere { name: name.to_string(), device: device.to_string() })
    }

    /// The name of its folder, such as `amd-epyc-7763-64-core-processor-2c`.
    pub(super) fn name(&self) -> String {
        let (cpu, cores) = match self {
            Self::Elsewhere { name, .. } => return name.clone(),
            Self::Processors { cpu, cores } => (cpu, cores),
        };
        let cpu = cpu.replace("(R)", "").replace("(TM)", "").to_lowercase();
        let words = cpu.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        let words: Vec<&str> = words.collect();
        format!("{}-{cores}c", words.join("-"))
    }
}

fn model_name(info: &str) -> Option<&str> {
    info.lines().find_map(|line| line.strip_prefix("model name")?.trim_start().strip_prefix(':')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_made_of_the_processor() {
        let check = |line: &str, expected: &str| {
            let info = format!("processor\t: 0\n{line}\nmodel\t\t: 1\n");
            assert_eq!(Machine::of(model_name(&info).expect("the line is there"), 2).name(), expected);
        };
        check("model name\t: AMD EPYC", "amd-epyc-2c");
        check("model name\t: Intel(R) Xeon(R) CPU @ 2.20GHz", "intel-xeon-cpu-2-20ghz-2c");
        check("model name\t: AMD EPYC 7763 64-Core Processor", "amd-epyc-7763-64-core-processor-2c");
        assert_eq!(model_name("processor : 0\n"), None);
    }

    #[test]
    fn another_machine_has_the_name_that_it_is_given() {
        let named = |name: &str| Machine::elsewhere(name, "cuda, a card").map(|machine| machine.name());
        assert_eq!(named("h100").expect("a plain name"), "h100");
        for name in ["", "../h100", "H100", "a b"] {
            assert!(named(name).is_err(), "{name:?}");
        }
    }
}
