//! From opened files to a running engine: the one place where model, backend, runner and engine meet.

use anyhow::{Context, Result, bail};
use engine::{Engine, EngineCore};
use generation::{GenerationDefaults, Generator, GeneratorParts, ModelInfo};
use model_format::ModelConfig;
use model_runner::{LoadProgress, ModelRunner};

use crate::cli::EngineArgs;
use crate::model_files::{ModelFiles, TextParts};
use crate::settings::{self, Settings};
use crate::{machine, output, progress, report};

/// A model in memory and the engine that runs it.
pub(crate) struct Started {
    pub(crate) engine: Engine,
    pub(crate) settings: Settings,
    /// The device, for people.
    pub(crate) device: String,
    pub(crate) files: ModelFiles,
    config: ModelConfig,
}

/// Opens the model that the flags name.
pub(crate) fn open_model(args: &EngineArgs) -> Result<ModelFiles> {
    let Some(model) = &args.model else { bail!("--model is missing: a file, a folder, or a pulled model") };
    ModelFiles::open(model, args.load_format)
}

/// Loads the model and starts its engine. What was resolved and what memory was taken goes to stderr.
pub(crate) fn start(args: &EngineArgs) -> Result<Started> {
    let files = open_model(args)?;
    let backend = settings::cpu(args)?;
    let checkpoint = files.checkpoint(args.fixed_seed())?;
    let settings = Settings::resolve(args, &checkpoint, &backend, machine::available_memory_bytes())?;
    if args.gpu_memory_utilization.is_some() {
        output::note(
            "warning: --gpu-memory-utilization has no effect on the CPU; --kv-cache-memory-bytes sizes its KV cache",
        );
    }

    let bar = progress::byte_bar(format!("loading {}", files.name), 0);
    let mut show = |progress: LoadProgress| {
        bar.set_length(progress.bytes_total);
        bar.set_position(progress.bytes_done);
    };
    let runner = ModelRunner::load(backend, &checkpoint, &settings.runner, &mut show)
        .with_context(|| format!("cannot load {}", files.name))?;
    bar.finish_and_clear();
    let (device, config) = (runner.describe_device(), checkpoint.config().clone());
    let core = EngineCore::new(Box::new(runner), settings.engine)?;
    let started = Started { engine: Engine::spawn(core), settings, device, files, config };
    Ok(started)
}

impl Started {
    /// What was resolved, and the memory ledger.
    pub(crate) fn describe(&self) -> String {
        let limits = self.engine.limits();
        format!(
            "model = {} ({}, {})\ndevice = {}\n{}\nkv blocks = {} of {} tokens\n{}",
            self.files.name,
            self.config.architecture,
            self.files.describe(),
            self.device,
            self.settings,
            limits.num_blocks,
            limits.block_size,
            report::ledger(self.engine.memory().iter().map(|entry| (&*entry.name, entry.bytes))),
        )
    }

    /// The engine behind text.
    ///
    /// # Errors
    /// The model has no tokenizer, or its files recommend sampling values that are out of range.
    pub(crate) fn generator(&self) -> Result<Generator> {
        let Some(text) = self.files.text_parts()? else {
            bail!(
                "{} has no tokenizer.json: without one only `pagewise bench` and `pagewise inspect` can use it",
                self.files.name
            );
        };
        let recommended = self.files.generation_defaults()?;
        for key in &recommended.ignored {
            output::note(format_args!("warning: {key}, which the model's authors recommend, is not applied"));
        }
        let mut eos_token_ids = self.config.eos_token_ids.clone();
        eos_token_ids.extend(recommended.eos_token_ids.iter().copied().chain(text.tokenizer.eos_token_id()));
        eos_token_ids.sort_unstable();
        eos_token_ids.dedup();
        let model = ModelInfo {
            name: self.files.name.clone(),
            architecture: self.config.architecture.clone(),
            bos_token_id: self.config.bos_token_id.or(text.tokenizer.bos_token_id()),
            eos_token_ids,
        };
        let defaults = defaults(&recommended);
        defaults.validate().context("the model's recommended sampling")?;
        let TextParts { tokenizer, template } = text;
        Ok(Generator::new(GeneratorParts { engine: self.engine.clone(), tokenizer, template, model, defaults }))
    }
}

/// The authors' values where they gave some, ours elsewhere.
fn defaults(recommended: &model_format::GenerationDefaults) -> GenerationDefaults {
    let ours = GenerationDefaults::default();
    let greedy = (recommended.do_sample == Some(false)).then_some(0.0);
    GenerationDefaults {
        temperature: greedy.or(recommended.temperature).unwrap_or(ours.temperature),
        top_p: recommended.top_p.unwrap_or(ours.top_p),
        top_k: recommended.top_k.unwrap_or(ours.top_k),
        min_p: recommended.min_p.unwrap_or(ours.min_p),
        repetition_penalty: recommended.repetition_penalty.unwrap_or(ours.repetition_penalty),
        max_tokens: recommended.max_new_tokens.unwrap_or(ours.max_tokens),
    }
}
