//! `cargo xtask bench cpu`: Pagewise beside the engines that people run on a CPU, and what it is to reach there. Knows the
//! workloads by name only.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use super::comparison::{Comparison, Goal};
use super::conclusion::{Keep, conclude};
use super::contender::Contender;
use super::llama::Llama;
use super::loaded::LoadGenerator;
use super::metric::Metric;
use super::pagewise;
use super::turns::{Turns, first_tokens};
use super::vllm;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Pairs of each measurement.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=101))]
    pairs: u32,
    /// llama.cpp's server, with llama-quantize beside it, instead of the pinned release, which is fetched and built.
    #[arg(long, value_name = "PATH")]
    llama_server: Option<PathBuf>,
    /// The same model in Hugging Face's layout and bfloat16, for vLLM. Without it, vLLM is not measured.
    #[arg(long, value_name = "FOLDER")]
    vllm_model: Option<PathBuf>,
    /// Append a row for each comparison to `benches/record/<machine>/<date>.jsonl`.
    #[arg(long)]
    record: bool,
    /// Fail if a goal is missed.
    #[arg(long)]
    check: bool,
}

/// Against whom.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Against {
    /// llama.cpp with the weights in the format that it is fastest with.
    LlamaQ40,
    /// llama.cpp with the demo model's file as Pagewise reads it, which is Q4_1.
    LlamaSame,
    Vllm,
}

use Against::{LlamaQ40, LlamaSame, Vllm};
use Goal::{AtLeast, AtMost};

/// Workload, figure, against whom, and the goal. The workloads follow each other as they are measured.
const ROWS: [(Option<&str>, Metric, Against, Goal); 13] = [
    (Some("w1"), Metric::DecodeRate, LlamaQ40, AtLeast(1.2)),
    (Some("w1"), Metric::DecodeRate, LlamaSame, AtLeast(1.4)),
    (Some("w1"), Metric::Ttft, LlamaQ40, AtMost(0.6)),
    (Some("w2"), Metric::PrefillRate, LlamaQ40, AtLeast(2.6)),
    (Some("w3"), Metric::OutputRate, LlamaQ40, AtLeast(2.0)),
    (Some("w3"), Metric::OutputRate, Vllm, AtLeast(1.2)),
    (Some("w3"), Metric::ItlP99, LlamaQ40, AtMost(0.6)),
    (Some("w4"), Metric::Wall, LlamaQ40, AtMost(0.3)),
    (Some("w4"), Metric::Wall, Vllm, AtMost(0.9)),
    (None, Metric::PeakResident, LlamaQ40, AtMost(1.0)),
    (None, Metric::PeakResident, LlamaSame, AtMost(1.0)),
    (None, Metric::FirstToken, LlamaQ40, AtMost(0.8)),
    (None, Metric::FirstToken, LlamaSame, AtMost(0.8)),
];

/// The servers, Pagewise first; indices of the others are those of [`Against`].
struct Field {
    contenders: Vec<Contender>,
}

impl Field {
    /// Builds and fetches what is needed.
    fn gather(args: &Args) -> Result<Self> {
        let (pagewise, model) = pagewise::demo()?;
        let llama = match &args.llama_server {
            Some(server) => Llama::at(server)?,
            None => Llama::pinned()?,
        };
        let requantised = llama.requantised(&model)?;
        let mut contenders = vec![pagewise, llama.contender("Q4_0", &requantised), llama.contender("Q4_1", &model)];
        if let Some(model) = &args.vllm_model {
            contenders.push(vllm::contender(model)?);
        }
        Ok(Self { contenders })
    }

    fn index(&self, against: Against) -> Option<usize> {
        Some(1 + against as usize).filter(|index| *index < self.contenders.len())
    }

    fn all(&self) -> Vec<&Contender> {
        self.contenders.iter().collect()
    }

    fn compare(&self, row: usize, ours: Vec<f64>, theirs: Vec<f64>, requests_sha256: &[String]) -> Comparison<'_> {
        let (workload, metric, against, goal) = ROWS[row];
        let index = self.index(against).expect("only those who take part are compared");
        Comparison {
            workload: workload.map(str::to_string),
            metric,
            pagewise: &self.contenders[0],
            peer: &self.contenders[index],
            ours,
            theirs,
            goal: Some(goal),
            requests_sha256: requests_sha256.to_vec(),
        }
    }

    /// The rows of a workload, or of none, whose peer takes part, with that peer's index.
    fn rows(&self, of: Option<&str>) -> Vec<(usize, usize)> {
        let rows = ROWS.iter().enumerate().filter(|(_, row)| row.0 == of);
        rows.filter_map(|(number, row)| Some((number, self.index(row.2)?))).collect()
    }
}

/// Measures all rows and prints them. Progress goes to stderr, the table to stdout.
pub(super) fn run(args: &Args) -> Result<()> {
    let load = LoadGenerator::build()?;
    let field = Field::gather(args)?;
    let mut comparisons = Vec::new();
    let mut turns = Turns::start(&load, field.all(), args.pairs)?;
    for workload in ["w1", "w2", "w3", "w4"] {
        comparisons.extend(play(&field, &mut turns, workload)?);
    }
    let resident = turns.peak_resident_mib();
    drop(turns);
    let first = first_tokens(&load, &field.all()[..3], args.pairs)?;
    for (row, peer) in field.rows(None) {
        if ROWS[row].1 == Metric::FirstToken {
            let (ours, theirs) = (first.seconds[0].clone(), first.seconds[peer].clone());
            comparisons.push(field.compare(row, ours, theirs, &first.requests_sha256));
        } else if let (Some(ours), Some(theirs)) = (resident[0], resident[peer]) {
            let asked = asked_of(&field.contenders[peer], &comparisons);
            comparisons.push(field.compare(row, vec![ours], vec![theirs], &asked));
        }
    }
    report(args, &field, &comparisons)
}

/// What a peer was asked in all its workloads.
fn asked_of(peer: &Contender, comparisons: &[Comparison<'_>]) -> Vec<String> {
    let mut of_peer: Vec<_> =
        comparisons.iter().filter(|one| one.peer.name == peer.name && one.workload.is_some()).collect();
    of_peer.dedup_by_key(|one| one.workload.clone());
    of_peer.into_iter().flat_map(|one| one.requests_sha256.clone()).collect()
}

/// One workload, by everyone who has a row there.
fn play<'a>(field: &'a Field, turns: &mut Turns<'a>, workload: &str) -> Result<Vec<Comparison<'a>>> {
    let rows = field.rows(Some(workload));
    let mut who = vec![0];
    who.extend(rows.iter().map(|(_, peer)| *peer));
    who.sort_unstable();
    who.dedup();
    let played = turns.play(&who, workload, None)?;
    let figures = |metric: Metric, index: usize| {
        let place = who.iter().position(|who| *who == index).expect("whoever has a row took part");
        played.loaded[place].iter().map(|loaded| metric.of(loaded)).collect::<Result<Vec<f64>>>()
    };
    rows.iter()
        .map(|(row, peer)| {
            let metric = ROWS[*row].1;
            Ok(field.compare(*row, figures(metric, 0)?, figures(metric, *peer)?, &played.requests_sha256))
        })
        .collect()
}

fn report(args: &Args, field: &Field, comparisons: &[Comparison<'_>]) -> Result<()> {
    let command = format!("cargo xtask bench cpu --pairs {}", args.pairs);
    conclude("cpu", command, comparisons, Keep::if_asked(args.record))?;
    if field.index(Vllm).is_none() {
        println!("\nnot measured: vLLM, for want of --vllm-model. {}", vllm::HOW_TO_GET);
    }
    if args.check {
        let missed = comparisons.iter().filter(|comparison| comparison.is_met() == Some(false)).count();
        ensure!(missed == 0, "{missed} goals missed");
    }
    Ok(())
}
