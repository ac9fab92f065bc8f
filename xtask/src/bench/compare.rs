//! `cargo xtask bench compare A B`: what was recorded of two commits, side by side. Knows no benchmark.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

use super::recorded::{self, Recorded, figure};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A commit, or the beginning of its hash.
    a: String,
    /// The commit to compare with it.
    b: String,
}

/// A difference within so many spreads of both is noise; one within this share too, for a spread is itself uncertain.
const NOISE_SPREADS: f64 = 3.0;
const NOISE_SHARE: f64 = 0.02;

/// Prints a line for each measurement that was recorded of both commits, on the same machine.
pub(super) fn run(args: &Args) -> Result<()> {
    let rows = recorded::read()?;
    let lines = compare(&rows, &args.a, &args.b);
    ensure!(!lines.is_empty(), "nothing was recorded of both {} and {} on one machine", args.a, args.b);
    for line in lines {
        println!("{line}");
    }
    Ok(())
}

fn compare(rows: &[Recorded], a: &str, b: &str) -> Vec<String> {
    let before = last_of(rows, a);
    let after = last_of(rows, b);
    let both = before.iter().filter_map(|(key, before)| Some((before, after.get(key)?)));
    both.filter_map(|(before, after)| line(before, after)).collect()
}

/// The last row of a commit for each machine and name.
fn last_of<'a>(rows: &'a [Recorded], commit: &str) -> BTreeMap<(&'a str, &'a str), &'a Recorded> {
    let of_commit = rows.iter().filter(|row| row.commit.starts_with(commit));
    of_commit.map(|row| ((row.machine.as_str(), row.name.as_str()), row)).collect()
}

fn line(before: &Recorded, after: &Recorded) -> Option<String> {
    // Several figures in one row have several changes; they are read in the report.
    let ([a], [b]) = (&before.figures()[..], &after.figures()[..]) else { return None };
    let noise = NOISE_SPREADS * (before.spread.unwrap_or(0.0) + after.spread.unwrap_or(0.0));
    let is_noise = (b - a).abs() <= noise.max(NOISE_SHARE * a.abs());
    Some(format!(
        "{:<14} {:<62} {:>10} -> {:>10} {:<16} {:>+7.1} %{}",
        before.machine,
        before.name,
        figure(*a),
        figure(*b),
        before.unit,
        100.0 * (b / a - 1.0),
        if is_noise { "  within the noise" } else { "" },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_both_have_is_compared_and_the_last_row_holds() {
        let row = |name: &str, value: f64, commit: &str| {
            format!(r#"{{"name":"{name}","median":{value},"spread":1,"unit":"ns","commit":"{commit}","command":"c"}}"#)
        };
        let text = [
            row("a", 90.0, "aaa1"),
            row("a", 100.0, "aaa1"),
            row("b", 100.0, "aaa1-dirty"),
            row("only", 1.0, "aaa1"),
            row("a", 120.0, "bbb2"),
            row("b", 105.0, "bbb2"),
        ]
        .join("\n");
        let rows = recorded::parse(&text, "m", "2026-01-31").expect("rows");
        let lines = compare(&rows, "aaa", "bbb2");
        assert_eq!(lines.len(), 2);
        assert!(lines[0].contains("100 ->        120") && lines[0].ends_with("+20.0 %"), "{}", lines[0]);
        assert!(lines[1].ends_with("+5.0 %  within the noise"), "{}", lines[1]);
        assert!(compare(&rows, "aaa", "ccc").is_empty());
    }
}
