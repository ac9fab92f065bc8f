//! The report's part on ops and steps beside the limits of their machine. Knows the rows, not how they were measured.

use std::fmt::Write as _;

use super::plot::{self, escaped};
use super::roofline_plot::{self, Point, Series};
use super::{History, Machine, figures, when};
use crate::bench::ops::Op;
use crate::bench::recorded::{Recorded, figure};
use crate::bench::roof::{Roof, spoken};

/// The product that is measured in every weight format.
const IN_ALL_FORMATS: &str = "down";

/// A product that every model has in its own format alone.
const IN_OWN_FORMAT: &str = "qkv";

/// What the last rows of the limits say.
fn roof_of(machine: &Machine<'_>) -> Roof {
    let limits = machine.limits.iter().map(History::last);
    Roof::of(limits.filter_map(|row| Some((row.limit.clone()?, row.figures().first()? * 1e9))))
}

/// An op's last row, to be read: bytes and operations a second, what bounds it, and how much of that is reached.
fn cells(row: &Recorded, op: &Op, roof: &Roof) -> [String; 4] {
    let ns = row.figures()[0];
    let (by, share) = match roof.bound(&op.cost) {
        Some(bound) => (spoken(&bound.by), format!("{:.0} %", 100.0 * bound.ns / ns)),
        None => Default::default(),
    };
    [figure(op.cost.bytes() as f64 / ns), figure(op.cost.operations as f64 / ns), by, share]
}

/// The same of a step: what it moves and computes, the bound, and the share.
fn step_cells(row: &Recorded) -> Option<[String; 4]> {
    let step = row.step.as_ref()?;
    let share = step.share.map(|share| format!("{:.0} %", 100.0 * share)).unwrap_or_default();
    let (bytes, operations) = (step.memory_bytes as f64 / 1e6, step.operations as f64 / 1e9);
    Some([
        format!("{} MB", figure(bytes)),
        format!("{} Gop", figure(operations)),
        format!("{} ms", figure(step.bound_ms)),
        share,
    ])
}

pub(super) fn html(machine: &Machine<'_>) -> String {
    let mut page = String::new();
    let roof = roof_of(machine);
    if !machine.ops.is_empty() {
        page += "<h3>Ops beside the machine's limits</h3>\n<p class=\"soft\">Bytes and operations are counted from shapes; the \
                 lines are the measured limits. How far a point lies below its line is what is unused. Ops that compute \
                 nothing, or read nothing from memory, are in the table alone.</p>\n<div class=\"wide\">";
        for (title, series) in plots(machine) {
            page += &roofline_plot::draw(&title, &roof, &series);
        }
        page += "</div>\n";
    }
    if !machine.limits.is_empty() {
        page += "<p>At most: ";
        for row in machine.limits.iter().map(History::last) {
            let limit = spoken(row.limit.as_deref().unwrap_or_default());
            let _ = write!(page, "{}: {}. ", escaped(&limit), figures(row));
        }
        page += "</p>\n";
    }
    if !machine.ops.is_empty() {
        page += "<details><summary>All ops</summary><div class=\"wide\"><table><tr><th>op</th><th>time</th><th>GB/s</th>\
                 <th>Gop/s</th><th>bound by</th><th>reached</th><th>when</th><th>history</th></tr>\n";
        for history in &machine.ops {
            let row = history.last();
            let Some(op) = &row.op else { continue };
            table_row(&mut page, row, cells(row, op, &roof), Some(history));
        }
        page += "</table></div></details>\n";
    }
    if !machine.steps.is_empty() {
        page += "<h3>Decode steps beside the machine's limits</h3>\n<p class=\"soft\">The least time is the sum of each op's, one \
                 after the other.</p>\n<div class=\"wide\"><table><tr><th>step</th><th>time</th><th>moves</th>\
                 <th>computes</th><th>at least</th><th>reached</th><th>when</th></tr>\n";
        for row in machine.steps.iter().map(History::last) {
            table_row(&mut page, row, step_cells(row).unwrap_or_default(), None);
        }
        page += "</table></div>\n";
    }
    page
}

fn table_row(page: &mut String, row: &Recorded, cells: [String; 4], history: Option<&History<'_>>) {
    let _ = write!(page, "<tr><td>{}</td><td class=\"figure\">{}</td>", escaped(&row.name), figures(row));
    for cell in cells {
        let _ = write!(page, "<td class=\"figure\">{}</td>", escaped(&cell));
    }
    let _ = write!(page, "<td class=\"soft figure\">{}</td>", escaped(&when(row)).replace(", ", "<br>"));
    if let Some(history) = history {
        let figures = history.figures();
        let plot = if figures.len() > 1 { plot::history(&figures) } else { String::new() };
        let _ = write!(page, "<td>{plot}</td>");
    }
    *page += "</tr>\n";
}

/// For each model: its ops as it has them, and one product in every format.
fn plots(machine: &Machine<'_>) -> Vec<(String, Vec<Series>)> {
    let ops = || machine.ops.iter().map(History::last).filter_map(|row| Some((row, row.op.as_ref()?)));
    let mut models: Vec<&str> = ops().map(|(_, op)| op.model.as_str()).collect();
    models.sort_unstable();
    models.dedup();
    let mut plots = Vec::new();
    for model in models {
        let of_model = || ops().filter(|(_, op)| op.model == model);
        let own = of_model().find(|(_, op)| op.op == IN_OWN_FORMAT).map(|(_, op)| op.format.as_str());
        // Histories come in the order in which they began: of an op in two formats, the later one is what a step has now.
        let latest = |name: &str| of_model().rfind(|(_, op)| op.op == name).map(|(_, op)| op.format.as_str());
        let is_own = |op: &Op| {
            let format = if op.op == IN_ALL_FORMATS { own } else { latest(&op.op) };
            format.is_none_or(|format| op.format == format)
        };
        let step = of_model().filter(|(_, op)| is_own(op));
        plots.push((format!("{model}: the ops of a step"), series_of(step, |op| op.op.clone())));
        let formats = of_model().filter(|(_, op)| op.op == IN_ALL_FORMATS);
        plots.push((
            format!("{model}: {IN_ALL_FORMATS}, in every weight format"),
            series_of(formats, |op| op.format.clone()),
        ));
    }
    plots.retain(|(_, series)| !series.is_empty());
    plots
}

/// Ops under their labels, in the order in which they come. Those that compute nothing, or read nothing from memory, have no
/// place in a plot.
fn series_of<'a>(ops: impl Iterator<Item = (&'a Recorded, &'a Op)>, label: fn(&Op) -> String) -> Vec<Series> {
    let mut all: Vec<Series> = Vec::new();
    for (row, op) in ops.filter(|(_, op)| op.cost.operations > 0 && op.cost.memory_bytes > 0) {
        let label = label(op);
        let point = Point {
            name: row.name.clone(),
            intensity: op.cost.operations as f64 / op.cost.memory_bytes as f64,
            rate: op.cost.operations as f64 / row.figures()[0],
        };
        match all.iter_mut().find(|series| series.label == label) {
            Some(series) => series.points.push(point),
            None => all.push(Series { label, points: vec![point] }),
        }
    }
    all
}

pub(super) fn markdown(machine: &Machine<'_>) -> String {
    let mut page = String::new();
    let roof = roof_of(machine);
    if !machine.limits.is_empty() {
        page += "\n| limit | figure | when |\n|---|---|---|\n";
        for row in machine.limits.iter().map(History::last) {
            let _ = writeln!(page, "| {} | {} | {} |", row.name, figures(row), when(row));
        }
    }
    if !machine.ops.is_empty() {
        page += "\n| op | time | GB/s | Gop/s | bound by | reached | when |\n|---|---|---|---|---|---|---|\n";
    }
    for row in machine.ops.iter().map(History::last) {
        let Some(op) = &row.op else { continue };
        let cells = cells(row, op, &roof).join(" | ");
        let _ = writeln!(page, "| {} | {} | {cells} | {} |", row.name, figures(row), when(row));
    }
    if !machine.steps.is_empty() {
        page += "\n| step | time | moves | computes | at least | reached | when |\n|---|---|---|---|---|---|---|\n";
    }
    for row in machine.steps.iter().map(History::last) {
        let cells = step_cells(row).unwrap_or_default().join(" | ");
        let _ = writeln!(page, "| {} | {} | {cells} | {} |", row.name, figures(row), when(row));
    }
    page
}

#[cfg(test)]
mod tests {
    use super::super::{group, markdown};
    use super::*;
    use crate::bench::recorded;

    fn rows() -> Vec<Recorded> {
        let op = |op: &str, format: &str, rows: u32, median: u32, operations: u32| {
            let memory_bytes = if op == "gather" { 0 } else { 1000 };
            format!(
                r#"{{"name":"ops/m/{op}, {format}, {rows} rows","median":{median},"spread":1,"unit":"ns","op":{{"model":"m","op":"{op}","format":"{format}","shape":"s","rows":{rows},"memory_bytes":{memory_bytes},"cache_bytes":1000,"operations":{operations},"arithmetic":"int8_dot"}},"commit":"c","command":"x"}}"#
            )
        };
        let text = [
            r#"{"name":"limits/memory","value":1,"unit":"GB/s","limit":"memory","commit":"c","command":"x"}"#.to_string(),
            r#"{"name":"limits/int8 dot","value":10,"unit":"Gop/s","limit":"int8_dot","commit":"c","command":"x"}"#.to_string(),
            r#"{"name":"limits/cache","value":2,"unit":"GB/s","limit":"cache","commit":"c","command":"x"}"#.to_string(),
            op("attention", "F16", 1, 2000, 500),
            op("attention", "BF16", 1, 1000, 500),
            op("qkv", "Q4_1", 1, 2000, 500),
            op("down", "Q4_1", 1, 2000, 500),
            op("down", "Q6_K", 1, 2000, 500),
            op("down", "Q6_K", 64, 8000, 40_000),
            op("gather", "F32", 64, 4000, 0),
            r#"{"name":"step/m, 1 row of 192 tokens","value":4,"unit":"ms","step":{"memory_bytes":100000000,"operations":2000000000,"bound_ms":3,"share":0.75},"commit":"c","command":"x"}"#.to_string(),
        ];
        recorded::parse(&text.join("\n"), "m-2c", "2026-01-31").expect("rows")
    }

    #[test]
    fn ops_stand_beside_their_bounds() {
        let rows = rows();
        let page = markdown::page(&group(&rows));
        for line in [
            "| limits/int8 dot | 10.0 Gop/s | 2026-01-31, c |",
            "| ops/m/qkv, Q4_1, 1 rows | 2.00 ± 0.001 us | 1.00 | 0.250 | memory | 50 % | 2026-01-31, c |",
            "| ops/m/down, Q6_K, 64 rows | 8.00 ± 0.001 us | 0.250 | 5.00 | int8 dot | 50 % | 2026-01-31, c |",
            "| ops/m/gather, F32, 64 rows | 4.00 ± 0.001 us | 0.250 | 0.000 | cache | 12 % | 2026-01-31, c |",
            "| step/m, 1 row of 192 tokens | 4.00 ms | 100 MB | 2.00 Gop | 3.00 ms | 75 % | 2026-01-31, c |",
        ] {
            assert!(page.lines().any(|have| have == line), "{line}\n{page}");
        }
    }

    #[test]
    fn a_model_has_a_plot_of_its_step_and_one_of_all_formats() {
        let rows = rows();
        let machines = group(&rows);
        let plots = plots(&machines[0]);
        let labels: Vec<Vec<&str>> =
            plots.iter().map(|(_, series)| series.iter().map(|series| series.label.as_str()).collect()).collect();
        assert_eq!(labels, [vec!["attention", "qkv", "down"], vec!["Q4_1", "Q6_K"]]);
        assert_eq!(plots[0].1[0].points.len(), 1, "attention in the type that came later");
        let page = html(&machines[0]);
        assert_eq!(page.matches("<svg").count(), 2);
        assert_eq!(page.matches("<tr>").count(), 1 + 7 + 1 + 1);
    }
}
