//! Where the kernel library lies when nobody says. Reads one variable and the program's own path; loads nothing.

use std::path::{Path, PathBuf};

use crate::LoadError;

/// Name of the library's file.
pub const FILE_NAME: &str = "libpagewise_kernels.so";

/// The variable that names the library's file and ends the search.
pub const VARIABLE: &str = "PAGEWISE_KERNELS";

/// Finds the library: what [`VARIABLE`] names, whether it is there or not; else beside the program; in `../lib`; and for a
/// program in cargo's target folder, where `cargo xtask kernels build` puts it.
///
/// # Errors
/// It is at none of these places.
pub fn find() -> Result<PathBuf, LoadError> {
    if let Some(named) = std::env::var_os(VARIABLE) {
        return Ok(named.into());
    }
    // Where the system does not tell the program's path, there is no place to look at.
    let program = std::env::current_exe().and_then(std::fs::canonicalize).unwrap_or_default();
    find_near(&program)
}

/// The same for a program's path, from the nearest place to the farthest.
fn find_near(program: &Path) -> Result<PathBuf, LoadError> {
    let searched = places(program);
    match searched.iter().map(|folder| folder.join(FILE_NAME)).find(|path| path.is_file()) {
        Some(path) => Ok(path),
        None => Err(LoadError::NotFound { searched }),
    }
}

/// The folders where a program's kernels may lie.
fn places(program: &Path) -> Vec<PathBuf> {
    let beside = program.parent().map(Path::to_path_buf);
    let lib = beside.as_deref().and_then(Path::parent).map(|folder| folder.join("lib"));
    let built = target_folder(program).map(|target| target.join("kernels"));
    [beside, lib, built].into_iter().flatten().collect()
}

/// Cargo's target folder, if the program was built there: as `<target>/<profile>/<program>`, or one folder deeper for tests
/// and examples. Profiles are known by cargo's bookkeeping, so that an installed program looks into no foreign folder.
fn target_folder(program: &Path) -> Option<&Path> {
    let profile = program.ancestors().skip(1).take(2).find(|folder| folder.join(".fingerprint").is_dir())?;
    profile.parent()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Lays out a folder with the library at `libraries`, and expects a program at `program` to find the `expected` one.
    #[track_caller]
    fn check(program: &str, libraries: &[&str], expected: Option<&str>) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir_all(folder.path().join("target/release/.fingerprint")).expect("made");
        for library in libraries {
            let library = folder.path().join(library);
            fs::create_dir_all(&library).expect("made");
            fs::write(library.join(FILE_NAME), b"").expect("written");
        }
        let found = find_near(&folder.path().join(program));
        let expected = expected.map(|library| folder.path().join(library).join(FILE_NAME));
        assert_eq!(found.ok(), expected, "{program} among {libraries:?}");
    }

    #[test]
    fn the_nearest_library_is_found() {
        check("pagewise/pagewise", &["pagewise"], Some("pagewise"));
        check("usr/bin/pagewise", &["usr/lib"], Some("usr/lib"));
        check("usr/bin/pagewise", &["usr/lib", "usr/bin"], Some("usr/bin"));
        check("target/release/pagewise", &["target/kernels"], Some("target/kernels"));
        check("target/release/pagewise", &["target/kernels", "target/release"], Some("target/release"));
        check("target/release/deps/pagewise-1", &["target/kernels"], Some("target/kernels"));
        // An installed program looks into no other folder of that name.
        check("usr/bin/pagewise", &["usr/kernels", "kernels"], None);
        check("usr/bin/pagewise", &[], None);
    }

    #[test]
    fn a_search_in_vain_names_all_places() {
        let error = find_near(Path::new("/nowhere/bin/pagewise")).expect_err("there is no such folder").to_string();
        assert!(error.starts_with("no libpagewise_kernels.so in /nowhere/bin, /nowhere/lib; "), "{error}");
    }
}
