//! Where pulled models lie, and how they get there whole or not at all. Knows no source of models.
//!
//! ```text
//! <cache>/models/SmolLM2-135M-Instruct.Q4_1.gguf      the demo model
//! <cache>/models/<owner>/<name>/                      a Hugging Face model: a folder, or single GGUF files in it
//! ```

use std::ffi::OsString;
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::output;

/// The folder of pulled models.
#[derive(Clone, Debug)]
pub(crate) struct ModelCache {
    folder: PathBuf,
}

impl ModelCache {
    /// The user's cache: `$PAGEWISE_CACHE`, else `$XDG_CACHE_HOME/pagewise`, else `$HOME/.cache/pagewise`.
    ///
    /// # Errors
    /// None of the three is set.
    pub(crate) fn of_user() -> Result<Self> {
        Self::from_variables(|name| std::env::var_os(name).filter(|value| !value.is_empty()))
            .context("the cache folder is unknown: set PAGEWISE_CACHE, XDG_CACHE_HOME or HOME")
    }

    fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Option<Self> {
        let cache = variable("PAGEWISE_CACHE").map(PathBuf::from);
        let cache = cache.or_else(|| Some(Path::new(&variable("XDG_CACHE_HOME")?).join("pagewise")));
        let cache = cache.or_else(|| Some(Path::new(&variable("HOME")?).join(".cache/pagewise")))?;
        Some(Self { folder: cache.join("models") })
    }

    /// A cache in a folder.
    #[cfg(test)]
    pub(crate) fn at(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// Where a model of this relative name lies or would lie.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The model of this name, if it is there.
    pub(crate) fn find(&self, name: &str) -> Option<PathBuf> {
        Some(self.path(name)).filter(|path| path.exists())
    }

    /// A folder beside the models, for what is not whole yet. Waits for other pulls to end, then clears away what pulls that
    /// were killed have left.
    ///
    /// # Errors
    /// The cache cannot be written.
    pub(crate) fn staging(&self) -> Result<Staging> {
        let staging = || -> io::Result<Staging> {
            std::fs::create_dir_all(&self.folder)?;
            let lock = lock_folder(&self.folder)?;
            for entry in std::fs::read_dir(&self.folder)?.filter_map(io::Result::ok) {
                if entry.file_name().to_string_lossy().starts_with(STAGING_PREFIX) {
                    std::fs::remove_dir_all(entry.path())?;
                }
            }
            let folder = tempfile::Builder::new().prefix(STAGING_PREFIX).tempdir_in(&self.folder)?;
            Ok(Staging { folder, _lock: lock, cache: self.clone() })
        };
        staging().with_context(|| format!("cannot write to {}", self.folder.display()))
    }
}

const STAGING_PREFIX: &str = ".pull-";

/// A folder for one pull. Removed with all that is in it when dropped, and cleared away by the next pull if the process is
/// killed.
pub(crate) struct Staging {
    folder: TempDir,
    /// Held by one pull at a time. The system takes it from a process that ends.
    _lock: File,
    cache: ModelCache,
}

impl Staging {
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Gives a whole file or folder its name in the cache, in one step.
    ///
    /// # Errors
    /// The cache cannot be written, or something has this name already.
    pub(crate) fn publish(&self, staged: &Path, name: &str) -> Result<PathBuf> {
        let path = self.cache.path(name);
        let publish = || -> io::Result<()> {
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent)?;
            }
            std::fs::rename(staged, &path)
        };
        publish().with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

/// Locks a folder itself, so that no lock file is left in it.
fn lock_folder(folder: &Path) -> io::Result<File> {
    let lock = File::open(folder)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            output::note("waiting for another `pagewise pull` to end");
            lock.lock()?;
        }
        Err(TryLockError::Error(error)) => return Err(error),
    }
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_variables(variables: &[(&str, &str)], expected: Option<&str>) {
        let variable = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
        let cache = ModelCache::from_variables(variable);
        assert_eq!(cache.map(|cache| cache.folder), expected.map(PathBuf::from), "{variables:?}");
    }

    #[test]
    fn folders() {
        check_variables(&[("PAGEWISE_CACHE", "/p"), ("XDG_CACHE_HOME", "/x"), ("HOME", "/h")], Some("/p/models"));
        check_variables(&[("XDG_CACHE_HOME", "/x"), ("HOME", "/h")], Some("/x/pagewise/models"));
        check_variables(&[("HOME", "/h")], Some("/h/.cache/pagewise/models"));
        check_variables(&[], None);
    }

    #[test]
    fn staging_leaves_nothing() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let cache = ModelCache::at(folder.path());
        let names = || -> Vec<_> {
            folder.path().read_dir().expect("read").map(|entry| entry.expect("read").file_name()).collect()
        };
        // What a pull has left that was killed.
        let stale = folder.path().join(".pull-stale");
        std::fs::create_dir(&stale).expect("made");
        std::fs::write(stale.join("half"), "a model").expect("written");

        let staging = cache.staging().expect("staged");
        assert!(!stale.exists() && staging.path().exists());
        let staged = staging.path().join("model");
        std::fs::create_dir(&staged).expect("made");
        std::fs::write(staged.join("config.json"), "one").expect("written");
        assert!(cache.find("owner/name").is_none());
        let path = staging.publish(&staged, "owner/name").expect("published");
        assert_eq!(cache.find("owner/name"), Some(path.clone()));
        assert_eq!(std::fs::read_to_string(path.join("config.json")).expect("read"), "one");

        // Another pull waits, and does not clear away what the first one still works on.
        let second = std::thread::spawn({
            let cache = cache.clone();
            move || cache.staging().map(|staging| staging.path().to_path_buf())
        });
        assert!(staging.path().exists() && !second.is_finished());
        let first = staging.path().to_path_buf();
        drop(staging);
        let second = second.join().expect("no panic").expect("staged");
        assert!(second != first && !first.exists());
        assert_eq!(names(), ["owner"]);
    }
}
