//! Where cuBLASLt lies, and how to get it without a system install. Only running on a GPU needs it, no build.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::toolkit;
use crate::process;

/// The library's file.
const NAME: &str = "libcublasLt.so.13";

/// Pinned packages with their checksums, from the repository's root.
const REQUIREMENTS: &str = "kernels/cublas-requirements.txt";

/// Where the packages have the library.
const IN_PACKAGES: &str = "nvidia/cu13/lib";

/// Prints the folders that hold NVIDIA's packages for Python, one a line; fails where there are none.
const PACKAGES: &str = "import nvidia, os\nfor path in nvidia.__path__: print(os.path.dirname(os.path.abspath(path)))";

/// Where programs find it: the dynamic loader's folders, beside the kernel library, or the system's toolkit.
pub(crate) fn find() -> Result<Option<PathBuf>> {
    let named = std::env::var_os("LD_LIBRARY_PATH");
    let named: Vec<PathBuf> = named.iter().flat_map(std::env::split_paths).collect();
    let usual = ["/usr/local/cuda/lib64", "/usr/local/cuda/targets/x86_64-linux/lib"].map(PathBuf::from);
    let folders = named.into_iter().chain([super::folder()?]).chain(usual);
    let found = folders.map(|folder| folder.join(NAME)).find(|path| path.is_file());
    Ok(found.or_else(in_loader_cache))
}

/// Puts a link to it beside the kernel library, unless programs find it anyway: to the one of Python's packages, or else to
/// one that is fetched.
pub(crate) fn fetch() -> Result<()> {
    if let Some(found) = find()? {
        println!("cuBLASLt is {}", found.display());
        return Ok(());
    }
    let library = match in_python_packages() {
        Some(library) => library,
        None => {
            let folder = process::target_directory()?.join("cublas-13.1");
            toolkit::install(REQUIREMENTS, &folder)?;
            folder.join(IN_PACKAGES).join(NAME)
        }
    };
    let beside = super::folder()?;
    fs::create_dir_all(&beside).with_context(|| beside.display().to_string())?;
    // A link that is there leads nowhere, or it would have been found.
    process::run(Command::new("ln").args(["-s", "-f"]).arg(&library).arg(beside.join(NAME)))?;
    println!("cuBLASLt is {}; a link to it is in {}", library.display(), beside.display());
    Ok(())
}

fn in_loader_cache() -> Option<PathBuf> {
    let cache = process::read_output(Command::new("ldconfig").arg("-p")).ok()?;
    let line = cache.lines().find(|line| line.trim_start().starts_with(NAME))?;
    line.split_once("=> ").map(|(_, path)| PathBuf::from(path))
}

fn in_python_packages() -> Option<PathBuf> {
    let folders = process::read_output(Command::new("python3").args(["-c", PACKAGES])).ok()?;
    folders.lines().map(|folder| Path::new(folder).join(IN_PACKAGES).join(NAME)).find(|path| path.is_file())
}
