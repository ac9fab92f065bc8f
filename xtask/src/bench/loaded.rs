//! Calls of the load generator's program, and what it printed. Knows no server.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, anyhow};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::contender::Running;
use super::pagewise;
use crate::process;

/// How long a server may take until it is ready. vLLM takes minutes.
const PATIENCE_S: &str = "300";

/// The load generator, built.
pub(super) struct LoadGenerator {
    program: PathBuf,
}

/// What is asked: a workload by name, with other seeds and numbers.
#[derive(Clone, Copy)]
pub(super) struct Asking<'a> {
    pub(super) workload: &'a str,
    pub(super) seed: u64,
    pub(super) num_requests: Option<u32>,
}

/// What it printed of one run.
pub(super) struct Loaded {
    report: Value,
}

impl LoadGenerator {
    /// Builds it.
    pub(super) fn build() -> Result<Self> {
        pagewise::build()?;
        Ok(Self { program: process::built_binary("release", "load")? })
    }

    /// Asks everything of a workload, after two requests that only warm. A request that fails is an error.
    pub(super) fn run(&self, running: &mut Running, asking: Asking<'_>) -> Result<Loaded> {
        let mut flags =
            ["--fail-on-error", "--warmup", "2", "--workload", asking.workload].map(str::to_string).to_vec();
        flags.extend(["--seed".into(), asking.seed.to_string()]);
        if let Some(num_requests) = asking.num_requests {
            flags.extend(["--num-requests".into(), num_requests.to_string()]);
        }
        Ok(Loaded { report: self.read(running, &flags)? })
    }

    /// Calls the program with flags, and reads what it printed.
    pub(super) fn read<T: DeserializeOwned>(&self, running: &mut Running, flags: &[String]) -> Result<T> {
        let printed =
            process::read_output(self.command(running).args(flags)).map_err(|error| match running.explain() {
                why if why.is_empty() => error,
                why => anyhow!("{error:#}\n{why}"),
            })?;
        serde_json::from_str(&printed).context("`load` printed something unreadable")
    }

    /// Asks for one token after a prompt of eight, without warming: the first that a server does. Always the same.
    pub(super) fn first_token(&self, running: &mut Running) -> Result<Loaded> {
        let flags =
            ["--fail-on-error", "--workload", "w1", "--num-requests", "1", "--input-len", "8", "--output-len", "1"];
        Ok(Loaded { report: self.read(running, &flags.map(str::to_string))? })
    }

    fn command(&self, running: &Running) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["--connect", &running.url, "--protocol", running.protocol]);
        command.args(["--wait-s", PATIENCE_S]);
        command
    }
}

impl Loaded {
    /// A figure by its place in the report.
    pub(super) fn figure(&self, pointer: &str) -> Result<f64> {
        self.report.pointer(pointer).and_then(Value::as_f64).with_context(|| format!("`load` printed no {pointer}"))
    }

    /// Equal where the same was asked.
    pub(super) fn requests_sha256(&self) -> Result<&str> {
        let sha256 = self.report.pointer("/asked/requests_sha256").and_then(Value::as_str);
        sha256.context("`load` did not print what it asked")
    }

    /// What the load generator itself took of the machine.
    pub(super) fn cpu_share(&self) -> Result<f64> {
        self.figure("/load_generator/cpu_share")
    }

    #[cfg(test)]
    pub(super) fn of(report: Value) -> Self {
        Self { report }
    }
}
