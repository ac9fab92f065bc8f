//! The TOML file behind `--config`: its keys become flags in front of those typed, so that typed ones win and one parser
//! judges both. Knows which flags there are only by asking the parser.

use std::collections::BTreeSet;
use std::ffi::OsString;

use anyhow::{Context, Result, anyhow, bail};
use clap::{CommandFactory, Parser};

use crate::cli::Cli;

/// Parses a command line, with the file that it names taken into account.
///
/// # Errors
/// The file cannot be read, is no TOML, or holds a key or value that no flag of `serve` takes. A wrong command line ends
/// the process with clap's message and exit code 2.
pub(crate) fn parse(typed: &[OsString]) -> Result<Cli> {
    let cli = Cli::parse_from(typed);
    let Some(path) = cli.command.engine_args().and_then(|engine| engine.config.clone()) else { return Ok(cli) };
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    parse_with(typed, &text).with_context(|| format!("in {}", path.display()))
}

/// Parses a command line with the flags of a TOML text before its own.
fn parse_with(typed: &[OsString], text: &str) -> Result<Cli> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let line = 1 + text[..error.span().map_or(0, |span| span.start)].matches('\n').count();
        anyhow!("line {line}: {}", error.message())
    })?;
    let root = Cli::command();
    let serve = flags(root.find_subcommand("serve").expect("there is a serve command"));
    let (path_len, command) = subcommand(&root, typed);
    let own = flags(command);

    let mut arguments = typed[..path_len].to_vec();
    for (key, value) in &table {
        if key == "config" || !serve.contains(key) {
            let known: Vec<&str> = serve.iter().map(String::as_str).filter(|key| *key != "config").collect();
            bail!("unknown key `{key}`; known are {}", known.join(", "));
        }
        let flag = flag_of(key, value, &serve)?;
        // One file serves all commands; what only `serve` has means nothing to the others.
        if own.contains(key) {
            arguments.push(flag.into());
        }
    }
    arguments.extend_from_slice(&typed[path_len..]);
    Cli::try_parse_from(arguments).map_err(|error| {
        // Its first paragraph; the rest speaks of the command line.
        let message = error.to_string();
        let lines: Vec<&str> = message.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
        anyhow!("{}", lines.join(" ").trim_start_matches("error: "))
    })
}

/// One key and its value as a flag.
fn flag_of(key: &str, value: &toml::Value, known: &BTreeSet<String>) -> Result<String> {
    Ok(match value {
        toml::Value::String(value) => format!("--{key}={value}"),
        toml::Value::Integer(value) => format!("--{key}={value}"),
        toml::Value::Float(value) => format!("--{key}={value}"),
        toml::Value::Boolean(true) => format!("--{key}"),
        toml::Value::Boolean(false) => {
            let opposite = key.strip_prefix("no-").map_or_else(|| format!("no-{key}"), str::to_string);
            if !known.contains(&opposite) {
                bail!("`{key}` cannot be false; leave it out");
            }
            format!("--{opposite}")
        }
        other => bail!("`{key}` cannot be of type {}; a string, a number or a boolean is expected", other.type_str()),
    })
}

/// The command that a command line names, and after how many of its words that is said.
fn subcommand<'c>(root: &'c clap::Command, typed: &[OsString]) -> (usize, &'c clap::Command) {
    let (mut len, mut command) = (1, root);
    while let Some(next) = typed.get(len).and_then(|word| command.find_subcommand(word)) {
        command = next;
        len += 1;
    }
    (len, command)
}

fn flags(command: &clap::Command) -> BTreeSet<String> {
    command.get_arguments().filter_map(|argument| argument.get_long()).map(str::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Command;

    fn parse_line(line: &str, text: &str) -> Result<Cli> {
        let typed: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        parse_with(&typed, text)
    }

    /// What matters of the outcome, as text.
    #[track_caller]
    fn check(line: &str, text: &str, expected: &str) {
        let outcome = match parse_line(line, text) {
            Err(error) => format!("{error:#}"),
            Ok(cli) => {
                let engine = cli.command.engine_args().expect("a command with engine flags");
                let port = if let Command::Serve(serve) = &cli.command { Some(serve.port) } else { None };
                format!(
                    "{:?} {:?} {:?} {port:?}",
                    engine.model.as_deref(),
                    engine.max_num_seqs,
                    engine.no_enable_prefix_caching
                )
            }
        };
        assert!(outcome.starts_with(expected), "{line} with {text:?}: {outcome}");
    }

    #[test]
    fn files() {
        let serve = "pagewise serve --model typed";
        check(serve, "", r#"Some("typed") None false Some(50051)"#);
        check("pagewise serve", "model = \"filed\"\nport = 7", r#"Some("filed") None false Some(7)"#);
        // Flags win.
        check(serve, "model = \"filed\"\nport = 7", r#"Some("typed") None false Some(7)"#);
        check("pagewise serve --enable-prefix-caching", "no-enable-prefix-caching = true", "None None false");
        check("pagewise serve", "no-enable-prefix-caching = true", "None None true");
        check("pagewise serve", "enable-prefix-caching = false", "None None true");
        // One file for all commands.
        check("pagewise bench latency --batch-size 2", "max-num-seqs = 3\nport = 7", "None Some(3) false None");
        // What is not understood is never ignored.
        check(serve, "prot = 7", "unknown key `prot`; known are batch-invariant, block-size,");
        check(serve, "max_num_seqs = 7", "unknown key `max_num_seqs`; known are batch-invariant, block-size,");
        check(serve, "config = \"other.toml\"", "unknown key `config`");
        check(serve, "port = 70000", "invalid value '70000' for '--port <PORT>'");
        check(
            serve,
            "device = \"tpu\"",
            "invalid value 'tpu' for '--device <DEVICE>' [possible values: auto, cpu, cuda]",
        );
        check(serve, "max-num-seqs = 0", "invalid value '0' for '--max-num-seqs <N>': 0 is not in 1..");
        check(serve, "port = [1]", "`port` cannot be of type array; a string, a number or a boolean is expected");
        check(serve, "seed = false", "`seed` cannot be false; leave it out");
        check(serve, "port = 1\nport = 2", "line 2: duplicate key");
        check(serve, "port", "line 1: ");
    }
}
