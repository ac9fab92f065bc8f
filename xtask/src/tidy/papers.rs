//! What the Markdown files promise: commands of `cargo xtask` that exist, and links that lead somewhere.
//!
//! The commands of `pagewise` are checked by that crate's own tests, which know its flags.

use clap::Command;

use super::File;

/// Every promise that does not hold.
pub(crate) fn check(files: &[File], xtask: &Command) -> Vec<String> {
    let mut problems = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with(".md")) {
        for (number, line) in (1..).zip(file.text.lines()) {
            let at = format!("{}:{number}", file.path);
            problems.extend(
                commands(line).filter_map(|command| check_command(&command, xtask)).map(|why| format!("{at}: {why}")),
            );
            problems.extend(
                links(line)
                    .filter(|link| !exists(&file.path, link, files))
                    .map(|link| format!("{at}: no such file: {link}")),
            );
        }
    }
    problems
}

/// The words after each `cargo xtask` on a line, as far as they look like a subcommand and its flags.
fn commands(line: &str) -> impl Iterator<Item = Vec<&str>> {
    line.split("cargo xtask ").skip(1).map(|rest| {
        let end = rest.find(['`', '#', '|', ';', '&', ')', '"']).unwrap_or(rest.len());
        rest[..end].split_whitespace().collect()
    })
}

/// What is wrong with a command: its task, or one of the flags of that or of the part of it that is named.
fn check_command(words: &[&str], xtask: &Command) -> Option<String> {
    let (task, mut arguments) = words.split_first()?;
    // "cargo xtask <task>" and the like stand for any.
    if !task.starts_with(char::is_alphabetic) {
        return None;
    }
    let mut name = (*task).to_string();
    let Some(mut task) = xtask.find_subcommand(task) else {
        return Some(format!("there is no `cargo xtask {name}`"));
    };
    while let Some(part) = arguments.first().and_then(|word| task.find_subcommand(word)) {
        (task, arguments) = (part, &arguments[1..]);
        name = format!("{name} {}", part.get_name());
    }
    let flag = arguments.iter().filter_map(|word| word.trim_matches(['[', ']']).strip_prefix("--")).find(|flag| {
        let flag = flag.split('=').next().unwrap_or(flag);
        !flag.is_empty() && !task.get_arguments().any(|argument| argument.get_long() == Some(flag))
    })?;
    Some(format!("`cargo xtask {name}` has no --{flag}"))
}

/// The targets of inline links on a line.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(target, _)| target))
}

/// Whether a link's target is elsewhere, on the same page, or a file or folder of the repository.
fn exists(from: &str, link: &str, files: &[File]) -> bool {
    let path = link.split('#').next().unwrap_or_default();
    if path.is_empty() || link.contains("://") || link.starts_with("mailto:") {
        return true;
    }
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in path.trim_end_matches('/').split('/') {
        match part {
            "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let target = parts.join("/");
    files.iter().any(|file| file.path == target || file.path.starts_with(&format!("{target}/")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Arg;

    #[track_caller]
    fn check_case(text: &str, expected: &[&str]) {
        let xtask = Command::new("cargo xtask")
            .subcommand(Command::new("demo").arg(Arg::new("prompt")))
            .subcommand(Command::new("codegen").arg(Arg::new("check").long("check")))
            .subcommand(Command::new("bench").subcommand(Command::new("cpu").arg(Arg::new("keep").long("keep"))));
        let file = |path: &str, text: &str| File { path: path.to_string(), text: text.to_string() };
        let files = [file("docs/a.md", text), file("docs/b.md", ""), file("src/main.rs", "")];
        assert_eq!(check(&files, &xtask), expected, "{text}");
    }

    #[test]
    fn promises() {
        check_case("run `cargo xtask demo` or cargo xtask demo \"a --prompt\"", &[]);
        check_case("`cargo xtask codegen [--check]` and `cargo xtask <task>`", &[]);
        check_case("one\n`cargo xtask dmeo`", &["docs/a.md:2: there is no `cargo xtask dmeo`"]);
        check_case("cargo xtask demo --fast # quick", &["docs/a.md:1: `cargo xtask demo` has no --fast"]);
        check_case("`cargo xtask bench cpu --keep` and `cargo xtask bench`", &[]);
        check_case("`cargo xtask bench cpu --kept`", &["docs/a.md:1: `cargo xtask bench cpu` has no --kept"]);
        check_case("`cargo xtask bench --keep`", &["docs/a.md:1: `cargo xtask bench` has no --keep"]);
        check_case("[b](b.md) [src](../src/) [main](../src/main.rs#x) [web](https://x.y/z) [here](#part)", &[]);
        check_case("[c](c.md)", &["docs/a.md:1: no such file: c.md"]);
        check_case("[up](../b.md)", &["docs/a.md:1: no such file: ../b.md"]);
    }
}
