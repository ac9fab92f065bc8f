//! The ops of a step, one by one: what each must move and compute, how long it takes here, and what this device does at most.
//! JSON, a line each, goes to stdout. Knows the backends through their trait, and no server.

mod bench;
mod case;
mod cost;
mod device;
mod model;
mod output;
mod sampling;
mod step;
mod stored;
mod timing;
mod tokens;

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use tensor_backend::Backend;

use crate::bench::{Bench, Settings};
use crate::case::{Case, cases};
use crate::device::Kind;
use crate::model::{MODELS, Model};
use crate::output::{Line, OpLine, StepLine};
use crate::timing::Effort;

/// Times the ops of models' steps.
#[derive(Parser)]
struct Args {
    /// What computes.
    #[arg(long, value_enum, default_value = "cpu")]
    device: Kind,
    /// A model by name; may be given several times [default: smollm2-135m, on a GPU llama-3.1-8b].
    #[arg(long, value_name = "NAME")]
    model: Vec<String>,
    /// Only cases with this in their name.
    #[arg(long, value_name = "TEXT", default_value = "")]
    filter: String,
    /// Measure briefly.
    #[arg(long)]
    quick: bool,
    /// Do not measure what the device does at most, nor count steps.
    #[arg(long)]
    no_limits: bool,
    /// Tokens of each row's context in the decode steps that are counted.
    #[arg(long, value_name = "TOKENS", default_value_t = 192, value_parser = clap::value_parser!(u32).range(1..))]
    step_context: u32,
    /// Only say which cases there are.
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let plan = Plan::new(args)?;
    if args.list {
        for (model, cases) in &plan.cases {
            for case in cases {
                println!("{}", case.name(model, args.device.elements()));
            }
        }
        return Ok(());
    }
    match args.device {
        Kind::Cpu => {
            let mut backend = device::open_cpu()?;
            let limits = |backend: &mut _| device::cpu_limits(backend);
            plan.play(&mut backend, limits)
        }
        Kind::Cuda => {
            let mut backend = device::open_cuda()?;
            let elements = args.device.elements();
            plan.play(&mut backend, |backend| device::gpu_limits(backend, elements))
        }
    }
}

/// What is to be measured.
struct Plan<'a> {
    args: &'a Args,
    cases: Vec<(&'static Model, Vec<Case>)>,
}

impl<'a> Plan<'a> {
    fn new(args: &'a Args) -> Result<Self> {
        let default = if args.device == Kind::Cpu { "smollm2-135m" } else { "llama-3.1-8b" };
        let mut names: Vec<&str> = args.model.iter().map(String::as_str).collect();
        if names.is_empty() {
            names.push(default);
        }
        let find = |name: &str| {
            let known: Vec<&str> = MODELS.iter().map(|model| model.name).collect();
            let model = MODELS.iter().find(|model| model.name == name);
            model.with_context(|| format!("--model {name}: there are the shapes of {}", known.join(", ")))
        };
        let elements = args.device.elements();
        let of_model = |name: &str| {
            let model = find(name)?;
            let mut cases = cases(model, args.device.formats());
            cases.retain(|case| case.name(model, elements).contains(&args.filter));
            Ok((model, cases))
        };
        Ok(Self { args, cases: names.into_iter().map(of_model).collect::<Result<_>>()? })
    }

    /// Prints what the device is and does at most, the cost of steps, and each case as it is measured.
    fn play<B: Backend>(
        &self,
        backend: &mut B,
        limits: impl FnOnce(&mut B) -> Result<Vec<device::Measured>>,
    ) -> Result<()> {
        let (kind, elements) = (self.args.device, self.args.device.elements());
        ensure!(backend.activation_element() == elements.activation, "the backend computes in another element");
        print(&Line::Device { kind, description: backend.describe() })?;
        if !self.args.no_limits {
            for measured in limits(backend)? {
                print(&Line::Limit(measured))?;
            }
            for (model, _) in &self.cases {
                for &rows in model.step_rows {
                    print(&Line::Step(StepLine::of(model, kind, rows, self.args.step_context as usize)))?;
                }
            }
        }
        let effort = if self.args.quick { Effort::QUICK } else { Effort::FULL };
        let mut bench = Bench::new(backend, Settings { elements, effort, rotated_bytes: kind.rotated_bytes() })?;
        for (model, cases) in &self.cases {
            for case in cases {
                let name = case.name(model, elements);
                let times = bench.measure(model, case).with_context(|| name.clone())?;
                print(&Line::Op(OpLine::of(model, case, kind, times)))?;
            }
        }
        Ok(())
    }
}

fn print(line: &Line) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    serde_json::to_writer(&mut stdout, line)?;
    Ok(writeln!(stdout)?)
}
