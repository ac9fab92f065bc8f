//! What the loader says to files of all kinds. The libraries are of plain C and have no kernel: no test here needs CUDA.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use kernels_sys::{KernelLibrary, PW_ABI_VERSION};

/// Every entry point, as the generated table looks it up.
fn entry_points() -> Vec<&'static str> {
    let generated = include_str!("../src/generated/kernels.rs");
    generated.split("b\"").skip(1).filter_map(|rest| rest.split_once("\\0\"")).map(|(name, _)| name).collect()
}

/// A library of functions that return nothing, and a `pw_abi_version` if asked for.
fn library(folder: &Path, version: Option<u32>, entry_points: &[&str]) -> PathBuf {
    let mut source: String = entry_points
        .iter()
        .filter(|name| **name != "pw_abi_version")
        .map(|name| format!("void {name}(void) {{}}\n"))
        .collect();
    if let Some(version) = version {
        source += &format!("unsigned pw_abi_version(void) {{ return {version}u; }}\n");
    }
    let (from, to) = (folder.join("library.c"), folder.join("library.so"));
    fs::write(&from, source).expect("written");
    let status = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&to).arg(&from).status();
    assert!(status.expect("there is a C compiler").success());
    to
}

/// Loads what `make` puts into a folder of its own, and expects it to load, or an error that says `expected`.
#[track_caller]
fn check(make: impl Fn(&Path) -> PathBuf, expected: Result<(), &str>) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = make(folder.path());
    match (KernelLibrary::load(&path), expected) {
        (Ok(_), Ok(())) => {}
        (Ok(_), Err(expected)) => panic!("loaded, though {expected}"),
        (Err(error), Ok(())) => panic!("{error}"),
        (Err(error), Err(expected)) => {
            let error = error.to_string();
            assert!(error.contains(&path.display().to_string()), "does not name the file: {error}");
            assert!(error.contains(expected), "{error}\ndoes not say: {expected}");
        }
    }
}

#[test]
fn a_whole_library_loads() {
    let all = entry_points();
    assert!(all.contains(&"pw_abi_version") && all.contains(&"pw_sample"), "{all:?}");
    check(|folder| library(folder, Some(PW_ABI_VERSION), &all), Ok(()));
}

#[test]
fn anything_else_is_refused_with_its_reason() {
    let all = entry_points();
    check(|folder| folder.join("absent.so"), Err("cannot open"));
    check(Path::to_path_buf, Err("cannot load"));
    let text = |folder: &Path| {
        let path = folder.join("text.so");
        fs::write(&path, "no library").expect("written");
        path
    };
    check(text, Err("cannot load"));
    check(|folder| library(folder, None, &all), Err("is no kernel library: it has no pw_abi_version"));
    let other = format!("has version 4294967295 of the ABI and this program needs {PW_ABI_VERSION};");
    check(|folder| library(folder, Some(u32::MAX), &all), Err(&other));
    // The version comes first: a library of another version may well lack what this one has.
    check(|folder| library(folder, Some(u32::MAX), &[]), Err(&other));
    check(|folder| library(folder, Some(PW_ABI_VERSION), &["pw_check_device"]), Err("pw_status_name"));
}

/// What `cargo xtask kernels build` made: CI names it, after it has built it.
#[test]
fn the_named_library_loads() {
    match std::env::var_os(kernels_sys::VARIABLE) {
        Some(path) => {
            KernelLibrary::load(Path::new(&path)).unwrap_or_else(|error| panic!("{error}"));
        }
        None => println!("skipped: {} names no library", kernels_sys::VARIABLE),
    }
}
