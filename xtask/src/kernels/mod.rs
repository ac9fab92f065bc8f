//! `cargo xtask kernels`: the CUDA kernels' library and lab programs. Only finds, compiles and links; a GPU is not needed.

mod arch;
mod compile;
pub(crate) mod cublas;
mod includes;
pub(crate) mod toolkit;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};

use self::arch::Arch;
use self::compile::Compiler;
use self::toolkit::Toolkit;
use crate::process;

/// The library's file, as `kernels-sys` looks for it.
const LIBRARY: &str = "libpagewise_kernels.so";

/// The variable that names the library's file to Pagewise.
pub(crate) const LIBRARY_VARIABLE: &str = "PAGEWISE_KERNELS";

#[derive(Subcommand)]
pub(crate) enum Task {
    /// Compiles the kernels to a library that a build of Pagewise in this repository finds.
    Build(Targets),
    /// Fetches the CUDA compiler from PyPI into the target folder, unless this machine has one.
    Toolkit,
    /// Finds cuBLASLt, which a GPU needs beside the driver, or fetches it from PyPI into the target folder.
    Cublas,
    /// Compiles a kernel's lab program, which checks it against float64 and times it, and runs it if there is a GPU.
    Lab {
        /// The program's name in kernels/lab/, without its ending.
        name: String,
        #[command(flatten)]
        targets: Targets,
        /// For the program, behind `--`; `--check` times nothing.
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Measures cuBLASLt's algorithms for the products of models on this machine's GPU, and prints the table.
    Tune {
        /// The models' config.json files.
        #[arg(required = true)]
        configs: Vec<PathBuf>,
    },
}

#[derive(Args)]
pub(crate) struct Targets {
    /// What to compile for, separated by commas: sm_90a is Hopper, compute_80 runs on every card since Ampere, compiled by
    /// the driver.
    #[arg(long, value_delimiter = ',', default_value = arch::DEFAULT)]
    arch: Vec<Arch>,
}

/// Runs the task.
pub(crate) fn run(task: &Task) -> Result<()> {
    match task {
        Task::Build(targets) => build(&targets.arch),
        Task::Toolkit => toolkit::fetch(),
        Task::Cublas => cublas::fetch(),
        Task::Lab { name, targets, arguments } => lab(name, &targets.arch, arguments),
        Task::Tune { configs } => {
            let mut cargo = process::cargo();
            cargo.args(["run", "--release", "--package", "backend-cuda", "--example", "tune_products", "--", "1024"]);
            process::run(cargo.args(configs.iter().map(|config| absolute(config)).collect::<Result<Vec<_>>>()?))
        }
    }
}

/// Compiles the library into the target folder.
pub(crate) fn build(archs: &[Arch]) -> Result<()> {
    let (root, library) = (root(), library()?);
    let compiler = compiler(archs, &["include", "src"])?;
    let objects = compiler.objects(&compile::files(&root.join("src"), "cu")?)?;
    let exports = format!("-Xlinker=--version-script={}", root.join("library.map").display());
    let kind = ["-shared".to_string(), format!("-Xlinker=-soname,{LIBRARY}"), exports];
    compiler.link(&objects, &kind, &library)?;
    println!("{}", library.display());
    Ok(())
}

/// A compiler for sources below `kernels/` that include headers from these folders of it.
fn compiler(archs: &[Arch], header_folders: &[&str]) -> Result<Compiler> {
    let headers = header_folders.iter().map(|folder| root().join(folder)).collect();
    Compiler::new(Toolkit::find_or_explain()?, archs, headers, folder()?.join("objects"))
}

/// Where the sources are.
fn root() -> PathBuf {
    process::repository_root().join("kernels")
}

/// Where the results are.
fn folder() -> Result<PathBuf> {
    Ok(process::target_directory()?.join("kernels"))
}

/// What is built where nobody says.
pub(crate) fn default_archs() -> Vec<Arch> {
    arch::DEFAULT.split(',').map(|arch| arch.parse().expect("the default is valid")).collect()
}

/// What continuous integration does: the compiler fetched if need be, and the tuned code alone compiled. Returns the library.
pub(crate) fn build_for_ci() -> Result<PathBuf> {
    toolkit::fetch()?;
    build(&["sm_90a".parse()?])?;
    library()
}

/// Where the built library lies.
pub(crate) fn library() -> Result<PathBuf> {
    Ok(folder()?.join(LIBRARY))
}

fn lab(name: &str, archs: &[Arch], arguments: &[String]) -> Result<()> {
    let program = root().join("lab").join(name).with_extension("cu");
    if !program.is_file() {
        bail!("there is no kernels/lab/{name}.cu");
    }
    // The kernels' objects are the library's.
    let mut objects = compiler(archs, &["include", "src"])?.objects(&compile::files(&root().join("src"), "cu")?)?;
    let compiler = compiler(archs, &["include", "src", "lab"])?;
    objects.extend(compiler.objects(&[program])?);
    let output = folder()?.join(format!("lab-{name}"));
    compiler.link(&objects, &[], &output)?;
    println!("{}", output.display());
    match process::read_output(Command::new("nvidia-smi").arg("-L")) {
        Ok(_) => process::run(Command::new(output).args(arguments)),
        Err(_) => {
            println!("there is no GPU here to run it on");
            Ok(())
        }
    }
}

/// The task's programs run in the repository's root, whatever folder the user is in.
fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| path.display().to_string())
}
