//! The repository's hygiene as a test: what the compiler and clippy do not see. Collects all problems before it fails.

mod layers;
mod papers;
mod sources;

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::process;

/// Checks the layer table, the sources and the papers, and, where the generators are compiled in, that the committed
/// generated code is current.
pub(crate) fn run() -> Result<()> {
    #[cfg(feature = "codegen")]
    crate::codegen::run(true)?;
    let files = read_files()?;
    let workspace = layers::Workspace::read()?;
    let mut problems = layers::check(&workspace);
    problems.extend(files.iter().flat_map(|file| sources::check(file, &workspace.layers.unsafe_homes)));
    problems.extend(papers::check(&files, &<crate::Cli as clap::CommandFactory>::command()));
    for problem in &problems {
        eprintln!("tidy: {problem}");
    }
    match problems.len() {
        0 => {
            eprintln!("tidy: {} files in order", files.len());
            Ok(())
        }
        1 => bail!("one thing is out of order"),
        count => bail!("{count} things are out of order"),
    }
}

/// A text file of the repository.
pub(crate) struct File {
    /// Path from the repository's root, with `/`.
    pub(crate) path: String,
    /// Its content.
    pub(crate) text: String,
}

/// All files that are or could be committed and are text.
fn read_files() -> Result<Vec<File>> {
    let root: PathBuf = process::repository_root();
    let mut git = std::process::Command::new("git");
    git.current_dir(&root).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate"]);
    let list = process::read_output(&mut git)?;
    let mut files = Vec::new();
    for path in list.split('\0').filter(|path| !path.is_empty()) {
        // A file may be deleted and not yet committed so, or hold bytes: neither is ours to judge.
        if let Ok(text) = std::fs::read_to_string(root.join(path)) {
            files.push(File { path: path.to_string(), text });
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    /// The repository that this crate lies in. Tests are built with all features, so the generated code is checked too.
    #[test]
    fn the_repository_is_in_order() {
        super::run().expect("tidy finds nothing");
    }
}
