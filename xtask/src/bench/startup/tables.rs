//! The tables that a server writes as it starts: a title, a line for each figure, and their sum. Knows none of the figures.

use anyhow::{Context, Result, ensure};

use crate::bench::recorded::Part;

/// The lines of the table with this title, whose figures are in this unit, without the sum.
pub(super) fn read(said: &str, title: &str, unit: &str) -> Result<Vec<Part>> {
    let mut lines = said.lines().skip_while(|line| *line != title);
    lines.next().with_context(|| format!("the server wrote no table \"{title}\""))?;
    let parts = lines.map_while(|line| line.strip_prefix("  "));
    let mut parts = parts.map(|line| parse(line, unit)).collect::<Result<Vec<Part>>>()?;
    let total = parts.pop().context("the table is empty")?;
    ensure!(total.name == "total", "the last line of the table \"{title}\" is not its sum");
    Ok(parts)
}

/// A name of any words, a figure, and the unit.
fn parse(line: &str, unit: &str) -> Result<Part> {
    let understood = || {
        let (name, value) = line.strip_suffix(unit)?.trim_end().rsplit_once(' ')?;
        Some(Part { name: name.trim_end().to_string(), value: value.parse().ok()? })
    };
    understood().with_context(|| format!("{line:?} is no name with a figure in {unit}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "device = cpu\nmemory\n  weights          80.5 MiB\n  total            80.5 MiB\nstart\n  \
                        buffers, KV pool          1.2 ms\n  rest            10.0 ms\n  total         11.2 ms\nready";

    #[test]
    fn tables_are_found_by_their_title() {
        let check = |title: &str, unit: &str, expected: &[(&str, f64)]| {
            let parts = read(SAID, title, unit).expect("the table is there");
            let parts: Vec<(&str, f64)> = parts.iter().map(|part| (part.name.as_str(), part.value)).collect();
            assert_eq!(parts, expected);
        };
        check("memory", "MiB", &[("weights", 80.5)]);
        check("start", "ms", &[("buffers, KV pool", 1.2), ("rest", 10.0)]);
    }

    #[test]
    fn what_is_no_table_is_refused() {
        let check = |said: &str, expected: &str| {
            let error = read(said, "start", "ms").expect_err("it is no table").to_string();
            assert!(error.contains(expected), "{error}");
        };
        check("ready", "no table");
        check("start\nready", "empty");
        check("start\n  weights   1.0 ms\nready", "not its sum");
        check("start\n  weights   1.0 s\n  total   1.0 s\n", "no name with a figure in ms");
    }
}
