//! Writes a simulated report, a table and a plot, into `docs/`: `cargo xtask report`.
//!
//! ```text
//! report fragmentation|overload FOLDER
//! ```
//!
//! Knows how a report is written, not how its figures come to be.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use sim::plot::{Bar, Line, bars, lines};
use sim::{
    FragmentationFigures, LONG_PROMPT, NUM_POOL_SLOTS, OverloadFigures, Scheme, StepCost, capacity, chat_mix,
    simulate_load, simulate_memory,
};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, folder] = &arguments[..] else { return usage() };
    let (page, plot) = match name.as_str() {
        "fragmentation" => fragmentation(),
        "overload" => overload(),
        _ => return usage(),
    };
    print!("{page}");
    let folder = Path::new(folder);
    for (path, content) in [(format!("{name}.md"), page), (format!("img/{name}.svg"), plot)] {
        if let Err(error) = std::fs::write(folder.join(&path), content) {
            eprintln!("cannot write {path}: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    eprintln!("usage: report fragmentation|overload FOLDER");
    ExitCode::from(2)
}

/// Requests of the workload.
const NUM_REQUESTS: usize = 10_000;

/// The page and the plot.
fn fragmentation() -> (String, String) {
    let requests = chat_mix(1, NUM_REQUESTS);
    let figures: Vec<(Scheme, FragmentationFigures)> = Scheme::all()
        .into_iter()
        .map(|scheme| (scheme, simulate_memory(scheme, &requests, &StepCost::H100_8B)))
        .collect();
    let mut page = format!(
        "# What becomes of KV memory

Made by `cargo xtask report fragmentation`: {NUM_REQUESTS} requests of the chat-like mix (prompts log-normal with median 100
and sigma 1.25, outputs with median 120 and sigma 1.0, both cut to 4 to 2,048 tokens; 16 applications, whose
prompts begin alike) wait for a pool of {NUM_POOL_SLOTS} token slots. All schemes run the same loop of steps: first come
first served, decodes first, 2,048 new tokens a step, the youngest is preempted when memory runs out. Blocks are those
of `kv-paging` itself. Contiguous regions come from a buddy allocator: either as long as the longest context (4,096), or of
the next power of two, moved to one twice as long when full. Figures are averages over time, while requests wait.

- *waste*: empty slots among those given to requests.
- *filled*: slots of the pool that hold a token.
- *requests at once*: requests that hold memory.
- *tokens/s*: output tokens a second, if a step takes as long as the data sheet of an H100 says for an 8B model in bfloat16
  (`StepCost::H100_8B` in the crate `sim`). A model of a machine, not a measurement of one.
- *preemptions*: for each request that ended.

![Filled, empty and unusable memory for each scheme](img/fragmentation.svg)

| memory | waste | filled | requests at once | tokens/s | preemptions |
|---|---:|---:|---:|---:|---:|
"
    );
    for (scheme, figures) in &figures {
        let _ = writeln!(
            page,
            "| {} | {:.1} % | {:.1} % | {:.0} | {:.0} | {:.2} |",
            scheme.name(),
            figures.waste * 100.0,
            figures.filled * 100.0,
            figures.num_running,
            figures.output_tokens_per_second,
            figures.preemptions_per_request,
        );
    }
    let drawn: Vec<Bar> = figures.iter().map(|(scheme, figures)| bar(*scheme, figures)).collect();
    let plot = bars("Where the KV memory is, averaged over time", &["holds tokens", "given and empty", "free"], &drawn);
    (page, plot)
}

fn bar(scheme: Scheme, figures: &FragmentationFigures) -> Bar {
    Bar {
        label: scheme.name(),
        parts: vec![figures.filled, figures.given - figures.filled, 1.0 - figures.given],
        note: format!("{:.0} requests, {:.0} tokens/s", figures.num_running, figures.output_tokens_per_second),
    }
}

/// Loads, in multiples of the capacity.
const LOADS: [f64; 11] = [0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0];
/// Each load is simulated with each of these seeds.
const SEEDS: core::ops::RangeInclusive<u64> = 1..=5;

/// One load, with the figures of each seed.
struct Load {
    times: f64,
    runs: Vec<OverloadFigures>,
}

impl Load {
    fn mean(&self, value: fn(&OverloadFigures) -> f64) -> f64 {
        self.runs.iter().map(value).sum::<f64>() / self.runs.len() as f64
    }

    fn goodput(&self) -> f64 {
        self.mean(|run| run.goodput)
    }

    /// The least and the greatest goodput.
    fn spread(&self) -> (f64, f64) {
        let goodputs = || self.runs.iter().map(|run| run.goodput);
        (goodputs().fold(f64::INFINITY, f64::min), goodputs().fold(0.0, f64::max))
    }
}

/// The page and the plot.
fn overload() -> (String, String) {
    let cost = StepCost::H100_8B;
    let capacity = capacity(1, &cost);
    let simulate =
        |times| Load { times, runs: SEEDS.map(|seed| simulate_load(seed, &cost, times * capacity)).collect() };
    let loads = LOADS.map(simulate);
    let peak = loads.iter().map(Load::goodput).fold(0.0, f64::max);
    let mut page = format!(
        "# Goodput under overload

Made by `cargo xtask report overload`: requests of the chat-like mix come at a Poisson rate, in multiples of what the engine
serves a second when thousands of them wait in their order of arrival ({capacity:.1} requests/s). Goodput counts those whose
first token comes within 1 s and whose other tokens follow at 50 ms on average; each request has that as its deadline. The
engine is the real one, in virtual time; its steps take as long as the data sheet of an H100 says for an 8B model in bfloat16
(`StepCost::H100_8B` in the crate `sim`), with {NUM_POOL_SLOTS} token slots in blocks of 16, 2,048 new tokens and 512 rows a
step. Figures are means over {} seeds of 90 s each, and in brackets the least and the greatest.

When not all can begin in time, turns go to the requests that need the fewest blocks which are not cached. So goodput is
above the capacity in order of arrival, and grows with the choice; what it costs is seen in the last column. Output lengths
are not known beforehand and give nobody a turn.

![Goodput and completed requests against load](img/overload.svg)

| load | offered, requests/s | goodput, requests/s | of the peak | completed, requests/s | median TTFT, ms | in time of prompts over {LONG_PROMPT} tokens |
|---:|---:|---:|---:|---:|---:|---:|
",
        SEEDS.count()
    );
    for load in &loads {
        let (least, greatest) = load.spread();
        let _ = writeln!(
            page,
            "| {} | {:.1} | {:.1} ({least:.1} to {greatest:.1}) | {:.0} % | {:.1} | {:.0} | {:.0} % |",
            load.times,
            load.mean(|run| run.offered),
            load.goodput(),
            100.0 * load.goodput() / peak,
            load.mean(|run| run.completed),
            load.mean(|run| run.median_ttft.as_secs_f64() * 1000.0),
            100.0 * load.mean(|run| run.goodput_of_long),
        );
    }
    let line = |label: &str, value: fn(&OverloadFigures) -> f64| Line {
        label: label.into(),
        points: loads.iter().map(|load| (load.times, load.mean(value))).collect(),
    };
    let drawn = [line("goodput", |run| run.goodput), line("completed", |run| run.completed)];
    let plot = lines("Goodput under overload", "load, in multiples of the capacity", "requests/s", &drawn);
    (page, plot)
}
