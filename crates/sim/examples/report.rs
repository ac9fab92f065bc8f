//! Writes a simulated report, a table and a plot, into `docs/`: `cargo xtask report`.
//!
//! ```text
//! report fragmentation FOLDER
//! ```
//!
//! Knows how a report is written, not how its figures come to be.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use sim::plot::{Bar, bars};
use sim::{FragmentationFigures, NUM_POOL_SLOTS, Scheme, StepCost, chat_mix, simulate_memory};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, folder] = &arguments[..] else { return usage() };
    let (page, plot) = match name.as_str() {
        "fragmentation" => fragmentation(),
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
    eprintln!("usage: report fragmentation FOLDER");
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
