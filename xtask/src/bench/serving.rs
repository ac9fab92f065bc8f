//! Pagewise under load through its own door, alone or beside peers. Knows the workloads by name only.

use anyhow::Result;

use super::comparison::{Comparison, Summary};
use super::conclusion::{Keep, conclude};
use super::contender::Contender;
use super::loaded::{LoadGenerator, Loaded};
use super::metric::Metric;
use super::peers::Peer;
use super::turns::Turns;
use super::{Args, pagewise};

/// What `--quick` measures, and what is measured without a wish.
const WORKLOADS: [&str; 2] = ["w1", "w3"];

/// What servers are compared by.
const METRICS: [Metric; 4] = [Metric::Ttft, Metric::DecodeRate, Metric::OutputRate, Metric::ItlP99];

/// Measures, and prints a line for each workload, figure and peer to stdout.
pub(super) fn run(args: &Args) -> Result<()> {
    let load = LoadGenerator::build()?;
    let (pagewise, model) = pagewise::demo()?;
    let mut peers = args.peer.clone();
    if args.quick && peers.is_empty() {
        peers.push(Peer::LlamaServer(None));
    }
    let peers = peers.iter().map(|peer| peer.contender(&model)).collect::<Result<Vec<Contender>>>()?;
    let num_pairs = args.pairs.unwrap_or(if args.quick { 1 } else { 5 });

    let contenders: Vec<&Contender> = std::iter::once(&pagewise).chain(&peers).collect();
    let everyone: Vec<usize> = (0..contenders.len()).collect();
    let mut turns = Turns::start(&load, contenders, num_pairs)?;
    let mut comparisons = Vec::new();
    let workloads: Vec<&str> = args.workload.iter().map(String::as_str).collect();
    for workload in if workloads.is_empty() { WORKLOADS.to_vec() } else { workloads } {
        let played = turns.play(&everyone, workload, args.num_requests)?;
        let is_shown = |metric: &Metric| played.loaded.iter().flatten().all(|loaded| metric.is_in(loaded));
        for metric in METRICS.into_iter().filter(is_shown) {
            if peers.is_empty() {
                println!("{workload} {}", alone(metric, &played.loaded[0])?);
            }
            let figures = |index: usize| {
                played.loaded[index].iter().map(|loaded| metric.of(loaded)).collect::<Result<Vec<f64>>>()
            };
            for (index, peer) in peers.iter().enumerate() {
                comparisons.push(Comparison {
                    workload: Some(workload.to_string()),
                    metric,
                    pagewise: &pagewise,
                    peer,
                    ours: figures(0)?,
                    theirs: figures(index + 1)?,
                    goal: None,
                    requests_sha256: played.requests_sha256.clone(),
                });
            }
        }
    }
    drop(turns);
    conclude("serving", command_line(args, num_pairs), &comparisons, Keep::if_asked(args.record))
}

/// A figure of Pagewise alone.
fn alone(metric: Metric, loaded: &[Loaded]) -> Result<String> {
    let figures = loaded.iter().map(|loaded| metric.of(loaded)).collect::<Result<Vec<f64>>>()?;
    let Summary { median, spread } = Summary::of(&figures);
    Ok(format!("{}: {median:.2} ± {spread:.2} {}", metric.name(), metric.unit()))
}

/// The command that measured, as one would type it.
fn command_line(args: &Args, num_pairs: u32) -> String {
    let mut line = format!("cargo xtask bench --pairs {num_pairs}");
    for peer in &args.peer {
        line = format!("{line} --peer {peer}");
    }
    for workload in &args.workload {
        line = format!("{line} --workload {workload}");
    }
    if let Some(num_requests) = args.num_requests {
        line = format!("{line} --num-requests {num_requests}");
    }
    if args.quick { line + " --quick" } else { line }
}
