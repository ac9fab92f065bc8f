//! Which of our own headers a source includes, at first or second hand. Reads `#include` lines and nothing else: one that a
//! condition leaves out counts too, which at worst compiles a source once more than needed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// Headers by path, with what they say. Those that are in none of the folders belong to the toolkit and are left out.
pub(crate) type Headers = BTreeMap<PathBuf, String>;

/// All headers of a source, searched for as the compiler does: beside the file that includes it, then in the folders.
pub(crate) fn of(source: &Path, folders: &[PathBuf]) -> Result<Headers> {
    let mut headers = Headers::new();
    let mut unread = vec![(source.to_path_buf(), read(source)?)];
    while let Some((path, text)) = unread.pop() {
        let beside = path.parent().map(Path::to_path_buf);
        for name in names(&text) {
            let places = beside.iter().chain(folders).map(|folder| folder.join(name));
            let Some(header) = places.filter_map(|place| place.canonicalize().ok()).find(|place| place.is_file())
            else {
                continue;
            };
            if !headers.contains_key(&header) {
                let text = read(&header)?;
                headers.insert(header.clone(), text.clone());
                unread.push((header, text));
            }
        }
    }
    Ok(headers)
}

/// What stands between quotes or angle brackets behind each `#include`.
fn names(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let rest = line.trim_start().strip_prefix('#')?.trim_start().strip_prefix("include")?.trim_start();
        let close = match rest.chars().next()? {
            '"' => '"',
            '<' => '>',
            _ => return None,
        };
        rest[1..].split_once(close).map(|(name, _)| name)
    })
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lays out files and expects the headers of `source/main.cu`, by name.
    #[track_caller]
    fn check(files: &[(&str, &str)], expected: &[&str]) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = folder.path().canonicalize().expect("it is there");
        for (name, text) in files {
            let path = root.join(name);
            fs::create_dir_all(path.parent().expect("in a folder")).expect("made");
            fs::write(path, text).expect("written");
        }
        let found = of(&root.join("source/main.cu"), &[root.join("include")]).expect("all is readable");
        let expected: Vec<PathBuf> = expected.iter().map(|name| root.join(name)).collect();
        assert_eq!(found.into_keys().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn headers_are_found_as_the_compiler_does() {
        check(&[("source/main.cu", "int x;\n")], &[]);
        check(&[("source/main.cu", "#include <cuda.h>\n"), ("include/other.h", "")], &[]);
        check(
            &[("source/main.cu", "  # include \"a.h\"  // why\n"), ("source/a.h", ""), ("include/a.h", "")],
            &["source/a.h"],
        );
        check(
            &[
                ("source/main.cu", "#include <a.h>\n"),
                ("include/a.h", "#include \"deep/b.h\"\n"),
                ("include/deep/b.h", "#include \"c.h\"\n#include \"../a.h\"\n"),
                ("include/deep/c.h", ""),
                ("include/c.h", ""),
            ],
            &["include/a.h", "include/deep/b.h", "include/deep/c.h"],
        );
    }
}
