//! Model files as byte slices, without reading them. Knows no format.
#![allow(unsafe_code)]

use std::fs::File;
use std::ops::Deref;
use std::path::Path;

use anyhow::{Context, Result, bail};
use memmap2::Mmap;

/// A file mapped read-only into memory for as long as this lives.
#[derive(Debug)]
pub(crate) struct MappedFile(Mmap);

impl MappedFile {
    /// Maps a whole file.
    ///
    /// # Errors
    /// The file cannot be opened, is no regular file, or is empty.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let open = || -> Result<Mmap> {
            // Before it is opened: opening a named pipe waits for somebody to write to it.
            let metadata = std::fs::metadata(path)?;
            if !metadata.is_file() {
                bail!("it is not a regular file");
            }
            if metadata.len() == 0 {
                bail!("it is empty");
            }
            let file = File::open(path)?;
            // SAFETY: The bytes of a map change if another process writes to the file, and reading past the end of a file
            // that shrank ends the process. No program can exclude either for files of other owners. We ask of operators
            // not to change model files in use, as every loader that maps does; our own `pull` never writes to a file in
            // place, it renames finished files. The parsers take the map as `&[u8]`, check everything they read, and keep
            // no reference across a change that would make a value invalid: any byte is a valid `u8`.
            Ok(unsafe { Mmap::map(&file) }?)
        };
        open().map(Self).with_context(|| format!("cannot read {}", path.display()))
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_files_and_refuses_the_rest() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("file");
        std::fs::write(&path, b"bytes").expect("written");
        assert_eq!(&*MappedFile::open(&path).expect("mapped"), b"bytes");

        std::fs::write(&path, b"").expect("written");
        let refused = |path: &Path| format!("{:#}", MappedFile::open(path).expect_err("refused"));
        assert!(refused(&path).ends_with("file: it is empty"));
        assert!(refused(folder.path()).ends_with("it is not a regular file"));
        assert!(refused(&folder.path().join("none")).contains("none: No such file"));
        // Nobody writes to it, so that opening it would wait for ever.
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("it runs").success());
        assert!(refused(&pipe).ends_with("it is not a regular file"));
    }
}
