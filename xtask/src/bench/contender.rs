//! A server in a comparison: how it is started, where it listens, what it took and said, how it ends. Knows no workload.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::resources;
use crate::process;

/// How long a program may take until it listens. vLLM takes minutes.
const PATIENCE: Duration = Duration::from_secs(600);

/// One server, as it is started for every measurement.
pub(super) struct Contender {
    /// How tables and rows name it.
    pub(super) name: String,
    /// What it says of itself, or the package that it came in.
    pub(super) version: String,
    /// As the load generator's `--protocol` takes it.
    pub(super) protocol: &'static str,
    pub(super) launch: Launch,
}

/// How it comes to listen.
pub(super) enum Launch {
    /// A program that takes `--port`.
    Program { program: PathBuf, arguments: Vec<String>, variables: Vec<(&'static str, String)> },
    /// Somebody else started it.
    Running { url: String },
}

/// One that runs. Ends when dropped, if it was started here.
pub(super) struct Running {
    process: Option<Child>,
    pub(super) url: String,
    pub(super) protocol: &'static str,
    log: PathBuf,
}

impl Contender {
    /// How it is started, as one would type it, without the port.
    pub(super) fn command_line(&self) -> String {
        match &self.launch {
            Launch::Running { url } => format!("running at {url}"),
            Launch::Program { program, arguments, variables } => {
                let mut line: String = variables.iter().map(|(name, value)| format!("{name}={value} ")).collect();
                line += &file_name(program);
                for argument in arguments {
                    // Paths are this machine's own; the files' names say enough.
                    let argument =
                        if Path::new(argument).is_absolute() { &file_name(Path::new(argument)) } else { argument };
                    line = format!("{line} {argument}");
                }
                line
            }
        }
    }

    /// Starts it on a free port of loopback; it may take a while until it answers.
    pub(super) fn start(&self) -> Result<Running> {
        self.start_with(None)
    }

    /// Starts it and returns when it writes a line to stdout, which Pagewise does as soon as it is ready.
    pub(super) fn start_until_ready(&self) -> Result<Running> {
        let mut running = self.start_with(Some(Stdio::piped()))?;
        let child = running.process.as_mut().context("it is not started here")?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("stdout is piped")).read_line(&mut line)?;
        if line.is_empty() {
            child.wait()?;
            bail!("{}", running.explain());
        }
        Ok(running)
    }

    /// Where no stdout is given, it goes where stderr goes.
    fn start_with(&self, stdout: Option<Stdio>) -> Result<Running> {
        let (program, arguments, variables) = match &self.launch {
            Launch::Program { program, arguments, variables } => (program, arguments, variables),
            Launch::Running { url } => {
                let (url, protocol) = (url.clone(), self.protocol);
                return Ok(Running { process: None, url, protocol, log: PathBuf::new() });
            }
        };
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let log = folder()?.join(self.name.replace(|c: char| !c.is_ascii_alphanumeric(), "-")).with_extension("log");
        let said = fs::File::create(&log).with_context(|| log.display().to_string())?;
        let mut command = Command::new(program);
        command.args(arguments).args(["--port", &port.to_string()]).envs(variables.iter().cloned());
        command.stdin(Stdio::null()).stdout(stdout.unwrap_or(said.try_clone()?.into())).stderr(said);
        let child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Running { process: Some(child), url: format!("http://127.0.0.1:{port}"), protocol: self.protocol, log })
    }
}

impl Running {
    /// Returns once somebody listens there: at once where it was running before, else when the program does so.
    pub(super) fn wait_until_listening(&mut self) -> Result<()> {
        let address = address(&self.url);
        let started = Instant::now();
        while TcpStream::connect(&address).is_err() {
            let ended = self.explain();
            ensure!(self.process.is_some(), "nobody listens at {}", self.url);
            ensure!(ended.is_empty(), "{ended}");
            ensure!(started.elapsed() < PATIENCE, "nobody listens at {} after {PATIENCE:?}", self.url);
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Why nothing comes from it: that it ended, and the end of what it wrote.
    pub(super) fn explain(&mut self) -> String {
        let Some(Ok(Some(status))) = self.process.as_mut().map(Child::try_wait) else { return String::new() };
        let said = self.said();
        let last: Vec<&str> = said.lines().rev().take(5).collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        format!("it ended ({status}):\n{}", last.join("\n"))
    }

    /// What it has written until now, to stderr and, unless that was waited for, to stdout.
    pub(super) fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The most memory that it and the processes that it started had resident at a time, in bytes; `None` where it was not
    /// started here, or the system does not say.
    pub(super) fn peak_resident_bytes(&self) -> Option<u64> {
        resources::peak_resident_bytes(self.process.as_ref()?.id())
    }

    /// The processor time that it has used until now; `None` as above.
    pub(super) fn processor_time(&self) -> Option<Duration> {
        resources::processor_time(self.process.as_ref()?.id())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.process {
            process::terminate(child);
        }
    }
}

/// Host and port of an address that begins with `http://`.
fn address(url: &str) -> String {
    let rest = url.trim_start_matches("http://");
    let host = rest.split('/').next().unwrap_or(rest);
    if host.contains(':') { host.to_string() } else { format!("{host}:80") }
}

/// Where peers, their models and what servers write are kept.
pub(super) fn folder() -> Result<PathBuf> {
    let folder = process::target_directory()?.join("peers");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    Ok(folder)
}

/// The program of this name in the path.
pub(super) fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|program| program.is_file())
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// A server that runs elsewhere.
pub(super) fn running_at(url: &str, protocol: &'static str) -> Result<Contender> {
    if !url.starts_with("http://") {
        bail!("{url} is no address of a server: it must begin with http://");
    }
    Ok(Contender {
        name: url.to_string(),
        version: "not said".into(),
        protocol,
        launch: Launch::Running { url: url.to_string() },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_holds_no_path_of_this_machine() {
        let contender = Contender {
            name: "b".into(),
            version: "1".into(),
            protocol: "openai",
            launch: Launch::Program {
                program: "/opt/b/bin/b-server".into(),
                arguments: vec!["-m".into(), "/models/m.gguf".into(), "-t".into(), "2".into()],
                variables: vec![("THREADS", "0-1".into())],
            },
        };
        assert_eq!(contender.command_line(), "THREADS=0-1 b-server -m m.gguf -t 2");
        assert!(running_at("localhost:80", "openai").is_err());
    }

    #[test]
    fn somebody_must_listen() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let url = format!("http://{}/base", listener.local_addr().expect("it is bound"));
        let start = |url| running_at(url, "openai").and_then(|contender| contender.start()).expect("an address");
        start(&url).wait_until_listening().expect("the test listens");
        // Not where somebody has listened: a program that another test starts meanwhile may hold that open for a moment.
        let error = start("http://127.0.0.1:1").wait_until_listening().expect_err("nobody listens there");
        assert_eq!(error.to_string(), "nobody listens at http://127.0.0.1:1");
        assert_eq!(address("http://host"), "host:80");
    }

    #[test]
    fn a_program_that_ends_says_why() {
        let launch = |script: &str| Launch::Program {
            program: "sh".into(),
            arguments: vec!["-c".into(), script.into()],
            variables: Vec::new(),
        };
        let program = Contender {
            name: "ends at once".into(),
            version: "1".into(),
            protocol: "openai",
            launch: launch("echo no model; exit 3"),
        };
        let error = program.start().expect("sh is there").wait_until_listening().expect_err("it does not listen");
        assert!(error.to_string().contains("3") && error.to_string().ends_with("no model"), "{error}");
        let quiet = Contender { name: "ends quietly".into(), launch: launch("echo no room >&2; exit 4"), ..program };
        let error = quiet.start_until_ready().err().expect("it says no address");
        assert!(error.to_string().contains("4") && error.to_string().ends_with("no room"), "{error}");
    }
}
