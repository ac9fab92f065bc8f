//! Other programs as steps of a task: where they run, and which one failed. Knows no task.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

/// The repository's root: the folder that holds `xtask`.
pub(crate) fn repository_root() -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&manifest).parent().expect("xtask lies in the repository's root").to_path_buf()
}

/// Where `cargo` puts a binary of the given profile folder.
pub(crate) fn built_binary(profile_folder: &str, name: &str) -> Result<PathBuf> {
    Ok(target_directory()?.join(profile_folder).join(name).with_extension(std::env::consts::EXE_EXTENSION))
}

/// Cargo's folder of build results.
pub(crate) fn target_directory() -> Result<PathBuf> {
    #[derive(serde::Deserialize)]
    struct Metadata {
        target_directory: PathBuf,
    }
    let metadata = read_output(cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: Metadata = serde_json::from_str(&metadata).context("cargo metadata printed something unreadable")?;
    Ok(metadata.target_directory)
}

/// The cargo that runs this task, in the repository's root.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(repository_root());
    // What it told this program of its package. There are build scripts that run again where they see other values than the
    // last time, and then all that rests on them is compiled again, here and for whoever calls cargo next.
    for (name, _) in std::env::vars_os() {
        if ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    command
}

/// Runs to the end with the terminal's own input and output.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line = command_line(command);
    let status = command.status().with_context(|| format!("cannot start `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed ({status})");
    }
    Ok(())
}

/// Runs to the end under a heading, and says how long it took.
pub(crate) fn step(command: &mut Command) -> Result<()> {
    eprintln!("\n==> {}", command_line(command));
    let start = Instant::now();
    run(command)?;
    eprintln!("    {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// Runs to the end and returns what it wrote to stdout.
pub(crate) fn read_output(command: &mut Command) -> Result<String> {
    let line = command_line(command);
    let stdout = read_both(command)?.stdout;
    String::from_utf8(stdout).with_context(|| format!("`{line}` printed something that is not UTF-8"))
}

/// Runs to the end and returns what it wrote to stderr.
pub(crate) fn read_errors(command: &mut Command) -> Result<String> {
    Ok(String::from_utf8_lossy(&read_both(command)?.stderr).into_owned())
}

fn read_both(command: &mut Command) -> Result<Output> {
    let line = command_line(command);
    let output = command.stderr(Stdio::piped()).output().with_context(|| format!("cannot start `{line}`"))?;
    if !output.status.success() {
        bail!("`{line}` failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output)
}

/// Asks a server to end, as an operator would, and waits for that.
pub(crate) fn terminate(child: &mut Child) {
    let pid = child.id().to_string();
    if !Command::new("kill").args(["-TERM", &pid]).status().is_ok_and(|status| status.success()) {
        let _ = child.kill();
    }
    let _ = child.wait();
}

/// The command as one would type it, with the program's name in place of its path.
fn command_line(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let mut line = program.to_string_lossy().into_owned();
    for argument in command.get_args().map(OsStr::to_string_lossy) {
        if argument.is_empty() || argument.contains(char::is_whitespace) {
            let _ = write!(line, " {argument:?}");
        } else {
            let _ = write!(line, " {argument}");
        }
    }
    line
}
