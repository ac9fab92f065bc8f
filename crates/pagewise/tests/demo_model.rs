//! The binary on real weights: a server, and clients of it and of no server, give the same answers.

mod support;

use std::process::{Command, Output, Stdio};

use support::{Server, demo_model, program};

fn pagewise(arguments: &[&str]) -> Output {
    Command::new(program()).args(arguments).stdin(Stdio::null()).output().expect("the binary runs")
}

/// Ends a server as an operator would, and returns its exit code.
fn terminate(mut server: Server) -> Option<i32> {
    let pid = server.process.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs").success());
    server.process.wait().expect("it ends").code()
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
    let server = Server::start(&model, &["--dtype", "float32"], &[]);
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

    assert_eq!(terminate(server), Some(0));
}
