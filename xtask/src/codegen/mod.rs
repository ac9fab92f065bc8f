//! Generated code: makes it, or checks that what is committed is current. Knows where it lies, not what it says.

mod bindings;
mod protocol;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::{libclang, process};

/// Writes the generated files, or with `check` only compares them with the committed ones. Without libclang the bindings
/// of the kernels are passed over.
///
/// # Errors
/// A source does not compile, a file cannot be read or written, or (with `check`) a committed file is not current.
pub(crate) fn run(check: bool) -> Result<()> {
    let root = process::repository_root();
    let settle = |folder: &str, files| if check { compare(&root, folder, files) } else { write(&root, folder, files) };
    settle(protocol::GENERATED, protocol::generate(&root)?)?;
    if libclang::named().is_none() {
        println!("codegen: passed over {}: {}", bindings::GENERATED, libclang::MISSING);
        return Ok(());
    }
    settle(bindings::GENERATED, bindings::generate(&root)?)
}

/// A generated file in memory.
struct GeneratedFile {
    name: String,
    bytes: Vec<u8>,
}

impl GeneratedFile {
    fn is_current(&self, committed: &Path) -> bool {
        fs::read(committed.join(&self.name)).is_ok_and(|bytes| bytes == self.bytes)
    }
}

/// Fails if a committed file is not what was generated.
fn compare(root: &Path, folder: &str, files: Vec<GeneratedFile>) -> Result<()> {
    let stale: Vec<String> =
        files.into_iter().filter(|file| !file.is_current(&root.join(folder))).map(|file| file.name).collect();
    ensure!(
        stale.is_empty(),
        "not current in {folder}: {}; run `cargo xtask codegen` and commit the result",
        stale.join(", ")
    );
    println!("codegen: {folder} is current");
    Ok(())
}

/// Writes what is not current.
fn write(root: &Path, folder: &str, files: Vec<GeneratedFile>) -> Result<()> {
    let committed = root.join(folder);
    fs::create_dir_all(&committed)?;
    for file in files.into_iter().filter(|file| !file.is_current(&committed)) {
        let path = committed.join(&file.name);
        fs::write(&path, &file.bytes).with_context(|| format!("cannot write {}", path.display()))?;
        println!("codegen: wrote {folder}/{}", file.name);
    }
    println!("codegen: {folder} is current");
    Ok(())
}
