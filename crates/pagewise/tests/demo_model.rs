//! The binary on real weights: a server, and clients of it and of no server, give the same answers.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// The demo model, or `None` if it is not here and need not be.
fn demo_model() -> Option<PathBuf> {
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
struct Server {
    process: Child,
    address: String,
}

impl Server {
    fn start(model: &Path) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_pagewise"))
            .args(["serve", "--port", "0", "--max-model-len", "1024", "--dtype", "float32", "--model"])
            .arg(model)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut address = String::new();
        BufReader::new(process.stdout.take().expect("piped")).read_line(&mut address).expect("a line");
        Self { process, address: address.trim().to_string() }
    }

    /// Ends it as an operator would, and returns its exit code.
    fn terminate(mut self) -> Option<i32> {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs").success());
        self.process.wait().expect("it ends").code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn pagewise(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pagewise")).args(arguments).stdin(Stdio::null()).output().expect("the binary runs")
}

/// The answer on stdout, and what was said on stderr.
#[track_caller]
fn answer(arguments: &[&str]) -> (String, String) {
    let output = pagewise(arguments);
    let stderr = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(output.status.success(), "{arguments:?}: {stderr}");
    (String::from_utf8(output.stdout).expect("UTF-8"), stderr)
}

#[test]
fn server_and_process_give_the_same_answers() {
    let Some(model) = demo_model() else { return };
    let server = Server::start(&model);
    assert!(server.address.starts_with("http://127.0.0.1:"), "{}", server.address);
    let model = model.to_string_lossy();
    let here = ["--max-model-len", "1024", "--dtype", "float32", "--model", &model];
    let there = ["--connect", server.address.as_str()];

    let question =
        ["chat", "--quick", "What is the capital of France?", "--temperature", "0", "--max-tokens", "16", "--summary"];
    let (of_server, summary) = answer(&[&question[..], &there].concat());
    // What transformers answers: the first of the golden chats.
    assert_eq!(of_server, "The capital of France is Paris.\n");
    for line in ["prompt ", "answer ", "TTFT ", "KV blocks ", "memory", "  weights ", "  total "] {
        assert!(summary.lines().any(|found| found.starts_with(line)), "no line {line:?} in {summary}");
    }
    assert_eq!(answer(&[&question[..], &here].concat()).0, of_server);
    // Asked again, the prompt's full blocks are found.
    let (again, summary) = answer(&[&question[..], &there].concat());
    assert_eq!(again, of_server);
    assert!(summary.contains("tokens, 32 of them found in the prefix cache"), "{summary}");

    let prompt = ["generate", "--prompt", "The capital of France is", "--temperature", "0", "--max-tokens", "4"];
    let (text, _) = answer(&[&prompt[..], &there].concat());
    assert!(text.starts_with(" Paris"), "{text}");
    let refused = pagewise(&[&prompt[..], &["--top-p", "2"], &there].concat());
    let stderr = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(1) && stderr.contains("INVALID_ARGUMENT: top_p is 2"), "{stderr}");

    assert_eq!(server.terminate(), Some(0));
}
