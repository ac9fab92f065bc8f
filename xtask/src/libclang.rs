//! Where libclang lies. Only bindgen needs it, and bindgen only makes the bindings of the kernels anew.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::process;

/// What its absence costs, and what helps.
pub(crate) const MISSING: &str =
    "there is no libclang; `cargo xtask kernels toolkit` gets it, or LIBCLANG_PATH names its folder";

/// The variable by which bindgen finds its folder.
pub(crate) const VARIABLE: &str = "LIBCLANG_PATH";

/// The folder that the variable names, if libclang is there.
pub(crate) fn named() -> Option<PathBuf> {
    std::env::var_os(VARIABLE).map(PathBuf::from).filter(|folder| holds_libclang(folder))
}

/// Its folder: the named one, the toolkit's, or one of the system's.
pub(crate) fn find() -> Result<Option<PathBuf>> {
    let toolkit = process::target_directory()?.join("cuda-13.0/clang/native");
    let system = ["/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/lib"].map(PathBuf::from);
    let mut places = [toolkit].into_iter().chain(system);
    Ok(named().or_else(|| places.find(|folder| holds_libclang(folder))))
}

fn holds_libclang(folder: &Path) -> bool {
    // libclang.so.1 or libclang-14.so.1; libclang-cpp.so is another library.
    let is_numbered = |rest: &str| rest.starts_with(|first: char| first.is_ascii_digit());
    let is_libclang =
        |name: &str| name.starts_with("libclang.so") || name.strip_prefix("libclang-").is_some_and(is_numbered);
    std::fs::read_dir(folder).is_ok_and(|entries| {
        entries.filter_map(Result::ok).any(|entry| is_libclang(&entry.file_name().to_string_lossy()))
    })
}
