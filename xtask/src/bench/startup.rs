//! `cargo xtask bench startup`: from the start of the process to the first token, phase by phase, with the model's file in the
//! page cache and without, and what a server takes: memory, disk, and the processor while nobody asks. The phases are the
//! program's own words. Knows none of its code.

mod tables;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::comparison::Summary;
use super::conclusion::{Keep, keep};
use super::contender::{self, Contender, Launch, Running};
use super::loaded::LoadGenerator;
use super::metric::Metric;
use super::recorded::{Part, figure};
use super::{page_cache, pagewise};
use crate::process;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Starts with a warm page cache, and as many with a cold one.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=101))]
    starts: u32,
    /// Seconds without a request in which the processor time is counted.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    idle_s: u64,
    /// Append a row for each figure to `benches/record/<machine>/<date>.jsonl`.
    #[arg(long)]
    record: bool,
}

/// What an idle server may take of one processor, in percent: a thread that looks once a second whether all is well.
const MAX_IDLE_PERCENT: f64 = 0.5;

/// How long a server that has nothing to do may first get ready for more: on the CPU it takes memory for keys and values.
const SETTLE: Duration = Duration::from_secs(2);

/// Whether the model's file is in memory when the server starts.
#[derive(Clone, Copy)]
enum PageCache {
    Warm,
    Cold,
}

/// One start.
struct Start {
    /// In milliseconds, from the start of the process to the first token.
    phases: Vec<Part>,
    memory_mib: Vec<Part>,
    peak_resident_mib: Option<f64>,
    requests_sha256: String,
}

/// A recorded figure.
#[derive(Serialize)]
struct Row {
    name: String,
    median: f64,
    spread: f64,
    unit: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    goal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    met: Option<bool>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    parts: Vec<Part>,
    #[serde(skip_serializing_if = "Option::is_none")]
    requests_sha256: Option<String>,
}

/// Measures all, prints it, and writes the report. Progress goes to stderr.
pub(super) fn run(args: &Args) -> Result<()> {
    let load = LoadGenerator::build()?;
    let (server, model) = pagewise::demo()?;
    eprintln!("\n{} ({}): {}", server.name, server.version, server.command_line());
    let measure = Measure { load: &load, server: &server, model: &model, num_starts: args.starts };
    let warm = measure.starts(PageCache::Warm)?;
    let mut rows = rows_of_starts("warm page cache", &warm);
    match measure.starts(PageCache::Cold) {
        Ok(cold) => rows.push(first_token("cold page cache", &cold)),
        Err(error) => println!("not measured: starts with a cold page cache: {error:#}"),
    }
    match stripped_bytes(&server) {
        Ok(bytes) => rows.push(Row::of("startup/binary, stripped", "MiB", &[mebibytes(bytes)])),
        Err(error) => println!("not measured: the stripped binary: {error:#}"),
    }
    match measure.idle_percent(Duration::from_secs(args.idle_s))? {
        Some(percent) => rows.push(idle(percent)),
        None => println!("not measured: the processor time of an idle server, which this system does not say"),
    }
    rows.iter().for_each(Row::print);
    let command = format!("cargo xtask bench startup --starts {} --idle-s {}", args.starts, args.idle_s);
    keep(&rows, command, Keep::if_asked(args.record))
}

/// What is started, and asked by whom.
struct Measure<'a> {
    load: &'a LoadGenerator,
    server: &'a Contender,
    model: &'a Path,
    num_starts: u32,
}

impl Measure<'_> {
    fn starts(&self, cache: PageCache) -> Result<Vec<Start>> {
        if let PageCache::Warm = cache {
            // Whatever came before, the file is in memory now.
            std::fs::read(self.model)?;
        }
        (0..self.num_starts)
            .map(|number| {
                if let PageCache::Cold = cache {
                    page_cache::drop_file(self.model)?;
                }
                let start = self.start()?;
                let (number, num_starts) = (number + 1, self.num_starts);
                eprintln!("start {number} of {num_starts}: first token after {:.1} ms", sum(&start.phases));
                Ok(start)
            })
            .collect()
    }

    /// Starts it once, and has it answer once.
    fn start(&self) -> Result<Start> {
        let began = Instant::now();
        let mut running = self.server.start_until_ready()?;
        let ready_ms = began.elapsed().as_secs_f64() * 1e3;
        let loaded = self.load.first_token(&mut running)?;
        let said = running.said();
        let own = tables::read(&said, "start", "ms")?;
        // What is not the program's own time went by before its first line ran: the system made the process of its file.
        let before_main = Part { name: "exec to main".into(), value: (ready_ms - sum(&own)).max(0.0) };
        let first_token = Part { name: "first token".into(), value: Metric::Ttft.of(&loaded)? };
        Ok(Start {
            phases: [before_main].into_iter().chain(own).chain([first_token]).collect(),
            memory_mib: tables::read(&said, "memory", "MiB")?,
            peak_resident_mib: running.peak_resident_bytes().map(mebibytes),
            requests_sha256: loaded.requests_sha256()?.to_string(),
        })
    }

    /// The processor time that a server takes which has answered once and is asked no more, in percent of one processor.
    fn idle_percent(&self, duration: Duration) -> Result<Option<f64>> {
        let mut running = self.server.start_until_ready()?;
        self.load.first_token(&mut running)?;
        thread::sleep(SETTLE);
        let used = |running: &Running| running.processor_time();
        let Some(before) = used(&running) else { return Ok(None) };
        thread::sleep(duration);
        let Some(after) = used(&running) else { return Ok(None) };
        Ok(Some(100.0 * (after - before).as_secs_f64() / duration.as_secs_f64()))
    }
}

fn rows_of_starts(cache: &str, starts: &[Start]) -> Vec<Row> {
    let mut rows = vec![first_token(cache, starts)];
    let peaks: Vec<f64> = starts.iter().filter_map(|start| start.peak_resident_mib).collect();
    if !peaks.is_empty() {
        rows.push(Row::of("startup/peak RSS until the first token", "MiB", &peaks));
    }
    // The same each time: it is computed from shapes.
    let memory = &starts[0].memory_mib;
    rows.push(Row { parts: memory.clone(), ..Row::of("startup/memory ledger", "MiB", &[sum(memory)]) });
    rows
}

/// The time until the first token, and the medians of its phases.
fn first_token(cache: &str, starts: &[Start]) -> Row {
    let totals: Vec<f64> = starts.iter().map(|start| sum(&start.phases)).collect();
    let part = |place: usize| {
        let values: Vec<f64> = starts.iter().map(|start| start.phases[place].value).collect();
        Part { name: starts[0].phases[place].name.clone(), value: rounded(Summary::of(&values).median) }
    };
    Row {
        parts: (0..starts[0].phases.len()).map(part).collect(),
        requests_sha256: Some(starts[0].requests_sha256.clone()),
        ..Row::of(&format!("startup/process to first token, {cache}"), "ms", &totals)
    }
}

fn idle(percent: f64) -> Row {
    Row {
        goal: Some(format!("at most {MAX_IDLE_PERCENT}")),
        met: Some(percent <= MAX_IDLE_PERCENT),
        ..Row::of("startup/idle server", "% of a processor", &[percent])
    }
}

impl Row {
    fn of(name: &str, unit: &'static str, values: &[f64]) -> Self {
        let Summary { median, spread } = Summary::of(values);
        Self {
            name: name.to_string(),
            median: rounded(median),
            spread: rounded(spread),
            unit,
            goal: None,
            met: None,
            parts: Vec::new(),
            requests_sha256: None,
        }
    }

    fn print(&self) {
        let goal = match (&self.goal, self.met) {
            (Some(goal), Some(true)) => format!("   {goal}"),
            (Some(goal), _) => format!("   MISSED: {goal}"),
            (None, _) => String::new(),
        };
        println!("{:<52} {:>9} ± {} {}{goal}", self.name, figure(self.median), figure(self.spread), self.unit);
        for part in &self.parts {
            println!("  {:<50} {:>9}", part.name, figure(part.value));
        }
    }
}

/// The size of the server's program without symbols. The stripped copy lies among the build results.
fn stripped_bytes(server: &Contender) -> Result<u64> {
    let Launch::Program { program, .. } = &server.launch else { anyhow::bail!("it runs elsewhere") };
    let stripped: PathBuf = contender::folder()?.join("pagewise.stripped");
    process::read_output(Command::new("strip").arg("-o").arg(&stripped).arg(program))?;
    let bytes = std::fs::metadata(&stripped).with_context(|| stripped.display().to_string())?.len();
    ensure!(bytes > 0, "`strip` left nothing");
    Ok(bytes)
}

fn sum(parts: &[Part]) -> f64 {
    parts.iter().map(|part| part.value).sum()
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// To a thousandth: the program says tenths.
fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(phases: &[(&str, f64)], peak_resident_mib: Option<f64>) -> Start {
        let part = |(name, value): &(&str, f64)| Part { name: (*name).to_string(), value: *value };
        Start {
            phases: phases.iter().map(part).collect(),
            memory_mib: vec![part(&("weights", 80.0)), part(&("KV blocks", 20.5))],
            peak_resident_mib,
            requests_sha256: "ab".into(),
        }
    }

    #[test]
    fn rows_have_the_medians_of_all_starts() {
        let starts = [
            start(&[("weights", 30.0), ("first token", 10.0)], Some(100.0)),
            start(&[("weights", 34.0), ("first token", 9.0)], Some(102.0)),
            start(&[("weights", 20.0), ("first token", 12.0)], Some(101.0)),
        ];
        let rows = rows_of_starts("warm page cache", &starts);
        let json = |row: &Row| serde_json::to_value(row).expect("a row can be written");
        let first = json(&rows[0]);
        assert_eq!(first["name"], "startup/process to first token, warm page cache");
        assert_eq!((&first["median"], &first["spread"]), (&40.0.into(), &3.0.into()));
        let parts = serde_json::json!([{ "name": "weights", "value": 30.0 }, { "name": "first token", "value": 10.0 }]);
        assert_eq!((&first["parts"], &first["requests_sha256"]), (&parts, &"ab".into()));
        assert_eq!((&json(&rows[1])["median"], &json(&rows[2])["median"]), (&101.0.into(), &100.5.into()));
        assert!(json(&rows[1]).get("parts").is_none());
        assert_eq!(rows_of_starts("c", &[start(&[("weights", 1.0)], None)]).len(), 2, "no peak is known");
    }

    #[test]
    fn an_idle_server_takes_nothing() {
        let check = |percent, met| assert_eq!(idle(percent).met, Some(met), "{percent}");
        check(0.0, true);
        check(0.5, true);
        check(0.6, false);
    }
}
