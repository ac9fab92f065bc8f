//! Loading the kernel library, and every reason for which that fails. Knows no entry point but the first.

use std::io;
use std::path::{Path, PathBuf};

use libloading::Library;

use crate::{FILE_NAME, KernelLibrary, PW_ABI_VERSION, VARIABLE};

/// Why there are no kernels. What each message asks for is the operator's to do.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// No path was given, and the library is at none of the usual places.
    #[error("no {FILE_NAME} in {}; `cargo xtask kernels build` makes it, and {VARIABLE} may name it", list(searched))]
    NotFound {
        /// The folders, in the order in which they were looked at.
        searched: Vec<PathBuf>,
    },
    /// The file cannot be reached.
    #[error("cannot open the kernel library {}: {source}", path.display())]
    Unreachable {
        /// As it was given.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The system's loader refuses the file, or what it depends on.
    #[error("cannot load the kernel library {}: {}", path.display(), reason(source))]
    NotLoadable {
        /// The file.
        path: PathBuf,
        /// What the loader says.
        source: libloading::Error,
    },
    /// A library, but not this one.
    #[error("{} is no kernel library: it has no pw_abi_version", path.display())]
    NoKernels {
        /// The file.
        path: PathBuf,
    },
    /// Made for another version of Pagewise.
    #[error(
        "the kernel library {} has version {found} of the ABI and this program needs {expected}; use both from one \
         release, or run `cargo xtask kernels build` again", path.display()
    )]
    OtherVersion {
        /// The file.
        path: PathBuf,
        /// [`PW_ABI_VERSION`] of the headers that this crate was generated from.
        expected: u32,
        /// The library's.
        found: u32,
    },
    /// The version is right and yet something lacks: the library was built from a part of the kernels.
    #[error("the kernel library {} is not whole: {}", path.display(), reason(source))]
    NotWhole {
        /// The file.
        path: PathBuf,
        /// Names the entry point.
        source: libloading::Error,
    },
}

impl KernelLibrary {
    /// Loads the library and looks up every entry point. Needs no GPU and no driver: the first kernel does.
    ///
    /// The library stays in the process to its end, because kernels may be running whenever the last user goes; hence a
    /// `'static` table. Whoever names the file trusts it as they trust this program's own file: what it runs when it is
    /// loaded cannot be checked.
    ///
    /// # Errors
    /// The file cannot be reached or loaded, has another version of the ABI, or lacks an entry point.
    pub fn load(path: &Path) -> Result<&'static Self, LoadError> {
        // Whole, because a bare file name would be looked up in the system's folders.
        let path = path.canonicalize().map_err(|source| LoadError::Unreachable { path: path.into(), source })?;
        // SAFETY: Runs the library's initialisers: those of the static CUDA runtime, which register code and touch nothing
        // else. That the file is our library is the caller's word, see above.
        let library = match unsafe { Library::new(&path) } {
            Ok(library) => library,
            Err(source) => return Err(LoadError::NotLoadable { path, source }),
        };
        match abi_version(&library) {
            Some(PW_ABI_VERSION) => {}
            Some(found) => return Err(LoadError::OtherVersion { path, expected: PW_ABI_VERSION, found }),
            None => return Err(LoadError::NoKernels { path }),
        }
        // SAFETY: Under this version of the ABI each symbol is the function of that name in the headers which the types of
        // the table were generated from.
        match unsafe { Self::from_library(library) } {
            Ok(table) => Ok(Box::leak(Box::new(table))),
            Err(source) => Err(LoadError::NotWhole { path, source }),
        }
    }
}

/// The version that the library says it has; `None` if it does not say.
fn abi_version(library: &Library) -> Option<u32> {
    // SAFETY: A symbol of this name is the entry point that every version of the ABI begins with, of this very type.
    let version = unsafe { library.get::<unsafe extern "C" fn() -> u32>(c"pw_abi_version") }.ok()?;
    // SAFETY: It takes nothing and returns a constant.
    Some(unsafe { version() })
}

fn list(folders: &[PathBuf]) -> String {
    folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// What the system's loader said, without libloading's words around it.
fn reason(error: &libloading::Error) -> String {
    use std::error::Error;
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}
