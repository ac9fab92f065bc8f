//! The binary as its users see it: what it prints, what it refuses and how, on small models. Real weights are in
//! `demo_model.rs`.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use backend_cpu::Instructions;

const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/tiny");

/// Runs `pagewise` in an empty cache with some stdin.
fn pagewise(arguments: &[&str], stdin: &str) -> Output {
    let cache = tempfile::tempdir().expect("a temporary folder");
    let mut child = Command::new(env!("CARGO_BIN_EXE_pagewise"))
        .args(arguments)
        .env("PAGEWISE_CACHE", cache.path())
        .env("HF_ENDPOINT", "http://127.0.0.1:1")
        .env_remove("RUST_LOG")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    // A command that refuses its flags may be gone before it reads.
    let _ = child.stdin.take().expect("piped").write_all(stdin.as_bytes());
    child.wait_with_output().expect("the binary ends")
}

/// A refusal: exit code 1, nothing on stdout, and one line on stderr that begins with `error: ` and holds `expected`.
#[track_caller]
fn check_refused(arguments: &[&str], expected: &str) {
    let output = pagewise(arguments, "");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {stderr}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{arguments:?}");
    let last = stderr.lines().last().unwrap_or_default();
    assert!(last.starts_with("error: ") && last.contains(expected), "{arguments:?}: {stderr}");
}

#[test]
fn bad_input_gets_one_clear_line() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).expect("written");
        path.to_string_lossy().into_owned()
    };
    let tiny = &format!("{TINY}/qwen3");
    let empty_folder = folder.path().join("empty");
    std::fs::create_dir(&empty_folder).expect("made");

    check_refused(&["serve"], "--model is missing");
    check_refused(
        &["inspect", "--model", "nowhere"],
        "there is no nowhere: neither a file or folder, nor a pulled model",
    );
    check_refused(&["inspect", "--model", &empty_folder.to_string_lossy()], "config.json: No such file");
    check_refused(&["inspect", "--model", &file("empty.gguf", b"")], "empty.gguf: it is empty");
    check_refused(&["inspect", "--model", &file("junk.gguf", b"not a model")], "junk.gguf: ");
    check_refused(&["inspect", "--model", &file("cut.gguf", b"GGUF\x03\0\0\0")], "cut.gguf: ");
    let t5 = file("config.json", br#"{"architectures": ["T5ForConditionalGeneration"]}"#);
    check_refused(
        &["inspect", "--load-format", "dummy", "--model", &t5],
        "`T5ForConditionalGeneration` is not supported; supported are",
    );
    check_refused(&["inspect", "--model", &t5], "has no weights; --load-format dummy makes some");

    let with_toml = |name: &str, content: &str| file(name, content.as_bytes());
    check_refused(&["serve", "--config", "/none.toml"], "cannot read /none.toml: No such file");
    check_refused(&["serve", "--config", &with_toml("a.toml", "prot = 1")], "a.toml: unknown key `prot`; known are");
    check_refused(&["serve", "--config", &with_toml("b.toml", "port = 70000")], "b.toml: invalid value '70000'");

    check_refused(
        &["inspect", "--model", tiny, "--max-model-len", "9999999"],
        "--max-model-len 9999999: the model's context holds at most",
    );
    check_refused(&["inspect", "--model", tiny, "--block-size", "24"], "--block-size 24: it must be a power of two");
    check_refused(
        &["inspect", "--model", tiny, "--device", "cuda", "--dtype", "float32"],
        "a GPU computes in bfloat16",
    );
    check_refused(&["generate", "--model", tiny, "--prompt", "Hi"], "has no tokenizer.json");
    check_refused(
        &["bench", "throughput", "--model", tiny, "--input-len", "999"],
        "request 0: the prompt has 999 tokens",
    );
    check_refused(
        &["bench", "throughput", "--model", tiny, "--output-tokens", "/none/tokens"],
        "cannot write /none/tokens: No such file",
    );
    check_refused(&["generate", "--model", tiny], "no prompt, stdin is empty");
    check_refused(
        &["bench", "throughput", "--model", tiny, "--requests", &file("r.jsonl", b"{}")],
        "r.jsonl: line 1: missing field",
    );
    check_refused(
        &["chat", "--connect", "127.0.0.1:1", "--quick", "Hi"],
        "cannot reach a server at 127.0.0.1:1: transport error: tcp connect error: Connection refused",
    );
    check_refused(&["chat", "--connect", "not a url", "--quick", "Hi"], "not a url is no address");
    check_refused(&["pull", "nothing"], "`nothing` names no model that can be pulled");
    check_refused(&["pull", "owner/name"], "cannot reach http://127.0.0.1:1");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("bound").port().to_string();
    check_refused(&["serve", "--model", tiny, "--port", &port], &format!("127.0.0.1:{port} is in use"));
}

#[test]
fn help_teaches() {
    for command in [vec![], vec!["serve"], vec!["generate"], vec!["chat"], vec!["pull"], vec!["bench", "throughput"]] {
        let output = pagewise(&[&command[..], &["--help"]].concat(), "");
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && stdout.contains("pagewise"), "{command:?}: {stdout}");
    }
}

#[test]
fn wrong_flags_are_named() {
    // A wrong command line: exit code 2, as everywhere.
    let check = |arguments: &[&str], expected: &str| {
        let output = pagewise(arguments, "");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && stderr.contains(expected), "{arguments:?}: {stderr}");
    };
    check(&["serve", "--prot", "1"], "'--prot'");
    check(&["serve", "--port", "70000"], "'70000' for '--port <PORT>': 70000 is not in 0..=65535");
    check(&["serve", "--max-num-seqs", "0"], "'0' for '--max-num-seqs <N>': 0 is not in 1..");
    check(&["generate", "--seed", "-1"], "'-1' for '--seed <SEED>'");
    check(&["generate", "--max-tokens", "-1"], "'-1' for '--max-tokens <TOKENS>'");
    check(&["serve", "--device", "tpu"], "[possible values: auto, cpu, cuda]");
    check(&["serve", "--cpu-instructions", "sse9"], "[possible values: plain, avx2, avx512-vnni, avx512-bf16]");
    check(&["serve", "--gpu-memory-utilization", "1.5"], "must be above 0 and at most 1");
    check(&["bench", "latency", "--input-len", "0"], "'0' for '--input-len <TOKENS>': 0 is not in 1..");
    check(&["bench", "throughput", "--requests", "f", "--input-len", "9"], "cannot be used with");
    check(&["chat", "--connect", "u", "--dtype", "float32"], "cannot be used with");
}

#[test]
fn a_closed_stdout_ends_quietly() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_pagewise"))
        .args(["inspect", "--tensors", "--model", &format!("{TINY}/qwen3")])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    // As `head` does when it has enough.
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("the binary ends");
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[cfg(unix)]
#[test]
fn an_interrupted_pull_leaves_nothing() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().expect("a temporary folder");
    let (cache, bin, fifo) = (folder.path().join("cache"), folder.path().join("bin"), folder.path().join("fifo"));
    // What runs in the place of pip: writes half a model, and holds the pipe open for an hour.
    std::fs::create_dir(&bin).expect("made");
    let python = bin.join("python3");
    std::fs::write(&python, "#!/bin/sh\necho half > \"$TMPDIR/half\"\nexec sleep 3600 > \"$FIFO\"\n").expect("written");
    std::fs::set_permissions(&python, std::fs::Permissions::from_mode(0o755)).expect("made executable");
    assert!(Command::new("mkfifo").arg(&fifo).status().expect("mkfifo runs").success());

    for signal in ["-INT", "-TERM"] {
        let pull = Command::new(env!("CARGO_BIN_EXE_pagewise"))
            .args(["pull", "smollm2-135m-instruct"])
            .env("PATH", format!("{}:/usr/bin:/bin", bin.display()))
            .env("PAGEWISE_CACHE", &cache)
            .env("FIFO", &fifo)
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        // Opens as soon as the other end is open, and ends when that has gone.
        let mut pip = std::fs::File::open(&fifo).expect("opened");
        assert!(Command::new("kill").args([signal, &pull.id().to_string()]).status().expect("kill runs").success());
        let output = pull.wait_with_output().expect("the binary ends");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && stderr == "error: interrupted; nothing was kept\n", "{stderr}");
        assert_eq!(cache.join("models").read_dir().expect("read").count(), 0, "nothing is left of it");
        pip.read_to_end(&mut Vec::new()).expect("pip was ended too");
    }
}

#[test]
fn inspect_shows_tensors_config_and_memory() {
    let output = pagewise(&["inspect", "--tensors", "--model", &format!("{TINY}/qwen3")], "");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for expected in [
        "Qwen3ForCausalLM",
        "layers",
        "parameters",
        "model.embed_tokens.weight",
        "max-model-len = ",
        "kv blocks",
        "total",
    ] {
        assert!(stdout.contains(expected), "{expected} is not in {stdout}");
    }
}

/// The tokens that a benchmark run writes, and its figures.
fn bench(model: &str, extra: &[&str]) -> (String, serde_json::Value) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let tokens = folder.path().join("tokens.jsonl").to_string_lossy().into_owned();
    let shape = ["--num-requests", "5", "--input-len", "20", "--output-len", "6", "--max-model-len", "64"];
    let arguments =
        [&["bench", "throughput", "--model", model, "--output-tokens", &tokens], &shape[..], extra].concat();
    let output = pagewise(&arguments, "");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let figures = serde_json::from_slice(&output.stdout).expect("JSON on stdout and nothing else");
    (std::fs::read_to_string(&tokens).expect("written"), figures)
}

#[test]
fn bench_is_reproducible_and_counts_right() {
    let tiny = format!("{TINY}/llama-llama3-rope");
    let (tokens, figures) = bench(&tiny, &[]);
    assert_eq!(tokens.lines().count(), 5);
    for (name, expected) in [("num_requests", 5), ("prompt_tokens", 100), ("output_tokens", 30)] {
        assert_eq!(figures[name], expected, "{name}");
    }
    assert!(figures["steps"].as_u64() >= Some(6), "{figures}");
    assert!(figures["output_tokens_per_second"].as_f64() > Some(0.0), "{figures}");
    // A name, as over gRPC; why it is no GPU is said to people at start.
    assert!(figures["device"].as_str().is_some_and(|device| !device.contains("no GPU")), "{figures}");
    // One request at a time, in chunks, without sharing: the same tokens.
    let strict = ["--max-num-seqs", "1", "--max-num-batched-tokens", "8", "--no-enable-prefix-caching"];
    assert_eq!(bench(&tiny, &strict).0, tokens);
    assert_ne!(bench(&tiny, &["--seed", "1"]).0, tokens);

    // More requests than the engine accepts at once.
    let crowd = ["--num-requests", "1030", "--input-len", "1", "--output-len", "1"];
    let (tokens, figures) = bench(&tiny, &crowd);
    assert_eq!((tokens.lines().count(), &figures["output_tokens"]), (1030, &1030.into()));

    // Random weights from a config.json alone.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = folder.path().join("config.json");
    std::fs::copy(Path::new(&tiny).join("config.json"), &config).expect("copied");
    let dummy = |seed: &str| bench(&config.to_string_lossy(), &["--load-format", "dummy", "--seed", seed]).0;
    assert_eq!(dummy("1"), dummy("1"));
    assert_ne!(dummy("1"), dummy("2"));
}

/// Every set that this machine has is forced in turn; the others are refused, with what there is.
#[test]
fn all_instructions_give_the_same_tokens() {
    let tiny = format!("{TINY}/qwen3");
    let (expected, _) = bench(&tiny, &["--device", "cpu"]);
    for instructions in Instructions::ALL {
        let forced = ["--device", "cpu", "--cpu-instructions", instructions.name()];
        if !instructions.available() {
            let arguments = [&["bench", "throughput", "--model", &tiny][..], &forced].concat();
            check_refused(&arguments, &format!("this machine has no {instructions} instructions; it has plain"));
            continue;
        }
        let (tokens, figures) = bench(&tiny, &forced);
        assert_eq!(tokens, expected, "{instructions}");
        assert!(figures["device"].as_str().is_some_and(|device| device.ends_with(instructions.name())), "{figures}");
    }
}

#[test]
fn bench_quality_foretells_what_is_generated_by_rows_of_both_kinds() {
    let tiny = format!("{TINY}/llama-llama3-rope");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = |name: &str, content: &serde_json::Value| {
        let path = folder.path().join(name);
        std::fs::write(&path, content.to_string()).expect("written");
        path.to_string_lossy().into_owned()
    };
    let prompt: Vec<u32> = (0..30).map(|i| (i * i * 7 + i) % 128).collect();
    let request = file("requests.jsonl", &serde_json::json!({ "prompt_token_ids": prompt, "output_tokens": 9 }));
    let tokens = folder.path().join("tokens.jsonl").to_string_lossy().into_owned();
    let kv = ["--kv-cache-dtype", "int8"];
    let generate = ["bench", "throughput", "--model", &tiny, "--requests", &request, "--output-tokens", &tokens];
    let output = pagewise(&[&generate[..], &kv].concat(), "");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answer: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&tokens).expect("written")).expect("one line of JSON");

    let case = serde_json::json!({ "prompt_ids": prompt, "output_ids": answer["output_token_ids"] });
    let answers = file("answers.json", &serde_json::json!({ "cases": [case.clone(), case] }));
    let text = file("text.json", &serde_json::json!({ "ids": prompt }));
    let score = ["bench", "quality", "--model", &tiny, "--text", &text, "--answers", &answers];
    let output = pagewise(&[&score[..], &kv, &["--max-num-batched-tokens", "64"]].concat(), "");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let figures: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let [prefill, decode] = ["prefill", "decode"].map(|rows| &figures["rows"][rows]);
    assert_eq!(prefill, decode);
    assert_eq!(prefill["scored_tokens"], 29);
    assert!(prefill["perplexity"].as_f64() > Some(1.0), "{figures}");
    for found in 0..2 {
        assert_eq!(prefill["answers"][found]["most_likely"], answer["output_token_ids"]);
    }
    check_refused(&[&score[..], &["--max-model-len", "16"]].concat(), "has 30 tokens, more than --max-model-len 16");
}

#[test]
fn bench_latency_measures_batches() {
    let tiny = format!("{TINY}/qwen2");
    let shape =
        ["--batch-size", "2", "--input-len", "8", "--output-len", "4", "--num-iters", "2", "--max-model-len", "32"];
    let output = pagewise(&[&["bench", "latency", "--model", &tiny][..], &shape].concat(), "");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let figures: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(figures["batch_ms"]["p50"].as_f64() > Some(0.0), "{figures}");
    assert_eq!(figures["last_batch"]["output_tokens"], 8);
    assert_eq!(figures["last_batch"]["cached_tokens"], 0);
    assert!(figures.get("device_idle_between_steps_ms").is_none());
}

#[test]
fn bench_host_copy_brings_prefixes_back() {
    // The context is long enough for the batch to decode until all prefixes are back, however fast its steps are.
    let folder = tempfile::tempdir().expect("a folder");
    let config = std::fs::read_to_string(format!("{TINY}/qwen2/config.json")).expect("the config");
    let mut config: serde_json::Value = serde_json::from_str(&config).expect("JSON");
    config["max_position_embeddings"] = 8192.into();
    std::fs::write(folder.path().join("config.json"), config.to_string()).expect("it is written");
    let tiny = folder.path().to_str().expect("a path in UTF-8");
    let model = ["--model", tiny, "--load-format", "dummy", "--block-size", "16"];
    let shape = ["--prefix-len", "32", "--num-prefixes", "2", "--output-len", "4"];
    let crowd = ["--batch-size", "2", "--input-len", "8", "--decode-len", "6000"];
    let memory = ["--kv-cache-memory-bytes", "4MiB", "--host-kv-bytes", "16MiB"];
    let output = pagewise(&[&["bench", "host-copy"][..], &model, &shape, &crowd, &memory].concat(), "");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let figures: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    // On the CPU a row's result depends on nothing else, so whether it is copied back or computed again makes no difference.
    for name in ["requests_equal_to_computed", "requests_equal_to_device_hit", "first_tokens_equal_to_device_hit"] {
        assert_eq!(figures[name], 2, "{name}: {figures}");
    }
    // The first one is copied back whatever it costs: nothing is known yet of what copies cost.
    assert!(figures["returned_tokens"]["seen"].as_u64() >= Some(32), "{figures}");
    assert!(figures["decode_step_ms"]["p50"].as_f64() > Some(0.0), "{figures}");

    let no_pool = pagewise(&["bench", "host-copy", "--model", tiny, "--load-format", "dummy"], "");
    assert!(String::from_utf8_lossy(&no_pool.stderr).contains("--host-kv-bytes is missing"));
}
