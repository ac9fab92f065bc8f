//! `cargo xtask bench sweep`: the highest rate at which requests are answered in time, of Pagewise and of peers, one after the
//! other. Knows the workload by name only.

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::conclusion::{Keep, keep};
use super::contender::Contender;
use super::loaded::LoadGenerator;
use super::pagewise;
use super::peers::Peer;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A workload by name, or a file.
    #[arg(long, value_name = "NAME|FILE", default_value = "chat")]
    workload: String,
    /// Requests at each rate, instead of the workload's own number.
    #[arg(long)]
    num_requests: Option<u32>,
    /// The lowest and the highest rate of the search, a second.
    #[arg(long, num_args = 2, value_names = ["LOW", "HIGH"], default_values_t = [1.0, 64.0])]
    rates: Vec<f64>,
    /// Longest time to the first token.
    #[arg(long, value_name = "MS", default_value_t = 500.0)]
    slo_ttft_ms: f64,
    /// Longest mean time of an answer's output token after the first.
    #[arg(long, value_name = "MS", default_value_t = 50.0)]
    slo_tpot_ms: f64,
    /// How many of all requests must keep to that, from 0 to 1.
    #[arg(long, value_name = "SHARE", default_value_t = 0.95)]
    slo_share: f64,
    /// Search with this one too, as in `cargo xtask bench`. May be given several times.
    #[arg(long)]
    peer: Vec<Peer>,
    /// Append a row for each server to `benches/record/<machine>/<date>.jsonl`.
    #[arg(long)]
    record: bool,
}

/// What the load generator printed of a search.
#[derive(Deserialize)]
struct Found {
    highest_rate_per_s: Option<f64>,
    is_bounded: bool,
    points: Vec<Tried>,
}

#[derive(Deserialize)]
struct Tried {
    rate_per_s: f64,
    is_borne: bool,
    asked: Asked,
    figures: Figures,
}

#[derive(Deserialize)]
struct Asked {
    requests_sha256: String,
}

#[derive(Deserialize)]
struct Figures {
    output_tokens_per_second: f64,
    ttft_ms: Percentiles,
    itl_ms: Percentiles,
    goodput: Goodput,
}

#[derive(Deserialize)]
struct Percentiles {
    p50: f64,
    p99: f64,
}

#[derive(Deserialize)]
struct Goodput {
    share: f64,
}

/// The row of one server.
#[derive(Serialize)]
struct Row<'a> {
    name: String,
    /// 0 if not even the lowest rate was borne.
    value: f64,
    unit: &'static str,
    /// Whether a higher rate was tried and was too much.
    is_bounded: bool,
    slo: Slo,
    sweep: Sweep<'a>,
}

#[derive(Clone, Copy, Serialize)]
struct Slo {
    ttft_ms: f64,
    tpot_ms: f64,
    share: f64,
}

/// All rates that were tried, lowest first.
#[derive(Serialize)]
struct Sweep<'a> {
    workload: &'a str,
    server: &'a str,
    version: &'a str,
    flags: String,
    points: Vec<Point>,
}

#[derive(Serialize)]
struct Point {
    rate_per_s: f64,
    is_borne: bool,
    share: f64,
    output_tokens_per_second: f64,
    ttft_p50_ms: f64,
    ttft_p99_ms: f64,
    itl_p99_ms: f64,
    requests_sha256: String,
}

/// Searches with each server, and prints what each bears to stdout.
pub(super) fn run(args: &Args) -> Result<()> {
    let slo = Slo { ttft_ms: args.slo_ttft_ms, tpot_ms: args.slo_tpot_ms, share: args.slo_share };
    let load = LoadGenerator::build()?;
    let (pagewise, model) = pagewise::demo()?;
    let peers = args.peer.iter().map(|peer| peer.contender(&model)).collect::<Result<Vec<Contender>>>()?;
    let contenders: Vec<&Contender> = std::iter::once(&pagewise).chain(&peers).collect();
    let mut rows = Vec::new();
    for contender in contenders {
        let row = row(contender, args, slo, search(&load, contender, args)?);
        let least = if row.is_bounded { "" } else { "at least " };
        println!("{}: {least}{:.2} {}", row.name, row.value, row.unit);
        rows.push(row);
    }
    keep(&rows, command_line(args), Keep::if_asked(args.record))
}

/// Starts a server, and has the load generator search.
fn search(load: &LoadGenerator, contender: &Contender, args: &Args) -> Result<Found> {
    let [low, high] = args.rates[..] else { unreachable!("two rates are asked for") };
    ensure!(0.0 < low && low < high, "the rates must be positive, the lower first");
    let mut flags = vec!["--workload".to_string(), args.workload.clone()];
    flags.extend(["--rate-sweep".into(), low.to_string(), high.to_string()]);
    flags.extend(["--slo-ttft-ms".into(), args.slo_ttft_ms.to_string()]);
    flags.extend(["--slo-tpot-ms".into(), args.slo_tpot_ms.to_string()]);
    flags.extend(["--slo-share".into(), args.slo_share.to_string(), "--warmup".into(), "2".into()]);
    if let Some(num_requests) = args.num_requests {
        flags.extend(["--num-requests".into(), num_requests.to_string()]);
    }
    eprintln!("\n{} ({}): {}", contender.name, contender.version, contender.command_line());
    let mut running = contender.start()?;
    running.wait_until_listening().with_context(|| contender.name.clone())?;
    load.read(&mut running, &flags)
}

fn row<'a>(contender: &'a Contender, args: &'a Args, slo: Slo, found: Found) -> Row<'a> {
    let mut points: Vec<Point> = found.points.into_iter().map(Point::of).collect();
    points.sort_unstable_by(|a, b| a.rate_per_s.total_cmp(&b.rate_per_s));
    Row {
        name: format!("sweep/{}, highest rate within the SLO, {}", args.workload, contender.name),
        value: found.highest_rate_per_s.unwrap_or(0.0),
        unit: "requests/s",
        is_bounded: found.is_bounded,
        slo,
        sweep: Sweep {
            workload: &args.workload,
            server: &contender.name,
            version: &contender.version,
            flags: contender.command_line(),
            points,
        },
    }
}

impl Point {
    fn of(tried: Tried) -> Self {
        Self {
            rate_per_s: tried.rate_per_s,
            is_borne: tried.is_borne,
            share: tried.figures.goodput.share,
            output_tokens_per_second: tried.figures.output_tokens_per_second,
            ttft_p50_ms: tried.figures.ttft_ms.p50,
            ttft_p99_ms: tried.figures.ttft_ms.p99,
            itl_p99_ms: tried.figures.itl_ms.p99,
            requests_sha256: tried.asked.requests_sha256,
        }
    }
}

/// The command that measured, as one would type it.
fn command_line(args: &Args) -> String {
    let mut line = format!(
        "cargo xtask bench sweep --workload {} --rates {} {} --slo-ttft-ms {} --slo-tpot-ms {} --slo-share {}",
        args.workload, args.rates[0], args.rates[1], args.slo_ttft_ms, args.slo_tpot_ms, args.slo_share
    );
    for peer in &args.peer {
        line = format!("{line} --peer {peer}");
    }
    match args.num_requests {
        Some(num_requests) => format!("{line} --num-requests {num_requests}"),
        None => line,
    }
}
