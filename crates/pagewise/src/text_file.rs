//! The small files of a model, read as text: configs, tokenizer, chat template. Knows no format, only that none of them is
//! as large as memory.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Largest file that is read. Tokenizers with 256 thousand tokens have 35 MB.
const MAX_TEXT_FILE_BYTES: u64 = 256 << 20;

/// Reads a whole file.
///
/// # Errors
/// It cannot be read, is no regular file, is larger than any such file of a model, or is not UTF-8.
pub(crate) fn read(path: &Path) -> Result<String> {
    read_up_to(path, MAX_TEXT_FILE_BYTES).with_context(|| format!("cannot read {}", path.display()))
}

/// [`read`], or `None` if there is no such file.
///
/// # Errors
/// As those of [`read`].
pub(crate) fn read_if_there(path: &Path) -> Result<Option<String>> {
    match read(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn read_up_to(path: &Path, max_bytes: u64) -> Result<String> {
    // Before it is opened: opening a named pipe waits for somebody to write to it.
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() {
        bail!("it is not a regular file");
    }
    if metadata.len() > max_bytes {
        bail!("it has {} bytes; at most {max_bytes} are read", metadata.len());
    }
    let mut text = String::new();
    // The file may grow meanwhile.
    File::open(path)?.take(max_bytes).read_to_string(&mut text)?;
    Ok(text)
}

fn is_not_found(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_small_text_and_refuses_the_rest() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("config.json");
        assert_eq!(read_if_there(&path).expect("absent"), None);
        std::fs::write(&path, "{}").expect("written");
        assert_eq!(read_if_there(&path).expect("read").as_deref(), Some("{}"));

        let refused = |outcome: Result<String>| format!("{:#}", outcome.expect_err("refused"));
        assert!(refused(read(&folder.path().join("none"))).contains("none: No such file"));
        assert!(refused(read(folder.path())).ends_with("it is not a regular file"));
        assert_eq!(refused(read_up_to(&path, 1)), "it has 2 bytes; at most 1 are read");
        std::fs::write(&path, b"\xff").expect("written");
        assert!(refused(read(&path)).ends_with("stream did not contain valid UTF-8"));
        // Takes no room on the disk, and would take all memory.
        File::create(&path).and_then(|file| file.set_len(1 << 40)).expect("a sparse file");
        assert!(refused(read(&path)).ends_with("it has 1099511627776 bytes; at most 268435456 are read"));
    }
}
