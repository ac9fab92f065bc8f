//! One chat answer from a fresh clone: build, fetch, serve, ask, show. Drives the `pagewise` binary as a user would; knows
//! none of its code.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

use crate::process;
use crate::pull_demo::DEMO_MODEL;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to ask.
    #[arg(default_value = "In three sentences: why is the sky blue?")]
    prompt: String,
}

/// Runs the demo. The answer goes to stdout, everything else to stderr.
pub(crate) fn run(args: &Args) -> Result<()> {
    process::step(process::cargo().args(["build", "--release", "--package", "pagewise"]))?;
    let pagewise = process::built_binary("release", "pagewise")?;
    // It prints the model's path, which is no part of the answer.
    process::step(Command::new(&pagewise).args(["pull", DEMO_MODEL]).stdout(Stdio::null()))?;
    let server = Server::start(&pagewise, &["--model", DEMO_MODEL])?;
    let mut chat = Command::new(&pagewise);
    // Greedy: the same question gets the same answer.
    chat.args(["chat", "--connect", &server.address, "--temperature", "0", "--max-tokens", "256", "--summary"]);
    process::step(chat.args(["--quick", &args.prompt]))
}

/// A `pagewise serve` on a free loopback port. Ends when dropped.
pub(crate) struct Server {
    process: Child,
    /// Where it listens, as `--connect` takes it.
    pub(crate) address: String,
}

impl Server {
    /// Starts a server and returns once it is ready.
    ///
    /// With `--port 0` the system picks the port, and the server writes its address to stdout, the only line there.
    pub(crate) fn start(pagewise: &Path, arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(pagewise);
        command.args(["serve", "--host", "127.0.0.1", "--port", "0"]).args(arguments);
        eprintln!("\n==> pagewise serve {}", arguments.join(" "));
        let mut process = command.stdout(Stdio::piped()).spawn().context("cannot start `pagewise serve`")?;
        let stdout = process.stdout.take().expect("stdout is piped");
        let mut server = Self { process, address: String::new() };
        BufReader::new(stdout).read_line(&mut server.address).context("cannot read from `pagewise serve`")?;
        server.address = server.address.trim().to_string();
        if server.address.is_empty() {
            let status = server.process.wait()?;
            anyhow::bail!("`pagewise serve` ended before it was ready ({status})");
        }
        Ok(server)
    }
}

impl Drop for Server {
    /// Lets the server drain; it holds no stream of ours any more.
    fn drop(&mut self) {
        process::terminate(&mut self.process);
    }
}
