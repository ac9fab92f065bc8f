//! Sources to objects to a library, by nvcc. An object is kept under the hash of all that it was made from, so that only what
//! changed is compiled. Knows no single kernel.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result, bail};

use super::arch::Arch;
use super::toolkit::Toolkit;
use crate::process;

/// Flags of every source: C++17, and nothing that needs the C++ runtime library.
const FLAGS: [&str; 5] =
    ["-std=c++17", "-O3", "-lineinfo", "-Xcompiler=-fPIC,-Wall", "-Xcompiler=-fno-exceptions,-fno-rtti"];

/// What all objects of a build have in common.
pub(crate) struct Compiler {
    toolkit: Toolkit,
    flags: Vec<String>,
    /// Where objects are kept.
    folder: PathBuf,
    /// Of the compiler's version, the flags and every header.
    common_hash: u64,
}

impl Compiler {
    /// For sources under `kernels/`, whose headers are in the given folders of it.
    pub(crate) fn new(toolkit: Toolkit, archs: &[Arch], header_folders: &[&str]) -> Result<Self> {
        let root = process::repository_root().join("kernels");
        let mut flags: Vec<String> = FLAGS.map(str::to_string).to_vec();
        flags.extend(archs.iter().map(Arch::flag));
        flags.extend(header_folders.iter().map(|folder| format!("-I{}", root.join(folder).display())));
        let mut hasher = DefaultHasher::new();
        process::read_output(Command::new(toolkit.nvcc()).arg("--version"))?.hash(&mut hasher);
        flags.hash(&mut hasher);
        for folder in header_folders {
            for header in files(&root.join(folder), &["h", "cuh"])? {
                fs::read(&header).with_context(|| header.display().to_string())?.hash(&mut hasher);
            }
        }
        let folder = process::target_directory()?.join("kernels/objects");
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        Ok(Self { toolkit, flags, folder, common_hash: hasher.finish() })
    }

    /// The objects of sources, compiled side by side where they are not kept already. Every failure is shown.
    pub(crate) fn objects(&self, sources: &[PathBuf]) -> Result<Vec<PathBuf>> {
        let objects = sources.iter().map(|source| self.object_of(source)).collect::<Result<Vec<_>>>()?;
        let missing: Vec<usize> = (0..sources.len()).filter(|index| !objects[*index].is_file()).collect();
        let (next, num_failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let work = || {
            while let Some(&index) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Err(error) = self.compile(&sources[index], &objects[index]) {
                    eprintln!("{error:#}");
                    num_failed.fetch_add(1, Ordering::Relaxed);
                }
            }
        };
        let num_threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        std::thread::scope(|scope| {
            for _ in 0..num_threads.min(missing.len()) {
                scope.spawn(work);
            }
        });
        match num_failed.into_inner() {
            0 => Ok(objects),
            failed => bail!("{failed} of {} sources did not compile", missing.len()),
        }
    }

    /// Links objects; `kind` are flags for a shared library or nothing for a program.
    pub(crate) fn link(&self, objects: &[PathBuf], kind: &[&str], output: &Path) -> Result<()> {
        let mut nvcc = Command::new(self.toolkit.nvcc());
        nvcc.args(kind).args(&self.flags).args(objects).arg("-o").arg(output);
        nvcc.arg(format!("-L{}", self.toolkit.library_folder().display())).args(["-cudart", "static"]);
        process::run(&mut nvcc)
    }

    fn object_of(&self, source: &Path) -> Result<PathBuf> {
        let mut hasher = DefaultHasher::new();
        self.common_hash.hash(&mut hasher);
        source.hash(&mut hasher);
        fs::read(source).with_context(|| source.display().to_string())?.hash(&mut hasher);
        Ok(self.folder.join(format!("{:016x}.o", hasher.finish())))
    }

    /// Compiles aside, so that an interrupted compiler leaves no object that looks whole.
    fn compile(&self, source: &Path, object: &Path) -> Result<()> {
        let unfinished = object.with_extension("unfinished");
        let mut nvcc = Command::new(self.toolkit.nvcc());
        nvcc.args(&self.flags).arg("-c").arg(source).arg("-o").arg(&unfinished);
        process::run(&mut nvcc)?;
        fs::rename(&unfinished, object).with_context(|| object.display().to_string())
    }
}

/// All files below a folder that end so, in order of their paths.
pub(crate) fn files(folder: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path, extensions)?);
        } else if path.extension().is_some_and(|end| extensions.iter().any(|extension| end == *extension)) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
