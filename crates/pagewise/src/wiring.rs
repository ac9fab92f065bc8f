//! From opened files to a running engine: the one place where model, backend, runner and engine meet.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use engine::{Engine, EngineCore};
use generation::{GenerationDefaults, Generator, GeneratorParts, ModelInfo};
use model_format::ModelConfig;
use model_runner::{Checkpoint, LoadProgress, ModelRunner};
use serving_types::Executor;
use tensor_backend::Backend;

use crate::cli::EngineArgs;
use crate::device::{self, GPU, Offer, Opened};
use crate::model_files::{ModelFiles, TextParts};
use crate::settings::Settings;
use crate::{output, progress, report};

/// A model in memory and the engine that runs it.
pub(crate) struct Started {
    pub(crate) engine: Engine,
    pub(crate) settings: Settings,
    /// The device: "cpu, 2 threads, avx2", "cuda:0 …".
    pub(crate) device: String,
    /// Which GPU it is, if it is one.
    pub(crate) gpu: Option<usize>,
    /// Why the flags' `auto` did not become a GPU.
    not_on_gpu: Option<String>,
    /// How many bytes of weights were loaded, and how long it took.
    loading: String,
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
    let checkpoint = files.checkpoint(args.fixed_seed())?;
    let (gpu, loaded) = match device::open(args, &checkpoint)? {
        Opened::Cpu(backend, offer) => (None, load(args, &files.name, &checkpoint, backend, &offer)),
        Opened::Cuda(backend, offer) => (Some(GPU), load(args, &files.name, &checkpoint, *backend, &offer)),
    };
    let config = checkpoint.config().clone();
    drop(checkpoint);
    let Loaded { executor, settings, device, not_on_gpu, loading } = loaded?;
    let core = EngineCore::new(executor, settings.engine)?;
    Ok(Started { engine: Engine::spawn(core), settings, device, gpu, not_on_gpu, loading, files, config })
}

/// A model on its device.
struct Loaded {
    executor: Box<dyn Executor>,
    settings: Settings,
    device: String,
    not_on_gpu: Option<String>,
    loading: String,
}

fn load<B: Backend + 'static>(
    args: &EngineArgs,
    name: &str,
    checkpoint: &Checkpoint<'_>,
    backend: B,
    offer: &Offer,
) -> Result<Loaded> {
    let settings = Settings::resolve(args, checkpoint, &backend, offer)?;
    let bar = progress::byte_bar(format!("loading {name}"), 0);
    let (start, mut loading) = (Instant::now(), (0, Duration::ZERO));
    let mut show = |progress: LoadProgress| {
        bar.set_length(progress.bytes_total);
        bar.set_position(progress.bytes_done);
        loading = (progress.bytes_done, start.elapsed());
    };
    let runner = ModelRunner::load(backend, checkpoint, &settings.runner, &mut show)
        .with_context(|| format!("cannot load {name}"))?;
    bar.finish_and_clear();
    let (bytes, took) = loading;
    let loading = format!("{} in {:.2} s", report::mebibytes(bytes), took.as_secs_f64());
    let device = runner.describe_device();
    let memory = runner.memory();
    if let Some(share_bytes) = offer.memory.share_bytes().filter(|_| args.kv_cache_memory_bytes.is_none())
        && memory.iter().map(|entry| entry.bytes).sum::<u64>() > share_bytes
    {
        bail!(
            "more is taken than --gpu-memory-utilization allows, which is {}: by others since the start, or by recorded steps; \
             lower --max-num-seqs, or set --kv-cache-memory-bytes\n{}",
            report::mebibytes(share_bytes),
            report::ledger(memory.iter().map(|entry| (&*entry.name, entry.bytes)))
        );
    }
    let not_on_gpu = offer.not_on_gpu.clone();
    Ok(Loaded { executor: Box::new(runner), settings, device, not_on_gpu, loading })
}

impl Started {
    /// What was resolved, and the memory ledger.
    pub(crate) fn describe(&self) -> String {
        let limits = self.engine.limits();
        let no_gpu = self.not_on_gpu.as_ref().map(|reason| format!(" (no GPU: {reason})")).unwrap_or_default();
        format!(
            "model = {} ({}, {})\nloaded = {}\ndevice = {}{no_gpu}\n{}\nkv blocks = {} of {} tokens\n{}",
            self.files.name,
            self.config.architecture,
            self.files.describe(),
            self.loading,
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
