//! Where the CUDA compiler lies, and how to get it without a system install. Knows no kernel.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::process;

/// Pinned packages with their checksums, from the repository's root.
const REQUIREMENTS: &str = "kernels/toolkit-requirements.txt";

/// A CUDA toolkit: a folder with `bin/nvcc`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Toolkit {
    home: PathBuf,
}

impl Toolkit {
    /// The one that `CUDA_HOME` names, the fetched one, the system's, or that of the nvcc in the path.
    pub(crate) fn find() -> Result<Option<Self>> {
        let named = std::env::var_os("CUDA_HOME").map(PathBuf::from);
        let fetched = folder()?.join("nvidia/cu13");
        let in_path = std::env::var_os("PATH").and_then(|path| {
            let nvcc = std::env::split_paths(&path).map(|folder| folder.join("nvcc")).find(|nvcc| nvcc.is_file())?;
            Some(nvcc.canonicalize().ok()?.parent()?.parent()?.to_path_buf())
        });
        let homes = [named, Some(fetched), Some(PathBuf::from("/usr/local/cuda")), in_path];
        Ok(homes.into_iter().flatten().map(|home| Self { home }).find(|toolkit| toolkit.nvcc().is_file()))
    }

    /// One in this folder, for tests.
    #[cfg(test)]
    pub(crate) fn at(home: PathBuf) -> Self {
        Self { home }
    }

    /// The same as `find`, or an error that says how to get one.
    pub(crate) fn find_or_explain() -> Result<Self> {
        match Self::find()? {
            Some(toolkit) => Ok(toolkit),
            None => bail!(
                "there is no nvcc: CUDA_HOME names none, and none is in /usr/local/cuda or in the path; \
                 `cargo xtask kernels toolkit` fetches version 13.0 from PyPI (104 MB, no root, x86_64)"
            ),
        }
    }

    pub(crate) fn nvcc(&self) -> PathBuf {
        self.home.join("bin/nvcc")
    }

    /// The folder of the runtime library.
    pub(crate) fn library_folder(&self) -> PathBuf {
        let folders = ["lib64", "lib", "targets/x86_64-linux/lib"].map(|folder| self.home.join(folder));
        let holds = |folder: &&PathBuf| folder.join("libcudart_static.a").is_file();
        folders.iter().find(holds).unwrap_or(&folders[0]).clone()
    }
}

/// Where the packages are unpacked.
fn folder() -> Result<PathBuf> {
    Ok(process::target_directory()?.join("cuda-13.0"))
}

/// Fetches the pinned packages, unless a toolkit is there.
pub(crate) fn fetch() -> Result<()> {
    if let Some(toolkit) = Toolkit::find()? {
        println!("nvcc is {}", toolkit.nvcc().display());
        return Ok(());
    }
    let mut pip = std::process::Command::new("python3");
    pip.current_dir(process::repository_root());
    pip.args(["-m", "pip", "install", "--quiet", "--no-cache-dir", "--no-deps", "--no-compile"]);
    pip.args(["--only-binary=:all:", "--require-hashes", "--root-user-action=ignore", "--target"]);
    pip.arg(folder()?).args(["--requirement", REQUIREMENTS]);
    process::step(&mut pip)?;
    println!("nvcc is {}", Toolkit::find_or_explain()?.nvcc().display());
    Ok(())
}
