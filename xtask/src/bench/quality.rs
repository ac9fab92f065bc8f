//! `cargo xtask bench quality`: what the formats of weights and the types of the KV cache cost in quality, on the demo model's
//! weights. Knows the formats' names only.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::conclusion::{Keep, keep};
use super::foretold::{self, Answer, Foretold, Goal, Outcome};
use super::pagewise;
use crate::process;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only weights in this format. May be given several times.
    #[arg(long, value_name = "FORMAT", value_parser = FORMATS)]
    weights: Vec<String>,
    /// Append two rows for each line to `benches/record/<machine>/<date>.jsonl`.
    #[arg(long)]
    record: bool,
    /// Fail if a goal is missed.
    #[arg(long)]
    check: bool,
}

/// Formats that the CPU multiplies, the demo model's own first. F32 would be that one as float32 once more.
const FORMATS: [&str; 10] = ["Q4_1", "Q4_0", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "F16", "BF16"];

/// What is known of the demo model's weights in float32, from the repository's root: a text's ids with its perplexity, and
/// answers with their most likely tokens.
const TEXT: &str = "fixtures/smollm2/perplexity-ids.json";
const ANSWERS: &str = "fixtures/smollm2/golden.json";

/// How a model computes.
#[derive(Clone, Copy)]
struct Way {
    dtype: &'static str,
    kv: &'static str,
    /// Kinds of rows.
    rows: &'static [&'static str],
    goal: Option<Goal>,
}

const BOTH: &[&str] = &["prefill", "decode"];

const PREFILL: &[&str] = &["prefill"];

/// What the project promises of the demo model's file as it is served.
const PROMISED: Option<Goal> = Some(Goal { max_percent: 1.0, sure_gap: Some(0.2) });
/// And with other types of KV: what these lose of the choices is told, not promised.
const MEASURED: Option<Goal> = Some(Goal { max_percent: 1.0, sure_gap: None });
/// float32 throughout has all tokens.
const EXACT: Option<Goal> = Some(Goal { max_percent: 0.1, sure_gap: Some(0.0) });

/// float32 throughout. Rows of both kinds give the same there, and this kind in seconds.
const REFERENCE: Way = Way { dtype: "float32", kv: "float32", rows: PREFILL, goal: EXACT };

/// Every format as it is served, and with less KV.
const EVERY_FORMAT: [Way; 2] = [
    Way { dtype: "auto", kv: "bfloat16", rows: BOTH, goal: None },
    Way { dtype: "auto", kv: "int8", rows: PREFILL, goal: None },
];

/// The demo model's own format with every type of KV, and each type alone, without what the products lose.
const OWN_FORMAT: [Way; 7] = [
    Way { dtype: "auto", kv: "bfloat16", rows: BOTH, goal: PROMISED },
    Way { dtype: "auto", kv: "float16", rows: BOTH, goal: MEASURED },
    Way { dtype: "auto", kv: "int8", rows: BOTH, goal: MEASURED },
    Way { dtype: "auto", kv: "float32", rows: BOTH, goal: MEASURED },
    Way { dtype: "float32", kv: "bfloat16", rows: PREFILL, goal: PROMISED },
    Way { dtype: "float32", kv: "float16", rows: PREFILL, goal: PROMISED },
    Way { dtype: "float32", kv: "int8", rows: PREFILL, goal: PROMISED },
];

/// Measures all and prints a line for each. Progress goes to stderr.
pub(super) fn run(args: &Args) -> Result<()> {
    let (program, model) = pagewise::program()?;
    let is_wanted = |format: &str| args.weights.is_empty() || args.weights.iter().any(|wanted| wanted == format);
    let mut outcomes = Vec::new();
    println!("{}", foretold::head());
    for format in FORMATS.into_iter().filter(|format| is_wanted(format)) {
        let of_format = if format == FORMATS[0] {
            of_own_format(&program, &model)?
        } else {
            of_made_format(&program, &model, format)?
        };
        outcomes.extend(of_format);
    }
    let rows: Vec<_> = outcomes.iter().flat_map(Outcome::rows).collect();
    keep(&rows, "cargo xtask bench quality".into(), Keep::if_asked(args.record))?;
    let missed = outcomes.iter().filter(|outcome| outcome.is_missed()).count();
    ensure!(!args.check || missed == 0, "{missed} goals missed");
    Ok(())
}

/// The demo model's file, against what transformers foretold in float32 on its dequantised weights.
fn of_own_format(program: &Path, model: &Path) -> Result<Vec<Outcome>> {
    let expected = reference()?;
    let mut outcomes = Vec::new();
    for way in [REFERENCE].into_iter().chain(OWN_FORMAT) {
        outcomes.extend(measure(program, model, FORMATS[0], way, ("transformers in float32", &expected))?);
    }
    Ok(outcomes)
}

/// The same weights in another format, against float32 arithmetic on just these.
fn of_made_format(program: &Path, model: &Path, format: &str) -> Result<Vec<Outcome>> {
    let (file, formats) = requantise(model, format)?;
    eprintln!("{format}: {formats}");
    let [(_, expected)] = &foretell(program, &file, REFERENCE)?[..] else { unreachable!("one kind of rows") };
    let mut outcomes = Vec::new();
    for way in EVERY_FORMAT {
        outcomes.extend(measure(program, &file, format, way, ("float32", expected))?);
    }
    fs::remove_file(&file).with_context(|| file.display().to_string())?;
    Ok(outcomes)
}

fn measure(
    program: &Path,
    file: &Path,
    format: &str,
    way: Way,
    (reference, expected): (&'static str, &Foretold),
) -> Result<Vec<Outcome>> {
    let weights = if way.dtype == "auto" { format.to_string() } else { format!("{format} as {}", way.dtype) };
    let outcome = |(rows, found)| Outcome {
        weights: weights.clone(),
        kv: way.kv.to_string(),
        rows,
        reference,
        found,
        expected: expected.clone(),
        goal: way.goal,
    };
    let outcomes: Vec<Outcome> = foretell(program, file, way)?.into_iter().map(outcome).collect();
    for outcome in &outcomes {
        println!("{}", outcome.line());
    }
    Ok(outcomes)
}

/// What a model foretells, for each kind of rows.
fn foretell(program: &Path, file: &Path, way: Way) -> Result<Vec<(&'static str, Foretold)>> {
    #[derive(Deserialize)]
    struct Printed {
        rows: BTreeMap<String, Foretold>,
    }
    let root = process::repository_root();
    let mut command = Command::new(program);
    command.args(["bench", "quality", "--device", "cpu", "--max-model-len", "2048", "--model"]).arg(file);
    command.args(["--dtype", way.dtype, "--kv-cache-dtype", way.kv, "--rows", &way.rows.join(",")]);
    command.arg("--text").arg(root.join(TEXT)).arg("--answers").arg(root.join(ANSWERS));
    let printed = process::read_output(&mut command)?;
    let mut printed: Printed = serde_json::from_str(&printed).context("bench quality printed something unreadable")?;
    let of_rows = |rows: &&'static str| {
        let foretold = printed.rows.remove(*rows).with_context(|| format!("no {rows} rows were printed"))?;
        Ok((*rows, foretold))
    };
    way.rows.iter().map(of_rows).collect()
}

/// What transformers foretold.
fn reference() -> Result<Foretold> {
    #[derive(Deserialize)]
    struct Text {
        ppl: f64,
    }
    #[derive(Deserialize)]
    struct Golden {
        cases: Vec<Case>,
    }
    #[derive(Deserialize)]
    struct Case {
        /// Greedy.
        output_ids: Vec<u32>,
        top5_logprobs: Vec<Vec<(u32, f64)>>,
    }
    let (text, golden): (Text, Golden) = (read(TEXT)?, read(ANSWERS)?);
    let answer = |case: Case| {
        let gaps = case.top5_logprobs.iter().map(|top| top[0].1 - top[1].1).collect();
        Answer { most_likely: case.output_ids, gaps }
    };
    Ok(Foretold { perplexity: text.ppl, answers: golden.cases.into_iter().map(answer).collect() })
}

fn read<T: DeserializeOwned>(path: &str) -> Result<T> {
    let text = fs::read_to_string(process::repository_root().join(path)).context(path.to_string())?;
    serde_json::from_str(&text).context(path.to_string())
}

/// A file of the same weights in another format, below target/, and what is in it.
fn requantise(model: &Path, format: &str) -> Result<(PathBuf, String)> {
    let folder = process::target_directory()?.join("quality");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let made = folder.join(format!("{format}.gguf"));
    let mut command = process::cargo();
    command.args(["run", "--quiet", "--release", "--package", "model-format", "--example", "requantise", "--"]);
    let formats = process::read_output(command.arg(model).arg(&made).arg(format))?;
    Ok((made, formats.trim().to_string()))
}
