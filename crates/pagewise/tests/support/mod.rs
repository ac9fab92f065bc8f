//! What tests of a running server share: the program, the demo model, and the server itself.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The program: what `PAGEWISE_PROGRAM` names, where this test was not built; else the one that was built with it.
pub(crate) fn program() -> OsString {
    std::env::var_os("PAGEWISE_PROGRAM").unwrap_or_else(|| env!("CARGO_BIN_EXE_pagewise").into())
}

/// The demo model, or `None` if it is not here and need not be.
pub(crate) fn demo_model() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = variable("PAGEWISE_CACHE")
        .or_else(|| Some(variable("XDG_CACHE_HOME")?.join("pagewise")))
        .or_else(|| Some(variable("HOME")?.join(".cache/pagewise")));
    let in_cache = cache.map(|cache| cache.join("models/SmolLM2-135M-Instruct.Q4_1.gguf"));
    let path = variable("PAGEWISE_TEST_MODEL").or(in_cache)?;
    if path.is_file() {
        return Some(path);
    }
    assert!(variable("PAGEWISE_REQUIRE_MODEL").is_none(), "the demo model is not at {}", path.display());
    println!("skipped: the demo model is not at {}; fetch it with 'cargo xtask pull-demo'", path.display());
    None
}

/// A server on a free port. Killed when dropped, unless it has ended.
pub(crate) struct Server {
    pub(crate) process: Child,
    pub(crate) address: String,
}

impl Server {
    pub(crate) fn start(model: &Path, arguments: &[&str], variables: &[(&str, &OsStr)]) -> Self {
        let mut process = Command::new(program())
            .args(["serve", "--port", "0", "--max-model-len", "1024", "--model"])
            .arg(model)
            .args(arguments)
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut address = String::new();
        BufReader::new(process.stdout.take().expect("piped")).read_line(&mut address).expect("a line");
        Self { process, address: address.trim().to_string() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
