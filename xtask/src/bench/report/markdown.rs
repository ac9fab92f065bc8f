//! The report as Markdown: tables of the last rows. Knows no plot.

use std::fmt::Write as _;

use super::{Machine, figures, roofline, verdict, when};
use crate::bench::recorded::{Side, figure};

pub(super) fn page(machines: &[Machine<'_>]) -> String {
    let mut page = "# Recorded measurements\n".to_string();
    for machine in machines {
        let _ = writeln!(page, "\n## {}", machine.name);
        if !machine.comparisons.is_empty() {
            page += "\n| beside a peer | Pagewise | peer | ratio | goal | | when |\n|---|---|---|---|---|---|---|\n";
        }
        for row in machine.comparisons.iter().map(super::History::last) {
            let side = |side: &Option<Side>| {
                side.as_ref().map(|side| format!("{} {}", figure(side.median), side.unit)).unwrap_or_default()
            };
            let ratio = format!("{} ± {}", figure(row.figures()[0]), figure(row.spread.unwrap_or(0.0)));
            let (ours, theirs) = (side(&row.pagewise), side(&row.peer));
            let goal = row.goal.as_deref().unwrap_or_default();
            let _ = writeln!(
                page,
                "| {} | {ours} | {theirs} | {ratio} | {goal} | {} | {} |",
                row.name,
                verdict(row),
                when(row)
            );
        }
        page += &roofline::markdown(machine);
        if !machine.measurements.is_empty() {
            page += "\n| measured | figure | goal | | when |\n|---|---|---|---|---|\n";
        }
        for row in machine.measurements.iter().map(super::History::last) {
            let goal = row.goal.as_deref().unwrap_or_default();
            let _ = writeln!(page, "| {} | {} | {goal} | {} | {} |", row.name, figures(row), verdict(row), when(row));
        }
    }
    page
}
