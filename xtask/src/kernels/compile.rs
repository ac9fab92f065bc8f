//! Sources to objects to a library, by nvcc. An object is kept under the hash of all that it was made from, so that only what
//! changed is compiled. Knows no single kernel.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result, bail};

use super::arch::Arch;
use super::includes;
use super::toolkit::Toolkit;
use crate::process;

/// Flags of every source: C++17, and neither exceptions nor run-time types.
const FLAGS: [&str; 5] =
    ["-std=c++17", "-O3", "-lineinfo", "-Xcompiler=-fPIC,-Wall", "-Xcompiler=-fno-exceptions,-fno-rtti"];

/// Flags of every link. What little is used of the C++ runtime is linked in, and so is all of CUDA's: the result needs libc,
/// libgcc_s as our programs do, and the driver once it launches something. A static libgcc would need a newer libc.
const LINK_FLAGS: [&str; 3] = ["-cudart=static", "-Xcompiler=-static-libstdc++", "-Xlinker=-z,defs"];

/// What all objects of a build have in common.
pub(crate) struct Compiler {
    toolkit: Toolkit,
    flags: Vec<String>,
    header_folders: Vec<PathBuf>,
    /// Where objects are kept.
    folder: PathBuf,
    /// Of the compiler's version and the flags.
    common_hash: u64,
}

impl Compiler {
    /// For sources whose headers are in the given folders; keeps their objects in `folder`.
    pub(crate) fn new(toolkit: Toolkit, archs: &[Arch], header_folders: Vec<PathBuf>, folder: PathBuf) -> Result<Self> {
        let mut flags: Vec<String> = FLAGS.map(str::to_string).to_vec();
        flags.extend(archs.iter().map(Arch::flag));
        flags.extend(header_folders.iter().map(|folder| format!("-I{}", folder.display())));
        let mut hasher = DefaultHasher::new();
        toolkit.version().hash(&mut hasher);
        flags.hash(&mut hasher);
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        Ok(Self { toolkit, flags, header_folders, folder, common_hash: hasher.finish() })
    }

    /// The objects of sources, compiled side by side where they are not kept already. Every failure is shown.
    pub(crate) fn objects(&self, sources: &[PathBuf]) -> Result<Vec<PathBuf>> {
        let objects = sources.iter().map(|source| self.object_of(source)).collect::<Result<Vec<_>>>()?;
        let missing: Vec<usize> = (0..sources.len()).filter(|index| !objects[*index].is_file()).collect();
        eprintln!("compiling {} of {} sources", missing.len(), sources.len());
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

    /// Links objects; `kind` are flags for a shared library or nothing for a program. Links aside: whoever has the old one
    /// loaded keeps it.
    pub(crate) fn link(&self, objects: &[PathBuf], kind: &[String], output: &Path) -> Result<()> {
        let unfinished = unfinished(output);
        let mut nvcc = Command::new(self.toolkit.nvcc());
        nvcc.args(kind).args(&self.flags).args(LINK_FLAGS).args(objects).arg("-o").arg(&unfinished);
        nvcc.arg(format!("-L{}", self.toolkit.library_folder().display()));
        process::run(&mut nvcc)?;
        fs::rename(&unfinished, output).with_context(|| output.display().to_string())
    }

    /// Where the object lies of a source as it is now.
    fn object_of(&self, source: &Path) -> Result<PathBuf> {
        let mut hasher = DefaultHasher::new();
        self.common_hash.hash(&mut hasher);
        source.hash(&mut hasher);
        fs::read(source).with_context(|| source.display().to_string())?.hash(&mut hasher);
        includes::of(source, &self.header_folders)?.hash(&mut hasher);
        Ok(self.folder.join(format!("{:016x}.o", hasher.finish())))
    }

    /// Compiles aside, so that an interrupted compiler leaves no object that looks whole.
    fn compile(&self, source: &Path, object: &Path) -> Result<()> {
        let unfinished = unfinished(object);
        let mut nvcc = Command::new(self.toolkit.nvcc());
        nvcc.args(&self.flags).arg("-c").arg(source).arg("-o").arg(&unfinished);
        process::run(&mut nvcc)?;
        fs::rename(&unfinished, object).with_context(|| object.display().to_string())
    }
}

/// A name beside a file's own that no other build of the same file takes.
fn unfinished(file: &Path) -> PathBuf {
    file.with_extension(format!("unfinished-{}", std::process::id()))
}

/// All files below a folder that end so, in order of their paths.
pub(crate) fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path, extension)?);
        } else if path.extension().is_some_and(|end| end == extension) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    /// Answers as nvcc does: an object is the source's first line, and a source that begins with `error` has none.
    const COMPILER: &str = "#!/bin/sh
case \"$*\" in
  --version) echo 'release 13.0'; exit;;
  *' -c '*) ;;
  *) exit 1;;
esac
while [ \"$1\" != -c ]; do shift; done
echo \"$2\" >> \"$(dirname \"$0\")/compiled\"
head -n 1 \"$2\" > \"$4\"
! grep -q '^error' \"$2\"
";

    /// Sources, a header that one of them includes, and a compiler that notes what it compiles.
    struct Fixture {
        folder: tempfile::TempDir,
    }

    impl Fixture {
        fn new() -> Self {
            let fixture = Self { folder: tempfile::tempdir().expect("a temporary folder") };
            fixture.write("bin/nvcc.sh", COMPILER);
            // Not written by this process: what one of its threads has open for writing, no other can execute.
            let mut install = Command::new("install");
            install.args(["-m", "755"]).args([fixture.path("bin/nvcc.sh"), fixture.path("bin/nvcc")]);
            process::run(&mut install).expect("it can be copied");
            fixture.write("src/a.cu", "#include \"shared.cuh\"\n");
            fixture.write("src/b.cu", "int b;\n");
            fixture.write("include/shared.cuh", "int shared;\n");
            fixture
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn write(&self, name: &str, text: &str) {
            let path = self.path(name);
            fs::create_dir_all(path.parent().expect("in a folder")).expect("made");
            fs::write(path, text).expect("written");
        }

        fn objects(&self, arch: &str) -> Result<Vec<PathBuf>> {
            let toolkit = Toolkit::at(self.folder.path().to_path_buf()).expect("the compiler is new enough");
            let headers = vec![self.path("include")];
            let compiler = Compiler::new(toolkit, &[arch.parse()?], headers, self.path("objects"))?;
            compiler.objects(&files(&self.path("src"), "cu")?)
        }

        /// Expects a build to compile just these.
        #[track_caller]
        fn check(&self, arch: &str, expected: &[&str]) {
            let note = self.path("bin/compiled");
            let _ = fs::remove_file(&note);
            let objects = self.objects(arch).expect("all compile");
            assert!(objects.iter().all(|object| object.is_file()), "{objects:?}");
            let mut compiled: Vec<PathBuf> =
                fs::read_to_string(note).unwrap_or_default().lines().map(PathBuf::from).collect();
            compiled.sort();
            assert_eq!(compiled, expected.iter().map(|name| self.path(name)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn only_what_changed_is_compiled() {
        let fixture = Fixture::new();
        fixture.check("sm_90a", &["src/a.cu", "src/b.cu"]);
        fixture.check("sm_90a", &[]);
        fixture.check("sm_80", &["src/a.cu", "src/b.cu"]);
        fixture.check("sm_90a", &[]);
        fixture.write("include/shared.cuh", "int changed;\n");
        fixture.check("sm_90a", &["src/a.cu"]);
        fixture.write("src/b.cu", "int changed;\n");
        fixture.check("sm_90a", &["src/b.cu"]);
        fixture.write("include/unused.cuh", "");
        fixture.check("sm_90a", &[]);
    }

    #[test]
    fn a_source_that_fails_leaves_no_object_and_stops_no_other() {
        let fixture = Fixture::new();
        fixture.write("src/a.cu", "error\n");
        let error = fixture.objects("sm_90a").expect_err("one does not compile");
        assert_eq!(error.to_string(), "1 of 2 sources did not compile");
        fixture.write("src/a.cu", "int a;\n");
        fixture.check("sm_90a", &["src/a.cu"]);
    }
}
