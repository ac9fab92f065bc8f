//! The report as one page of HTML: tables of the last rows, plots of the ratios and of the history. Knows how, not what.

use std::fmt::Write as _;

use super::plot::{self, Curve, Ratio, escaped};
use super::waterfall::waterfall;
use super::{History, Machine, figures, roofline, verdict, when};
use crate::bench::recorded::{Point, Recorded, Side, Sweep, figure};

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1c1e21; --paper: #fff; --faint: #d8dade; --soft: #6a6f76; --mark: #0b62c4;
  --good: #14733b; --goal: #14733b22; --bad: #b3261e }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e6e9; --paper: #16181b; --faint: #3a3e44; --soft: #9aa0a8;
  --mark: #6cb0ff; --good: #62c58a; --goal: #62c58a2b; --bad: #ff8a80 } }
body { margin: 2rem auto; max-width: 70rem; padding: 0 1rem; font: 15px/1.45 system-ui, sans-serif; color: var(--ink);
  background: var(--paper) }
h1 { font-size: 1.6rem } h2 { font-size: 1.25rem; margin-top: 2.5rem } h3 { font-size: 1rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .7rem .25rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--faint) }
th { font-weight: 600; color: var(--soft) } .figure { white-space: nowrap }
.met { color: var(--good) } .missed { color: var(--bad); font-weight: 600 } .soft { color: var(--soft) }
code { font-size: .85em; overflow-wrap: anywhere }
svg { max-width: 100%; height: auto } svg text { font-size: 13px; fill: var(--ink) }
svg .tick { text-anchor: middle; fill: var(--soft) } svg .grid { stroke: var(--faint) } svg .one { stroke: var(--soft) }
svg .goal { fill: var(--goal) } svg .part { fill: var(--mark) } svg .sum { --mark: var(--soft) } svg circle { fill: var(--mark); fill-opacity: .7 }
svg .frame { fill: none; stroke: var(--faint) } svg .label { text-anchor: end }
svg .c1 { --mark: var(--good) } svg .c2 { --mark: var(--bad) } svg .c3 { --mark: var(--soft) }
svg .roof { stroke: var(--soft); stroke-width: 1.5; fill: none } svg .leader { stroke: var(--faint); fill: none }
svg .small { font-size: 12px } svg .soft { fill: var(--soft) } details { margin: .5rem 0 } summary { cursor: pointer }
svg .median, svg polyline { stroke: var(--mark); stroke-width: 2; fill: none }
";

pub(super) fn page(machines: &[Machine<'_>]) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\"><title>Pagewise, measured</title><style>{STYLE}</style></head>\n\
         <body><h1>Pagewise, measured</h1>\n<p class=\"soft\">The last recorded row of each measurement; figures are \
         medians, behind ± is the median distance from them.</p>\n"
    );
    for machine in machines {
        let _ = writeln!(page, "<section><h2>{}</h2>", escaped(machine.name));
        if !machine.comparisons.is_empty() {
            comparisons(&mut page, &machine.comparisons);
        }
        curves(&mut page, machine);
        sums(&mut page, machine);
        page += &roofline::html(machine);
        if !machine.measurements.is_empty() {
            measurements(&mut page, &machine.measurements);
        }
        page += "</section>\n";
    }
    page + "</body></html>\n"
}

fn comparisons(page: &mut String, histories: &[History<'_>]) {
    let rows: Vec<_> = histories.iter().map(History::last).collect();
    let ratios = rows.iter().map(|row| Ratio {
        label: &row.name,
        pairs: &row.pairs,
        median: row.figures()[0],
        goal: row.goal.as_deref(),
    });
    *page += "<h3>Beside other engines</h3>\n<p class=\"soft\">Pagewise's figure over the peer's, measured in turns: a dot for \
              each pair, a bar for the median; the goal's side is shaded.</p>\n<div class=\"wide\">";
    *page += &plot::ratios(&ratios.collect::<Vec<_>>());
    *page += "</div>\n<div class=\"wide\"><table><tr><th>what</th><th>Pagewise</th><th>peer</th><th>ratio</th><th>goal</th>\
              <th></th><th>when</th></tr>\n";
    for row in &rows {
        let side = |side: &Option<Side>| {
            side.as_ref().map(|side| format!("{} {}", figure(side.median), side.unit)).unwrap_or_default()
        };
        let ratio = format!("{} ± {}", figure(row.figures()[0]), figure(row.spread.unwrap_or(0.0)));
        let goal = row.goal.as_deref().unwrap_or_default();
        let cells = [&row.name, &side(&row.pagewise), &side(&row.peer), &ratio, goal];
        line(page, &cells, verdict(row), &when(row));
        *page += "</tr>\n";
    }
    *page += "</table></div>\n<h3>What ran</h3>\n<ul>";
    let mut sides: Vec<&Side> = rows.iter().flat_map(|row| row.pagewise.iter().chain(&row.peer)).collect();
    sides.sort_by(|a, b| (&a.name, &a.version, &a.flags).cmp(&(&b.name, &b.version, &b.flags)));
    sides.dedup_by(|a, b| (&a.name, &a.version, &a.flags) == (&b.name, &b.version, &b.flags));
    for side in sides {
        let [name, version, flags] = [&side.name, &side.version, &side.flags].map(|text| escaped(text));
        let _ = write!(page, "<li>{name}, {version}: <code>{flags}</code></li>");
    }
    *page += "</ul>\n";
}

/// For each workload whose rate was swept: latency over rate, a line for each server.
fn curves(page: &mut String, machine: &Machine<'_>) {
    let sweeps = || machine.measurements.iter().filter_map(|history| history.last().sweep.as_ref());
    let mut workloads: Vec<&str> = sweeps().map(|sweep| sweep.workload.as_str()).collect();
    workloads.sort_unstable();
    workloads.dedup();
    for workload in workloads {
        let _ = writeln!(page, "<h3>Latency over rate, {}</h3>\n<div class=\"wide\">", escaped(workload));
        for (title, latency_ms) in LATENCIES {
            let curve = |sweep: &'_ Sweep| Curve {
                label: sweep.server.clone(),
                points: sweep.points.iter().map(|point| (point.rate_per_s, latency_ms(point))).collect(),
            };
            let curves: Vec<Curve> = sweeps().filter(|sweep| sweep.workload == workload).map(curve).collect();
            *page += &plot::curves(title, &curves);
        }
        *page += "</div>\n";
    }
}

/// What is drawn over the rate, in milliseconds.
type Latency = fn(&Point) -> f64;

const LATENCIES: [(&str, Latency); 2] = [
    ("TTFT p99, ms, over requests a second", |point| point.ttft_p99_ms),
    ("ITL p99, ms, over requests a second", |point| point.itl_p99_ms),
];

/// The figures that are sums, part by part; those of one unit to the same scale.
fn sums(page: &mut String, machine: &Machine<'_>) {
    let rows = || machine.measurements.iter().map(History::last).filter(|row| !row.parts.is_empty());
    if rows().next().is_none() {
        return;
    }
    let sum = |row: &Recorded| row.parts.iter().map(|part| part.value).sum::<f64>();
    *page += "<h3>Part by part</h3>\n";
    for row in rows() {
        let full = rows().filter(|other| other.unit == row.unit).map(sum).fold(f64::MIN_POSITIVE, f64::max);
        let _ = writeln!(page, "<h4>{}</h4>\n<div class=\"wide\">", escaped(&row.name));
        *page += &waterfall(&row.name, &row.unit, &row.parts, full);
        let _ =
            writeln!(page, "</div>\n<p class=\"soft\">{}; each part is a median of its own.</p>", escaped(&when(row)));
    }
}

fn measurements(page: &mut String, histories: &[History<'_>]) {
    *page += "<h3>Measurements</h3>\n<div class=\"wide\"><table><tr><th>what</th><th>figure</th><th>goal</th><th></th>\
              <th>when</th><th>history</th></tr>\n";
    for history in histories {
        let row = history.last();
        let plot = match history.figures() {
            figures if figures.len() > 1 => plot::history(&figures),
            _ => String::new(),
        };
        let cells = [&row.name, &figures(row), row.goal.as_deref().unwrap_or_default()];
        line(page, &cells, verdict(row), &when(row));
        let _ = writeln!(page, "<td>{plot}</td></tr>");
    }
    *page += "</table></div>\n<h3>How it was measured</h3>\n<ul>";
    let mut commands: Vec<&str> = histories.iter().map(|history| history.last().command.as_str()).collect();
    commands.sort_unstable();
    commands.dedup();
    for command in commands {
        let _ = write!(page, "<li><code>{}</code></li>", escaped(command));
    }
    *page += "</ul>\n";
}

/// A line of a table, but for its end: the name, figures, the goal, the verdict, and the day with the commit.
fn line(page: &mut String, cells: &[&str], verdict: &str, when: &str) {
    *page += "<tr>";
    let last = cells.len() - 1;
    for (number, cell) in cells.iter().enumerate() {
        let class = if (1..last).contains(&number) { " class=\"figure\"" } else { "" };
        let _ = write!(page, "<td{class}>{}</td>", escaped(cell));
    }
    let _ = write!(
        page,
        "<td class=\"{verdict}\">{verdict}</td><td class=\"soft figure\">{}</td>",
        escaped(when).replace(", ", "<br>")
    );
}
