//! `cargo xtask bench report`: all recorded rows as one page, to be read without a network and without scripts, and as
//! Markdown. Knows no benchmark: a row says itself what it is.

mod html;
mod markdown;
mod plot;
mod roofline;
mod roofline_plot;
mod waterfall;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::recorded::{self, Recorded};
use crate::process;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where report.html and report.md are written [default: target/bench-report].
    #[arg(long, value_name = "FOLDER")]
    output: Option<PathBuf>,
}

/// What was recorded on one machine.
#[derive(Default)]
struct Machine<'a> {
    name: &'a str,
    /// Ratios to peers.
    comparisons: Vec<History<'a>>,
    /// What the machine does at most.
    limits: Vec<History<'a>>,
    /// Ops of a step.
    ops: Vec<History<'a>>,
    /// Whole steps beside their bounds.
    steps: Vec<History<'a>>,
    /// Everything else.
    measurements: Vec<History<'a>>,
}

/// Where a row stands in the report.
#[derive(Clone, Copy)]
enum Kind {
    Comparison,
    Limit,
    Op,
    Step,
    Measurement,
}

impl Kind {
    fn of(row: &Recorded) -> Self {
        match row {
            Recorded { peer: Some(_), .. } => Self::Comparison,
            Recorded { limit: Some(_), .. } => Self::Limit,
            Recorded { op: Some(_), .. } => Self::Op,
            Recorded { step: Some(_), .. } => Self::Step,
            _ => Self::Measurement,
        }
    }
}

/// All rows of one name, oldest first; at least one.
struct History<'a> {
    rows: Vec<&'a Recorded>,
}

impl<'a> History<'a> {
    fn last(&self) -> &'a Recorded {
        self.rows.last().expect("a history has a row")
    }

    /// The single figures of all rows, where they are of one figure each.
    fn figures(&self) -> Vec<f64> {
        self.rows.iter().filter_map(|row| row.figures().first().copied()).collect()
    }
}

/// Writes both files of what is recorded, and says where they are.
pub(super) fn run(args: &Args) -> Result<()> {
    let rows = recorded::read()?;
    ensure!(!rows.is_empty(), "nothing is recorded yet: `cargo xtask bench micro --record` begins");
    for path in write(&rows, args.output.as_deref())? {
        println!("{}", path.display());
    }
    Ok(())
}

/// Writes both files into the folder, or where they usually are.
pub(super) fn write(rows: &[Recorded], folder: Option<&Path>) -> Result<[PathBuf; 2]> {
    let folder = match folder {
        Some(folder) => folder.to_path_buf(),
        None => process::target_directory()?.join("bench-report"),
    };
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let machines = group(rows);
    let pages = [("report.html", html::page(&machines)), ("report.md", markdown::page(&machines))];
    for (name, text) in &pages {
        fs::write(folder.join(name), text).with_context(|| folder.join(name).display().to_string())?;
    }
    Ok(pages.map(|(name, _)| folder.join(name)))
}

/// By machine and name; machines and names in their order of first appearance.
fn group(rows: &[Recorded]) -> Vec<Machine<'_>> {
    let mut machines: Vec<Machine<'_>> = Vec::new();
    let mut places: BTreeMap<(&str, &str), (usize, Kind, usize)> = BTreeMap::new();
    for row in rows {
        let kind = Kind::of(row);
        let known = places.get(&(row.machine.as_str(), row.name.as_str())).copied();
        let (machine, kind, place) = known.unwrap_or_else(|| {
            let machine = machines.iter().position(|machine| machine.name == row.machine).unwrap_or_else(|| {
                machines.push(Machine { name: &row.machine, ..Machine::default() });
                machines.len() - 1
            });
            let histories = machines[machine].histories(kind);
            histories.push(History { rows: Vec::new() });
            let place = (machine, kind, histories.len() - 1);
            places.insert((&row.machine, &row.name), place);
            place
        });
        machines[machine].histories(kind)[place].rows.push(row);
    }
    machines
}

impl<'a> Machine<'a> {
    fn histories(&mut self, kind: Kind) -> &mut Vec<History<'a>> {
        match kind {
            Kind::Comparison => &mut self.comparisons,
            Kind::Limit => &mut self.limits,
            Kind::Op => &mut self.ops,
            Kind::Step => &mut self.steps,
            Kind::Measurement => &mut self.measurements,
        }
    }
}

/// A row's figures and its unit, to be read. Nanoseconds become the unit of their size.
fn figures(row: &Recorded) -> String {
    let figures = row.figures();
    let largest = figures.iter().copied().fold(0.0, f64::max);
    let (unit, size) = match row.unit.as_str() {
        "ns" if largest >= 1e6 => ("ms", 1e6),
        "ns" if largest >= 1e3 => ("us", 1e3),
        unit => (unit, 1.0),
    };
    let read = |figure: f64| recorded::figure(figure / size);
    let spread = row.spread.map(|spread| format!(" ± {}", read(spread))).unwrap_or_default();
    let figures: Vec<String> = figures.into_iter().map(read).collect();
    format!("{}{spread} {unit}", figures.join(" / "))
}

/// The day and the commit.
fn when(row: &Recorded) -> String {
    format!("{}, {}", row.date, row.commit)
}

/// Whether a row's goal is met, in a word.
fn verdict(row: &Recorded) -> &'static str {
    match row.met {
        Some(true) => "met",
        Some(false) => "missed",
        None => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two rows of a benchmark, one of several figures, and a comparison.
    fn rows() -> Vec<Recorded> {
        let text = r#"
            {"name":"a <b>","median":1.5,"spread":0.25,"unit":"ns","goal":"at most 2 ns","met":true,"commit":"aaa","command":"c"}
            {"name":"sum","median":30,"spread":1,"unit":"ms","parts":[{"name":"<one>","value":10},{"name":"two","value":20}],"commit":"aaa","command":"c"}
            {"name":"several","value":[1,20000],"unit":"GB/s","met":false,"goal":">= 3","commit":"aaa","command":"c"}
            {"name":"a <b>","median":3,"spread":0,"unit":"ns","goal":"at most 2 ns","met":false,"commit":"bbb","command":"c"}
            {"name":"w1 against p","median":1.25,"spread":0.05,"unit":"times the peer's","pairs":[1.2,1.25,1.3],"goal":"at least 1.2","met":true,"pagewise":{"name":"pagewise","version":"1","flags":"serve","median":150,"spread":1,"unit":"tokens/s"},"peer":{"name":"p","version":"2","flags":"p-server -t 2","median":120,"spread":1,"unit":"tokens/s"},"commit":"bbb","command":"c"}
        "#;
        recorded::parse(text, "m-2c", "2026-01-31").expect("rows")
    }

    #[test]
    fn rows_are_grouped_by_name() {
        let rows = rows();
        let machines = group(&rows);
        assert_eq!((machines.len(), machines[0].name), (1, "m-2c"));
        assert_eq!(machines[0].measurements.len(), 3);
        assert_eq!(machines[0].measurements[0].figures(), [1.5, 3.0]);
        assert_eq!(machines[0].comparisons[0].last().pairs, [1.2, 1.25, 1.3]);
    }

    #[test]
    fn markdown_has_a_line_for_each_name() {
        let rows = rows();
        let page = markdown::page(&group(&rows));
        for line in [
            "## m-2c",
            "| a <b> | 3.00 ± 0.000 ns | at most 2 ns | missed | 2026-01-31, bbb |",
            "| several | 1.00 / 20,000 GB/s | >= 3 | missed | 2026-01-31, aaa |",
            "| w1 against p | 150 tokens/s | 120 tokens/s | 1.25 ± 0.050 | at least 1.2 | met | 2026-01-31, bbb |",
        ] {
            assert!(page.lines().any(|have| have == line), "{line}\n{page}");
        }
    }

    #[test]
    fn times_are_in_the_unit_of_their_size() {
        let check = |median: f64, expected: &str| {
            let row =
                format!(r#"{{"name":"a","median":{median},"spread":100,"unit":"ns","commit":"c","command":"c"}}"#);
            assert_eq!(figures(&recorded::parse(&row, "m", "d").expect("a row")[0]), expected);
        };
        check(999.0, "999 ± 100 ns");
        check(20_113.0, "20.1 ± 0.100 us");
        check(61_060_000.0, "61.1 ± 0.000 ms");
    }

    #[test]
    fn the_page_is_whole_and_says_the_same() {
        let rows = rows();
        let page = html::page(&group(&rows));
        assert!(page.starts_with("<!doctype html>") && page.trim_end().ends_with("</html>"));
        for text in [
            "a &lt;b&gt;",
            "&lt;one&gt;",
            ">20.0 ms<",
            "3.00 ± 0.000 ns",
            "1.25 ± 0.050",
            "p-server -t 2",
            "prefers-color-scheme: dark",
        ] {
            assert!(page.contains(text), "{text}");
        }
        assert!(!page.contains("a <b>") && !page.contains("<script") && !page.contains("http"), "self-contained");
        for tag in ["table", "svg", "section", "tr", "td", "g"] {
            let (opened, closed) = (
                page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count(),
                page.matches(&format!("</{tag}>")).count(),
            );
            assert_eq!(opened, closed, "{tag}");
        }
    }
}
