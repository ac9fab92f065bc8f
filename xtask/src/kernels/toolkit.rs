//! Where the CUDA compiler lies, and how to get it without a system install. Knows no kernel.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::process;

/// Pinned packages with their checksums, from the repository's root.
const REQUIREMENTS: &str = "kernels/toolkit-requirements.txt";

/// The oldest release that the kernels are compiled with.
const MIN_RELEASE: (u32, u32) = (13, 0);

/// A CUDA toolkit that the kernels can be compiled with: a folder with `bin/nvcc`.
#[derive(Clone, Debug)]
pub(crate) struct Toolkit {
    home: PathBuf,
    /// What nvcc says of itself.
    version: String,
}

impl Toolkit {
    /// The one that `CUDA_HOME` names, the fetched one, the system's, or that of the nvcc in the path; the first that is new
    /// enough.
    pub(crate) fn find() -> Result<Option<Self>> {
        let named = std::env::var_os("CUDA_HOME").map(PathBuf::from);
        let fetched = folder()?.join("nvidia/cu13");
        let in_path = std::env::var_os("PATH").and_then(|path| {
            let nvcc = std::env::split_paths(&path).map(|folder| folder.join("nvcc")).find(|nvcc| nvcc.is_file())?;
            Some(nvcc.canonicalize().ok()?.parent()?.parent()?.to_path_buf())
        });
        let homes = [named, Some(fetched), Some(PathBuf::from("/usr/local/cuda")), in_path];
        Ok(homes.into_iter().flatten().find_map(Self::at))
    }

    /// The same, or an error that says how to get one.
    pub(crate) fn find_or_explain() -> Result<Self> {
        let (major, minor) = MIN_RELEASE;
        match Self::find()? {
            Some(toolkit) => Ok(toolkit),
            None => bail!(
                "there is no nvcc {major}.{minor} or newer: CUDA_HOME names none, and none is in /usr/local/cuda or in the \
                 path; `cargo xtask kernels toolkit` fetches one from PyPI (104 MB, no root, x86_64)"
            ),
        }
    }

    /// The one in this folder, if it is one and new enough.
    pub(crate) fn at(home: PathBuf) -> Option<Self> {
        let version = process::read_output(Command::new(home.join("bin/nvcc")).arg("--version")).ok()?;
        (release(&version)? >= MIN_RELEASE).then_some(Self { home, version })
    }

    pub(crate) fn nvcc(&self) -> PathBuf {
        self.home.join("bin/nvcc")
    }

    /// What nvcc says of itself.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// The folder of the runtime library.
    pub(crate) fn library_folder(&self) -> PathBuf {
        let folders = ["lib64", "lib", "targets/x86_64-linux/lib"].map(|folder| self.home.join(folder));
        let holds = |folder: &&PathBuf| folder.join("libcudart_static.a").is_file();
        folders.iter().find(holds).unwrap_or(&folders[0]).clone()
    }
}

/// Major and minor number in what nvcc says of itself.
fn release(version: &str) -> Option<(u32, u32)> {
    let (_, number) = version.split_once("release ")?;
    let (major, rest) = number.split_once('.')?;
    let minor = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    Some((major.parse().ok()?, minor.parse().ok()?))
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
    install(REQUIREMENTS, &folder()?)?;
    println!("nvcc is {}", Toolkit::find_or_explain()?.nvcc().display());
    Ok(())
}

/// Fetches packages with their checksums from PyPI into a folder of their own, and nothing that they depend on.
pub(crate) fn install(requirements: &str, folder: &Path) -> Result<()> {
    let mut pip = Command::new("python3");
    pip.current_dir(process::repository_root());
    pip.args(["-m", "pip", "install", "--quiet", "--no-cache-dir", "--no-deps", "--no-compile"]);
    pip.args(["--only-binary=:all:", "--require-hashes", "--root-user-action=ignore", "--target"]);
    process::step(pip.arg(folder).args(["--requirement", requirements]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases() {
        let said = "nvcc: NVIDIA (R) Cuda compiler driver\nCuda compilation tools, release 13.0, V13.0.88\n";
        assert_eq!(release(said), Some((13, 0)));
        assert_eq!(release("release 11.8"), Some((11, 8)));
        assert_eq!(release("release 13"), None);
        assert_eq!(release("nvcc"), None);
    }
}
