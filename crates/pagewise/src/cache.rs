//! Where pulled models lie, and how they get there whole or not at all. Knows no source of models.
//!
//! ```text
//! <cache>/models/SmolLM2-135M-Instruct.Q4_1.gguf      the demo model
//! <cache>/models/<owner>/<name>/                      a Hugging Face model: a folder, or single GGUF files in it
//! ```

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;

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

    /// A folder beside the models, for what is not whole yet. Removed with all that is in it when dropped.
    ///
    /// # Errors
    /// The cache cannot be written.
    pub(crate) fn staging(&self) -> Result<TempDir> {
        let staging = || -> io::Result<TempDir> {
            std::fs::create_dir_all(&self.folder)?;
            tempfile::Builder::new().prefix(".pull-").tempdir_in(&self.folder)
        };
        staging().with_context(|| format!("cannot write to {}", self.folder.display()))
    }

    /// Gives a whole file or folder its name, in one step. Something of that name is replaced.
    ///
    /// # Errors
    /// The cache cannot be written.
    pub(crate) fn publish(&self, staged: &Path, name: &str) -> Result<PathBuf> {
        let path = self.path(name);
        let publish = || -> io::Result<()> {
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent)?;
            }
            if path.is_dir() {
                // A folder cannot be renamed over another that is not empty.
                let old = staged.with_extension("old");
                std::fs::rename(&path, &old)?;
                std::fs::rename(staged, &path)?;
                return std::fs::remove_dir_all(old);
            }
            std::fs::rename(staged, &path)
        };
        publish().with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
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
    fn publishing_replaces_and_staging_leaves_nothing() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let cache = ModelCache::at(folder.path());
        for content in ["one", "two"] {
            let staging = cache.staging().expect("staged");
            let staged = staging.path().join("model");
            std::fs::create_dir(&staged).expect("made");
            std::fs::write(staged.join("config.json"), content).expect("written");
            let path = cache.publish(&staged, "owner/name").expect("published");
            assert_eq!(std::fs::read_to_string(path.join("config.json")).expect("read"), content);
        }
        let left: Vec<_> =
            std::fs::read_dir(folder.path()).expect("read").map(|entry| entry.expect("read").file_name()).collect();
        assert_eq!(left, ["owner"]);
    }
}
