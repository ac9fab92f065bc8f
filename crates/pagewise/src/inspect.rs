//! `pagewise inspect`: what a model's files hold and what memory it will take. Loads nothing.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Result;
use model_format::ModelConfig;
use model_runner::{Checkpoint, MemoryPlan, plan_memory};
use tensor_backend::Backend;

use crate::cli::{EngineArgs, InspectArgs};
use crate::device::{self, Offer, Opened};
use crate::settings::Settings;
use crate::{output, report, wiring};

/// Runs the command.
pub(crate) fn run(args: &InspectArgs) -> Result<()> {
    let files = wiring::open_model(&args.engine)?;
    let checkpoint = files.checkpoint(args.engine.fixed_seed())?;
    let (settings, plan) = match device::open(&args.engine, &checkpoint)? {
        Opened::Cpu(backend, offer) => plan(&args.engine, &checkpoint, &backend, &offer),
        Opened::Cuda(backend, offer) => plan(&args.engine, &checkpoint, &*backend, &offer),
    }?;

    output::print_line(format_args!("{} ({})\n", files.name, files.describe()))?;
    output::print_line(describe_config(checkpoint.config()))?;
    output::print_line(describe_tensors(&checkpoint, args.tensors))?;
    output::print_line(format_args!("settings\n  {}", settings.to_string().replace('\n', "\n  ")))?;
    output::print_line(format_args!("  kv blocks = {} of {} bytes\n", settings.runner.num_blocks, plan.block_bytes))?;
    output::print_line(report::ledger(plan.entries.iter().map(|entry| (&*entry.name, entry.bytes))))
}

/// What a device would be filled with.
fn plan<B: Backend>(
    args: &EngineArgs,
    checkpoint: &Checkpoint<'_>,
    backend: &B,
    offer: &Offer,
) -> Result<(Settings, MemoryPlan)> {
    let settings = Settings::resolve(args, checkpoint, backend, offer)?;
    let plan = plan_memory(backend, checkpoint, &settings.runner)?;
    Ok((settings, plan))
}

fn describe_config(config: &ModelConfig) -> String {
    let mut text = "config\n".to_string();
    let mut line = |name: &str, value: String| writeln!(text, "  {name:<22} {value}").expect("strings take all");
    line("architecture", config.architecture.clone());
    line("layers", config.num_layers.to_string());
    line("hidden size", config.hidden_size.to_string());
    line("intermediate size", config.intermediate_size.to_string());
    line("heads", format!("{} of {}, {} for keys and values", config.num_heads, config.head_dim, config.num_kv_heads));
    line("vocabulary", config.vocab_size.to_string());
    line("positions", config.max_position_embeddings.to_string());
    line("rope", format!("theta {}, scaling {:?}", config.rope.theta, config.rope.scaling));
    if let Some(window) = config.sliding_window {
        line("sliding window", window.to_string());
    }
    line("tied embeddings", config.tie_word_embeddings.to_string());
    line("end-of-sequence tokens", format!("{:?}", config.eos_token_ids));
    text
}

/// Counts and sizes by format, and each tensor if asked for.
fn describe_tensors(checkpoint: &Checkpoint<'_>, each: bool) -> String {
    let mut by_format: BTreeMap<String, (usize, usize, u64)> = BTreeMap::new();
    let mut list = String::new();
    for tensor in checkpoint.tensors() {
        let elements: usize = tensor.shape.iter().product();
        let sum = by_format.entry(tensor.format.to_string()).or_default();
        *sum = (sum.0 + 1, sum.1 + elements, sum.2 + tensor.bytes);
        if each {
            let _ = writeln!(list, "  {:<44} {:<5} {:?}", tensor.name, tensor.format.to_string(), tensor.shape);
        }
    }
    let parameters: usize = by_format.values().map(|(_, elements, _)| elements).sum();
    let mut text = format!("tensors, {parameters} parameters\n");
    for (format, (count, elements, bytes)) in by_format {
        let _ =
            writeln!(text, "  {format:<6} {count:>5} tensors {elements:>14} elements {:>12}", report::mebibytes(bytes));
    }
    text + &list
}
